/**
 * Our netfront against the Linux kernel's netback on real Xen, both in dom0: the toolstack plugs a
 * vif into dom0 itself. Our half is joined to a TAP in one network namespace, the kernel's interface
 * is in another, and what goes between them has been through the rings twice made by others. A file
 * arrives as it was with each of the kernel's offloads off in turn, no checksum is wrong, and both
 * queues carry frames.
 */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { sleep } from './deferred.js';
import { serveIperf, tcp, udp } from './iperf.js';
import { checksumErrors } from './kernel-counters.js';
import type { Lab } from './lab.js';
import { captureChecksums } from './packet-capture.js';
import { makeNamespace, type Peer } from './peer.js';
import { QuestionClient } from './question-client.js';
import { bareMachine, logFolder } from './shared-machine.js';
import { PREPARATION_MS, patienceMs, rounds } from './soak.js';
import { makeRandomFile, transfer } from './transfer.js';

const logDir = logFolder('netfront');
const TAP = 'xtap0';
/** The kernel's name for the interface of domain 0's vif 0. */
const VIF = 'vif0.0';
const OURS = { address: '10.9.0.1', address6: 'fd09::1' } as const;
const KERNELS = { address: '10.9.0.2', address6: 'fd09::2' } as const;
const FILE_MIB = rounds(1, 16);
const TCP_MIB = rounds(16, 220);
const UDP_MIB = rounds(3, 60);
const UDP_MBITS = 20;
const QUEUES = 2;
const OFFLOADS = ['tso', 'gso', 'gro', 'sg', 'tx'] as const;
const PATIENCE_MS = 240_000;

interface NetfrontView {
  readonly connected: boolean;
  readonly carrier: boolean;
  readonly mac: string;
  readonly features: Readonly<Record<string, boolean>>;
  readonly fault?: { readonly code: string };
  readonly quarantinedPages: number;
  readonly queues: readonly { readonly tx: number; readonly rx: number }[];
  readonly drops: readonly { readonly cause: string; readonly packets: number }[];
  readonly tapDrops: readonly { readonly cause: string; readonly packets: number }[];
  readonly residentMiB: number;
}

let lab: Lab;
let program: QuestionClient;
let ours: Peer;
let kernels: Peer;

async function view(): Promise<NetfrontView> {
  return (await program.ask('view')) as NetfrontView;
}

async function waitForConnected(): Promise<NetfrontView> {
  for (let waited = 0; ; waited += 500) {
    const now = await view();
    if (now.connected) return now;
    if (waited > PATIENCE_MS) throw new Error(`Not connected: ${JSON.stringify(now)}`);
    await sleep(500);
  }
}

/** The file goes both ways and arrives as it was; returns how fast, in MiB/s. */
async function expectTransfers(version: 'address' | 'address6'): Promise<string> {
  const there = await transfer(ours, kernels, KERNELS[version]);
  const back = await transfer(kernels, ours, OURS[version]);
  expect(there.received).toBe(there.sent);
  expect(back.received).toBe(back.sent);
  const speed = (seconds: number): string => (FILE_MIB / seconds).toFixed(1);
  return `${FILE_MIB} MiB at ${speed(there.seconds)} and back at ${speed(back.seconds)} MiB/s`;
}

beforeAll(async () => {
  const script = join(import.meta.dirname, 'build-dom0-tests.mjs');
  const files = execFileSync(process.execPath, [script], { encoding: 'utf8' }).trim().split('\n');
  const file = files.find((path) => basename(path) === 'netfront-tap.mjs');
  lab = await bareMachine();
  await lab.refreshFiles();
  await lab.loadModules(['xen-netback']);
  // Two queues of ours take more pages than Linux lets a domain grant by default.
  await lab.check('echo 4096 >/sys/module/xen_gntalloc/parameters/limit');
  program = new QuestionClient(lab, `exec node ${file} ${TAP} ${QUEUES}`);
  ours = await makeNamespace(lab, 'ours');
  kernels = await makeNamespace(lab, 'kernels');
  await view();
  await lab.check(
    `xl network-attach 0 mac=00:16:3e:09:00:01 script=${lab.dom0Share}/vif-connected.sh mtu=9000`,
    { timeoutMs: PATIENCE_MS },
  );
  await waitForConnected();
  const setUp = (peer: Peer, device: string, own: typeof OURS | typeof KERNELS): Promise<string> =>
    lab.check(
      [
        `ip link set ${device} netns ${peer.name}`,
        `ip -n ${peer.name} link set ${device} mtu 1500 up`,
        `ip -n ${peer.name} address add ${own.address}/24 dev ${device}`,
        `ip -n ${peer.name} address add ${own.address6}/64 dev ${device} nodad`,
      ].join(' && '),
    );
  await setUp(ours, TAP, OURS);
  await setUp(kernels, VIF, KERNELS);
  await serveIperf(kernels);
  await makeRandomFile(ours, FILE_MIB);
}, PREPARATION_MS);
afterAll(async () => {
  if (program !== undefined) writeFileSync(join(logDir, 'netfront-tap.log'), program.errors());
  program?.close();
  await lab?.check('ip netns del ours; ip netns del kernels; true');
});

describe('our netfront and the kernel’s netback on real Xen', () => {
  test('connects with two queues and every offload that the kernel has', async () => {
    const now = await waitForConnected();
    console.log(`agreed: ${JSON.stringify(now.features)}`);
    expect(now.mac).toBe('00:16:3e:09:00:01');
    expect(now.carrier).toBe(true);
    expect(now.queues).toHaveLength(QUEUES);
    expect(await ours.check(`busybox ping -c 3 -W 10 ${KERNELS.address}`)).toContain(
      '3 packets received',
    );
    const kernelsFeatures = await kernels.check(`ethtool -k ${VIF}`);
    expect(kernelsFeatures).toMatch(/^tcp-segmentation-offload: on$/m);
    expect(kernelsFeatures).toMatch(/^\ttx-tcp6-segmentation: on$/m);
    expect(kernelsFeatures).toMatch(/^\ttx-checksum-ipv6: on$/m);
  });

  test(
    'TCP goes both ways, over IPv4 and IPv6',
    async () => {
      for (const address of [KERNELS.address, KERNELS.address6]) {
        for (const reverse of [false, true]) {
          const figures = await tcp(ours, address, { megabytes: TCP_MIB, reverse });
          const { bytes, megabitsPerSecond, retransmits } = figures;
          console.log(
            `netfront TCP ${reverse ? 'from' : 'to'} ${address}: ${(bytes / 1e6).toFixed(0)} MB ` +
              `at ${megabitsPerSecond} Mbit/s, ${retransmits} retransmits`,
          );
          expect(bytes).toBeGreaterThanOrEqual(TCP_MIB * 1e6);
        }
      }
      expect(await checksumErrors([ours, kernels])).toBe(0);
    },
    patienceMs(TCP_MIB, 16_000),
  );

  test(
    'UDP goes both ways',
    async () => {
      for (const reverse of [false, true]) {
        const figures = await udp(ours, KERNELS.address, {
          ...{ megabytes: UDP_MIB, reverse, megabitsPerSecond: UDP_MBITS },
        });
        console.log(
          `netfront UDP ${reverse ? 'from' : 'to'} the kernel: ${figures.sent} datagrams at ` +
            `${figures.megabitsPerSecond} Mbit/s, ${figures.lost} lost`,
        );
        expect(figures.bytes).toBeGreaterThanOrEqual(UDP_MIB * 0.9e6);
      }
      expect(await checksumErrors([ours, kernels])).toBe(0);
    },
    patienceMs(UDP_MIB, 16_000),
  );

  test('both queues carry frames, each way, when there are several flows', async () => {
    const before = await view();
    await tcp(ours, KERNELS.address, { seconds: 2, flows: 8 });
    await tcp(ours, KERNELS.address, { seconds: 2, flows: 8, reverse: true });
    const after = await view();
    const more = after.queues.map(({ tx, rx }, at) => ({
      tx: tx - (before.queues[at]?.tx ?? 0),
      rx: rx - (before.queues[at]?.rx ?? 0),
    }));
    console.log(`netfront queues: ${more.map(({ tx, rx }) => `tx ${tx} rx ${rx}`).join(', ')}`);
    for (const { tx, rx } of more) {
      expect(tx).toBeGreaterThan(0);
      expect(rx).toBeGreaterThan(0);
    }
  });

  test.each(OFFLOADS)(
    'with %s of the kernel switched off a file arrives as it was, both ways',
    async (offload) => {
      await kernels.check(`ethtool -K ${VIF} ${offload} off || true`);
      const over4 = await expectTransfers('address');
      const over6 = await expectTransfers('address6');
      console.log(`netfront, kernel's ${offload} off: ${over4}; IPv6 ${over6}`);
      expect(await checksumErrors([ours, kernels])).toBe(0);
      await kernels.check(`ethtool -K ${VIF} ${offload} on || true`);
    },
    PATIENCE_MS * 2,
  );

  test('checksums that either kernel computes itself are right when they arrive', async () => {
    const offloads = 'tx off; ethtool -K $0 tso off gso off gro off; true';
    const back = 'tx on; ethtool -K $0 tso on gso on gro on; true';
    const set = (peer: Peer, device: string, what: string): Promise<string> =>
      peer.check(`ethtool -K ${device} ${what.replaceAll('$0', device)}`);
    await set(ours, TAP, offloads);
    await set(kernels, VIF, offloads);
    const there = await captureChecksums(kernels, VIF, OURS.address6, () =>
      transfer(ours, kernels, KERNELS.address6),
    );
    const here = await captureChecksums(ours, TAP, KERNELS.address6, () =>
      transfer(kernels, ours, OURS.address6),
    );
    await set(ours, TAP, back);
    await set(kernels, VIF, back);
    console.log(
      `netfront, tcpdump: ${there.seen} and ${here.seen} checksums, ` +
        `${there.incorrect} and ${here.incorrect} incorrect`,
    );
    expect(Math.min(there.seen, here.seen)).toBeGreaterThan(50);
    expect([there.incorrect, here.incorrect]).toEqual([0, 0]);
  });

  test('jumbo frames of 9000 bytes pass whole, and a file in them', async () => {
    await ours.check(`ip link set ${TAP} mtu 9000`);
    await kernels.check(`ip link set ${VIF} mtu 9000`);
    const pinged = await ours.check(`busybox ping -c 5 -W 10 -s 8900 ${KERNELS.address}`);
    expect(pinged).toContain('5 packets received');
    console.log(`netfront, MTU 9000: ${await expectTransfers('address')}`);
    expect(await checksumErrors([ours, kernels])).toBe(0);
  });

  test('the vif is detached, and nothing was broken or left on the way', async () => {
    const last = await view();
    expect(last.fault).toBeUndefined();
    expect(last.quarantinedPages).toBe(0);
    // An interface is down for the moment in which it moves into its namespace.
    const drops = last.tapDrops.filter(({ cause }) => cause !== 'tx-queue INTERFACE_DOWN');
    expect(drops).toEqual([]);
    await lab.check('xl network-detach 0 0', { timeoutMs: PATIENCE_MS });
    expect(await lab.check('xl network-list 0')).not.toContain('00:16:3e:09:00:01');
    const { code, stderr } = await program.end();
    console.log(`netfront: memory ${last.residentMiB} MiB, drops ${JSON.stringify(last.drops)}`);
    expect(code, stderr).toBe(0);
    expect(stderr).not.toContain('still held parts');
    const interrupts = await lab.check('grep -c evtchn:node /proc/interrupts || true');
    expect(interrupts.trim()).toBe('0');
  });
});

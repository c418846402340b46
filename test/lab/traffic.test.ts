/**
 * All kinds of traffic between two Linux guests of two processors, over the daemon's switch on real
 * Xen: TCP and UDP, IPv4 and IPv6, with each offload of the guests' driver switched off in turn,
 * VLAN tags, jumbo frames, multicast. What arrives is what was sent, by its sum; what is lost is
 * counted; no kernel sees a wrong checksum; and both queues carry frames.
 */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { findCheckout } from './assets.js';
import { sleep } from './deferred.js';
import type { Guest } from './guest.js';
import { serveIperf, tcp, udp } from './iperf.js';
import { checksumErrors, readCounters, snmp } from './kernel-counters.js';
import type { Lab } from './lab.js';
import { captureChecksums } from './packet-capture.js';
import { LEFT, logFolder, type Pair, RIGHT, servedMachine } from './shared-machine.js';
import { PREPARATION_MS, patienceMs, rounds } from './soak.js';
import { makeRandomFile, transfer } from './transfer.js';
import type { StatsView, Xenvifd } from './xenvifd.js';

const logDir = logFolder('traffic');
const LEFT6 = 'fd00::1';
const RIGHT6 = 'fd00::2';
const FILE_MIB = rounds(1, 16);
/** In the soak a gigabyte in all: four ways of TCP, and UDP. */
const TCP_MIB = rounds(16, 220);
const UDP_MIB = rounds(3, 60);
const UDP_MBITS = 20;
const FLOWS = 8;
const PATIENCE_MS = 180_000;
/** What ethtool calls them; `rx` is the driver's own and cannot be switched off in Linux 6.1. */
const OFFLOADS = ['tso', 'gso', 'gro', 'sg', 'tx', 'rx'] as const;
const CAPTURE = '/tmp/traffic.pcapng';

let lab: Lab;
let daemon: Xenvifd;
let left: Guest;
let right: Guest;
let leftVif: string;
let rightVif: string;

/** The file goes both ways and arrives as it was; returns how fast, in MiB/s. */
async function expectTransfers(leftAddress: string, rightAddress: string): Promise<string> {
  const there = await transfer(left, right, rightAddress);
  const back = await transfer(right, left, leftAddress);
  expect(there.received).toBe(there.sent);
  expect(back.received).toBe(back.sent);
  const speed = (seconds: number): string => (FILE_MIB / seconds).toFixed(1);
  return `${FILE_MIB} MiB at ${speed(there.seconds)} and back at ${speed(back.seconds)} MiB/s`;
}

async function both(command: string): Promise<void> {
  await Promise.all([left.check(command), right.check(command)]);
}

function framesOf(stats: StatsView, direction: 'tx' | 'rx'): number {
  return stats[direction].packets;
}

function dropsOf(stats: StatsView, direction: 'tx' | 'rx'): number {
  return stats[direction].drops.reduce((sum, drop) => sum + drop.packets, 0);
}

beforeAll(async () => {
  let pair: Pair;
  ({ lab, daemon, pair } = await servedMachine());
  ({ left, right } = pair);
  leftVif = `vifs/${await left.domid()}.0`;
  rightVif = `vifs/${await right.domid()}.0`;
  await left.check(`ip -6 address replace ${LEFT6}/64 dev eth0`);
  await right.check(`ip -6 address replace ${RIGHT6}/64 dev eth0`);
  await serveIperf(right);
  await Promise.all([makeRandomFile(left, FILE_MIB), makeRandomFile(right, FILE_MIB)]);
}, PREPARATION_MS);
afterAll(async () => {
  daemon?.saveLog(join(logDir, 'xenvifd.log'));
  await right?.check('busybox killall iperf3; true');
});

describe('traffic between guests on real Xen', () => {
  test('both guests connect with two queues and every offload', async () => {
    for (const name of [leftVif, rightVif]) {
      const vif = await daemon.waitForVif(name, ['connected']);
      expect(vif.queues).toBe(2);
    }
    const features = await left.check('ethtool -k eth0');
    expect(features).toMatch(/^scatter-gather: on$/m);
    expect(features).toMatch(/^tcp-segmentation-offload: on$/m);
    expect(features).toMatch(/^\ttx-tcp6-segmentation: on$/m);
    expect(features).toMatch(/^\ttx-checksum-ipv6: on$/m);
  });

  test(
    'TCP goes both ways at once and alone, over IPv4 and IPv6',
    async () => {
      for (const address of [RIGHT.address, RIGHT6]) {
        for (const reverse of [false, true]) {
          const figures = await tcp(left, address, { megabytes: TCP_MIB, reverse });
          const { bytes, megabitsPerSecond, retransmits } = figures;
          console.log(
            `TCP ${reverse ? 'from' : 'to'} ${address}: ${(bytes / 1e6).toFixed(0)} MB at ` +
              `${megabitsPerSecond} Mbit/s, ${retransmits} retransmits`,
          );
          expect(bytes).toBeGreaterThanOrEqual(TCP_MIB * 1e6);
        }
      }
      expect(await checksumErrors([left, right])).toBe(0);
    },
    patienceMs(TCP_MIB, 16_000),
  );

  test('both queues carry frames, each way, when there are several flows', async () => {
    const before = [await daemon.stats(leftVif), await daemon.stats(rightVif)];
    await tcp(left, RIGHT.address, { seconds: 3, flows: FLOWS });
    for (const [index, name] of [leftVif, rightVif].entries()) {
      const { queues } = await daemon.stats(name);
      const more = queues.map((queue, at) => ({
        tx: queue.tx.packets - (before[index]?.queues[at]?.tx.packets ?? 0),
        rx: queue.rx.packets - (before[index]?.queues[at]?.rx.packets ?? 0),
      }));
      console.log(`${name}: ${more.map(({ tx, rx }) => `tx ${tx} rx ${rx}`).join(', ')}`);
      expect(queues).toHaveLength(2);
      for (const { tx, rx } of more) {
        expect(tx).toBeGreaterThan(0);
        expect(rx).toBeGreaterThan(0);
      }
    }
  });

  test(
    'UDP goes both ways, and every datagram that is lost is counted',
    async () => {
      for (const reverse of [false, true]) {
        const [sender, receiver] = reverse ? [right, left] : [left, right];
        const [senderVif, receiverVif] = reverse ? [rightVif, leftVif] : [leftVif, rightVif];
        const before = {
          text: await readCounters(receiver),
          sender: await daemon.stats(senderVif),
          receiver: await daemon.stats(receiverVif),
        };
        const figures = await udp(left, RIGHT.address, {
          ...{ megabytes: UDP_MIB, reverse, megabitsPerSecond: UDP_MBITS },
        });
        // The account is closed once the last datagram is through.
        await sleep(1000);
        const after = {
          text: await readCounters(receiver),
          sender: await daemon.stats(senderVif),
          receiver: await daemon.stats(receiverVif),
        };
        const more = (name: string) =>
          snmp(after.text, 'Udp', name) - snmp(before.text, 'Udp', name);
        const dropped = dropsOf(after.receiver, 'rx') - dropsOf(before.receiver, 'rx');
        const taken = framesOf(after.sender, 'tx') - framesOf(before.sender, 'tx');
        const given = framesOf(after.receiver, 'rx') - framesOf(before.receiver, 'rx');
        console.log(
          `UDP from ${sender.name}: ${figures.sent} datagrams at ${figures.megabitsPerSecond} Mbit/s, ` +
            `${figures.lost} lost: ${dropped} by us, ${more('RcvbufErrors')} in the socket`,
        );
        // What we took from one guest we gave to the other, or counted as dropped: nothing else.
        expect(given + dropped).toBe(taken);
        expect(more('InCsumErrors')).toBe(0);
        expect(figures.bytes).toBeGreaterThanOrEqual(UDP_MIB * 0.9e6);
      }
    },
    patienceMs(UDP_MIB, 16_000),
  );

  test.each(OFFLOADS)(
    'with %s switched off a file arrives as it was, both ways',
    async (offload) => {
      const { stdout, stderr } = await left.run(`ethtool -K eth0 ${offload} off`);
      await right.run(`ethtool -K eth0 ${offload} off`);
      const isFixed = /Cannot change|requested on|fixed/.test(stdout + stderr);
      const over4 = await expectTransfers(LEFT.address, RIGHT.address);
      const over6 = await expectTransfers(LEFT6, RIGHT6);
      console.log(
        `${offload} off${isFixed ? ' (as far as it can be)' : ''}: ${over4}; IPv6 ${over6}`,
      );
      expect(await checksumErrors([left, right])).toBe(0);
      await left.run(`ethtool -K eth0 ${offload} on`);
      await right.run(`ethtool -K eth0 ${offload} on`);
    },
    PATIENCE_MS * 2,
  );

  test('checksums that the guest itself computes are right when they arrive', async () => {
    // With these off nothing is left to a card: what is on the wire is what the guest wrote.
    await both('ethtool -K eth0 tx off; ethtool -K eth0 tso off gso off gro off; true');
    const { seen, incorrect } = await captureChecksums(right, 'eth0', LEFT6, () =>
      transfer(left, right, RIGHT6),
    );
    await both('ethtool -K eth0 tx on; ethtool -K eth0 tso on gso on gro on; true');
    console.log(`tcpdump in the guest: ${seen} checksums, ${incorrect} incorrect`);
    expect(seen).toBeGreaterThan(50);
    expect(incorrect).toBe(0);
  });

  test('a capture of the daemon shows right checksums, whatever was left to a card', {
    timeout: 600_000,
  }, async () => {
    const cli = `node ${findCheckout()}/clients/cli/bin/xenvif.js`;
    const names = [leftVif, rightVif].map((name) => name.replace('vifs/', '')).join(' ');
    const capture = lab.spawn(`exec ${cli} capture ${names} -w ${CAPTURE}`);
    for (let waited = 0; waited < PATIENCE_MS; waited += 200) {
      if ((await lab.run(`test -s ${CAPTURE}`)).code === 0) break;
      await sleep(200);
    }
    for (const address of [RIGHT.address, RIGHT6]) {
      await tcp(left, address, { megabytes: 1 });
      await udp(left, address, { megabytes: 1, megabitsPerSecond: UDP_MBITS });
    }
    await sleep(1000);
    capture.kill('SIGINT');
    await capture.wait();
    const file = join(logDir, 'traffic.pcapng');
    writeFileSync(file, await lab.readFile(CAPTURE));
    const count = (filter: string): number => {
      const check = ['tcp', 'udp', 'ip'].flatMap((name) => ['-o', `${name}.check_checksum:TRUE`]);
      const text = execFileSync('tshark', ['-r', file, ...check, '-Y', filter], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
        maxBuffer: 1 << 28,
      });
      return text.split('\n').filter((line) => line !== '').length;
    };
    const good = count('tcp.checksum.status == 1 || udp.checksum.status == 1');
    const bad = count(
      'tcp.checksum.status == 0 || udp.checksum.status == 0 || ip.checksum.status == 0',
    );
    console.log(`tshark on the daemon's capture: ${good} good checksums, ${bad} bad`);
    expect(good).toBeGreaterThan(500);
    expect(bad).toBe(0);
  });

  test('frames with VLAN tags pass, and a file over them', async () => {
    const vlan = (address: string): string =>
      [
        'ip link add link eth0 name eth0.7 type vlan id 7',
        `ip address add ${address}/24 dev eth0.7`,
        'ip link set eth0.7 up',
      ].join(' && ');
    await left.check(vlan('10.7.0.1'));
    await right.check(vlan('10.7.0.2'));
    expect(await left.check('ping -c 3 -W 10 10.7.0.2')).toContain('3 packets received');
    console.log(`VLAN 7: ${await expectTransfers('10.7.0.1', '10.7.0.2')}`);
    expect(await checksumErrors([left, right])).toBe(0);
    await both('ip link del eth0.7');
  });

  test('multicast reaches the other guest', async () => {
    const answers = await left.check('ping6 -c 3 -W 10 -I eth0 ff02::1');
    // Its own answer comes first, the other guest's is a duplicate or takes its place.
    expect(answers).toContain('fe80::216:3eff:fe00:2');
    const before = await daemon.stats(rightVif);
    await left.check('ip route add 239.0.0.0/8 dev eth0; ping -c 3 -W 1 239.0.0.66; true');
    const after = await daemon.stats(rightVif);
    expect(framesOf(after, 'rx')).toBeGreaterThanOrEqual(framesOf(before, 'rx') + 3);
  });

  test('jumbo frames of 9000 bytes pass whole, and a file in them', async () => {
    await both('ip link set eth0 mtu 9000');
    // 8972 bytes and 28 of headers fill the MTU; -s and no fragments, for IPv4 would cut them.
    const pinged = await left.check(`ping -c 5 -W 10 -s 8900 ${RIGHT.address}`);
    expect(pinged).toContain('5 packets received');
    const before = await daemon.stats(rightVif);
    const speed = await expectTransfers(LEFT.address, RIGHT.address);
    const after = await daemon.stats(rightVif);
    const bytesEach =
      (after.rx.bytes - before.rx.bytes) / (framesOf(after, 'rx') - framesOf(before, 'rx'));
    console.log(`MTU 9000: ${speed}, ${bytesEach.toFixed(0)} bytes a frame`);
    expect(await checksumErrors([left, right])).toBe(0);
    await both('ip link set eth0 mtu 1500');
  });
});

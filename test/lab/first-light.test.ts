/**
 * The whole way on real Xen: a Linux guest's netfront, our netback in dom0, an unprivileged program
 * on a gRPC stream that answers the guest, a capture beside it, and the command that makes a vif in a
 * running guest. The tests follow one another.
 */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { sleep } from './deferred.js';
import type { Dom0Process } from './dom0-port.js';
import type { Guest } from './guest.js';
import type { Lab } from './lab.js';
import { logFolder, servedMachine } from './shared-machine.js';
import { PREPARATION_MS } from './soak.js';
import type { Xenvifd } from './xenvifd.js';

const checkout = join(import.meta.dirname, '..', '..');
const logDir = logFolder('first-light');
const XENVIF = `node ${checkout}/clients/cli/bin/xenvif.js`;
const NOBODY = 'setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp';
const CLIENT_ADDRESS = '10.0.0.99';
const PINGS = 20;
/** Emulation is slow, and slower beside other work: only what never comes shall fail. */
const PATIENCE_MS = 180_000;
const CAPTURE = '/tmp/first-light.pcapng';

let lab: Lab;
let daemon: Xenvifd;
let first: Guest;
let atFirst: Awaited<ReturnType<typeof countersAtRest>>;

/** Runs the command in dom0 and returns what it printed as JSON. */
async function xenvif(command: string): Promise<unknown> {
  return JSON.parse(await lab.check(`${XENVIF} --json ${command}`, { timeoutMs: PATIENCE_MS }));
}

async function waitForOutput(process: Dom0Process, text: string): Promise<void> {
  for (let waited = 0; waited < PATIENCE_MS; waited += 100) {
    if (`${process.stdout()}${process.stderr()}`.includes(text)) return;
    await sleep(100);
  }
  throw new Error(`"${text}" was not printed: ${process.stdout()}${process.stderr()}`);
}

/** Waits until so many streams of frames are open. */
async function waitForStreams(count: number): Promise<void> {
  for (let waited = 0; waited < PATIENCE_MS; waited += 100) {
    if ((await daemon.frameStreams()) >= count) return;
    await sleep(100);
  }
  throw new Error(`There are not ${count} streams of frames.`);
}

/** Packets and bytes of eth0 as the guest's kernel counts them. */
async function guestCounters(guest: Guest) {
  const { stdout } = await guest.run('grep eth0 /proc/net/dev');
  const numbers = stdout
    .replace(/^.*eth0:/, '')
    .trim()
    .split(/\s+/)
    .map(Number);
  const [rxBytes = 0, rxPackets = 0] = numbers;
  const [txBytes = 0, txPackets = 0] = numbers.slice(8);
  return { rxBytes, rxPackets, txBytes, txPackets };
}

/** The same as our daemon counts them. */
async function daemonCounters(domid: number) {
  const { rx, tx } = await daemon.stats(`vifs/${domid}.0`);
  return {
    // Linux's netfront counts a received frame without its 14 bytes of Ethernet header.
    rxBytes: rx.bytes - 14 * rx.packets,
    rxPackets: rx.packets,
    txBytes: tx.bytes,
    txPackets: tx.packets,
    drops: [...rx.drops, ...tx.drops].reduce((sum, { packets }) => sum + packets, 0),
  };
}

/**
 * Both counts at a moment when nothing moves. The guest may send of its own accord while we ask:
 * equal counters before and after the question mean that it did not.
 */
async function countersAtRest() {
  const domid = await first.domid();
  for (let attempt = 0; attempt < 20; attempt += 1) {
    const before = await guestCounters(first);
    const ours = await daemonCounters(domid);
    const guests = await guestCounters(first);
    if (JSON.stringify(before) === JSON.stringify(guests)) return { guests, ours };
  }
  throw new Error('The guest’s counters never stood still.');
}

function growth<T extends Readonly<Record<string, number>>>(before: T, after: T) {
  return Object.fromEntries(
    Object.entries(after).map(([name, value]) => [name, value - (before[name] ?? 0)]),
  );
}

beforeAll(async () => {
  const served = await servedMachine();
  ({ lab, daemon } = served);
  first = served.pair.left;
  atFirst = await countersAtRest();
}, PREPARATION_MS);
afterAll(() => daemon?.saveLog(join(logDir, 'xenvifd.log')));

describe('first light on real Xen', () => {
  test('the guest’s netfront reaches Connected', async () => {
    const domid = await first.domid();
    const state = await lab.check(`xenstore-read /local/domain/${domid}/device/vif/0/state`);
    expect(state.trim()).toBe('4');
    const vif = await xenvif(`get ${domid}.0`);
    expect(vif).toMatchObject({
      name: `vifs/${domid}.0`,
      spec: { mac: '00:16:3e:00:00:01' },
      status: { phase: 'connected', reason: 'CONNECTED' },
    });
  });

  test('an unprivileged process answers the guest’s ARP and pings, and a capture has them all', async () => {
    const domid = await first.domid();
    const capture = lab.spawn(`exec ${XENVIF} capture ${domid}.0 -w ${CAPTURE}`);
    const example = `${checkout}/clients/typescript/examples/answer-pings.mjs`;
    const host = lab.spawn(
      `XENVIF_ADDRESS=127.0.0.1:7637 exec ${NOBODY} node ${example} ${domid}.0 ${CLIENT_ADDRESS}`,
    );
    await waitForOutput(host, `${CLIENT_ADDRESS} is at`);
    const identity = await lab.check(`ps -o uid= -p $(pgrep -f '^node .*answer-pings')`);
    expect(identity.trim()).toBe('65534');
    await waitForStreams(2);
    const { stdout } = await first.run(`ping -c ${PINGS} -i 0.2 -W 5 ${CLIENT_ADDRESS}`, {
      timeoutMs: PATIENCE_MS,
    });
    expect(stdout).toContain(`${PINGS} packets transmitted, ${PINGS} packets received`);
    await sleep(500);
    capture.kill('SIGINT');
    expect((await capture.wait()).code).toBe(0);
    host.kill('SIGINT');
    await host.wait();
    const file = join(logDir, 'capture.pcapng');
    writeFileSync(file, await lab.readFile(CAPTURE));
    const count = (filter: string) =>
      execFileSync('tshark', ['-r', file, '-Y', filter], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      })
        .split('\n')
        .filter((line) => line !== '').length;
    expect(count(`icmp.type == 8 && ip.dst == ${CLIENT_ADDRESS}`)).toBe(PINGS);
    expect(count(`icmp.type == 0 && ip.src == ${CLIENT_ADDRESS}`)).toBe(PINGS);
    expect(count('icmp.resp_to')).toBe(PINGS);
    expect(count('arp.opcode == 2')).toBeGreaterThan(0);
    expect(count('_ws.malformed || icmp.checksum.status == 0 || ip.checksum.status == 0')).toBe(0);
  });

  test('statistics equal the guest’s own, to the frame and the byte', async () => {
    const now = await countersAtRest();
    const { drops, ...ours } = growth(atFirst.ours, now.ours);
    expect(ours).toEqual(growth(atFirst.guests, now.guests));
    expect(drops).toBe(0);
    expect(ours['txPackets']).toBeGreaterThanOrEqual(PINGS);
  });

  test('a vif that a client creates appears in the running guest, and goes when it is deleted', async () => {
    const domid = await first.domid();
    const vif = await xenvif(`create ${domid} --mac 00:16:3e:00:00:11 --wait 60`);
    expect(vif).toMatchObject({ name: `vifs/${domid}.1`, status: { phase: 'connected' } });
    const { stdout } = await first.run('cat /sys/class/net/eth1/address');
    expect(stdout.trim()).toBe('00:16:3e:00:00:11');
    expect(await lab.check(`xl network-list ${domid}`)).toContain('00:16:3e:00:00:11');
    await lab.check(`${XENVIF} rm ${domid}.1`, { timeoutMs: PATIENCE_MS });
    const { code } = await first.run('ls /sys/class/net/eth1');
    expect(code).not.toBe(0);
    expect(await lab.check(`xl network-list ${domid}`)).not.toContain('00:16:3e:00:00:11');
  });

  test('a second daemon refuses to start, in one line', async () => {
    const command = `node ${checkout}/dist/main.js --xen native --socket /tmp/other.sock --tcp off`;
    const { code, stderr } = await lab.run(command, { timeoutMs: PATIENCE_MS });
    expect(code).toBe(1);
    expect(stderr.trim()).toMatch(/^xenvifd: .* \(ALREADY_RUNNING\)$/);
  });
});

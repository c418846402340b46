/**
 * The whole way on real Xen: a Linux guest's netfront, our netback in dom0, an unprivileged program
 * on a gRPC stream that answers the guest, a capture beside it, and a daemon that is replaced under
 * the guests' pings. The tests follow one another on one machine.
 */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { sleep } from './deferred.js';
import type { Dom0Process } from './dom0-port.js';
import type { Guest } from './guest.js';
import { Lab } from './lab.js';

const checkout = join(import.meta.dirname, '..', '..');
const logDir = join(import.meta.dirname, 'logs', 'first-light');
const XENVIF = `node ${checkout}/clients/cli/bin/xenvif.js`;
const NOBODY = 'setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp';
const CLIENT_ADDRESS = '10.0.0.99';
const PINGS = 20;
/** Emulation is slow, and slower beside other work: only what never comes shall fail. */
const PATIENCE_MS = 180_000;
const CAPTURE = '/tmp/first-light.pcapng';

let lab: Lab;
let daemon: Dom0Process;
let first: Guest;

/** Starts this checkout's daemon in dom0 and waits until it serves. */
async function startDaemon(): Promise<Dom0Process> {
  const command = `exec node ${checkout}/dist/main.js --xen native --log-format json`;
  const child = lab.spawn(command);
  for (let waited = 0; waited < PATIENCE_MS; waited += 100) {
    if (child.stderr().includes('"msg":"ready"')) return child;
    if (!child.running) break;
    await sleep(100);
  }
  throw new Error(`xenvifd did not start: ${child.stderr()}`);
}

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
  for (let attempt = 0; attempt < 20; attempt += 1) {
    const { frameStreams } = (await xenvif('host')) as { frameStreams: number };
    if (frameStreams >= count) return;
  }
  throw new Error(`There are not ${count} streams of frames.`);
}

/** Runs a command in a guest that must succeed. */
async function inGuest(guest: Guest, command: string): Promise<void> {
  const { code, stdout, stderr } = await guest.run(command);
  if (code !== 0) throw new Error(`${command} in ${guest.name} failed: ${stdout}${stderr}`);
}

/** Echo replies that the guest's kernel has received (InEchoReps of RFC 4293's ICMP counters). */
async function echoReplies(guest: Guest): Promise<number> {
  const { stdout } = await guest.run('grep ^Icmp: /proc/net/snmp');
  const [names = [], values = []] = stdout.split('\n').map((line) => line.trim().split(' '));
  return Number(values[names.indexOf('InEchoReps')]);
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
  const [stats] = (await xenvif(`stats ${domid}.0`)) as {
    tx: { packets: number; bytes: number; drops: unknown[] };
    rx: { packets: number; bytes: number; drops: unknown[] };
  }[];
  if (stats === undefined) throw new Error('No statistics.');
  const { rx, tx } = stats;
  return {
    // Linux's netfront counts a received frame without its 14 bytes of Ethernet header.
    rxBytes: rx.bytes - 14 * rx.packets,
    rxPackets: rx.packets,
    txBytes: tx.bytes,
    txPackets: tx.packets,
    drops: [...rx.drops, ...tx.drops],
  };
}

beforeAll(async () => {
  lab = await Lab.boot({ logDir });
  daemon = await startDaemon();
  first = await lab.createGuest({
    name: 'first',
    address: '10.0.0.1/24',
    mac: '00:16:3e:00:00:01',
  });
});
afterAll(async () => {
  if (daemon !== undefined) writeFileSync(join(logDir, 'xenvifd.log'), daemon.stderr());
  await lab?.shutdown();
});

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
    const domid = await first.domid();
    // The guest may send of its own accord while we ask: equal counters before and after the
    // question mean that nothing moved in between.
    for (let attempt = 0; attempt < 20; attempt += 1) {
      const before = await guestCounters(first);
      const { drops, ...ours } = await daemonCounters(domid);
      const after = await guestCounters(first);
      if (JSON.stringify(before) !== JSON.stringify(after)) continue;
      expect(ours).toEqual(after);
      expect(drops).toEqual([]);
      expect(ours.txPackets).toBeGreaterThanOrEqual(PINGS);
      return;
    }
    throw new Error('The guest’s counters never stood still.');
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

  test('the daemon is stopped and started again under a ping between two guests', async () => {
    const second = await lab.createGuest({
      name: 'second',
      address: '10.0.0.2/24',
      mac: '00:16:3e:00:00:02',
    });
    const carrier = 'cat /sys/class/net/eth0/carrier_changes';
    const before = (await first.run(carrier)).stdout;
    // Without fixed neighbours a guest would give its peer up while nobody forwards, which takes
    // seconds here only because node starts slowly under emulation.
    await inGuest(first, 'arp -s 10.0.0.2 00:16:3e:00:00:02');
    await inGuest(second, 'arp -s 10.0.0.1 00:16:3e:00:00:01');
    const { stdout: warm } = await first.run('ping -c 5 -i 0.2 -W 5 10.0.0.2');
    expect(warm).toContain('5 packets received');
    const repliesBefore = await echoReplies(first);
    const pinging = first.run('ping -c 150 -i 0.2 -W 20 10.0.0.2', { timeoutMs: PATIENCE_MS });
    await sleep(2000);
    daemon.kill('SIGTERM');
    expect((await daemon.wait()).code).toBe(0);
    const stoppedMs = performance.now();
    daemon = await startDaemon();
    const gapMs = performance.now() - stoppedMs;
    expect((await pinging).stdout).toContain('150 packets transmitted');
    // What the guests send while nobody listens waits on their rings: nothing is lost. The kernel
    // is asked and not ping, whose socket is too small for all the replies that come at once.
    let replies = 0;
    for (let attempt = 0; attempt < 20 && replies < 150; attempt += 1) {
      replies = (await echoReplies(first)) - repliesBefore;
    }
    console.log(`no daemon for ${gapMs.toFixed(0)} ms; 150 pings, ${replies} replies`);
    expect(replies).toBe(150);
    expect((await first.run(carrier)).stdout).toBe(before);
    const state = await lab.check(
      `xenstore-read /local/domain/${await first.domid()}/device/vif/0/state`,
    );
    expect(state.trim()).toBe('4');
    expect(daemon.stderr()).toContain('"adopted":true');
  });

  test('a destroyed guest leaves no zombie, and its vif is gone', async () => {
    const domid = await first.domid();
    await first.destroy();
    for (let waited = 0; ; waited += 200) {
      const { stdout } = await lab.run('xl list');
      if (!stdout.includes('first') && !stdout.includes('(null)')) break;
      if (waited > 10_000) throw new Error(`A zombie is left: ${stdout}`);
      await sleep(200);
    }
    const names = ((await xenvif('ls')) as { name: string }[]).map(({ name }) => name);
    expect(names).not.toContain(`vifs/${domid}.0`);
    expect(names).toHaveLength(1);
  });

  test('a second daemon refuses to start, in one line', async () => {
    const command = `node ${checkout}/dist/main.js --xen native --socket /tmp/other.sock --tcp off`;
    const { code, stderr } = await lab.run(command, { timeoutMs: PATIENCE_MS });
    expect(code).toBe(1);
    expect(stderr.trim()).toMatch(/^xenvifd: .* \(ALREADY_RUNNING\)$/);
  });
});

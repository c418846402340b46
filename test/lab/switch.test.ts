/**
 * The daemon's learning switch on real Xen. A Linux guest pings another guest, dom0's kernel behind
 * a TAP, and an unprivileged program on a gRPC stream; a mirror port hears exactly the frames that
 * passed, each in its order; and a program that is killed takes its port with it, and nothing else.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { findCheckout, labFolder } from './assets.js';
import { sleep } from './deferred.js';
import { type Dom0Process, outputMatching } from './dom0-port.js';
import type { Guest } from './guest.js';
import type { Lab } from './lab.js';
import { readFrames } from './pcap.js';
import { Pinging } from './pinging.js';
import { LEFT, logFolder, RIGHT, servedMachine } from './shared-machine.js';
import { PREPARATION_MS } from './soak.js';
import type { PortView, Xenvifd } from './xenvifd.js';

const logDir = logFolder('switch');
const HOST = { tap: 'host0', address: '10.0.0.254', mac: '02:00:00:00:02:54' } as const;
const CLIENT = { port: 'client0', address: '10.0.0.98', mac: '00:16:3e:00:00:98' } as const;
const KILLED = { port: 'client1', address: '10.0.0.97' } as const;
const MIRROR = 'mirror0';
const NOBODY = 'setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp';
const PINGS = 10;
/** The payloads of pings that say where a comparison begins and ends: no other has these lengths. */
const BEGIN_BYTES = 301;
const END_BYTES = 302;
/** Ethernet, IPv4 and ICMP. */
const PING_HEADER_BYTES = 42;
/** Both addresses and the type of a frame, in hexadecimal. */
const FLOW_DIGITS = 2 * 14;
const PATIENCE_MS = 120_000;
/** What the SDK asks for where nobody says anything. */
const GRACE_MS = 5_000;

let lab: Lab;
let daemon: Xenvifd;
let left: Guest;
let right: Guest;
/** The names of the guests' ports. */
let guestPorts: readonly string[];
let client: Dom0Process;

async function ping(from: Guest, address: string, options = `-c ${PINGS} -i 0.2`): Promise<string> {
  return await from.check(`ping ${options} -W 20 ${address}`, { timeoutMs: PATIENCE_MS });
}

async function port(id: string): Promise<PortView | undefined> {
  return (await daemon.ports('default')).find((one) => one.id === id);
}

beforeAll(async () => {
  let pair: { left: Guest; right: Guest };
  ({ lab, daemon, pair } = await servedMachine());
  ({ left, right } = pair);
  guestPorts = [`vif-${await left.domid()}.0`, `vif-${await right.domid()}.0`];
  const cli = `node ${findCheckout()}/clients/cli/bin/xenvif.js`;
  await lab.check(`${cli} tap create default --interface ${HOST.tap}`, { timeoutMs: PATIENCE_MS });
  await lab.check(
    [
      `sysctl -qw net.ipv6.conf.${HOST.tap}.disable_ipv6=1`,
      `ip link set ${HOST.tap} address ${HOST.mac} up`,
      `ip address add ${HOST.address}/24 dev ${HOST.tap}`,
    ].join(' && '),
  );
  const example = join(findCheckout(), 'clients/typescript/examples/switch-port.mjs');
  client = lab.spawn(
    `XENVIF_ADDRESS=127.0.0.1:7637 exec ${NOBODY} node ${example} default ${CLIENT.address} ` +
      `--mac ${CLIENT.mac} --port-id ${CLIENT.port}`,
  );
  await outputMatching(client, /is at/);
}, PREPARATION_MS);
afterAll(async () => {
  client?.kill('SIGINT');
  await client?.wait();
  for (const id of [HOST.tap, MIRROR]) await daemon?.deletePort(`default/${id}`);
  daemon?.saveLog(join(logDir, 'xenvifd.log'));
});

describe('the switch on real Xen', () => {
  test('a guest pings another guest, the host behind a TAP, and a program without privileges', async () => {
    expect((await lab.check(`ps -o uid= -p ${await client.pid()}`)).trim()).toBe('65534');
    for (const { address } of [RIGHT, HOST, CLIENT]) {
      expect(await ping(left, address)).toContain(`${PINGS} packets received`);
    }
    expect(await ping(right, CLIENT.address, '-c 1')).toContain('1 packets received');
  });

  test('each address is learnt at its port, and frames between two reach no third', async () => {
    const before = await port(HOST.tap);
    expect(await ping(left, RIGHT.address)).toContain(`${PINGS} packets received`);
    const after = await port(HOST.tap);
    // All that a third may hear is a broadcast.
    const heard = Number(after?.sent.packets) - Number(before?.sent.packets);
    expect(heard).toBeLessThan(PINGS);
    const entries = await daemon.forwardingEntries('default');
    const places = new Map(entries.map(({ mac, port: place }) => [mac, place]));
    expect(places.get(LEFT.mac)).toBe(guestPorts[0]);
    expect(places.get(RIGHT.mac)).toBe(guestPorts[1]);
    expect(places.get(HOST.mac)).toBe(HOST.tap);
    expect(places.get(CLIENT.mac)).toBe(CLIENT.port);
  });

  test('a mirror port’s capture holds exactly the frames that passed', async () => {
    const sources = [...guestPorts, HOST.tap, CLIENT.port];
    await daemon.createTap('default', { interface: MIRROR, mirror: { sources } });
    await lab.check(
      `sysctl -qw net.ipv6.conf.${MIRROR}.disable_ipv6=1; ip link set ${MIRROR} arp off up`,
    );
    const capture = '/tmp/switch-mirror.pcapng';
    const atFirst = await mirroredCount();
    const mirror = lab.spawn(`rm -f ${capture}; exec dumpcap -q -i ${MIRROR} -w ${capture}`);
    await outputMatching(mirror, /File: /);
    const atBegin = await mirroredCount();
    const host = lab.spawn(
      `exec tcpdump -Z root -U -n -i ${HOST.tap} -Q out -w /tmp/switch-host.pcap`,
    );
    await outputMatching(host, /listening/);
    const listening = 'until grep -q listening /tmp/capture.log; do sleep 0.2; done';
    for (const guest of [left, right]) {
      await guest.check(
        'tcpdump -Z root -U -n -i eth0 -w /tmp/capture </dev/null 2>/tmp/capture.log & ' +
          `echo $! >/tmp/capture.pid; ${listening}`,
      );
    }
    // Between the two marks everybody talks to everybody.
    await pingMarks(BEGIN_BYTES);
    await Promise.all([
      ping(left, RIGHT.address, `-c ${PINGS} -i 0.2 -s 1400`),
      ping(left, CLIENT.address),
      ping(right, HOST.address),
      ping(right, CLIENT.address),
    ]);
    await pingMarks(END_BYTES);
    await sleep(1000);

    const atEnd = await mirroredCount();
    mirror.kill('SIGINT');
    host.kill('SIGINT');
    await Promise.all([mirror.wait(), host.wait()]);
    const atLast = await mirroredCount();
    const mirrored = await framesOf(await lab.readFile(capture), 'mirror.pcapng');
    const fromHost = await framesOf(await lab.readFile('/tmp/switch-host.pcap'), 'host.pcap');
    const atLeft = await framesOf(await fileOf(left), 'left.pcap');
    const atRight = await framesOf(await fileOf(right), 'right.pcap');

    const stations = [
      { who: 'left', mac: LEFT.mac, sent: atLeft },
      { who: 'right', mac: RIGHT.mac, sent: atRight },
      { who: 'host', mac: HOST.mac, sent: fromHost },
      // Of the program's frames those are known that a guest received.
      { who: 'client to left', mac: CLIENT.mac, to: LEFT.mac, sent: atLeft },
      { who: 'client to right', mac: CLIENT.mac, to: RIGHT.mac, sent: atRight },
    ];
    let compared = 0;
    for (const { who, mac, to, sent } of stations) {
      const ofStation = (frames: readonly string[]) => betweenMarks(between(frames, mac, to));
      const expected = ofStation(sent);
      expect(expected.length, who).toBeGreaterThan(PINGS);
      expect(byFlow(ofStation(mirrored)), who).toEqual(byFlow(expected));
      compared += expected.length;
    }
    console.log(`mirror: ${compared} frames of ${stations.length} directions, equal and in order`);
    // Nothing was mirrored that none of them sent, and nothing was lost on the way to the mirror.
    const known = new Set([LEFT.mac, RIGHT.mac, HOST.mac, CLIENT.mac].map(digits));
    expect(mirrored.filter((frame) => !known.has(frame.slice(12, 24)))).toEqual([]);
    expect((await port(MIRROR))?.sent.drops).toEqual([]);
    // A guest may say something of its own accord just when the capture starts or ends.
    expect(mirrored.length).toBeGreaterThanOrEqual(atEnd - atBegin);
    expect(mirrored.length).toBeLessThanOrEqual(atLast - atFirst);
  });

  test('a program that is killed under traffic takes its port with it, and no ping is lost', async () => {
    const program = join(labFolder(), 'dom0', 'remote-nic.mjs');
    const killed = lab.spawn(
      `exec ${NOBODY} node ${program} default ${KILLED.address} ${KILLED.port}`,
    );
    await outputMatching(killed, /is at/);
    const pinging = await Pinging.start(left, RIGHT.address, 0.1);
    await right.check(
      `ping -i 0.1 ${KILLED.address} </dev/null >/dev/null 2>&1 & echo $! >/tmp/towards.pid`,
    );
    const answered = (text: string) => (text.match(/answered/g) ?? []).length;
    while (answered(killed.stdout()) < 10) await sleep(100);
    const start = performance.now();
    killed.kill('SIGKILL');
    await killed.wait();
    const kept = await port(KILLED.port);
    const askedMs = performance.now() - start;
    while ((await port(KILLED.port)) !== undefined) {
      if (performance.now() - start > PATIENCE_MS) throw new Error('The port stays.');
      await sleep(100);
    }
    const goneMs = performance.now() - start;
    await right.check('kill $(cat /tmp/towards.pid)');
    const account = await pinging.end();
    console.log(
      `killed: the port is gone after ${goneMs.toFixed(0)} ms; ${account.sent} pings between ` +
        `guests meanwhile, ${account.answered} answered`,
    );
    // It is kept for as long as it was asked to be, should its program come back.
    if (askedMs < GRACE_MS) expect(kept?.id).toBe(KILLED.port);
    expect(goneMs).toBeGreaterThanOrEqual(GRACE_MS);
    expect(account.sent).toBeGreaterThan(40);
    expect(account.answered).toBe(account.sent);
    expect(client.running).toBe(true);
    expect(daemon.running).toBe(true);
  });
});

/**
 * Frames by destination, source and type, each flow in its order: a guest of several queues promises none
 * between flows.
 */
function byFlow(frames: readonly string[]): Record<string, string[]> {
  const flows: Record<string, string[]> = {};
  for (const frame of frames) {
    const flow = frame.slice(0, FLOW_DIGITS);
    flows[flow] = [...(flows[flow] ?? []), frame];
  }
  return flows;
}

/** How many frames the switch has given the mirror port. */
async function mirroredCount(): Promise<number> {
  return Number((await port(MIRROR))?.sent.packets);
}

/** A ping of a length that no other has, from each guest to each station. */
async function pingMarks(bytes: number): Promise<void> {
  for (const [guest, address] of [
    [left, RIGHT.address],
    [left, CLIENT.address],
    [right, HOST.address],
    [right, CLIENT.address],
  ] as const) {
    expect(await ping(guest, address, `-c 1 -s ${bytes}`)).toContain('1 packets received');
  }
}

async function fileOf(guest: Guest): Promise<Buffer> {
  // Nobody asks how it ended, so that its process stays as a zombie.
  const runs = "grep -qs 'State:.[^ZX]' /proc/$(cat /tmp/capture.pid)/status";
  await guest.check(`kill $(cat /tmp/capture.pid); while ${runs}; do sleep 0.1; done`);
  return Buffer.from(await guest.check('base64 /tmp/capture'), 'base64');
}

/** The capture, kept beside the logs, as frames in hexadecimal digits. */
function framesOf(data: Buffer, name: string): string[] {
  const file = join(logDir, name);
  writeFileSync(file, data);
  return readFrames(file);
}

function digits(mac: string): string {
  return mac.replaceAll(':', '');
}

/** The frames from an address, and where given to one. */
function between(frames: readonly string[], from: string, to?: string): string[] {
  return frames.filter(
    (frame) =>
      frame.slice(12, 24) === digits(from) && (to === undefined || frame.startsWith(digits(to))),
  );
}

/** What is between the first mark of the beginning and the last of the end, with both. */
function betweenMarks(frames: readonly string[]): string[] {
  const isMark = (bytes: number) => (frame: string) =>
    frame.length === 2 * (PING_HEADER_BYTES + bytes);
  const first = frames.findIndex(isMark(BEGIN_BYTES));
  const last = frames.findLastIndex(isMark(END_BYTES));
  if (first < 0 || last < 0) throw new Error('A capture lacks its marks.');
  return frames.slice(first, last + 1);
}

/**
 * One measurement of TCP, one way, by the user-space stack or, as the yardstick, by Linux.
 * Usage: stack MODE SECONDS; prints { "rate": bytes a second that arrived }.
 *
 *     switch       two stacks on the switch, all in this process; segmentation left to the receiver
 *     segments     the same, with each segment a frame of its own
 *     grpc         two stacks of another process on remote NICs: the example iperf-self
 *     loopback     Linux to itself, both ends in this process
 *     to-kernel    the stack sends to Linux behind a TAP
 *     from-kernel  and the other way
 *     taps         Linux to Linux, from TAP to TAP over the switch in this process
 *     veth         Linux to Linux over a veth pair
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Duplex } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Stack } from '@xenvif/client/stack';
import { TapDevice } from '../../dist/device/tap/index.js';
import { BasicBackend, Vnetif } from '../../dist/device/vnetif/index.js';
import { NetworkLink } from '../../dist/stack/network-link.js';
import { Switch } from '../../dist/switch/switch.js';
import { LocalMemory } from '../../dist/xen/local-memory.js';
import { ip, Space } from './spaces.js';
import { flood, rateOf } from './tcp-flow.js';

const MEMORY_BYTES = 64 * 1024 * 1024;
const PORT = 5001;
const OURS = '10.97.0.2';
const THEIRS = '10.97.0.1';
const OUR_MAC = '02:97:00:00:00:02';
const THEIR_MAC = '02:97:00:00:00:01';
const EXAMPLE_BYTES = 50_000_000;
const root = fileURLToPath(new URL('../../', import.meta.url));
const peer = fileURLToPath(new URL('tcp-peer.js', import.meta.url));

const [mode = '', secondsText] = process.argv.slice(2);
const seconds = Number(secondsText);
const memory = new LocalMemory(new ArrayBuffer(MEMORY_BYTES), 0n);
const spaces: Space[] = [];

/** A stack on a port of the switch, by a cable with room for frames on their way. */
async function onSwitch(device: Switch, ipAddress: string, mac: string, offloads: boolean) {
  const cable = new BasicBackend({ memory, asyncReaders: true });
  const [near, far] = [await Vnetif.connect(cable), await Vnetif.connect(cable)];
  device.plug(ipAddress, far);
  const link = new NetworkLink(near, { memory, mac, offloads });
  return Stack.connect(link, { cidr: `${ipAddress}/24` });
}

async function overSwitch(offloads: boolean): Promise<number> {
  const device = new Switch(memory);
  const from = await onSwitch(device, OURS, OUR_MAC, offloads);
  const to = await onSwitch(device, THEIRS, THEIR_MAC, offloads);
  const server = to.createServer();
  server.listen(PORT);
  const accepted = once(server, 'connection') as Promise<[Duplex]>;
  flood(from.connect({ host: THEIRS, port: PORT }));
  return await rateOf((await accepted)[0], seconds);
}

async function overLoopback(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const accepted = once(server, 'connection') as Promise<[Duplex]>;
  flood(connect((server.address() as AddressInfo).port, '127.0.0.1'));
  return await rateOf((await accepted)[0], seconds);
}

/** A daemon on emulated Xen and the example, as a reader of the README has them. */
async function overGrpc(): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), 'xenvif-bench-'));
  const socket = join(folder, 'socket');
  const options = ['--tcp', 'off', '--xenstore-socket', 'off', '--state-file', 'off'];
  const fixed = ['--xen', 'emulated', '--demo-guests', '0', '--log-format', 'json'];
  const args = [join(root, 'dist/main.js'), '--socket', socket, ...options, ...fixed];
  const daemon = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  try {
    // Read to its end: a daemon whose log nobody takes would wait for room in the pipe.
    const log = createInterface(daemon.stderr);
    await new Promise<void>((resolve) =>
      log.on('line', (line) => line.includes('"msg":"ready"') && resolve()),
    );
    const example = join(root, 'clients/typescript/examples/iperf-self.mjs');
    const { stdout } = await promisify(execFile)(
      process.execPath,
      [example, 'default', '--bytes', `${EXAMPLE_BYTES}`],
      { env: { ...process.env, XENVIF_ADDRESS: `unix:${socket}` } },
    );
    const tookSeconds = Number(/bytes in ([\d.]+) s/.exec(stdout)?.[1]);
    return EXAMPLE_BYTES / tookSeconds;
  } finally {
    daemon.kill('SIGKILL');
    rmSync(folder, { recursive: true });
  }
}

/** A TAP whose interface is in a namespace of its own. */
function tapInto(name: string, ipAddress: string): { tap: TapDevice; space: Space } {
  const tap = TapDevice.open({ memory, name: `xb${process.pid.toString(36)}${name}` });
  const space = new Space(name);
  spaces.push(space);
  space.adopt(tap.name, `${ipAddress}/24`);
  return { tap, space };
}

async function overTap(isToKernel: boolean): Promise<number> {
  const { tap, space } = tapInto('a', THEIRS);
  const link = new NetworkLink(tap, { memory, mac: OUR_MAC });
  const stack = Stack.connect(link, { cidr: `${OURS}/24` });
  if (isToKernel) {
    const sink = await space.start(peer, 'sink', `${PORT}`, `${seconds}`);
    flood(stack.connect({ host: THEIRS, port: PORT }));
    return rateIn(await sink.line());
  }
  const server = stack.createServer();
  server.listen(PORT);
  const accepted = once(server, 'connection') as Promise<[Duplex]>;
  await space.start(peer, 'send', OURS, `${PORT}`);
  return await rateOf((await accepted)[0], seconds);
}

async function betweenTaps(): Promise<number> {
  const device = new Switch(memory);
  const [from, to] = [tapInto('a', OURS), tapInto('b', THEIRS)];
  device.plug('a', from.tap);
  device.plug('b', to.tap);
  return await betweenSpaces(from.space, to.space);
}

async function betweenVeths(): Promise<number> {
  const [from, to] = [new Space('a'), new Space('b')];
  spaces.push(from, to);
  const name = `xb${process.pid.toString(36)}`;
  ip('link', 'add', `${name}a`, 'type', 'veth', 'peer', 'name', `${name}b`);
  from.adopt(`${name}a`, `${OURS}/24`);
  to.adopt(`${name}b`, `${THEIRS}/24`);
  return await betweenSpaces(from, to);
}

async function betweenSpaces(from: Space, to: Space): Promise<number> {
  const sink = await to.start(peer, 'sink', `${PORT}`, `${seconds}`);
  await from.start(peer, 'send', THEIRS, `${PORT}`);
  return rateIn(await sink.line());
}

function rateIn(line: string): number {
  const { rate }: { rate: number } = JSON.parse(line);
  return rate;
}

const modes: Readonly<Record<string, () => Promise<number>>> = {
  switch: () => overSwitch(true),
  segments: () => overSwitch(false),
  grpc: overGrpc,
  loopback: overLoopback,
  'to-kernel': () => overTap(true),
  'from-kernel': () => overTap(false),
  taps: betweenTaps,
  veth: betweenVeths,
};
const measure = modes[mode];
if (measure === undefined) throw new Error(`There is no mode "${mode}".`);
try {
  const rate = await measure();
  // Nothing may be lost on the way out: the program ends at once after.
  process.stdout.write(`${JSON.stringify({ rate })}\n`);
} finally {
  for (const space of spaces) space.remove();
}
process.exit();

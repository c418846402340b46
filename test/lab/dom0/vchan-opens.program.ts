/**
 * Runs in dom0: opens and closes vchans to itself, one after another, and prints what the process held
 * before and holds after: descriptors, mappings of grants, its own pages that are granted, event channels
 * and nodes of XenStore.
 *
 *     node vchan-opens.mjs ROUNDS RING_BYTES
 */
import { readdirSync, readFileSync } from 'node:fs';
import { connectVchan, VchanServer, type VchanStream } from '../../../src/device/vchan/index.js';
import { openNativeXen } from '../../../src/xen/native/index.js';

const [rounds = 100, ringBytes = 65_536] = process.argv.slice(2).map(Number);
const xen = await openNativeXen();
const { domid } = xen;

function closed(stream: VchanStream): Promise<void> {
  if (stream.closed) return Promise.resolve();
  return new Promise((resolve) => stream.once('close', resolve));
}

async function holdings() {
  const count = (text: string, pattern: RegExp) => text.match(pattern)?.length ?? 0;
  const maps = readFileSync('/proc/self/maps', 'utf8');
  return {
    descriptors: readdirSync('/proc/self/fd').length,
    mapped: count(maps, /gntdev/g),
    shared: count(maps, /gntalloc/g),
    ports: count(readFileSync('/proc/interrupts', 'utf8'), /evtchn:node/g),
    nodes: await xen.store.directory(`/local/domain/${domid}/data/vchan`).catch(() => []),
  };
}

async function round(server: VchanServer, number: number): Promise<void> {
  const [accepted, client] = await Promise.all([
    server.accept(),
    connectVchan(xen, { domid, port: 'opens' }),
  ]);
  const text = Buffer.from(`round ${number}`);
  await client.send(text);
  if (!(await accepted.receive(text.length))?.equals(text)) throw new Error(`Lost: ${text}.`);
  const [first, second] = number % 2 === 0 ? [accepted, client] : [client, accepted];
  first.destroy();
  second.resume();
  await Promise.all([closed(first), closed(second)]);
}

const sizes = { readRingBytes: ringBytes, writeRingBytes: ringBytes };
const server = await VchanServer.listen(xen, { domid, port: 'opens', ...sizes });
// What is opened once and kept, devices and the like, is there after the first.
await round(server, 0);
await server.close();
const before = await holdings();
const again = await VchanServer.listen(xen, { domid, port: 'opens', ...sizes });
const start = performance.now();
for (let number = 1; number <= rounds; number++) await round(again, number);
const seconds = (performance.now() - start) / 1000;
await again.close();
const after = await holdings();
await xen.close();
process.stdout.write(`${JSON.stringify({ rounds, seconds, before, after })}\n`);

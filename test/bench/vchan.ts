/**
 * One measurement of a vchan on emulated Xen: two domains in this process, one writes as fast as it may,
 * the other reads. Or, as the yardstick, the same bytes through a Unix socket of this process. Prints
 * the rate in bytes a second.
 *
 *     node vchan.js vchan|socket RING_BYTES SECONDS
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { connectVchan, VchanServer } from '../../dist/device/vchan/index.js';
import { Hypervisor } from '../../dist/xen/emulated/index.js';

const WRITE_BYTES = 65_536;
const [mode, ring, seconds] = process.argv.slice(2);
const ringBytes = Number(ring);

async function openVchan(): Promise<readonly [Duplex, Duplex]> {
  const hypervisor = new Hypervisor();
  const serverXen = await hypervisor.dom0.open({ localMemoryBytes: 4096 });
  const guest = await hypervisor.createDomain();
  const clientXen = await guest.open({ localMemoryBytes: 4096 });
  const server = await VchanServer.listen(serverXen, {
    domid: guest.domid,
    port: 'bench',
    readRingBytes: ringBytes,
    writeRingBytes: ringBytes,
  });
  const client = connectVchan(clientXen, { domid: 0, port: 'bench' });
  return [await server.accept(), await client];
}

async function openSocket(): Promise<readonly [Duplex, Duplex]> {
  const directory = mkdtempSync(join(tmpdir(), 'xenvif-bench-'));
  const path = join(directory, 'socket');
  const server = createServer();
  const accepted = new Promise<Duplex>((resolve) => server.once('connection', resolve));
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const client = connect(path);
  const pair = [await accepted, client] as const;
  rmSync(directory, { recursive: true });
  return pair;
}

const [from, to] = await (mode === 'vchan' ? openVchan() : openSocket());
let received = 0;
to.on('data', (chunk: Buffer) => {
  received += chunk.length;
});
const bytes = Buffer.alloc(WRITE_BYTES, 7);
function write(): void {
  while (from.write(bytes));
  from.once('drain', write);
}
write();
// Code that is warm, before anything is counted.
await new Promise((resolve) => setTimeout(resolve, 500));
received = 0;
const start = performance.now();
await new Promise((resolve) => setTimeout(resolve, Number(seconds) * 1000));
const rate = received / ((performance.now() - start) / 1000);
process.stdout.write(JSON.stringify({ rate }));
process.exit();

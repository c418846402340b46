#!/usr/bin/env node
// How fast two hosts of this program move bytes to each other over a switch, by TCP.
//
//   node iperf-self.mjs SWITCH [--bytes N]       for example: node iperf-self.mjs default
import { once } from 'node:events';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { parseArgs } from 'node:util';
import { switchName, XenvifClient } from '@xenvif/client';
import { NicLink, Stack } from '@xenvif/client/stack';

const PORT = 5001;
const PIECE_BYTES = 64 * 1024;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { bytes: { type: 'string', default: '50000000' } },
});
const [name] = positionals;
const total = Number(values.bytes);
if (name === undefined || !Number.isSafeInteger(total) || total < 1) {
  console.error('usage: node iperf-self.mjs SWITCH [--bytes N]');
  process.exit(2);
}

/** Zeros in pieces, `total` bytes of them. */
function* zeros() {
  const piece = Buffer.alloc(PIECE_BYTES);
  for (let left = total; left > 0; left -= PIECE_BYTES) {
    yield piece.subarray(0, Math.min(left, PIECE_BYTES));
  }
}

/** @type {XenvifClient[]} */
const clients = [];
/** @type {Stack[]} */
const hosts = [];

/**
 * Becomes a host on the switch.
 * @param {string} cidr its address and prefix
 */
async function becomeHost(cidr) {
  // Each has a connection of its own, as in programs of their own: what one sends is not in the way
  // of what the other receives.
  const client = new XenvifClient();
  clients.push(client);
  const nic = await client.attach(switchName(name ?? ''));
  const host = Stack.connect(new NicLink(nic), { cidr });
  hosts.push(host);
  return host;
}

try {
  const serverStack = await becomeHost('10.0.0.100/24');
  const clientStack = await becomeHost('10.0.0.101/24');

  let received = 0;
  const server = serverStack.createServer({}, (socket) => {
    socket.on('data', (data) => {
      received += data.length;
    });
  });
  server.listen(PORT);
  const socket = clientStack.connect({ host: serverStack.ipv4.ip, port: PORT });
  await once(socket, 'connect');
  const startMs = performance.now();
  await pipeline(Readable.from(zeros()), socket, { end: true });
  await new Promise((resolve) => server.close(() => resolve(undefined)));
  const seconds = (performance.now() - startMs) / 1000;
  console.log(`${received} bytes in ${seconds.toFixed(2)} s`);
  console.log(`${((received * 8) / 1e6 / seconds).toFixed(0)} Mbit/s`);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  for (const host of hosts) await host.disconnect();
  for (const client of clients) client.close();
}

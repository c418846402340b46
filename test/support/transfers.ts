/**
 * Programs that move data between network namespaces and prove that it arrived as it was sent.
 * They use Node's own sockets and so the kernel's TCP and UDP.
 */
import type { NetworkNamespace } from './network-namespaces.js';

const TCP_PORT = 7001;
const UDP_PORT = 7002;

const TRANSFER_SERVER = `
  const { createHash } = require('node:crypto');
  require('node:net').createServer({ allowHalfOpen: true }, (socket) => {
    const hash = createHash('sha256');
    socket.on('data', (data) => hash.update(data));
    socket.on('end', () => socket.end(hash.digest('hex')));
  }).listen(${TCP_PORT}, '::', () => console.log('ready'));`;

const TRANSFER_CLIENT = `
  const { createHash, randomBytes } = require('node:crypto');
  const [host, bytes] = process.argv.slice(1);
  const data = randomBytes(Number(bytes));
  const socket = require('node:net').connect(${TCP_PORT}, host, () => socket.end(data));
  let received = '';
  socket.on('data', (text) => { received += text; });
  socket.on('end', () => {
    const sent = createHash('sha256').update(data).digest('hex');
    console.log(JSON.stringify({ sent, received }));
  });`;

const DATAGRAM_SERVER = `
  const socket = require('node:dgram').createSocket('udp6');
  socket.on('message', (data, { address, port }) => socket.send(data, port, address));
  socket.bind(${UDP_PORT}, '::', () => console.log('ready'));`;

/** One datagram at a time, so that none is lost for want of room: what is lost was damaged. */
const DATAGRAM_CLIENT = `
  const { randomBytes } = require('node:crypto');
  const [host, ...lengths] = process.argv.slice(1);
  const socket = require('node:dgram').createSocket(host.includes(':') ? 'udp6' : 'udp4');
  const unharmed = [];
  let data;
  const next = () => {
    if (lengths.length === 0) { console.log(JSON.stringify(unharmed)); socket.close(); return; }
    data = randomBytes(Number(lengths.shift()));
    socket.send(data, ${UDP_PORT}, host);
  };
  socket.on('message', (answer) => {
    if (answer.equals(data)) unharmed.push(answer.length);
    next();
  });
  next();`;

/** Serves `transfer` in a namespace, on every address. */
export async function serveTransfers(space: NetworkNamespace): Promise<void> {
  await space.start(process.execPath, '-e', TRANSFER_SERVER);
}

/** Sends random bytes by TCP. Returns the SHA-256 of what was sent and of what arrived. */
export async function transfer(
  from: NetworkNamespace,
  host: string,
  bytes: number,
): Promise<{ readonly sent: string; readonly received: string }> {
  return JSON.parse(await from.run(process.execPath, '-e', TRANSFER_CLIENT, host, String(bytes)));
}

/** Serves `exchangeDatagrams` in a namespace, on every address. */
export async function serveDatagrams(space: NetworkNamespace): Promise<void> {
  await space.start(process.execPath, '-e', DATAGRAM_SERVER);
}

/** Sends random UDP datagrams of these lengths; returns those that came back as they were. */
export async function exchangeDatagrams(
  from: NetworkNamespace,
  host: string,
  lengths: readonly number[],
): Promise<number[]> {
  return JSON.parse(
    await from.run(process.execPath, '-e', DATAGRAM_CLIENT, host, ...lengths.map(String)),
  );
}

#!/usr/bin/env node
// Two hosts on one switch that talk by TCP: a server that answers in capitals, and a client.
//
//   node connect.mjs SWITCH [--server CIDR] [--client CIDR]       for example: node connect.mjs default
//
// Neither needs any privilege: each is a port of the switch with a TCP/IP stack of its own.
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { parseArgs } from 'node:util';
import { switchName, XenvifClient } from '@xenvif/client';
import { NicLink, Stack } from '@xenvif/client/stack';

const PORT = 7;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    server: { type: 'string', default: '10.0.0.100/24' },
    client: { type: 'string', default: '10.0.0.101/24' },
  },
});
const [name] = positionals;
if (name === undefined) {
  console.error('usage: node connect.mjs SWITCH [--server CIDR] [--client CIDR]');
  process.exit(2);
}

const client = new XenvifClient();
/** @type {Stack[]} */
const hosts = [];

/**
 * Becomes a host on the switch.
 * @param {string} cidr its address and prefix
 */
async function becomeHost(cidr) {
  const nic = await client.attach(switchName(name ?? ''));
  const host = Stack.connect(new NicLink(nic), { cidr });
  hosts.push(host);
  return host;
}

try {
  const serverStack = await becomeHost(values.server);
  const clientStack = await becomeHost(values.client);

  const server = serverStack.createServer({}, (socket) => {
    console.log(`server: ${socket.remoteAddress}:${socket.remotePort} is here`);
    socket.on('data', (data) => socket.write(String(data).toUpperCase()));
  });
  server.listen(PORT);
  await once(server, 'listening');

  const socket = clientStack.connect({ host: serverStack.ipv4.ip, port: PORT });
  await once(socket, 'connect');
  console.log(`client: connected to ${socket.remoteAddress}:${socket.remotePort}`);
  socket.end('hello, neighbour');
  console.log(`client: the answer is "${await text(socket)}"`);
  server.close();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  for (const host of hosts) await host.disconnect();
  client.close();
}

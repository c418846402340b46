#!/usr/bin/env node
// Serve files by HTTP to the guests on a switch, with Node's own http server on a NIC of this program.
//
//   node http-server.mjs SWITCH CIDR [--root DIRECTORY] [--port N]
//                                       for example: node http-server.mjs default 10.0.0.97/24
//
// Then, in a guest on that switch: wget http://10.0.0.97/README.md. Ctrl-C ends it.
import { once } from 'node:events';
import { open } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join, normalize } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { parseArgs } from 'node:util';
import { switchName, XenvifClient } from '@xenvif/client';
import { NicLink, Stack } from '@xenvif/client/stack';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    root: { type: 'string', default: '.' },
    port: { type: 'string', default: '80' },
  },
});
const [name, cidr] = positionals;
if (name === undefined || cidr === undefined) {
  console.error('usage: node http-server.mjs SWITCH CIDR [--root DIRECTORY] [--port N]');
  process.exit(2);
}

const http = createServer(async (request, response) => {
  // What is above the root cannot be named: the path is made absolute before it is joined.
  const path = normalize(
    `/${decodeURIComponent(new URL(request.url ?? '/', 'http://x').pathname)}`,
  );
  // Opened before anything is said: what fails later can only end the connection.
  const file = await open(join(values.root, path)).catch(() => undefined);
  if (file === undefined || !(await file.stat()).isFile()) {
    await file?.close();
    response.writeHead(404).end('There is no such file.\n');
    return;
  }
  try {
    await pipeline(file.createReadStream(), response);
    console.log(`${request.socket.remoteAddress} has fetched ${path}`);
  } catch (error) {
    console.error(`${path}: ${error instanceof Error ? error.message : error}`);
  }
});

const client = new XenvifClient();
try {
  const nic = await client.attach(switchName(name));
  const stack = Stack.connect(new NicLink(nic), { cidr });
  const server = stack.createServer({ allowHalfOpen: true, noDelay: true }, (socket) =>
    http.emit('connection', socket),
  );
  server.listen(Number(values.port));
  await once(server, 'listening');
  console.log(`http://${stack.ipv4.ip}:${values.port}/ is here, at ${nic.mac} on ${nic.name}`);
  await Promise.race([once(process, 'SIGINT'), nic.closed]);
  await stack.disconnect();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  client.close();
}

/**
 * One end of a TCP connection of the kernel's, for a process in a network namespace.
 *
 *     node tcp-peer.js sink PORT SECONDS     prints "ready", then { "rate": bytes a second received }
 *     node tcp-peer.js send HOST PORT        prints "ready", and sends until it is killed
 */
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { flood, rateOf } from './tcp-flow.js';

const [mode, first = '', second] = process.argv.slice(2);
if (mode === 'sink') {
  const server = createServer(async (socket) => {
    console.log(JSON.stringify({ rate: await rateOf(socket, Number(second)) }));
    process.exit();
  });
  server.listen(Number(first), () => console.log('ready'));
} else {
  const socket = connect({ host: first, port: Number(second) });
  await once(socket, 'connect');
  console.log('ready');
  flood(socket);
}

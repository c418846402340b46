/**
 * What plain Node does with a ring and a socket: requests read off a ring, frames copied with
 * `copyWithin` to where they are sent from, each behind its tag and length, and written to a TCP
 * socket; a client that walks them. No device, no checks, no gRPC.
 * Usage: net-path server FRAME_BYTES|imix | net-path client ADDRESS SECONDS; the client prints { "rate" }.
 */
import { connect, createServer } from 'node:net';
import { sizesOf } from './frame-sizes.js';
import {
  MESSAGES,
  MESSAGES_PER_RING,
  messageAt,
  PLAIN_RING_BYTES,
  PlainRing,
} from './plain-ring.js';

const WARM_UP_MS = 3000;
const [role, first = '', second = ''] = process.argv.slice(2);

if (role === 'server') serve(sizesOf(first));
else receive(first, Number(second));

function serve(sizes: readonly number[]): void {
  const memory = new ArrayBuffer(PLAIN_RING_BYTES);
  const free = Array.from({ length: MESSAGES }, (_, index) => messageAt(index));
  const server = createServer((socket) => {
    socket.setNoDelay(true);
    socket.on('error', () => process.exit(0));
    const ring = new PlainRing(memory, sizes, free.pop() ?? 0, (start, end) => {
      socket.write(Buffer.from(memory, start, end - start), () => {
        free.push(start);
        if (free.length === MESSAGES_PER_RING + 1) setImmediate(turn);
      });
      return free.pop() ?? 0;
    });
    const turn = () => {
      while (free.length > MESSAGES_PER_RING) ring.turn();
    };
    turn();
  });
  server.listen(0, '127.0.0.1', () => {
    const address = server.address();
    console.log(typeof address === 'object' ? `127.0.0.1:${address?.port}` : '');
  });
}

function receive(address: string, seconds: number): void {
  const buffer = Buffer.alloc(256 * 1024);
  const held = Buffer.alloc(512 * 1024);
  let heldBytes = 0;
  let frames = 0;
  let sum = 0;
  let from = 0;
  const start = performance.now();
  const callback = (read: number): boolean => {
    held.set(buffer.subarray(0, read), heldBytes);
    const end = heldBytes + read;
    let at = 0;
    while (at + 3 <= end) {
      if (held[at] !== 0x0a) throw new Error('This is no frame.');
      let length = held[at + 1] as number;
      let header = 2;
      if (length >= 0x80) {
        length = (length & 0x7f) | ((held[at + 2] as number) << 7);
        header = 3;
      }
      if (at + header + length > end) break;
      sum += held[at + header] as number;
      frames += 1;
      at += header + length;
    }
    held.copyWithin(0, at, end);
    heldBytes = end - at;
    const now = performance.now();
    if (from === 0) {
      if (now - start > WARM_UP_MS) {
        from = now;
        frames = 0;
      }
    } else if (now - from > seconds * 1000) {
      console.log(JSON.stringify({ rate: frames / ((now - from) / 1000), sum: sum > 0 }));
      process.exit(0);
    }
    return true;
  };
  connect({ port: Number(address.split(':')[1]), host: '127.0.0.1', onread: { buffer, callback } });
}

/**
 * What plain Node does with a ring and a socket: requests read off a ring, frames copied with
 * `copyWithin` to where they are sent from, each behind its tag and length, and written to a TCP
 * socket; a client that walks them. No device, no checks, no gRPC.
 * Usage: net-path server FRAME_BYTES|imix | net-path client ADDRESS SECONDS; the client prints { "rate" }.
 */
import { connect, createServer } from 'node:net';
import { sizesOf } from './frame-sizes.js';

/** What a ring holds of frames that are no longer than a page. */
const SLOTS = 256;
const PAGE = 4096;
const MESSAGE_BYTES = 64 * 1024;
const MESSAGES = 34;
/** A ring full of the longest frames goes into no more messages than this. */
const MESSAGES_PER_RING = 17;
const WARM_UP_MS = 3000;
const [role, first = '', second = ''] = process.argv.slice(2);

if (role === 'server') serve(sizesOf(first));
else receive(first, Number(second));

function serve(sizes: readonly number[]): void {
  const pagesPerFrame = Math.ceil(Math.max(...sizes) / PAGE);
  // Frames that are longer than a page take four slots each.
  const frames = pagesPerFrame === 1 ? SLOTS : SLOTS / 4;
  const messagesAt = (SLOTS + 1) * PAGE;
  const messageRoom = MESSAGE_BYTES + pagesPerFrame * PAGE;
  const memory = new ArrayBuffer(messagesAt + MESSAGES * messageRoom);
  const bytes = new Uint8Array(memory);
  const ring = new Uint32Array(memory, 0, SLOTS * 3);
  bytes.fill(0x5a, PAGE, messagesAt);
  const free = Array.from({ length: MESSAGES }, (_, index) => messagesAt + index * messageRoom);
  let message = free.pop() ?? 0;
  let place = message;
  const server = createServer((socket) => {
    socket.setNoDelay(true);
    socket.on('error', () => process.exit(0));
    const turn = () => {
      while (free.length > MESSAGES_PER_RING) consume();
    };
    const send = () => {
      const sent = message;
      socket.write(Buffer.from(memory, sent, place - sent), () => {
        free.push(sent);
        if (free.length === MESSAGES_PER_RING + 1) setImmediate(turn);
      });
      message = free.pop() ?? 0;
      place = message;
    };
    const consume = () => {
      for (let slot = 0; slot < frames; slot += 1) {
        ring[slot * 3] = slot * pagesPerFrame + 1;
        ring[slot * 3 + 1] = 0;
        ring[slot * 3 + 2] = slot | ((sizes[slot % sizes.length] as number) << 16);
      }
      for (let slot = 0; slot < frames; slot += 1) {
        const source = (ring[slot * 3] as number) * PAGE;
        const idAndSize = ring[slot * 3 + 2] as number;
        const size = idAndSize >>> 16;
        bytes[place] = 0x0a;
        if (size < 0x80) {
          bytes[place + 1] = size;
          place += 2;
        } else {
          bytes[place + 1] = (size & 0x7f) | 0x80;
          bytes[place + 2] = size >>> 7;
          place += 3;
        }
        bytes.copyWithin(place, source, source + size);
        place += size;
        ring[slot * 3] = idAndSize & 0xffff;
        if (place - message >= MESSAGE_BYTES) send();
      }
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

/**
 * A plain Node TCP stream of the same bytes: the frames packed as our messages pack them, in pieces
 * of 64 KiB, with nothing done to them.
 * Usage: tcp server FRAME_BYTES | tcp client PORT SECONDS FRAME_BYTES
 */
import { connect, createServer } from 'node:net';

const PIECE_BYTES = 64 * 1024;
const WARM_UP_MS = 500;
const [role, first = '', second = '', third = ''] = process.argv.slice(2);

/** What a frame takes in a message: tag, length, bytes and its flags. */
function wireBytes(frameBytes: number): number {
  return frameBytes + (frameBytes < 128 ? 3 : 4);
}

if (role === 'server') serve(Number(first));
else receive(Number(first), Number(second), Number(third));

function serve(frameBytes: number): void {
  const piece = Buffer.alloc(PIECE_BYTES - (PIECE_BYTES % wireBytes(frameBytes)), 0x5a);
  const server = createServer((socket) => {
    const send = () => {
      while (socket.write(piece));
    };
    socket.on('drain', send);
    socket.on('error', () => process.exit(0));
    send();
  });
  server.listen(0, '127.0.0.1', () => {
    const address = server.address();
    console.log(typeof address === 'object' ? address?.port : '');
  });
}

function receive(port: number, seconds: number, frameBytes: number): void {
  let bytes = 0;
  let from = 0;
  const start = performance.now();
  const socket = connect(port, '127.0.0.1');
  socket.on('data', (data) => {
    const now = performance.now();
    if (from === 0) {
      if (now - start > WARM_UP_MS) from = now;
      return;
    }
    bytes += data.length;
    if (now - from < seconds * 1000) return;
    const rate = bytes / wireBytes(frameBytes) / ((now - from) / 1000);
    console.log(JSON.stringify({ rate }));
    process.exit(0);
  });
}

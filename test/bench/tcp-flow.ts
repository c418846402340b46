/** A stream of bytes one way over any duplex stream, the kernel's TCP or the stack's alike. */
import type { Duplex } from 'node:stream';

const WRITE_BYTES = 65_536;
/** Code, window and congestion window are warm by then. */
const WARM_MS = 1000;

/** Writes as fast as it may, for as long as the stream takes it. */
export function flood(to: Duplex): void {
  const bytes = Buffer.alloc(WRITE_BYTES, 7);
  const write = () => {
    while (to.writable && to.write(bytes));
  };
  to.on('drain', write);
  // A receiver that has measured goes away.
  to.on('error', () => undefined);
  write();
}

/** How many bytes a second arrive, once it is warm. */
export async function rateOf(from: Duplex, seconds: number): Promise<number> {
  let received = 0;
  from.on('data', (data: Buffer) => {
    received += data.length;
  });
  await pause(WARM_MS);
  received = 0;
  const start = performance.now();
  await pause(seconds * 1000);
  return received / ((performance.now() - start) / 1000);
}

function pause(forMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, forMs));
}

/** A file of random bytes that goes from one peer to another over TCP, and is compared by its sum. */

import type { Peer } from './peer.js';

const TRANSFER_MS = 300_000;
const PATH = '/tmp/random';
const PORT = 5001;

/** Makes the file that `transfer` sends. */
export async function makeRandomFile(peer: Peer, megabytes: number): Promise<void> {
  await peer.check(`dd if=/dev/urandom of=${PATH} bs=1M count=${megabytes} 2>/dev/null`);
}

/** Sends the file; resolves with the sums of what was sent and of what was received. */
export async function transfer(
  from: Peer,
  to: Peer,
  address: string,
): Promise<{ readonly sent: string; readonly received: string; readonly seconds: number }> {
  const start = performance.now();
  // busybox's nc ends when its input does, so the receiver is given one that never ends.
  const receive = `[ -p /tmp/never ] || mkfifo /tmp/never; busybox nc -l -p ${PORT} <>/tmp/never | sha256sum`;
  const send = `until busybox nc ${address} ${PORT} <${PATH}; do sleep 0.2; done; sha256sum <${PATH}`;
  const [received, sent] = await Promise.all([
    to.check(receive, { timeoutMs: TRANSFER_MS }),
    from.check(send, { timeoutMs: TRANSFER_MS }),
  ]);
  const seconds = (performance.now() - start) / 1000;
  return { sent: sent.trim(), received: received.trim(), seconds };
}

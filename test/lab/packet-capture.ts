/** tcpdump at a peer's interface, and what it thinks of the checksums in what it captured. */

import { sleep } from './deferred.js';
import type { Peer } from './peer.js';

const CAPTURE_MS = 180_000;
const PACKETS = 400;

export interface CapturedChecksums {
  readonly seen: number;
  readonly incorrect: number;
}

/**
 * Captures up to 400 TCP segments over IPv6 from `source` while `traffic` runs.
 *
 * With checksums left to a card a capture shows them unfinished, so they must be off at the sender;
 * and what the receiver has put together from several frames has no checksum of its own.
 */
export async function captureChecksums(
  peer: Peer,
  device: string,
  source: string,
  traffic: () => Promise<unknown>,
): Promise<CapturedChecksums> {
  const filter = `ip6 and tcp and src host ${source}`;
  const files = `/tmp/capture-${peer.name}`;
  const capturing = peer.check(
    `rm -f ${files}.log; timeout 120 tcpdump -Z root -i ${device} -n -s 0 -c ${PACKETS} ` +
      `-w ${files} "${filter}" 2>${files}.log; true`,
    { timeoutMs: CAPTURE_MS },
  );
  await peer.check(`until grep -q listening ${files}.log 2>/dev/null; do sleep 0.2; done`);
  await traffic();
  await Promise.race([capturing, sleep(2000)]);
  await peer.check(`busybox pkill -INT tcpdump || busybox killall -INT tcpdump; true`);
  await capturing;
  const text = await peer.check(
    `tcpdump -Z root -n -vv -r ${files} 2>/dev/null >${files}.text; ` +
      `grep -c "cksum 0x" ${files}.text; grep -c incorrect ${files}.text; true`,
  );
  const [seen = 0, incorrect = -1] = text.trim().split('\n').map(Number);
  return { seen, incorrect };
}

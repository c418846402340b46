/**
 * The common case of an RX ring by itself: frames for a guest that has a buffer for each of them, with
 * nothing to be completed or told beside. All other frames go through RxFiller one by one.
 */
import { GrantError } from '../../errors.js';
import type { AnswerLog } from '../../ring/answer-log.js';
import { RSP_ERROR } from '../../ring/netif-tx.js';
import type { BackRing } from '../../ring/shared-ring.js';
import { GNTST_OKAY } from '../../xen/copy-batch.js';
import { type Grants, PAGE_SIZE } from '../../xen/xen.js';
import type { FrameBatch } from '../frame-batch.js';
import { checksumFlags } from './rx-checksum.js';
import type { RxScratch } from './rx-scratch.js';

/**
 * Copies all frames of a batch, for which nothing has to be done beside, into buffers of the guest and
 * writes the responses, without publishing them; `scratch.copies` says which of them arrived. False,
 * and nothing was read of the ring's slots, where a frame does not fit a buffer, or buffers are too few.
 * @throws ProtocolError when the ring makes no sense.
 */
export function fillPlain(
  ring: BackRing,
  log: AnswerLog,
  grants: Grants,
  scratch: RxScratch,
  batch: FrameBatch,
  domid: number,
): boolean {
  const { count, flags, lengths, offsets } = batch;
  const { copies, words } = scratch;
  if (count > copies.capacity || ring.pendingRequests() < count) return false;
  for (let index = 0; index < count; index += 1) {
    if ((lengths[index] as number) > PAGE_SIZE) return false;
  }
  ring.readRequests(words, count);
  for (let index = 0; index < count; index += 1) {
    const word = index * 2;
    const length = lengths[index] as number;
    const ref = words[word + 1] as number;
    copies.putToGrant(index, domid, ref, offsets[index] as number, length);
    // The request becomes its response: id and offset 0, flags and the length as the status.
    words[word] = (words[word] as number) & 0xffff;
    words[word + 1] = checksumFlags(flags[index] as number) | (length << 16);
  }
  copies.take(count);
  try {
    grants.copy(copies);
  } catch (error) {
    if (!(error instanceof GrantError)) throw error;
    copies.fail();
  }
  if (!copies.allOkay) markFailed(scratch, count);
  // A daemon that dies in here has answered none of them: see answer-recovery.ts.
  log.begin((ring.rspProd + count) >>> 0, ring.rspProd);
  ring.writeResponses(words, count);
  log.reached(ring.rspProd);
  ring.reqCons = (ring.reqCons + count) >>> 0;
  return true;
}

/** Makes errors of the responses of buffers that could not be filled. */
function markFailed({ copies, words }: RxScratch, count: number): void {
  for (let index = 0; index < count; index += 1) {
    if (copies.status(index) === GNTST_OKAY) continue;
    const word = index * 2 + 1;
    words[word] = ((words[word] as number) & 0xffff) | (RSP_ERROR << 16);
  }
}

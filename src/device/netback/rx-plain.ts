/**
 * The common case of an RX ring by itself: frames for a guest that has a buffer for each of them, with
 * nothing to be completed or told beside. All other frames go through RxFiller one by one.
 */
import { GrantError } from '../../errors.js';
import type { AnswerLog } from '../../ring/answer-log.js';
import type { BackRing } from '../../ring/shared-ring.js';
import { type Grants, PAGE_SIZE } from '../../xen/xen.js';
import type { FrameBatch } from '../frame-batch.js';
import { checksumFlags } from './rx-checksum.js';
import type { RxScratch } from './rx-scratch.js';

/**
 * Copies all frames of a batch, for which nothing has to be done beside, into buffers of the guest and writes the responses, without
 * publishing them. False, and nothing is answered, where the guest has too few buffers, or one that
 * is too small or none of its own: then somebody else has to look closer.
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
  ring.readRequests(words, count);
  copies.clear();
  copies.toGrants(domid, words, 1, 2, offsets, lengths, count);
  for (let index = 0; index < count; index += 1) {
    const length = lengths[index] as number;
    if (length > PAGE_SIZE) return false;
    // The request becomes its response: id and offset 0, flags and the length as the status.
    words[index * 2] = (words[index * 2] as number) & 0xffff;
    words[index * 2 + 1] = checksumFlags(flags[index] as number) | (length << 16);
  }
  try {
    grants.copy(copies);
  } catch (error) {
    if (error instanceof GrantError) return false;
    throw error;
  }
  if (!copies.allOkay) return false;
  // A daemon that dies in here has answered none of them: see answer-recovery.ts.
  log.begin((ring.rspProd + count) >>> 0, ring.rspProd);
  ring.writeResponses(words, count);
  log.reached(ring.rspProd);
  ring.reqCons = (ring.reqCons + count) >>> 0;
  return true;
}

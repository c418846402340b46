/**
 * Ends what a daemon that was killed had begun: answers that lie in their slots and were not published,
 * or that it was about to write. Whatever it answered had been done, so nothing is done again; the rules
 * by which answers are written, and so can be told from requests, are those of tx-queue.ts and
 * rx-filler.ts. A daemon that is killed in here leaves the same state, or one nearer to the end.
 */
import type { AnswerLog } from '../../ring/answer-log.js';
import { EXTRA_FLAG_MORE } from '../../ring/netif-extra.js';
import { readRxRequestId, writeRxResponse } from '../../ring/netif-rx.js';
import {
  RSP_ERROR,
  RSP_NULL,
  RSP_OKAY,
  TX_EXTRA_INFO,
  TX_MORE_DATA,
  writeTxResponse,
} from '../../ring/netif-tx.js';
import type { BackRing } from '../../ring/shared-ring.js';

/**
 * TX answers are written from the last to the first: those before the one that was being written are
 * requests as the guest made them, by which each slot is known for data or an extra.
 */
export function finishTxAnswers(ring: BackRing, log: AnswerLog): void {
  const { page } = ring;
  const first = ring.rspProd;
  const unfinished = log.take(first, ring.pendingRequests());
  if (unfinished === undefined) return;
  const { count, next } = unfinished;
  const isExtra = extrasOf(ring, Math.min(next + 1, count));
  for (let index = isExtra.length - 1; index >= 0; index -= 1) {
    const slot = ring.slot(first + index);
    // The tail goes last. Where it is gone the answer is there.
    const isAnswered =
      index === next && page.readU32(slot + 4) === 0 && page.readU32(slot + 8) === 0;
    log.reached((first + index) >>> 0);
    if (isAnswered) continue;
    if (isExtra[index]) writeTxResponse(page, slot, 0, RSP_NULL);
    else writeTxResponse(page, slot, page.readU16(slot + 8), RSP_OKAY);
  }
  publish(ring, count);
}

/** Which of the first `count` slots behind rsp_prod are extras. */
function extrasOf(ring: BackRing, count: number): boolean[] {
  const { page } = ring;
  const isExtra: boolean[] = [];
  let extrasFollow = false;
  let fragmentsFollow = false;
  for (let index = 0; index < count; index += 1) {
    const place = ring.slot(ring.rspProd + index);
    isExtra.push(extrasFollow);
    if (extrasFollow) {
      extrasFollow = (page.readU8(place + 1) & EXTRA_FLAG_MORE) !== 0;
      continue;
    }
    const flags = page.readU16(place + 6);
    extrasFollow = !fragmentsFollow && (flags & TX_EXTRA_INFO) !== 0;
    fragmentsFollow = (flags & TX_MORE_DATA) !== 0;
  }
  return isExtra;
}

/**
 * RX answers are written from the first to the last, and `next` is the first slot of the frame that was
 * being written: the frames before it are whole. The rest are answered as empty. Who sent those frames
 * was not told that they were taken, and they are sent again.
 */
export function finishRxAnswers(ring: BackRing, log: AnswerLog): void {
  const { page } = ring;
  const first = ring.rspProd;
  const unfinished = log.take(first, ring.pendingRequests());
  if (unfinished === undefined) return;
  const { count, extraIds, extrasFrom, next } = unfinished;
  for (let index = next; index < count; index += 1) {
    const slot = ring.slot(first + index);
    // Data and requests have their ids in the same place; an extra has written over its own.
    const noted = extrasFrom === next + 1 ? extraIds[index - extrasFrom] : undefined;
    writeRxResponse(page, slot, noted ?? readRxRequestId(page, slot), 0, 0, RSP_ERROR);
  }
  publish(ring, count);
}

function publish(ring: BackRing, count: number): void {
  const old = ring.rspProd;
  ring.rspProd = (old + count) >>> 0;
  ring.reqCons = ring.rspProd;
  // Whoever takes a ring over wakes the guest anyway.
  ring.pushResponses(old);
}

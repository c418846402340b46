/**
 * The common case of a TX ring by itself: requests that are a frame each, without extras or fragments,
 * and with the same flags. They become a batch in one pass that knows nothing else. It judges no
 * request: where one is not plain it stops, and TxParser says what that one is.
 */
import {
  TX_CSUM_BLANK,
  TX_DATA_VALIDATED,
  TX_EXTRA_INFO,
  TX_MORE_DATA,
} from '../../ring/netif-tx.js';
import { canComplete } from '../../wire/checksum-offload.js';
import { PAGE_SIZE } from '../../xen/xen.js';
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  DIRECTION_FROM_GUEST,
  FRAME_BYTES_MIN,
  type FrameBatch,
  writeRunHeader,
} from '../frame-batch.js';
import type { RunStorage } from '../run-storage.js';
import type { TxScratch } from './tx-scratch.js';

const NOT_PLAIN = TX_MORE_DATA | TX_EXTRA_INFO;
/** Fewer plain requests than this in front of another are not worth a batch of their own. */
const PLAIN_MIN = 32;
/** What a batch has at most: no more than a message, and than stays in the cache until it is copied on. */
const PLAIN_BYTES_MAX = 64 * 1024;
/** The longest tag and length of a frame within a page. */
const RUN_HEADER_BYTES_MAX = 3;

/**
 * Makes a batch of the requests from number `first` on of the `pending` that `scratch.requests` holds,
 * up to one that is not plain, with the copies that fill it and the answers that say OKAY. The frames
 * go into `storage`, or where there is none into memory that cannot be held. Returns how many there are;
 * 0 where there are too few.
 */
export function parsePlain(
  scratch: TxScratch,
  domid: number,
  first: number,
  pending: number,
  storage: RunStorage | undefined,
): number {
  const { answers, batch, copies, requests, staging, tailedAnswers } = scratch;
  const { bytes, flags, lengths, offsets } = batch;
  batch.clear();
  const firstFlags = (requests[first * 3 + 1] as number) >>> 16;
  if ((firstFlags & NOT_PLAIN) !== 0) return 0;
  const until = pending * 3;
  let place = storage?.end ?? staging.offset;
  const limit = Math.min(place + PLAIN_BYTES_MAX, storage?.limit ?? Number.POSITIVE_INFINITY);
  const end = limit - RUN_HEADER_BYTES_MAX;
  let totalBytes = 0;
  let count = 0;
  for (let word = first * 3; word < until; word += 3) {
    const offsetAndFlags = requests[word + 1] as number;
    const idAndSize = requests[word + 2] as number;
    const offset = offsetAndFlags & 0xffff;
    const size = idAndSize >>> 16;
    if (place + size > end) break;
    // Other flags, too short, or past the page: each leaves a bit.
    const isOther =
      ((offsetAndFlags >>> 16) ^ firstFlags) |
      ((size - FRAME_BYTES_MIN) >> 31) |
      ((PAGE_SIZE - size - offset) >> 31);
    if (isOther !== 0) {
      if (count < PLAIN_MIN) return 0;
      break;
    }
    const start = writeRunHeader(bytes, place, size);
    copies.putFromGrant(count, domid, requests[word] as number, offset, start, size);
    offsets[count] = start;
    lengths[count] = size;
    // The id in the lower half, RSP_OKAY, which is 0, in the upper.
    const answer = count * 3;
    answers[answer] = idAndSize & 0xffff;
    tailedAnswers[answer] = idAndSize & 0xffff;
    tailedAnswers[answer + 2] = idAndSize;
    totalBytes += size;
    place = start + size;
    count += 1;
  }
  copies.take(count);
  let metadata = DIRECTION_FROM_GUEST;
  if ((firstFlags & TX_CSUM_BLANK) !== 0) metadata |= CHECKSUM_BLANK | DATA_VALIDATED;
  if ((firstFlags & TX_DATA_VALIDATED) !== 0) metadata |= DATA_VALIDATED;
  flags.fill(metadata, 0, count);
  batch.count = count;
  batch.totalBytes = totalBytes;
  batch.isRun = true;
  if (count === 0) return 0;
  batch.storage = storage;
  batch.storageStart = storage?.end ?? 0;
  return count;
}

/** Whether each frame that has arrived is what the flags of the batch say of its checksum. */
export function areFlagsTrue(batch: FrameBatch): boolean {
  if ((batch.flag(0) & CHECKSUM_BLANK) === 0) return true;
  const { bytes, count, lengths, offsets } = batch;
  for (let index = 0; index < count; index += 1) {
    if (!canComplete(bytes, offsets[index] as number, lengths[index] as number)) return false;
  }
  return true;
}

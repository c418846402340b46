/**
 * Frames whose checksum a guest left to its NIC, on their way to a client, which has no NIC to fill
 * it in. Where the batch is the one that goes on to other guests, the frame itself is completed and
 * its flags say so, and nobody does it again. Otherwise the checksum is written into the client's
 * copy alone, for what lies in memory still has to agree with flags that are out of reach:
 *
 * - a frame to be segmented stays blank, because what fills in its checksum is the segmentation;
 * - a frame to the guest is told of by a batch of its own, while the one it came in, whose flags
 *   other guests get, goes on from the same bytes.
 */
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  DIRECTION_FROM_GUEST,
  type FrameBatch,
  gsoTypeOf,
  METADATA_MASK,
} from '../device/frame-batch.js';
import { completeChecksum, computeChecksum, locateChecksum } from '../wire/checksum-offload.js';
import type { FrameChunk } from './frame-chunk.js';

/**
 * Adds frame `index` of `batch`, which is marked CHECKSUM_BLANK, to `chunk` with its checksum, which
 * is over the whole frame even where `length` cuts it. A frame that cannot be completed goes as it
 * is, with its mark. The caller has asked `chunk.fits`.
 */
export function addCompleted(
  chunk: FrameChunk,
  batch: FrameBatch,
  index: number,
  length: number,
  vifIndex: number,
  sequence: number,
): void {
  const { bytes } = batch;
  const offset = batch.offset(index);
  const whole = batch.length(index);
  const flags = batch.flag(index);
  const completed = (flags & ~CHECKSUM_BLANK) | DATA_VALIDATED;
  if (isOnItsWay(flags)) {
    if (completeChecksum(bytes, offset, whole)) batch.setFlag(index, completed);
    chunk.add(batch, index, length, vifIndex, batch.flag(index), sequence);
    return;
  }
  const checksum = computeChecksum(bytes, offset, whole);
  chunk.add(batch, index, length, vifIndex, checksum < 0 ? flags : completed, sequence);
  if (checksum >= 0) chunk.overwriteU16(locateChecksum(bytes, offset, whole) - offset, checksum);
}

/**
 * Completes all frames of a run that are marked CHECKSUM_BLANK, which stays a run. False where that
 * cannot be; then `addCompleted` is for those that are still marked.
 */
export function completeRun(batch: FrameBatch): boolean {
  const flags = batch.flag(0);
  if (!isOnItsWay(flags)) return false;
  const completed = (flags & ~CHECKSUM_BLANK) | DATA_VALIDATED;
  for (let index = 0; index < batch.count; index += 1) {
    if (completeChecksum(batch.bytes, batch.offset(index), batch.length(index))) continue;
    for (let done = 0; done < index; done += 1) batch.setFlag(done, completed);
    return false;
  }
  batch.flags.fill(completed, 0, batch.count);
  return true;
}

/** Whether the flags in the batch are the ones that every further receiver of the frame gets. */
function isOnItsWay(flags: number): boolean {
  return (flags & ~METADATA_MASK) === DIRECTION_FROM_GUEST && gsoTypeOf(flags) === 0;
}

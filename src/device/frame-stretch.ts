/**
 * Frames of a batch that lie one behind the other in memory, as those do that came together: who
 * copies frames takes each such stretch with one copy, for the call costs more than a small frame.
 */
import type { FrameBatch } from './frame-batch.js';

/** Bytes between two frames that are copied along: what stands before a frame in a run, rounded up. */
const GAP_MAX = 8;

/**
 * The end of the stretch that begins with frame `first` of a batch: at most `end`, and no more frames
 * than have `bytesMax` bytes together with what is between them. One frame is a stretch in any case.
 */
export function stretchEnd(
  { lengths, offsets }: FrameBatch,
  first: number,
  end: number,
  bytesMax: number,
): number {
  const start = offsets[first] as number;
  let last = start + (lengths[first] as number);
  let next = first + 1;
  while (next < end) {
    const offset = offsets[next] as number;
    const until = offset + (lengths[next] as number);
    if (offset < last || offset > last + GAP_MAX || until > start + bytesMax) break;
    last = until;
    next += 1;
  }
  return next;
}

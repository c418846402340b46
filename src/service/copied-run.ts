/** Frames of a run, copied out of it one by one: the slow way, for a client that has little credit. */
import { runFrameLength, runHeaderBytes } from '../device/frame-batch.js';

export interface CopiedFrames {
  readonly frames: Buffer[];
  /** The sum of their lengths. */
  readonly bytes: number;
  /** Where the tag of the next frame of the run is. */
  readonly end: number;
}

/** Copies as many of the `count` frames of the run at `start` as have at most `bytesMax` bytes. */
export function copyFrames(
  run: Uint8Array,
  start: number,
  count: number,
  bytesMax: number,
): CopiedFrames {
  const frames: Buffer[] = [];
  let bytes = 0;
  let end = start;
  while (frames.length < count) {
    const length = runFrameLength(run, end);
    if (bytes + length > bytesMax) break;
    const frame = end + runHeaderBytes(length);
    frames.push(Buffer.from(run.subarray(frame, frame + length)));
    bytes += length;
    end = frame + length;
  }
  return { frames, bytes, end };
}

/**
 * Frames for somebody who knows nothing of offloads: each is a copy of its own, with its checksum
 * in place, and what the sender left to be cut is cut.
 */
import { completeChecksum } from '../../wire/checksum-offload.js';
import { Segmenter, segmentBytesMax } from '../../wire/segmentation.js';
import { CHECKSUM_BLANK, type FrameBatch, gsoSizeOf, gsoTypeOf } from '../frame-batch.js';

/** What a user gives `Network.listen`; it may be an async function. */
export type FrameListener = (frame: Uint8Array) => unknown;

export class PlainFrames {
  readonly #onFrame: FrameListener;
  readonly #onFault: (error: unknown) => void;
  readonly #segmenter = new Segmenter();

  /** `onFault` gets what `onFrame` throws, at once or later. */
  constructor(onFrame: FrameListener, onFault: (error: unknown) => void) {
    this.#onFrame = onFrame;
    this.#onFault = onFault;
  }

  deliver(batch: FrameBatch): void {
    for (let index = 0; index < batch.count; index += 1) {
      const offset = batch.offset(index);
      const length = batch.length(index);
      const flags = batch.flag(index);
      if (gsoTypeOf(flags) !== 0 && this.#cut(batch.bytes, offset, length, gsoSizeOf(flags))) {
        continue;
      }
      const frame = batch.bytes.slice(offset, offset + length);
      // What cannot be completed is handed on as it came, for it is no TCP or UDP we understand.
      if ((flags & CHECKSUM_BLANK) !== 0) completeChecksum(frame, 0, length);
      this.#give(frame);
    }
  }

  /** Hands the segments of a frame on; false when it has none. */
  #cut(bytes: Uint8Array, offset: number, length: number, size: number): boolean {
    const count = this.#segmenter.begin(bytes, offset, length, size);
    for (let segment = 0; segment < count; segment += 1) {
      const frame = new Uint8Array(segmentBytesMax(length, size));
      const segmentBytes = this.#segmenter.next(frame, 0);
      this.#give(frame.subarray(0, segmentBytes));
    }
    return count > 0;
  }

  #give(frame: Uint8Array): void {
    try {
      const result = this.#onFrame(frame);
      if (result instanceof Promise) result.catch(this.#onFault);
    } catch (error) {
      this.#onFault(error);
    }
  }
}

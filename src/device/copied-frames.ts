/**
 * Frames for a listener that knows nothing of batches and offloads: each is a copy of its own, with
 * its checksum in place, and what the sender left to be cut is cut. It copies and allocates for
 * each frame, which is what such a listener asks for.
 */
import { completeChecksum } from '../wire/checksum-offload.js';
import { Segmenter, segmentBytesMax } from '../wire/segmentation.js';
import { CHECKSUM_BLANK, type FrameBatch, gsoSizeOf, gsoTypeOf } from './frame-batch.js';
import type { FrameListener } from './network.js';

export class CopiedFrames {
  readonly #onFrame: FrameListener;
  readonly #onFault: (error: unknown) => void;
  readonly #mtu: () => number;
  readonly #headerSize: number;
  readonly #segmenter = new Segmenter();
  #callsUnderWay = 0;
  /** The calls of an async listener that the batch at hand led to. */
  #calls: Promise<unknown>[] = [];
  #isFaulty = false;

  /**
   * `onFault` is told, once, what `onFrame` throws, at once or later; nothing is delivered after
   * that. Frames are cut to packets of at most `mtu()` bytes; those that were not to be cut and are
   * longer than `headerSize` and the MTU are left out.
   */
  constructor(
    onFrame: FrameListener,
    onFault: (error: unknown) => void,
    mtu: () => number,
    headerSize = Number.POSITIVE_INFINITY,
  ) {
    this.#onFrame = onFrame;
    this.#onFault = onFault;
    this.#mtu = mtu;
    this.#headerSize = headerSize;
  }

  /** Calls of an async listener that have not come to their end. */
  get callsUnderWay(): number {
    return this.#callsUnderWay;
  }

  /**
   * Calls the listener for every frame. What it returns resolves when the last of these calls has
   * come to its end, and never rejects; undefined when all have.
   */
  deliver(batch: FrameBatch): Promise<unknown> | undefined {
    for (let index = 0; index < batch.count && !this.#isFaulty; index += 1) {
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
    if (this.#calls.length === 0) return undefined;
    return Promise.all(this.#calls.splice(0));
  }

  /** Hands the segments of a frame on; false when it has none. */
  #cut(bytes: Uint8Array, offset: number, length: number, size: number): boolean {
    const count = this.#segmenter.begin(bytes, offset, length, size, this.#mtu());
    // All are cut before the first is handed on: a listener may have the next batch delivered.
    const segments: Uint8Array[] = [];
    for (let segment = 0; segment < count; segment += 1) {
      const frame = new Uint8Array(segmentBytesMax(length, size));
      segments.push(frame.subarray(0, this.#segmenter.next(frame, 0)));
    }
    for (const segment of segments) this.#give(segment);
    return count > 0;
  }

  #give(frame: Uint8Array): void {
    if (this.#isFaulty || frame.length > this.#headerSize + this.#mtu()) return;
    try {
      const result = this.#onFrame(frame);
      if (result instanceof Promise) this.#follow(result);
    } catch (error) {
      this.#fail(error);
    }
  }

  #follow(call: Promise<unknown>): void {
    this.#callsUnderWay += 1;
    const end = call
      .catch((error: unknown) => this.#fail(error))
      .finally(() => {
        this.#callsUnderWay -= 1;
      });
    this.#calls.push(end);
  }

  #fail(error: unknown): void {
    if (this.#isFaulty) return;
    this.#isFaulty = true;
    this.#onFault(error);
  }
}

/** The easy face of received frames: an object a frame, one at a time. */
import type { ChecksumState, Direction, FrameBatchView, Segmentation } from './frame-batch-view.js';

/** A frame with what is known of it. */
export interface Frame {
  /**
   * From the destination address on, without frame check sequence. The bytes lie in the message that
   * brought them: copy what is kept for long, or it keeps up to 256 KiB in memory.
   */
  readonly data: Uint8Array;
  /** When it passed: nanoseconds since 1970. */
  readonly timestampNs: bigint;
  readonly direction: Direction;
  /** The vif that it passed, `vifs/<domid>.<handle>`; else the port or switch that is observed. */
  readonly vif: string;
  /** Its length when it passed, in bytes; more than `data` has where a snaplen cut it. */
  readonly originalLength: number;
  /** Its number in the stream, from 1 on; lost frames have numbers, too. */
  readonly sequence: bigint;
  readonly checksum: ChecksumState;
  /** How it is to be cut into TCP segments; absent for an ordinary frame. */
  readonly gso?: Segmentation;
}

/** Frame `index` of `batch`. `vifs` are the names that the stream was opened with. */
export function frameAt(batch: FrameBatchView, index: number, vifs: readonly string[]): Frame {
  const gso = batch.segmentation(index);
  const frame = {
    data: batch.frame(index),
    timestampNs: batch.timestampNs(index),
    direction: batch.direction(index),
    vif: vifs[batch.vifIndex(index)] ?? '',
    originalLength: batch.originalLength(index),
    sequence: batch.sequence(index),
    checksum: batch.checksum(index),
  };
  return gso === undefined ? frame : { ...frame, gso };
}

/**
 * The frames of a stream of batches. Written by hand rather than as a generator, which costs several
 * times as much for each frame.
 */
export class FrameIterator implements AsyncIterableIterator<Frame> {
  readonly #batches: AsyncIterator<FrameBatchView, void, undefined>;
  readonly #vifs: readonly string[];
  #batch: FrameBatchView | undefined;
  #index = 0;

  constructor(batches: AsyncIterator<FrameBatchView, void, undefined>, vifs: readonly string[]) {
    this.#batches = batches;
    this.#vifs = vifs;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<IteratorResult<Frame, undefined>> {
    const batch = this.#batch;
    if (batch === undefined || this.#index >= batch.count) return this.#nextBatch();
    const value = frameAt(batch, this.#index, this.#vifs);
    this.#index += 1;
    return Promise.resolve({ done: false, value });
  }

  async return(): Promise<IteratorResult<Frame, undefined>> {
    this.#batch = undefined;
    await this.#batches.return?.();
    return { done: true, value: undefined };
  }

  async #nextBatch(): Promise<IteratorResult<Frame, undefined>> {
    this.#batch = undefined;
    const result = await this.#batches.next();
    if (result.done) return { done: true, value: undefined };
    this.#batch = result.value;
    this.#index = 0;
    return this.next();
  }
}

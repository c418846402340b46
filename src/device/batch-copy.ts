/**
 * A copy of frames in local memory of its own, as a batch: for whoever keeps frames longer than a
 * batch is lent, or hands them to somebody who may change them.
 */
import type { LocalMemory, LocalRegion } from '../xen/local-memory.js';
import { FrameBatch } from './frame-batch.js';
import { stretchEnd } from './frame-stretch.js';

/** Room for two frames of the greatest length, or 80 of Ethernet's. */
const COPY_BYTES = 128 * 1024;
const COPY_FRAMES = 256;
/** Fewer frames than this are copied one by one. */
const STRETCH_MIN = 2;

export class BatchCopy {
  readonly batch: FrameBatch;
  readonly #memory: LocalMemory;
  readonly #region: LocalRegion;
  #used = 0;

  /** @throws GrantError when memory is short. */
  constructor(memory: LocalMemory) {
    this.#memory = memory;
    this.#region = memory.allocate(COPY_BYTES);
    this.batch = new FrameBatch(memory.bytes, COPY_FRAMES);
  }

  clear(): void {
    this.batch.clear();
    this.#used = 0;
  }

  /** Copies a frame in; returns false, and changes nothing, when it does not fit. */
  add(bytes: Uint8Array, offset: number, length: number, flags: number): boolean {
    if (this.#used + length > COPY_BYTES || this.batch.count === COPY_FRAMES) return false;
    const target = this.#region.offset + this.#used;
    const own = this.#memory.bytes;
    // Within one memory no view has to be made for a frame.
    if (bytes.buffer === own.buffer) own.copyWithin(target, offset, offset + length);
    else own.set(bytes.subarray(offset, offset + length), target);
    this.batch.add(target, length, flags);
    this.#used += length;
    return true;
  }

  /**
   * Becomes a copy of frames `[first, end)` of a batch, as many as there is room for: at least one.
   * Returns the index of the first that is not in.
   */
  fill(source: FrameBatch, first: number, end: number): number {
    this.clear();
    let next = first;
    while (next < end) {
      const until = Math.min(end, next + COPY_FRAMES - this.batch.count);
      const stretch = stretchEnd(source, next, until, COPY_BYTES - this.#used);
      if (stretch - next < STRETCH_MIN) {
        const offset = source.offset(next);
        if (!this.add(source.bytes, offset, source.length(next), source.flag(next))) break;
        next += 1;
      } else {
        this.#addStretch(source, next, stretch);
        next = stretch;
      }
    }
    this.batch.timeNs = source.timeNs;
    return next;
  }

  /** Copies frames [first, end) in, which are a stretch for which there is room. */
  #addStretch(source: FrameBatch, first: number, end: number): void {
    const start = source.offset(first);
    const until = source.endOf(end - 1);
    const target = this.#region.offset + this.#used;
    const own = this.#memory.bytes;
    if (source.bytes.buffer === own.buffer) own.copyWithin(target, start, until);
    else own.set(source.bytes.subarray(start, until), target);
    const shift = target - start;
    for (let index = first; index < end; index += 1) {
      this.batch.add(source.offset(index) + shift, source.length(index), source.flag(index));
    }
    this.#used += until - start;
  }

  free(): void {
    this.#region.free();
  }
}

/**
 * Frames that come from outside local memory, on their way to a device: each is copied once into
 * a region that grant copies reach. One stage serves a whole daemon, for it is filled and emptied
 * within one turn.
 */
import type { LocalMemory, LocalRegion } from '../xen/local-memory.js';
import { FRAME_BYTES_MAX, FrameBatch } from './frame-batch.js';

const STAGE_BYTES = 512 * 1024;
const STAGE_FRAMES = 1024;

export class FrameStage {
  readonly batch: FrameBatch;
  readonly #region: LocalRegion;
  #used = 0;

  constructor(memory: LocalMemory) {
    this.#region = memory.allocate(STAGE_BYTES);
    this.batch = new FrameBatch(memory.bytes, STAGE_FRAMES);
  }

  /** Whether a frame of any length still fits. */
  get hasRoom(): boolean {
    return this.#used + FRAME_BYTES_MAX <= STAGE_BYTES && this.batch.count < STAGE_FRAMES;
  }

  /** Copies `source[start .. end)` in as one more frame. */
  add(source: Uint8Array, start: number, end: number, flags: number): void {
    const offset = this.#region.offset + this.#used;
    this.batch.bytes.set(source.subarray(start, end), offset);
    this.batch.add(offset, end - start, flags);
    this.#used += end - start;
  }

  clear(): void {
    this.batch.clear();
    this.#used = 0;
  }

  free(): void {
    this.#region.free();
  }
}

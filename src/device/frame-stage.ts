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

  /**
   * Becomes a run (see `FrameBatch.isRun`) of the frames in `source[start .. end)`, each behind its
   * tag and length, as many as there is room for, and at most `framesMax`. They have been walked before,
   * and are well formed. Those that lie in local memory already stay where they are. Returns where the
   * first that is not in begins.
   */
  fillFromRun(source: Uint8Array, start: number, end: number, framesMax: number): number {
    this.clear();
    const { batch } = this;
    const { bytes, lengths, offsets } = batch;
    const isLocal = source.buffer === bytes.buffer;
    const target = this.#region.offset;
    const shift = isLocal ? source.byteOffset - bytes.byteOffset : target - start;
    let position = start;
    let count = 0;
    let totalBytes = 0;
    const last = Math.min(STAGE_FRAMES, framesMax);
    while (position < end && count < last) {
      let length = source[position + 1] as number;
      let header = 2;
      if (length >= 0x80) {
        length = (length & 0x7f) | ((source[position + 2] as number) << 7);
        header = 3;
        if (length >= 0x4000) {
          length = (length & 0x3fff) | ((source[position + 3] as number) << 14);
          header = 4;
        }
      }
      const next = position + header + length;
      if (!isLocal && next - start > STAGE_BYTES) break;
      offsets[count] = position + header + shift;
      lengths[count] = length;
      totalBytes += length;
      position = next;
      count += 1;
    }
    if (!isLocal) {
      bytes.set(source.subarray(start, position), target);
      this.#used = position - start;
    }
    batch.flags.fill(0, 0, count);
    batch.count = count;
    batch.totalBytes = totalBytes;
    batch.isRun = true;
    return position;
  }

  clear(): void {
    this.batch.clear();
    this.#used = 0;
  }

  free(): void {
    this.#region.free();
  }
}

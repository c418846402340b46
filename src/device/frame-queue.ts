/**
 * A queue of frames in one region of local memory, first in, first out, bounded by the region. A
 * frame always lies in one piece: where it does not fit before the region's end, the rest of the
 * region is left unused and the frame goes to the front.
 */
import { GrantError } from '../errors.js';
import type { LocalMemory, LocalRegion } from '../xen/local-memory.js';

export class FrameQueue {
  readonly #memory: LocalMemory;
  readonly #capacityBytes: number;
  readonly #capacityFrames: number;
  readonly #offsets: Uint32Array;
  readonly #lengths: Uint32Array;
  readonly #flags: Uint32Array;
  readonly #timesMs: Float64Array;
  #region: LocalRegion | undefined;
  #head = 0;
  #count = 0;
  /** Where the next frame goes, within the region. */
  #tail = 0;
  #bytes = 0;

  /** A queue of at most `capacityBytes` and `capacityFrames`; memory is taken while it is in use. */
  constructor(memory: LocalMemory, capacityBytes: number, capacityFrames: number) {
    this.#memory = memory;
    this.#capacityBytes = capacityBytes;
    this.#capacityFrames = capacityFrames;
    this.#offsets = new Uint32Array(capacityFrames);
    this.#lengths = new Uint32Array(capacityFrames);
    this.#flags = new Uint32Array(capacityFrames);
    this.#timesMs = new Float64Array(capacityFrames);
  }

  get count(): number {
    return this.#count;
  }

  /** Bytes of the frames that wait. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Where the oldest frame lies in local memory. */
  get offset(): number {
    return this.#offsets[this.#head] as number;
  }

  get length(): number {
    return this.#lengths[this.#head] as number;
  }

  get flags(): number {
    return this.#flags[this.#head] as number;
  }

  /** Since when the oldest frame waits, as `push` was told. */
  get timeMs(): number {
    return this.#timesMs[this.#head] as number;
  }

  /** Copies a frame of local memory in; returns false, and changes nothing, when it does not fit. */
  push(offset: number, length: number, flags: number, timeMs: number): boolean {
    if (this.#count === this.#capacityFrames) return false;
    const place = this.#place(length);
    if (place === undefined) return false;
    const region = this.#takeRegion();
    if (region === undefined) return false;
    const target = region.offset + place;
    this.#memory.bytes.copyWithin(target, offset, offset + length);
    const slot = (this.#head + this.#count) % this.#capacityFrames;
    this.#offsets[slot] = target;
    this.#lengths[slot] = length;
    this.#flags[slot] = flags;
    this.#timesMs[slot] = timeMs;
    this.#count += 1;
    this.#bytes += length;
    this.#tail = place + length;
    return true;
  }

  /** Forgets the oldest frame. Its bytes stay as they are until the next `push` or `clear`. */
  shift(): void {
    this.#bytes -= this.length;
    this.#head = (this.#head + 1) % this.#capacityFrames;
    this.#count -= 1;
  }

  /** Forgets all frames and gives the memory back. Returns how many there were. */
  clear(): number {
    const dropped = this.#count;
    this.#head = 0;
    this.#count = 0;
    this.#tail = 0;
    this.#bytes = 0;
    this.#region?.free();
    this.#region = undefined;
    return dropped;
  }

  /** A queue that finds no memory is a queue that is full: its frames are its user's to count. */
  #takeRegion(): LocalRegion | undefined {
    try {
      this.#region ??= this.#memory.allocate(this.#capacityBytes);
    } catch (error) {
      if (!(error instanceof GrantError)) throw error;
    }
    return this.#region;
  }

  #place(length: number): number | undefined {
    if (this.#count === 0) return length <= this.#capacityBytes ? 0 : undefined;
    const oldest = this.offset - (this.#region?.offset ?? 0);
    if (this.#tail > oldest) {
      if (this.#tail + length <= this.#capacityBytes) return this.#tail;
      return length <= oldest ? 0 : undefined;
    }
    return this.#tail + length <= oldest ? this.#tail : undefined;
  }
}

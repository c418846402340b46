/**
 * The memory of ours that grant copies reach: one address range with one view on it, so that a
 * frame moves inside it with `copyWithin` and no object is made for it. Devices and streams take
 * regions of it once and keep them.
 */
import { GrantError, MisuseError } from '../errors.js';
import type { Page } from './page.js';
import { PAGE_SIZE } from './xen.js';

/** A run of pages taken from a `LocalMemory`. */
export interface LocalRegion {
  /** Where the region starts, as an index into `LocalMemory.bytes`. */
  readonly offset: number;
  readonly length: number;
  /** Gives the region back. Throws `MisuseError` the second time. */
  free(): void;
}

interface FreeRun {
  offset: number;
  length: number;
}

export class LocalMemory {
  /** Everything the view covers; only allocated regions are the caller's. */
  readonly bytes: Uint8Array;
  /** The address of `bytes[0]` in the address space that grant copies use. */
  readonly baseAddress: bigint;
  /** Free runs, ordered by offset, never adjacent. */
  readonly #free: FreeRun[];
  readonly #start: number;
  readonly #end: number;
  #allocatedBytes = 0;

  /** Manages `length` bytes from `start` of `memory`, whose first byte lies at `baseAddress`. */
  constructor(memory: ArrayBuffer, baseAddress: bigint, start = 0, length = memory.byteLength) {
    this.bytes = new Uint8Array(memory);
    this.baseAddress = baseAddress;
    this.#free = [{ offset: start, length }];
    this.#start = start;
    this.#end = start + length;
  }

  /** How many bytes are taken now: what a leak check looks at. */
  get allocatedBytes(): number {
    return this.#allocatedBytes;
  }

  /** Where the allocated memory around `offset` begins; see `allocatedUntil`. */
  allocatedFrom(offset: number): number {
    let from = this.#start;
    for (const run of this.#free) {
      if (run.offset > offset) break;
      from = run.offset + run.length;
    }
    return from;
  }

  /**
   * Where the allocated memory around `offset` ends, or 0 when `offset` is not allocated: whoever
   * checks many ranges asks this once for all that lie together.
   */
  allocatedUntil(offset: number): number {
    if (offset < this.#start || offset >= this.#end) return 0;
    for (const run of this.#free) {
      if (run.offset > offset) return run.offset;
      if (run.offset + run.length > offset) return 0;
    }
    return this.#end;
  }

  /**
   * Takes `bytes`, rounded up to whole pages, from the first run that is long enough.
   * @throws GrantError when no run is.
   */
  allocate(bytes: number): LocalRegion {
    const length = Math.ceil(bytes / PAGE_SIZE) * PAGE_SIZE;
    const index = this.#free.findIndex((run) => run.length >= length);
    const run = this.#free[index];
    if (run === undefined || length <= 0) {
      throw new GrantError(`No ${bytes} bytes of local memory are free in one piece.`);
    }
    const offset = run.offset;
    run.offset += length;
    run.length -= length;
    if (run.length === 0) this.#free.splice(index, 1);
    this.#allocatedBytes += length;
    let live = true;
    return {
      offset,
      length,
      free: () => {
        if (!live) throw new MisuseError(`The local region at ${offset} was freed twice.`);
        live = false;
        this.#release(offset, length);
      },
    };
  }

  /** Copies `length` bytes of a page from `offset` on to `target` in local memory. */
  copyIn(target: number, page: Page, offset: number, length: number): void {
    const source = page.bytes;
    if (source.buffer === this.bytes.buffer) {
      const start = source.byteOffset + offset;
      this.bytes.copyWithin(target, start, start + length);
    } else {
      this.bytes.set(source.subarray(offset, offset + length), target);
    }
  }

  /** Copies `length` bytes of local memory from `start` on into a page at `offset`. */
  copyOut(start: number, page: Page, offset: number, length: number): void {
    const target = page.bytes;
    if (target.buffer === this.bytes.buffer) {
      this.bytes.copyWithin(target.byteOffset + offset, start, start + length);
    } else {
      target.set(this.bytes.subarray(start, start + length), offset);
    }
  }

  #release(offset: number, length: number): void {
    this.#allocatedBytes -= length;
    const found = this.#free.findIndex((run) => run.offset > offset);
    const index = found === -1 ? this.#free.length : found;
    this.#free.splice(index, 0, { offset, length });
    this.#joinWithNext(index);
    this.#joinWithNext(index - 1);
  }

  #joinWithNext(index: number): void {
    const run = this.#free[index];
    const next = this.#free[index + 1];
    if (run !== undefined && next !== undefined && run.offset + run.length === next.offset) {
      run.length += next.length;
      this.#free.splice(index + 1, 1);
    }
  }
}

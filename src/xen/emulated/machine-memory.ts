/**
 * The memory of the emulated machine: one ArrayBuffer in which every domain's pages lie, so that a
 * grant copy is one `copyWithin` and makes no object. The kernel gives the pages of the buffer only
 * when they are first touched, so an unused machine costs nothing.
 */
import { LocalMemory, type LocalRegion } from '../local-memory.js';
import { Page } from '../page.js';
import { PAGE_SIZE } from '../xen.js';
import { allocateKernelMemory, CopyKernel, LIST_BYTES } from './copy-kernel.js';
import { type ReadHook, WatchedPage } from './watched-page.js';

/**
 * One page of the machine. Its owner holds it, and so does every mapping: as in Xen, memory of a
 * domain that is gone stays as long as somebody maps it.
 */
export class Frame {
  /** Where the page starts in the machine's memory. */
  readonly offset: number;
  readonly #memory: ArrayBuffer;
  readonly #region: LocalRegion;
  #holders = 1;
  /** Runs after each read through a view made from now on: a guest that looks over our shoulder. */
  onRead: ReadHook | undefined;

  constructor(memory: ArrayBuffer, region: LocalRegion) {
    this.#memory = memory;
    this.#region = region;
    this.offset = region.offset;
  }

  hold(): void {
    this.#holders += 1;
  }

  release(): void {
    this.#holders -= 1;
    if (this.#holders === 0) this.#region.free();
  }

  /** A new view; each holder has its own, so that one can be invalidated and not the others. */
  view(access: 'read' | 'write'): Page {
    if (this.onRead !== undefined) {
      return new WatchedPage(this.#memory, this.offset, access, this.onRead);
    }
    return new Page(this.#memory, this.offset, access);
  }
}

/** Xen's own memory: grant tables of four thousand domains, or fewer with larger ones. */
const HEAP_BYTES = 32 * 1024 * 1024;

export class MachineMemory {
  readonly buffer: ArrayBuffer;
  readonly bytes: Uint8Array;
  /** Copies inside this memory that are to be made together. */
  readonly copies: CopyKernel;
  readonly #heap: LocalMemory;
  readonly #allocator: LocalMemory;
  /** Everything from here on was never given out, and so is still zero. */
  #untouchedFrom = 0;

  /** A machine with so many bytes for its domains. */
  constructor(bytes: number) {
    const memory = allocateKernelMemory(HEAP_BYTES + bytes);
    this.buffer = memory.buffer;
    this.copies = new CopyKernel(memory);
    this.bytes = new Uint8Array(this.buffer);
    // The first pages are never given out: address 0 stays wrong, as it is in a process.
    this.#heap = new LocalMemory(this.buffer, 0n, LIST_BYTES, HEAP_BYTES - LIST_BYTES);
    const length = this.buffer.byteLength - HEAP_BYTES - PAGE_SIZE;
    this.#allocator = new LocalMemory(this.buffer, 0n, HEAP_BYTES, length);
  }

  /** What domains have of it. */
  get allocatedBytes(): number {
    return this.#allocator.allocatedBytes;
  }

  /** Takes zeroed memory. @throws GrantError when there is not enough in one piece. */
  allocate(bytes: number): LocalRegion {
    const region = this.#allocator.allocate(bytes);
    const end = region.offset + region.length;
    this.bytes.fill(0, region.offset, Math.min(end, Math.max(region.offset, this.#untouchedFrom)));
    this.#untouchedFrom = Math.max(this.#untouchedFrom, end);
    return region;
  }

  /** Takes zeroed memory for Xen itself. @throws GrantError when there is not enough. */
  allocateHeap(bytes: number): LocalRegion {
    const region = this.#heap.allocate(bytes);
    this.bytes.fill(0, region.offset, region.offset + region.length);
    return region;
  }

  /** Takes one zeroed page. @throws GrantError when none is left. */
  allocateFrame(): Frame {
    return new Frame(this.buffer, this.allocate(PAGE_SIZE));
  }
}

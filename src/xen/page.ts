/**
 * A page shared with another domain, seen through bounds-checked accessors. This file and
 * src/xen/native hold all that touches shared memory. Every load reads memory once: a caller keeps
 * the number and never reads the same field again, for the peer may have changed it (XSA-155).
 *
 * Multi-byte fields are little-endian, as on every machine that Xen's netif runs on here.
 */
import { MisuseError } from '../errors.js';
import { PAGE_SIZE } from './xen.js';

const NO_MEMORY = new ArrayBuffer(0);

export class Page {
  /** The bytes themselves, for bulk copies. Empty once the page is gone. */
  bytes: Uint8Array;
  #i32: Int32Array;
  #u32: Uint32Array;
  #u16: Uint16Array;
  #i16: Int16Array;
  readonly #writable: boolean;

  /**
   * A view of the page that starts at `byteOffset` (a multiple of 4096) of `memory`. A page with
   * access 'read' refuses to be written here, because on real Xen the write would kill the process.
   */
  constructor(memory: ArrayBufferLike, byteOffset = 0, access: 'read' | 'write' = 'write') {
    if (byteOffset % 8 !== 0 || byteOffset + PAGE_SIZE > memory.byteLength) {
      throw new MisuseError(`No page at offset ${byteOffset} of ${memory.byteLength} bytes.`);
    }
    this.bytes = new Uint8Array(memory, byteOffset, PAGE_SIZE);
    this.#i32 = new Int32Array(memory, byteOffset, PAGE_SIZE / 4);
    this.#u32 = new Uint32Array(memory, byteOffset, PAGE_SIZE / 4);
    this.#u16 = new Uint16Array(memory, byteOffset, PAGE_SIZE / 2);
    this.#i16 = new Int16Array(memory, byteOffset, PAGE_SIZE / 2);
    this.#writable = access === 'write';
  }

  /** Loads a free-running index with acquire order: what the peer wrote before it is visible. */
  loadIndex(offset: number): number {
    this.#check(offset, 4);
    return Atomics.load(this.#i32, offset >>> 2) >>> 0;
  }

  /** Stores an index with release order: what was written before is visible to who reads it. */
  storeIndex(offset: number, value: number): void {
    this.#checkWrite(offset, 4);
    Atomics.store(this.#i32, offset >>> 2, value | 0);
  }

  readU32(offset: number): number {
    this.#check(offset, 4);
    return this.#u32[offset >>> 2] as number;
  }

  readU16(offset: number): number {
    this.#check(offset, 2);
    return this.#u16[offset >>> 1] as number;
  }

  readI16(offset: number): number {
    this.#check(offset, 2);
    return this.#i16[offset >>> 1] as number;
  }

  readU8(offset: number): number {
    this.#check(offset, 1);
    return this.bytes[offset] as number;
  }

  /** Sets bits of a byte in one step, with full ordering; returns the byte as it was. */
  fetchOrU8(offset: number, bits: number): number {
    this.#checkWrite(offset, 1);
    return Atomics.or(this.bytes, offset, bits);
  }

  /** Keeps only the given bits of a byte in one step, with full ordering; returns it as it was. */
  fetchAndU8(offset: number, bits: number): number {
    this.#checkWrite(offset, 1);
    return Atomics.and(this.bytes, offset, bits);
  }

  writeU32(offset: number, value: number): void {
    this.#checkWrite(offset, 4);
    this.#u32[offset >>> 2] = value;
  }

  writeU16(offset: number, value: number): void {
    this.#checkWrite(offset, 2);
    this.#u16[offset >>> 1] = value;
  }

  writeU8(offset: number, value: number): void {
    this.#checkWrite(offset, 1);
    this.bytes[offset] = value;
  }

  /**
   * Copies `count` 32-bit words from `offset` on into `target`: what a batch of slots is taken with,
   * so that all that follows looks at memory of our own.
   */
  readWords(offset: number, target: Uint32Array, start: number, count: number): void {
    this.#check(offset, 4);
    this.#checkEnd(offset + count * 4);
    const first = offset >>> 2;
    target.set(this.#u32.subarray(first, first + count), start);
  }

  /** Copies `count` words of `source` from `start` on into the page at `offset`. */
  writeWords(offset: number, source: Uint32Array, start: number, count: number): void {
    this.#checkWrite(offset, 4);
    this.#checkEnd(offset + count * 4);
    this.#u32.set(source.subarray(start, start + count), offset >>> 2);
  }

  /**
   * Called by whoever made the page when its memory goes away: every later access throws. With
   * `ghost`, a page that is nobody else's, later accesses go there instead: emulated Xen does that
   * to a process it kills, whose code goes on running but must have no effect any more.
   */
  invalidate(ghost: ArrayBuffer = NO_MEMORY): void {
    this.bytes = new Uint8Array(ghost);
    this.#i32 = new Int32Array(ghost);
    this.#u32 = new Uint32Array(ghost);
    this.#u16 = new Uint16Array(ghost);
    this.#i16 = new Int16Array(ghost);
  }

  #checkWrite(offset: number, size: number): void {
    this.#check(offset, size);
    if (!this.#writable) throw new MisuseError('A page that was mapped to be read was written.');
  }

  #checkEnd(end: number): void {
    if (end <= this.bytes.length) return;
    throw new MisuseError(`Access up to offset ${end} of a page of ${this.bytes.length} bytes.`);
  }

  #check(offset: number, size: number): void {
    if (offset < 0 || offset + size > this.bytes.length || offset % size !== 0) {
      throw new MisuseError(
        `Access of ${size} bytes at offset ${offset} of a page of ${this.bytes.length} bytes.`,
      );
    }
  }
}

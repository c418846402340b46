/**
 * Bytes that were written and are not acknowledged: a ring that begins small and grows, up to a
 * bound, with what is written.
 */
const FIRST_BYTES = 4096;

export class SendBuffer {
  readonly #bytesMax: number;
  #ring = Buffer.alloc(0);
  /** Where the oldest byte is. */
  #start = 0;
  #length = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get length(): number {
    return this.#length;
  }

  get free(): number {
    return this.#bytesMax - this.#length;
  }

  /** Takes as much of `data[from ..]` as there is room for; answers how much. */
  append(data: Uint8Array, from: number): number {
    const count = Math.min(data.length - from, this.free);
    if (count <= 0) return 0;
    this.#reserve(this.#length + count);
    const ring = this.#ring;
    const place = (this.#start + this.#length) & (ring.length - 1);
    const first = Math.min(count, ring.length - place);
    ring.set(data.subarray(from, from + first), place);
    if (first < count) ring.set(data.subarray(from + first, from + count), 0);
    this.#length += count;
    return count;
  }

  /** Copies `count` bytes, `from` behind the oldest, to `target[offset ..]`. */
  copyTo(from: number, count: number, target: Uint8Array, offset: number): void {
    const ring = this.#ring;
    const place = (this.#start + from) & (ring.length - 1);
    const first = Math.min(count, ring.length - place);
    ring.copy(target, offset, place, place + first);
    if (first < count) ring.copy(target, offset + first, 0, count - first);
  }

  /** The oldest `count` bytes are acknowledged. */
  release(count: number): void {
    this.#length -= count;
    this.#start = (this.#start + count) & Math.max(0, this.#ring.length - 1);
    if (this.#length === 0) this.#start = 0;
  }

  /** Forgets everything. */
  clear(): void {
    this.#ring = Buffer.alloc(0);
    this.#start = 0;
    this.#length = 0;
  }

  #reserve(length: number): void {
    if (length <= this.#ring.length) return;
    let size = Math.max(FIRST_BYTES, this.#ring.length);
    while (size < length) size *= 2;
    const larger = Buffer.allocUnsafeSlow(size);
    if (this.#length > 0) this.copyTo(0, this.#length, larger, 0);
    this.#ring = larger;
    this.#start = 0;
  }
}

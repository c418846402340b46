/**
 * Bytes that arrived before others that are missing: a ring of the window's size, and the ranges of it
 * that are there. The memory is taken with the first of them, from an account that all connections
 * share, and given back with the last.
 */
import { copyBytes } from '../wire/bytes.js';
import { distance, isBefore } from './sequence.js';

/** Holes that one connection may have; what would make more is not kept. */
const RANGES_MAX = 64;

/** Memory that all connections of a stack may take for this, in bytes. */
export class MemoryAccount {
  #left: number;

  constructor(bytes: number) {
    this.#left = bytes;
  }

  get left(): number {
    return this.#left;
  }

  take(bytes: number): boolean {
    if (bytes > this.#left) return false;
    this.#left -= bytes;
    return true;
  }

  give(bytes: number): void {
    this.#left += bytes;
  }
}

interface Range {
  start: number;
  end: number;
}

export class OutOfOrder {
  readonly #account: MemoryAccount;
  readonly #ringBytes: number;
  #ring: Uint8Array | undefined;
  /** In order, with a gap between each and the next. */
  #ranges: Range[] = [];
  /** The range that changed last, which SACK tells first. */
  #latest: Range | undefined;

  /** `windowBytes`: how far from the first missing byte others may be. */
  constructor(account: MemoryAccount, windowBytes: number) {
    this.#account = account;
    let ringBytes = 4096;
    while (ringBytes < windowBytes) ringBytes *= 2;
    this.#ringBytes = ringBytes;
  }

  get isEmpty(): boolean {
    return this.#ranges.length === 0;
  }

  /** Keeps bytes that begin at `sequence`; false where there is no room for them. */
  insert(sequence: number, bytes: Uint8Array, offset: number, count: number): boolean {
    const start = sequence;
    const end = (sequence + count) | 0;
    // The ranges that touch the new one are those from `first` to before `next`.
    const ranges = this.#ranges;
    let first = 0;
    while (first < ranges.length && isBefore((ranges[first] as Range).end, start)) first += 1;
    let next = first;
    while (next < ranges.length && !isBefore(end, (ranges[next] as Range).start)) next += 1;
    if (first === next && ranges.length >= RANGES_MAX) return false;
    if (!this.#takeMemory()) return false;
    this.#write(sequence, bytes, offset, count);
    const merged = { start, end };
    for (const range of ranges.slice(first, next)) {
      if (isBefore(range.start, merged.start)) merged.start = range.start;
      if (isBefore(merged.end, range.end)) merged.end = range.end;
    }
    ranges.splice(first, next - first, merged);
    this.#latest = merged;
    return true;
  }

  /**
   * Everything before `sequence` has arrived. Hands on the bytes that follow without a gap and answers
   * how many they are.
   */
  drain(
    sequence: number,
    take: (bytes: Uint8Array, offset: number, count: number) => void,
  ): number {
    const ring = this.#ring;
    let taken = 0;
    while (ring !== undefined) {
      const range = this.#ranges[0];
      const at = (sequence + taken) | 0;
      if (range === undefined || isBefore(at, range.start)) break;
      this.#ranges.shift();
      const count = distance(at, range.end);
      if (count <= 0) continue;
      const place = at & (ring.length - 1);
      const part = Math.min(count, ring.length - place);
      take(ring, place, part);
      if (part < count) take(ring, 0, count - part);
      taken += count;
    }
    if (this.#ranges.length === 0) this.clear();
    return taken;
  }

  /** Writes the edges of up to `max` ranges, the latest first (RFC 2018, section 4); answers how many. */
  edges(into: Int32Array, max: number): number {
    let count = 0;
    const put = (range: Range) => {
      into[count * 2] = range.start;
      into[count * 2 + 1] = range.end;
      count += 1;
    };
    const latest = this.#latest;
    if (latest !== undefined && this.#ranges.includes(latest) && max > 0) put(latest);
    for (let index = 0; index < this.#ranges.length && count < max; index += 1) {
      const range = this.#ranges[index] as Range;
      if (range !== latest) put(range);
    }
    return count;
  }

  clear(): void {
    this.#ranges = [];
    this.#latest = undefined;
    if (this.#ring === undefined) return;
    this.#ring = undefined;
    this.#account.give(this.#ringBytes);
  }

  #takeMemory(): boolean {
    if (this.#ring !== undefined) return true;
    if (!this.#account.take(this.#ringBytes)) return false;
    this.#ring = new Uint8Array(this.#ringBytes);
    return true;
  }

  #write(sequence: number, bytes: Uint8Array, offset: number, count: number): void {
    const ring = this.#ring as Uint8Array;
    const place = sequence & (ring.length - 1);
    const part = Math.min(count, ring.length - place);
    copyBytes(bytes, offset, ring, place, part);
    if (part < count) copyBytes(bytes, offset + part, ring, 0, count - part);
  }
}

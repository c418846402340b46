/**
 * A batch of grant copies, laid out as `struct gntdev_grant_copy_segment` (xen/gntdev.h), which is
 * also `xengnttab_grant_copy_segment_t`: real Xen takes it as it is, emulated Xen reads the same
 * bytes. It is filled again and again and allocates nothing.
 *
 *   offset 0   source: u64 address, or u32 ref, u16 offset, u16 domid
 *   offset 8   destination: likewise
 *   offset 16  u16 length; 18 u16 flags; 20 s16 status; 22 padding
 */
import { MisuseError } from '../errors.js';
import type { LocalMemory } from './local-memory.js';
import { PAGE_SIZE } from './xen.js';

/** The size of a segment in bytes. */
export const SEGMENT_SIZE = 24;
const SEGMENT_WORDS = SEGMENT_SIZE / 4;
/** `GNTCOPY_source_gref`: the source is a grant. */
export const SOURCE_IS_GRANT = 1;
/** `GNTCOPY_dest_gref`: the destination is a grant. */
export const DESTINATION_IS_GRANT = 2;
/** `GNTST_okay`. */
export const GNTST_OKAY = 0;
/** What a segment's status is before the call: no status that Xen gives. */
const STATUS_NOT_RUN = 1;

export class CopyBatch {
  readonly capacity: number;
  /** The segments as Xen takes them. */
  readonly segments: Uint8Array;
  readonly #i16: Int16Array;
  readonly #u32: Uint32Array;
  readonly #baseLow: number;
  readonly #baseHigh: number;
  /** All of the memory's addresses have the same upper half. */
  readonly #isInOnePart: boolean;
  #count = 0;
  /** Every segment before this one was carried out, whatever its own status says. */
  #okayUntil = 0;

  /** A batch for at most `capacity` segments between grants and `memory`. */
  constructor(memory: LocalMemory, capacity: number) {
    const buffer = new ArrayBuffer(capacity * SEGMENT_SIZE);
    this.capacity = capacity;
    this.segments = new Uint8Array(buffer);
    this.#i16 = new Int16Array(buffer);
    this.#u32 = new Uint32Array(buffer);
    this.#baseLow = Number(memory.baseAddress & 0xffffffffn);
    this.#baseHigh = Number(memory.baseAddress >> 32n);
    this.#isInOnePart = this.#baseLow + memory.bytes.length <= 0x1_0000_0000;
  }

  get count(): number {
    return this.#count;
  }

  get free(): number {
    return this.capacity - this.#count;
  }

  clear(): void {
    this.#count = 0;
    this.#okayUntil = 0;
  }

  /** Adds a copy out of a grant into local memory; returns the segment's index. */
  fromGrant(domid: number, ref: number, offset: number, local: number, length: number): number {
    const word = this.#add(offset, length);
    const u32 = this.#u32;
    u32[word] = ref;
    u32[word + 1] = offset | (domid << 16);
    u32[word + 2] = this.#baseLow + local;
    u32[word + 3] = this.#highOf(local);
    u32[word + 4] = length | (SOURCE_IS_GRANT << 16);
    u32[word + 5] = STATUS_NOT_RUN;
    return this.#count++;
  }

  /** Adds a copy out of local memory into a grant; returns the segment's index. */
  toGrant(domid: number, ref: number, offset: number, local: number, length: number): number {
    const word = this.#add(offset, length);
    const u32 = this.#u32;
    u32[word] = this.#baseLow + local;
    u32[word + 1] = this.#highOf(local);
    u32[word + 2] = ref;
    u32[word + 3] = offset | (domid << 16);
    u32[word + 4] = length | (DESTINATION_IS_GRANT << 16);
    u32[word + 5] = STATUS_NOT_RUN;
    return this.#count++;
  }

  /**
   * Writes segment `index`, a copy out of a grant into local memory, for who adds many at once: they
   * become the batch's by `take`. The caller has seen that there is room, and that the copy stays in
   * its page.
   */
  putFromGrant(
    index: number,
    domid: number,
    ref: number,
    offset: number,
    local: number,
    length: number,
  ): void {
    const word = index * SEGMENT_WORDS;
    const u32 = this.#u32;
    u32[word] = ref;
    u32[word + 1] = offset | (domid << 16);
    u32[word + 2] = this.#baseLow + local;
    u32[word + 3] = this.#isInOnePart ? this.#baseHigh : this.#highOf(local);
    u32[word + 4] = length | (SOURCE_IS_GRANT << 16);
    u32[word + 5] = STATUS_NOT_RUN;
  }

  /** As `putFromGrant`, out of local memory into the start of a grant's page. */
  putToGrant(index: number, domid: number, ref: number, local: number, length: number): void {
    const word = index * SEGMENT_WORDS;
    const u32 = this.#u32;
    u32[word] = this.#baseLow + local;
    u32[word + 1] = this.#isInOnePart ? this.#baseHigh : this.#highOf(local);
    u32[word + 2] = ref;
    u32[word + 3] = domid << 16;
    u32[word + 4] = length | (DESTINATION_IS_GRANT << 16);
    u32[word + 5] = STATUS_NOT_RUN;
  }

  /** Makes the first `count` segments, which were put, all that the batch has. */
  take(count: number): void {
    if (count > this.capacity) throw new MisuseError('The copy batch is full.');
    this.#count = count;
    this.#okayUntil = 0;
  }

  /** Says of segments [first, end) that they were carried out: for Xen, where it is emulated. */
  succeed(first: number, end: number): void {
    if (first === this.#okayUntil) this.#okayUntil = end;
    else for (let index = first; index < end; index += 1) this.#i16[index * 12 + 10] = GNTST_OKAY;
  }

  /** The status of a segment after the call: `GNTST_OKAY`, or a negative GNTST value. */
  status(index: number): number {
    return index < this.#okayUntil ? GNTST_OKAY : (this.#i16[index * 12 + 10] as number);
  }

  /** Says of every segment that it was not carried out, for the call failed as a whole. */
  fail(): void {
    this.#okayUntil = 0;
    for (let index = 0; index < this.#count; index += 1) {
      this.#i16[index * 12 + 10] = STATUS_NOT_RUN;
    }
  }

  /** Whether every segment was carried out. */
  get allOkay(): boolean {
    const i16 = this.#i16;
    const end = this.#count * 12 + 10;
    let status = 0;
    for (let index = this.#okayUntil * 12 + 10; index < end; index += 12)
      status |= i16[index] as number;
    return status === GNTST_OKAY;
  }

  /** Checks what a new segment is to be; returns its first word. */
  #add(offset: number, length: number): number {
    if (this.#count >= this.capacity) throw new MisuseError('The copy batch is full.');
    if (offset + length > PAGE_SIZE) {
      throw new MisuseError(`A grant copy of ${length} bytes at ${offset} leaves the page.`);
    }
    return this.#count * SEGMENT_WORDS;
  }

  /** The upper half of the address of `local`; the lower half wraps by being stored. */
  #highOf(local: number): number {
    return this.#baseHigh + (this.#baseLow + local > 0xffffffff ? 1 : 0);
  }
}

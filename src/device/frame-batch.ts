/**
 * Frames on their way through the daemon: a structure of arrays over local memory, filled, handed
 * to every listener in turn and filled again. A listener must not keep the batch, nor what it
 * points at, beyond its call; whoever wants a frame later copies it, or holds the run's storage.
 */
import { MisuseError } from '../errors.js';
import type { RunStorage } from './run-storage.js';

/** The longest Ethernet frame that netif can carry, in bytes: a size is a u16. */
export const FRAME_BYTES_MAX = 65535;
/** The shortest: destination, source and type. */
export const FRAME_BYTES_MIN = 14;

/** The direction bits of a frame's flags, as `FrameBatch.flags` in the wire contract has them. */
export const DIRECTION_FROM_GUEST = 1;
export const DIRECTION_TO_GUEST = 2;
/** The TCP or UDP checksum is blank; its place holds the pseudo-header's sum. */
export const CHECKSUM_BLANK = 1 << 2;
/** The checksum was verified, or needs no verification. */
export const DATA_VALIDATED = 1 << 3;
/** Where the segmentation type (1 TCPv4, 2 TCPv6) starts, 2 bits. */
export const GSO_TYPE_SHIFT = 4;
/** Where the segment size starts, 16 bits. */
export const GSO_SIZE_SHIFT = 16;
/** What is known of a frame whichever way it goes: all but the direction. */
export const METADATA_MASK = ~0b11;

/** All that is known of segmentation. */
export const GSO_MASK = (0b11 << GSO_TYPE_SHIFT) | (0xffff << GSO_SIZE_SHIFT);

/** The segmentation of a frame: 0 none, else a `GSO_TYPE` of netif-extra.ts. */
export function gsoTypeOf(flags: number): number {
  return (flags >>> GSO_TYPE_SHIFT) & 0b11;
}

/** The segment size of a frame with segmentation, in bytes of TCP payload. */
export function gsoSizeOf(flags: number): number {
  return flags >>> GSO_SIZE_SHIFT;
}

/** Sets `storage` and `storageStart` of a batch that is a run, if it can. */
export interface RunSettler {
  settle(batch: FrameBatch): void;
}

/** The tag of the field `frames` of `FrameBatch` in the wire contract: 1, length-delimited. */
const TAG_FRAME = 0x0a;

/** How many bytes stand before a frame of `length` bytes in a run: the field's tag and length. */
export function runHeaderBytes(length: number): number {
  if (length < 0x80) return 2;
  return length < 0x4000 ? 3 : 4;
}

/** Writes what stands before a frame in a run at `position`; returns where the frame goes. */
export function writeRunHeader(bytes: Uint8Array, position: number, length: number): number {
  bytes[position] = TAG_FRAME;
  if (length < 0x80) {
    bytes[position + 1] = length;
    return position + 2;
  }
  bytes[position + 1] = (length & 0x7f) | 0x80;
  if (length < 0x4000) {
    bytes[position + 2] = length >>> 7;
    return position + 3;
  }
  bytes[position + 2] = ((length >>> 7) & 0x7f) | 0x80;
  bytes[position + 3] = length >>> 14;
  return position + 4;
}

/** The length of the frame of a run whose tag is at `position`. */
export function runFrameLength(bytes: Uint8Array, position: number): number {
  let length = 0;
  for (let shift = 0, next = position + 1; ; shift += 7, next += 1) {
    const byte = bytes[next] as number;
    length |= (byte & 0x7f) << shift;
    if (byte < 0x80) return length;
  }
}

export class FrameBatch {
  /** Local memory; a frame is `bytes[offset .. offset + length)`. */
  readonly bytes: Uint8Array;
  readonly capacity: number;
  readonly offsets: Uint32Array;
  readonly lengths: Uint32Array;
  readonly flags: Uint32Array;
  count = 0;
  /**
   * The frames have the same flags and lie one behind the other, each behind its tag and length as
   * the wire contract has them: who sends them on takes all of them with one copy.
   */
  isRun = false;
  /** Where a run can be held beyond the listener's call, and from where on it lies there. */
  storage: RunStorage | undefined;
  storageStart = 0;
  /** Who copies a run into storage, for the first that wants to hold it. */
  settler: RunSettler | undefined;
  /** The sum of all lengths. */
  totalBytes = 0;
  /** When the frames passed, in nanoseconds since 1970: one time for all of them. */
  timeNs = 0n;

  constructor(bytes: Uint8Array, capacity: number) {
    this.bytes = bytes;
    this.capacity = capacity;
    this.offsets = new Uint32Array(capacity);
    this.lengths = new Uint32Array(capacity);
    this.flags = new Uint32Array(capacity);
  }

  clear(): void {
    this.count = 0;
    this.totalBytes = 0;
    this.isRun = false;
    this.storage = undefined;
    this.settler = undefined;
  }

  /** Has a run put where it can be held; false where that cannot be. */
  settle(): boolean {
    if (this.storage === undefined) this.settler?.settle(this);
    return this.storage !== undefined;
  }

  add(offset: number, length: number, flags: number): void {
    const index = this.count;
    if (index >= this.capacity) throw new MisuseError('The frame batch is full.');
    this.offsets[index] = offset;
    this.lengths[index] = length;
    this.flags[index] = flags;
    this.totalBytes += length;
    this.count = index + 1;
  }

  /** Says what is known of a frame by now; one that differs from the others ends a run. */
  setFlag(index: number, flags: number): void {
    if (this.flags[index] === flags >>> 0) return;
    this.flags[index] = flags;
    this.isRun = false;
  }

  /** Where the tag of frame `index` of a run is. */
  runStart(index: number): number {
    return this.offset(index) - runHeaderBytes(this.length(index));
  }

  /** How many bytes a run takes, the frames' tags and lengths among them. */
  get runBytes(): number {
    return this.endOf(this.count - 1) - this.runStart(0);
  }

  /** Where frame `index` ends. */
  endOf(index: number): number {
    return this.offset(index) + this.length(index);
  }

  offset(index: number): number {
    return this.offsets[index] as number;
  }

  length(index: number): number {
    return this.lengths[index] as number;
  }

  flag(index: number): number {
    return this.flags[index] as number;
  }
}

/** Received frames, seen where they lie in the message that brought them. */
import { decodeColumn } from './packed-column.js';

/** The direction of a frame, as the guest sees it: it sent it, or it receives it. */
export type Direction = 'from-guest' | 'to-guest';

/**
 * What is known of the TCP or UDP checksum. `blank`: still to be filled in (its place holds the
 * sum of the pseudo-header). `verified`: right, or in no need of a check. `unverified`: as in any frame
 * off a wire.
 */
export type ChecksumState = 'blank' | 'verified' | 'unverified';

/** A frame that is longer than a packet on a wire: to be cut into TCP segments. */
export interface Segmentation {
  readonly type: 'tcpv4' | 'tcpv6';
  /** TCP payload of each segment, in bytes. */
  readonly segmentBytes: number;
}

/** Bits of `FrameBatch.flags` in frame_service.proto. */
const DIRECTION_MASK = 0b11;
const TO_GUEST = 2;
const CHECKSUM_BLANK = 1 << 2;
const CHECKSUM_VERIFIED = 1 << 3;
const SEGMENTATION_SHIFT = 4;
const SEGMENT_BYTES_SHIFT = 16;

/** Fields 3 to 6 of FrameBatch, as the decoder counts its columns. */
const TIME_DELTAS = 0;
const ORIGINAL_LENGTHS = 1;
const VIF_INDICES = 2;
const FLAGS = 3;
const COLUMN_NAMES = ['time_delta_ns', 'original_length', 'vif_index', 'flags'] as const;

/** What the decoder found. */
export interface FrameBatchColumns {
  readonly bytes: Buffer;
  readonly count: number;
  readonly byteCount: number;
  readonly baseTimeNs: bigint;
  readonly firstSequence: bigint;
  /** From `firstCell` on, the offset and the length of each frame by turns. */
  readonly cells: Uint32Array;
  readonly firstCell: number;
  /** The four columns: numbers, or bytes that are still to be decoded. */
  readonly columns: (Uint32Array | Buffer)[];
  /** Takes the message's memory back. */
  readonly recycle?: ((message: Buffer) => void) | undefined;
}

/**
 * A batch of frames. Frame `i`, from 0 to `count - 1`, is `bytes[offset(i) .. offset(i) + length(i))`:
 * a loop over that allocates nothing. The index is not checked.
 *
 * Times, flags and so on are decoded for the whole batch when the first of a kind is asked for; where
 * the daemon sent something that is none, that is when RESPONSE_MALFORMED is thrown.
 */
export class FrameBatchView {
  /** The message that brought the frames. It stays as it is until `release`, if that is ever called. */
  readonly bytes: Buffer;
  /** How many frames. */
  readonly count: number;
  /** The sum of all lengths, in bytes: what the batch costs of a stream's credit. */
  readonly byteCount: number;
  /** When the first frame passed: nanoseconds since 1970. */
  readonly baseTimeNs: bigint;
  /** The number of the first frame in its stream; the others follow without a gap. */
  readonly firstSequence: bigint;
  readonly #cells: Uint32Array;
  readonly #firstCell: number;
  readonly #columns: (Uint32Array | Buffer)[];
  #recycle: ((message: Buffer) => void) | undefined;

  constructor(columns: FrameBatchColumns) {
    this.bytes = columns.bytes;
    this.count = columns.count;
    this.byteCount = columns.byteCount;
    this.baseTimeNs = columns.baseTimeNs;
    this.firstSequence = columns.firstSequence;
    this.#cells = columns.cells;
    this.#firstCell = columns.firstCell;
    this.#columns = columns.columns;
    this.#recycle = columns.recycle;
  }

  /**
   * Gives the memory of the batch back, for messages to come: a promise that nobody looks at the batch,
   * nor at a frame in it that was not copied, any more. Never needed: without it the memory is garbage
   * like any other. A program that takes gigabytes a second is faster for it.
   */
  release(): void {
    const recycle = this.#recycle;
    this.#recycle = undefined;
    recycle?.(this.bytes);
  }

  /** Where frame `index` starts in `bytes`. */
  offset(index: number): number {
    return this.#cells[this.#firstCell + index * 2] as number;
  }

  /** How many bytes of frame `index` are here; with a snaplen fewer than it had. */
  length(index: number): number {
    return this.#cells[this.#firstCell + index * 2 + 1] as number;
  }

  /** The bytes of frame `index`, without a copy: they keep the whole message in memory. */
  frame(index: number): Buffer {
    const offset = this.offset(index);
    return this.bytes.subarray(offset, offset + this.length(index));
  }

  /** How many bytes frame `index` had when it passed. */
  originalLength(index: number): number {
    return this.#cell(ORIGINAL_LENGTHS, index) || this.length(index);
  }

  /** How much later than `baseTimeNs` frame `index` passed, in nanoseconds. */
  timeDeltaNs(index: number): number {
    return this.#cell(TIME_DELTAS, index);
  }

  /** When frame `index` passed: nanoseconds since 1970. */
  timestampNs(index: number): bigint {
    return this.baseTimeNs + BigInt(this.timeDeltaNs(index));
  }

  /** The number of frame `index` in its stream. */
  sequence(index: number): bigint {
    return this.firstSequence + BigInt(index);
  }

  /** Which vif frame `index` passed, as an index into the vifs that the stream was opened with. */
  vifIndex(index: number): number {
    return this.#cell(VIF_INDICES, index);
  }

  /** The flags of frame `index` as the contract packs them. */
  flags(index: number): number {
    return this.#cell(FLAGS, index);
  }

  direction(index: number): Direction {
    return (this.flags(index) & DIRECTION_MASK) === TO_GUEST ? 'to-guest' : 'from-guest';
  }

  checksum(index: number): ChecksumState {
    const flags = this.flags(index);
    // A guest sets both where it leaves the checksum to us: blank is what matters then.
    if ((flags & CHECKSUM_BLANK) !== 0) return 'blank';
    return (flags & CHECKSUM_VERIFIED) !== 0 ? 'verified' : 'unverified';
  }

  /** How frame `index` is to be cut, where it is. */
  segmentation(index: number): Segmentation | undefined {
    const flags = this.flags(index);
    const type = (flags >>> SEGMENTATION_SHIFT) & 0b11;
    if (type !== 1 && type !== 2) return undefined;
    return {
      type: type === 1 ? 'tcpv4' : 'tcpv6',
      segmentBytes: flags >>> SEGMENT_BYTES_SHIFT,
    };
  }

  #cell(column: number, index: number): number {
    const found = this.#columns[column] as Uint32Array | Buffer;
    const numbers = found instanceof Uint32Array ? found : this.#decode(column, found);
    return numbers[index] ?? 0;
  }

  #decode(column: number, packed: Buffer): Uint32Array {
    const name = COLUMN_NAMES[column] ?? '';
    const numbers = decodeColumn(packed, 0, packed.length, this.count, name);
    this.#columns[column] = numbers;
    return numbers;
  }
}

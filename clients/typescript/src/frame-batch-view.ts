/** Received frames, seen where they lie in the message that brought them. */

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

/**
 * What the decoder found. All columns lie in `cells`, one after the other: `offsets` and so on say
 * where each begins; -1: it is absent, for every entry is zero.
 */
export interface FrameBatchColumns {
  readonly bytes: Buffer;
  readonly count: number;
  readonly byteCount: number;
  readonly baseTimeNs: bigint;
  readonly firstSequence: bigint;
  readonly cells: Uint32Array;
  readonly offsets: number;
  readonly lengths: number;
  readonly timeDeltas: number;
  readonly originalLengths: number;
  readonly vifIndices: number;
  readonly flags: number;
}

/**
 * A batch of frames. Frame `i`, from 0 to `count - 1`, is `bytes[offset(i) .. offset(i) + length(i))`:
 * a loop over that allocates nothing. The index is not checked.
 */
export class FrameBatchView {
  /** The message that brought the frames. It stays as it is for as long as somebody holds it. */
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
  readonly #offsets: number;
  readonly #lengths: number;
  readonly #timeDeltas: number;
  readonly #originalLengths: number;
  readonly #vifIndices: number;
  readonly #flags: number;

  constructor(columns: FrameBatchColumns) {
    this.bytes = columns.bytes;
    this.count = columns.count;
    this.byteCount = columns.byteCount;
    this.baseTimeNs = columns.baseTimeNs;
    this.firstSequence = columns.firstSequence;
    this.#cells = columns.cells;
    this.#offsets = columns.offsets;
    this.#lengths = columns.lengths;
    this.#timeDeltas = columns.timeDeltas;
    this.#originalLengths = columns.originalLengths;
    this.#vifIndices = columns.vifIndices;
    this.#flags = columns.flags;
  }

  /** Where frame `index` starts in `bytes`. */
  offset(index: number): number {
    return this.#cells[this.#offsets + index] as number;
  }

  /** How many bytes of frame `index` are here; with a snaplen fewer than it had. */
  length(index: number): number {
    return this.#cells[this.#lengths + index] as number;
  }

  /** The bytes of frame `index`, without a copy: they keep the whole message in memory. */
  frame(index: number): Buffer {
    const offset = this.offset(index);
    return this.bytes.subarray(offset, offset + this.length(index));
  }

  /** How many bytes frame `index` had when it passed. */
  originalLength(index: number): number {
    return this.#cell(this.#originalLengths, index) || this.length(index);
  }

  /** How much later than `baseTimeNs` frame `index` passed, in nanoseconds. */
  timeDeltaNs(index: number): number {
    return this.#cell(this.#timeDeltas, index);
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
    return this.#cell(this.#vifIndices, index);
  }

  /** The flags of frame `index` as the contract packs them. */
  flags(index: number): number {
    return this.#cell(this.#flags, index);
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
    return column < 0 ? 0 : (this.#cells[column + index] as number);
  }
}

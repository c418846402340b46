/**
 * A message with a batch of frames, encoded by hand while the frames arrive: StreamFramesResponse
 * with its field `frames` set. Frames are copied once, from where they lie in local memory into
 * the message, which lies in local memory too; columns are gathered beside it and written behind
 * the frames when the message is sealed. ts-proto's encoder is the oracle in the tests.
 */
import { MESSAGE_PREFIX_BYTES } from '@xenvif/client/message-prefix';
import { type FrameBatch, runHeaderBytes, writeRunHeader } from '../device/frame-batch.js';
import { FrameBatch as FrameBatchMessage } from '../gen/xenvif/v1/frame_service.js';
import type { LocalMemory, LocalRegion } from '../xen/local-memory.js';
import { RunColumn, varintBytes, writeVarint } from './run-column.js';

/** `StreamFramesResponse.frames`: field 2, length-delimited. */
const TAG_FRAMES_MESSAGE = 0x12;
/** `FrameBatch.base_time_ns`: field 2, 64 bits. */
const TAG_BASE_TIME = 0x11;
/** `FrameBatch.time_delta_ns`, `original_length`, `vif_index` and `flags`: fields 3 to 6, packed. */
const TAG_TIME_DELTA = 0x1a;
const TAG_ORIGINAL_LENGTH = 0x22;
const TAG_VIF_INDEX = 0x2a;
const TAG_FLAGS = 0x32;
/** `FrameBatch.first_sequence`: field 7, varint. */
const TAG_FIRST_SEQUENCE = 0x38;

/** Room in front for whoever sends the message, and for the outer tag and a length of four bytes. */
const HEADER_BYTES = MESSAGE_PREFIX_BYTES + 5;
/** The most that a frame needs beside its bytes: tag, length, and an entry in each column. */
const OVERHEAD_PER_FRAME = 1 + 3 + 5 + 3 + 3 + 5;
/** What the batch needs beside its frames: the fixed fields and the columns' tags and lengths. */
const OVERHEAD = HEADER_BYTES + 9 + 11 + 4 * 5;
const TIME_DELTA_MAX = 0xffffffffn;

/** How large a message may get. */
export interface ChunkLimits {
  readonly bytes: number;
  readonly frames: number;
}

export class FrameChunk {
  /** How many bytes of memory a chunk with these limits takes. */
  static memoryFor(limits: ChunkLimits, longestFrame: number): number {
    return Math.max(limits.bytes, longestFrame) + limits.frames * OVERHEAD_PER_FRAME + OVERHEAD;
  }

  readonly region: LocalRegion;
  /** The sum of the lengths of the frames as they are in the message. */
  frameBytes = 0;
  count = 0;
  firstSequence = 0;
  readonly #bytes: Uint8Array;
  readonly #limits: ChunkLimits;
  readonly #deltas = new RunColumn();
  /** Filled only where a frame was cut. */
  readonly #originals = new RunColumn();
  readonly #vifs = new RunColumn();
  readonly #flags = new RunColumn();
  #end: number;
  /** Where the bytes of the last frame start. */
  #lastStart = 0;
  #baseTimeNs = 0n;
  #anyCut = false;

  constructor(memory: LocalMemory, limits: ChunkLimits, longestFrame: number) {
    this.region = memory.allocate(FrameChunk.memoryFor(limits, longestFrame));
    this.#bytes = memory.bytes;
    this.#limits = limits;
    this.#end = this.region.offset + HEADER_BYTES;
  }

  get lastSequence(): number {
    return this.firstSequence + this.count - 1;
  }

  /** Makes the chunk empty, for use again. */
  clear(): void {
    this.frameBytes = 0;
    this.count = 0;
    this.#deltas.clear();
    this.#originals.clear();
    this.#vifs.clear();
    this.#flags.clear();
    this.#anyCut = false;
    this.#end = this.region.offset + HEADER_BYTES;
  }

  /** Whether a frame of `length` bytes that passed at `timeNs` can go in. */
  fits(length: number, timeNs: bigint): boolean {
    if (this.count === 0) return true;
    return (
      this.count < this.#limits.frames &&
      this.frameBytes + length <= this.#limits.bytes &&
      timeNs - this.#baseTimeNs <= TIME_DELTA_MAX
    );
  }

  /** Adds frame `index` of `batch`, cut to `length`. The caller has asked `fits`. */
  add(
    batch: FrameBatch,
    index: number,
    length: number,
    vifIndex: number,
    flags: number,
    sequence: number,
  ): void {
    const slot = this.count;
    if (slot === 0) {
      this.firstSequence = sequence;
      this.#baseTimeNs = batch.timeNs;
    }
    const offset = batch.offset(index);
    const original = batch.length(index);
    const delta = slot === 0 ? 0 : Number(batch.timeNs - this.#baseTimeNs);
    if (original !== length && !this.#anyCut) this.#recoverOriginals();
    const end = writeRunHeader(this.#bytes, this.#end, length);
    this.#bytes.copyWithin(end, offset, offset + length);
    this.#lastStart = end;
    this.#end = end + length;
    this.#deltas.append(delta, 1);
    if (this.#anyCut) this.#originals.append(original, 1);
    this.#vifs.append(vifIndex, 1);
    this.#flags.append(flags >>> 0, 1);
    this.count = slot + 1;
    this.frameBytes += length;
  }

  /**
   * Adds frames `[first, end)` of a batch that is a run (see `FrameBatch.isRun`), whole and all with
   * the same flags, as many as there is room for. Returns the index of the first that is not in. The
   * caller has asked `fits` for the first.
   */
  addRun(
    batch: FrameBatch,
    first: number,
    end: number,
    vifIndex: number,
    flags: number,
    sequence: number,
  ): number {
    const slot = this.count;
    if (slot === 0) {
      this.firstSequence = sequence;
      this.#baseTimeNs = batch.timeNs;
    }
    const next = this.#endOfRun(batch, first, end);
    const start = batch.runStart(first);
    const until = batch.offset(next - 1) + batch.length(next - 1);
    this.#bytes.copyWithin(this.#end, start, until);
    this.#end += until - start;
    const times = next - first;
    this.#deltas.append(slot === 0 ? 0 : Number(batch.timeNs - this.#baseTimeNs), times);
    this.#vifs.append(vifIndex, times);
    this.#flags.append(flags, times);
    if (this.#anyCut) {
      for (let index = first; index < next; index += 1) {
        this.#originals.append(batch.length(index), 1);
      }
    }
    this.count = slot + times;
    return next;
  }

  /** Counts the bytes of as many frames as there is room for; returns the first that is not in. */
  #endOfRun(batch: FrameBatch, first: number, end: number): number {
    const { bytes, frames } = this.#limits;
    const { lengths } = batch;
    const last = Math.min(end, first + frames - this.count);
    let frameBytes = this.frameBytes;
    let next = first;
    if (first === 0 && last === batch.count && frameBytes + batch.totalBytes <= bytes) {
      this.frameBytes = frameBytes + batch.totalBytes;
      return last;
    }
    while (next < last) {
      const length = lengths[next] as number;
      // The first frame of a message goes in whatever its length.
      if (frameBytes + length > bytes && this.count + next > first) break;
      frameBytes += length;
      next += 1;
    }
    this.frameBytes = frameBytes;
    return next;
  }

  /** From the first frame that is cut on, all have their length noted, those before it as well. */
  #recoverOriginals(): void {
    this.#anyCut = true;
    let position = this.region.offset + HEADER_BYTES;
    for (let slot = 0; slot < this.count; slot += 1) {
      const length = this.#lengthAt(position + 1);
      this.#originals.append(length, 1);
      position += runHeaderBytes(length) + length;
    }
  }

  /**
   * Writes a big-endian number over the bytes at `position` of the frame that was added last, as far
   * as the frame, which may be cut, still has them.
   */
  overwriteU16(position: number, value: number): void {
    const start = this.#lastStart + position;
    if (start < this.#end) this.#bytes[start] = value >>> 8;
    if (start + 1 < this.#end) this.#bytes[start + 1] = value & 0xff;
  }

  /**
   * Takes the first frames, as many as have at most `bytes` together, out into a message of their
   * own; undefined when the first one alone has more.
   */
  takeFront(bytes: number): FrameBatchMessage | undefined {
    const frames: Buffer[] = [];
    let position = this.region.offset + HEADER_BYTES;
    let taken = 0;
    while (frames.length < this.count) {
      const length = this.#lengthAt(position + 1);
      if (taken + length > bytes) break;
      const start = position + runHeaderBytes(length);
      frames.push(Buffer.from(this.#bytes.subarray(start, start + length)));
      taken += length;
      position = start + length;
    }
    const count = frames.length;
    if (count === 0) return undefined;
    const part = FrameBatchMessage.fromPartial({
      frames,
      baseTimeNs: this.#baseTimeNs,
      timeDeltaNs: this.#deltas.takeFront(count),
      originalLength: this.#anyCut ? this.#originals.takeFront(count) : [],
      vifIndex: this.#vifs.takeFront(count),
      flags: this.#flags.takeFront(count),
      firstSequence: BigInt(this.firstSequence),
    });
    this.#dropFront(count, taken, position);
    return part;
  }

  #dropFront(count: number, bytes: number, position: number): void {
    const start = this.region.offset + HEADER_BYTES;
    this.#bytes.copyWithin(start, position, this.#end);
    this.#end -= position - start;
    this.count -= count;
    this.frameBytes -= bytes;
    this.firstSequence += count;
  }

  /** Reads the length of a frame, which this class wrote itself. */
  #lengthAt(position: number): number {
    let length = 0;
    for (let shift = 0, next = position; ; shift += 7, next += 1) {
      const byte = this.#bytes[next] as number;
      length |= (byte & 0x7f) << shift;
      if (byte < 0x80) return length;
    }
  }

  /**
   * Writes the columns and the header, and returns the message: a view that `clear` ends. The
   * `MESSAGE_PREFIX_BYTES` in front of it are the sender's.
   */
  seal(): Buffer {
    const bytes = this.#bytes;
    let end = this.#end;
    end = this.#writeFixed64(TAG_BASE_TIME, end, this.#baseTimeNs);
    if (this.#deltas.isNeeded) end = this.#deltas.write(bytes, TAG_TIME_DELTA, end);
    if (this.#anyCut) end = this.#originals.write(bytes, TAG_ORIGINAL_LENGTH, end);
    if (this.#vifs.isNeeded) end = this.#vifs.write(bytes, TAG_VIF_INDEX, end);
    end = this.#flags.write(bytes, TAG_FLAGS, end);
    this.#bytes[end] = TAG_FIRST_SEQUENCE;
    end = writeVarint(this.#bytes, end + 1, this.firstSequence);
    const bodyStart = this.region.offset + HEADER_BYTES;
    const body = end - bodyStart;
    const start = bodyStart - 1 - varintBytes(body);
    this.#bytes[start] = TAG_FRAMES_MESSAGE;
    writeVarint(this.#bytes, start + 1, body);
    return Buffer.from(this.#bytes.buffer, this.#bytes.byteOffset + start, end - start);
  }

  #writeFixed64(tag: number, position: number, value: bigint): number {
    this.#bytes[position] = tag;
    const low = Number(value & 0xffffffffn);
    const high = Number(value >> 32n);
    for (let byte = 0; byte < 4; byte += 1) {
      this.#bytes[position + 1 + byte] = (low >>> (byte * 8)) & 0xff;
      this.#bytes[position + 5 + byte] = (high >>> (byte * 8)) & 0xff;
    }
    return position + 9;
  }
}

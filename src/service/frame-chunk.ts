/**
 * A message with a batch of frames, encoded by hand while the frames arrive: StreamFramesResponse
 * with its field `frames` set. Frames are copied once, from where they lie in local memory into
 * the message, which lies in local memory too; columns are gathered beside it and written behind
 * the frames when the message is sealed. ts-proto's encoder is the oracle in the tests.
 */
import { MESSAGE_PREFIX_BYTES } from '@xenvif/client/message-prefix';
import {
  type FrameBatch,
  runFrameLength,
  runHeaderBytes,
  writeRunHeader,
} from '../device/frame-batch.js';
import type { FrameBatch as FrameBatchMessage } from '../gen/xenvif/v1/frame_service.js';
import type { LocalMemory, LocalRegion } from '../xen/local-memory.js';
import { copyFrames } from './copied-run.js';
import { COLUMN_BYTES_FIXED, COLUMN_BYTES_PER_FRAME, FrameColumns } from './frame-columns.js';
import { varintBytes, writeVarint } from './run-column.js';

/** `StreamFramesResponse.frames`: field 2, length-delimited. */
export const TAG_FRAMES_MESSAGE = 0x12;

/** Room in front for whoever sends the message, and for the outer tag and a length of four bytes. */
const HEADER_BYTES = MESSAGE_PREFIX_BYTES + 5;
/** The most that a frame needs beside its bytes: tag, length, and an entry in each column. */
const OVERHEAD_PER_FRAME = 1 + 3 + COLUMN_BYTES_PER_FRAME;
/** What the batch needs beside its frames. */
const OVERHEAD = HEADER_BYTES + COLUMN_BYTES_FIXED;

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
  readonly #bytes: Uint8Array;
  readonly #limits: ChunkLimits;
  readonly #columns = new FrameColumns();
  #end: number;
  /** Where the bytes of the last frame start. */
  #lastStart = 0;

  constructor(memory: LocalMemory, limits: ChunkLimits, longestFrame: number) {
    this.region = memory.allocate(FrameChunk.memoryFor(limits, longestFrame));
    this.#bytes = memory.bytes;
    this.#limits = limits;
    this.#end = this.region.offset + HEADER_BYTES;
  }

  /** The length of the first frame. */
  get firstLength(): number {
    return runFrameLength(this.#bytes, this.region.offset + HEADER_BYTES);
  }

  get firstSequence(): number {
    return this.#columns.firstSequence;
  }

  get lastSequence(): number {
    return this.firstSequence + this.count - 1;
  }

  /** Makes the chunk empty, for use again. */
  clear(): void {
    this.frameBytes = 0;
    this.count = 0;
    this.#end = this.region.offset + HEADER_BYTES;
  }

  /** Whether a frame of `length` bytes that passed at `timeNs` can go in. */
  fits(length: number, timeNs: bigint): boolean {
    if (this.count === 0) return true;
    return (
      this.count < this.#limits.frames &&
      this.frameBytes + length <= this.#limits.bytes &&
      this.#columns.takes(timeNs)
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
    if (slot === 0) this.#columns.begin(sequence, batch.timeNs);
    const offset = batch.offset(index);
    const original = batch.length(index);
    const { originals } = this.#columns;
    const isFirstCut = original !== length && originals.count === 0;
    if (isFirstCut) this.#recoverOriginals();
    const end = writeRunHeader(this.#bytes, this.#end, length);
    this.#bytes.copyWithin(end, offset, offset + length);
    this.#lastStart = end;
    this.#end = end + length;
    this.#columns.append(batch.timeNs, vifIndex, flags >>> 0, 1);
    if (isFirstCut || originals.count > 0) originals.append(original, 1);
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
    if (slot === 0) this.#columns.begin(sequence, batch.timeNs);
    const next = this.#endOfRun(batch, first, end);
    const start = batch.runStart(first);
    const until = batch.endOf(next - 1);
    this.#bytes.copyWithin(this.#end, start, until);
    this.#end += until - start;
    const times = next - first;
    this.#columns.append(batch.timeNs, vifIndex, flags, times);
    if (this.#columns.originals.count > 0) {
      for (let index = first; index < next; index += 1) {
        this.#columns.originals.append(batch.length(index), 1);
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
    let position = this.region.offset + HEADER_BYTES;
    for (let slot = 0; slot < this.count; slot += 1) {
      const length = runFrameLength(this.#bytes, position);
      this.#columns.originals.append(length, 1);
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
    const start = this.region.offset + HEADER_BYTES;
    const front = copyFrames(this.#bytes, start, this.count, bytes);
    const part = this.#columns.takeFront(front.frames);
    if (part === undefined) return undefined;
    this.#bytes.copyWithin(start, front.end, this.#end);
    this.#end -= front.end - start;
    this.count -= front.frames.length;
    this.frameBytes -= front.bytes;
    return part;
  }

  /**
   * Writes the columns and the header, and returns the message: a view that `clear` ends. The
   * `MESSAGE_PREFIX_BYTES` in front of it are the sender's.
   */
  seal(): Buffer {
    const bytes = this.#bytes;
    const end = this.#columns.write(bytes, this.#end);
    const bodyStart = this.region.offset + HEADER_BYTES;
    const body = end - bodyStart;
    const start = bodyStart - 1 - varintBytes(body);
    this.#bytes[start] = TAG_FRAMES_MESSAGE;
    writeVarint(this.#bytes, start + 1, body);
    return Buffer.from(this.#bytes.buffer, this.#bytes.byteOffset + start, end - start);
  }
}

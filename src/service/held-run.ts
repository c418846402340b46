/**
 * A message of frames that stay where the ring's copy put them (run-storage.ts): they are shared by all
 * clients that get them, and runs that lie one behind the other become one message. What a client has
 * for itself, times, flags and numbers, goes in front of the frames. ts-proto's decoder is the oracle in
 * the tests.
 */
import { MESSAGE_PREFIX_BYTES } from '@xenvif/client/message-prefix';
import { type FrameBatch, runFrameLength } from '../device/frame-batch.js';
import { RUN_HEAD_BYTES, type RunStorage } from '../device/run-storage.js';
import type { FrameBatch as FrameBatchMessage } from '../gen/xenvif/v1/frame_service.js';
import { copyFrames } from './copied-run.js';
import { type ChunkLimits, TAG_FRAMES_MESSAGE } from './frame-chunk.js';
import { FrameColumns } from './frame-columns.js';
import { type EncodedMessage, SplitMessage } from './frame-message.js';
import { varintBytes, writeVarint } from './run-column.js';

export class HeldRun {
  frameBytes = 0;
  count = 0;
  readonly #bytes: Uint8Array;
  readonly #limits: ChunkLimits;
  readonly #columns = new FrameColumns();
  #storage: RunStorage | undefined;
  #start = 0;
  #end = 0;

  constructor(bytes: Uint8Array, limits: ChunkLimits) {
    this.#bytes = bytes;
    this.#limits = limits;
  }

  /** The length of the first frame. */
  get firstLength(): number {
    return runFrameLength(this.#bytes, this.#start);
  }

  get firstSequence(): number {
    return this.#columns.firstSequence;
  }

  get lastSequence(): number {
    return this.#columns.firstSequence + this.count - 1;
  }

  /** Begins with a run that has storage, and holds it until `release`. */
  begin(batch: FrameBatch, vifIndex: number, sequence: number): void {
    const { storage, storageStart } = batch;
    storage?.hold();
    this.#storage = storage;
    this.#start = storageStart;
    this.#end = storageStart;
    this.#columns.begin(sequence, batch.timeNs);
    this.count = 0;
    this.frameBytes = 0;
    this.append(batch, vifIndex);
  }

  /** Whether there is room for all frames of a batch. */
  hasRoomFor(batch: FrameBatch): boolean {
    const { bytes, frames } = this.#limits;
    return (
      this.frameBytes + batch.totalBytes <= bytes &&
      this.count + batch.count <= frames &&
      this.#columns.takes(batch.timeNs)
    );
  }

  /** Whether `batch`, a run in storage, lies behind what is here. */
  isFollowedBy(batch: FrameBatch): boolean {
    return batch.storage === this.#storage && batch.storageStart === this.#end;
  }

  /** Adds a run that follows, and for which there is room. */
  append(batch: FrameBatch, vifIndex: number): void {
    this.#end += batch.runBytes;
    this.#columns.append(batch.timeNs, vifIndex, batch.flag(0), batch.count);
    this.count += batch.count;
    this.frameBytes += batch.totalBytes;
  }

  /** The message, as a view that `release` ends: in one part where the room in front is free. */
  seal(): EncodedMessage {
    const { buffer, byteOffset } = this.#bytes;
    const start = this.#start;
    const frames = this.#end - start;
    const columns = this.#columns.byteLength;
    const head = 1 + varintBytes(columns + frames) + columns;
    const storage = this.#storage;
    if (
      start === storage?.start &&
      MESSAGE_PREFIX_BYTES + head <= RUN_HEAD_BYTES &&
      storage.takeHead()
    ) {
      this.#writeHead(this.#bytes, start - head, columns + frames);
      return Buffer.from(buffer, byteOffset + start - head, head + frames);
    }
    const own = Buffer.allocUnsafe(MESSAGE_PREFIX_BYTES + head);
    this.#writeHead(own, MESSAGE_PREFIX_BYTES, columns + frames);
    const body = Buffer.from(buffer, byteOffset + start, frames);
    return new SplitMessage(own.subarray(MESSAGE_PREFIX_BYTES), body);
  }

  /**
   * Takes the first frames, as many as have at most `bytes` together, out into a message of their
   * own; undefined when the first one alone has more.
   */
  takeFront(bytes: number): FrameBatchMessage | undefined {
    const front = copyFrames(this.#bytes, this.#start, this.count, bytes);
    const part = this.#columns.takeFront(front.frames);
    this.#start = front.end;
    this.count -= front.frames.length;
    this.frameBytes -= front.bytes;
    return part;
  }

  release(): void {
    this.#storage?.release();
    this.#storage = undefined;
  }

  #writeHead(bytes: Uint8Array, position: number, length: number): void {
    bytes[position] = TAG_FRAMES_MESSAGE;
    this.#columns.write(bytes, writeVarint(bytes, position + 1, length));
  }
}

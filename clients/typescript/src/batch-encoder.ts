/**
 * The hand-written encoder of `StreamFramesRequest { frames: FrameBatch }`: frames are copied once,
 * straight into the message that will be sent. The columns are left out, for a client's frames have
 * no times or flags.
 */
import { invalidArgument } from './errors.js';
import { MESSAGE_PREFIX_BYTES } from './message-prefix.js';

/** The shortest frame: destination, source and type. In bytes. */
export const FRAME_BYTES_MIN = 14;
/** The longest frame that netif carries, in bytes. */
export const FRAME_BYTES_MAX = 65_535;

/** A message is full with this many bytes of frames... */
const BATCH_BYTES = 64 * 1024;
/** ... or this many frames. */
const BATCH_FRAMES = 2048;

/** `frames = 2` of StreamFramesRequest and `frames = 1`, `first_sequence = 7` of FrameBatch. */
const REQUEST_FRAMES_TAG = 0x12;
const FRAME_TAG = 0x0a;
const FIRST_SEQUENCE_TAG = 0x38;

/** Room for gRPC's prefix, and for the outer tag and length, written last, when the length is known. */
const HEADER_BYTES = MESSAGE_PREFIX_BYTES + 6;
const FRAME_HEADER_BYTES_MAX = 4;
const TRAILER_BYTES_MAX = 11;
const STAGING_BYTES =
  HEADER_BYTES +
  BATCH_BYTES +
  FRAME_BYTES_MAX +
  (BATCH_FRAMES + 1) * FRAME_HEADER_BYTES_MAX +
  TRAILER_BYTES_MAX;
/**
 * Staging buffers that are kept for the next messages: what a writer has on its way that waits for
 * `drained`. The transport gives many back at a time, and new ones are new pages, each cold and cleared.
 */
const SPARE_BUFFERS_MAX = 24;

/**
 * Checks the length of a frame, as the daemon does.
 * @throws XenvifClientError FRAME_TOO_SHORT, FRAME_TOO_LONG
 */
export function checkFrameLength(length: number): void {
  if (length < FRAME_BYTES_MIN) {
    const message = `A frame has at least ${FRAME_BYTES_MIN} bytes; this one has ${length}.`;
    throw invalidArgument('FRAME_TOO_SHORT', 'frames', message);
  }
  if (length > FRAME_BYTES_MAX) {
    const message = `A frame has at most ${FRAME_BYTES_MAX} bytes; this one has ${length}.`;
    throw invalidArgument('FRAME_TOO_LONG', 'frames', message);
  }
}

/**
 * A finished message, with the room of `MESSAGE_PREFIX_BYTES` in front of it. `release` gives its
 * memory back once the message has been sent.
 */
export interface EncodedBatch {
  readonly message: Buffer;
  readonly frameCount: number;
  readonly byteCount: number;
  readonly release: () => void;
}

export class BatchEncoder {
  readonly #spare: Buffer[] = [];
  #staging: Buffer | undefined;
  #pos = HEADER_BYTES;
  #frameCount = 0;
  #byteCount = 0;

  /** Frames in the message so far. */
  get frameCount(): number {
    return this.#frameCount;
  }

  /** Whether the message must be finished before the next frame. */
  get isFull(): boolean {
    return this.#byteCount >= BATCH_BYTES || this.#frameCount >= BATCH_FRAMES;
  }

  /** The message being filled. */
  get bytes(): Buffer {
    return this.#staging ?? this.#takeStaging();
  }

  /** Makes room for a frame in `bytes` and answers where. Check its length and `isFull` first. */
  place(length: number): number {
    this.#startFrame(length);
    const start = this.#pos;
    this.#pos = start + length;
    return start;
  }

  /** Copies one frame in. Check its length and `isFull` first. */
  add(frame: Uint8Array): void {
    const staging = this.#startFrame(frame.length);
    staging.set(frame, this.#pos);
    this.#pos += frame.length;
  }

  /** Copies `parts`, `length` bytes together, in as one frame. */
  addParts(parts: readonly Uint8Array[], length: number): void {
    const staging = this.#startFrame(length);
    for (const part of parts) {
      staging.set(part, this.#pos);
      this.#pos += part.length;
    }
  }

  /** Finishes the message. `firstSequence` (0: none) comes back in the results. */
  finish(firstSequence: number): EncodedBatch {
    const staging = this.bytes;
    if (firstSequence !== 0) {
      staging[this.#pos++] = FIRST_SEQUENCE_TAG;
      this.#pos = writeVarint(staging, this.#pos, firstSequence);
    }
    // The header is as long as the length needs, so it starts where it must to end at HEADER_BYTES.
    const contentBytes = this.#pos - HEADER_BYTES;
    const start = HEADER_BYTES - 1 - varintBytes(contentBytes);
    staging[start] = REQUEST_FRAMES_TAG;
    writeVarint(staging, start + 1, contentBytes);
    const batch: EncodedBatch = {
      message: staging.subarray(start, this.#pos),
      frameCount: this.#frameCount,
      byteCount: this.#byteCount,
      release: () => {
        if (this.#spare.length < SPARE_BUFFERS_MAX) this.#spare.push(staging);
      },
    };
    this.#staging = undefined;
    this.#pos = HEADER_BYTES;
    this.#frameCount = 0;
    this.#byteCount = 0;
    return batch;
  }

  #takeStaging(): Buffer {
    const staging = this.#spare.pop() ?? Buffer.allocUnsafeSlow(STAGING_BYTES);
    this.#staging = staging;
    return staging;
  }

  #startFrame(length: number): Buffer {
    const staging = this.bytes;
    staging[this.#pos++] = FRAME_TAG;
    this.#pos = writeVarint(staging, this.#pos, length);
    this.#frameCount += 1;
    this.#byteCount += length;
    return staging;
  }
}

/** Writes a whole number below 2^53; answers where the next byte goes. */
function writeVarint(target: Buffer, pos: number, value: number): number {
  let rest = value;
  let next = pos;
  while (rest >= 0x80) {
    target[next++] = (rest % 0x80) | 0x80;
    rest = Math.floor(rest / 0x80);
  }
  target[next++] = rest;
  return next;
}

function varintBytes(value: number): number {
  let bytes = 1;
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes += 1;
  return bytes;
}

/**
 * What the host and dom0's agent say to each other, over a virtio serial port.
 *
 * A frame is: length of what follows (u32, big endian), kind (u8), process (u32), payload. Each
 * command has a process number that the host chose; every frame about it carries that number.
 * Nothing here may import more than Node.js itself: dom0's agent runs on it alone.
 */

export const Kind = {
  /** Host: start a command; payload is a `StartRequest` as JSON. */
  start: 1,
  /** Host: bytes for the command's standard input. */
  input: 2,
  /** Host: the command's standard input ends here. */
  inputEnd: 3,
  /** Host: send the signal named in the payload to the command and all it started. */
  signal: 4,
  /** Agent: it is up; no payload, process 0. */
  ready: 16,
  /** Agent: the command runs; payload is its process id in dom0, in decimal. */
  started: 17,
  /** Agent: bytes of the command's standard output. */
  output: 18,
  /** Agent: bytes of the command's standard error. */
  errors: 19,
  /** Agent: the command ended; payload is an `Exit` as JSON. */
  exited: 20,
} as const;

export interface StartRequest {
  readonly command: string;
  readonly env: Readonly<Record<string, string>>;
}

/** How a command ended: an exit code, or like a shell 128 plus the signal's number. */
export interface Exit {
  readonly code: number;
}

export interface Frame {
  readonly kind: number;
  readonly process: number;
  readonly payload: Buffer;
}

const LENGTH_BYTES = 4;
const HEADER_BYTES = 9;
/** Bounds what one frame holds in memory on either side. */
export const PAYLOAD_BYTES_MAX = 65_536;

export function emitFrame(kind: number, process: number, payload: Uint8Array | string): Buffer {
  const body = typeof payload === 'string' ? Buffer.from(payload) : payload;
  const frame = Buffer.alloc(HEADER_BYTES + body.length);
  frame.writeUInt32BE(HEADER_BYTES - LENGTH_BYTES + body.length, 0);
  frame.writeUInt8(kind, LENGTH_BYTES);
  frame.writeUInt32BE(process, LENGTH_BYTES + 1);
  frame.set(body, HEADER_BYTES);
  return frame;
}

/** Yields the frames of one kind that carry all of `bytes`, none above the limit. */
export function* emitFrames(kind: number, process: number, bytes: Uint8Array): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += PAYLOAD_BYTES_MAX) {
    yield emitFrame(kind, process, bytes.subarray(at, at + PAYLOAD_BYTES_MAX));
  }
}

/** Cuts a stream of bytes into frames, whatever pieces it comes in. */
export class FrameReader {
  #held: Buffer = Buffer.alloc(0);

  push(bytes: Buffer): Frame[] {
    this.#held = this.#held.length === 0 ? bytes : Buffer.concat([this.#held, bytes]);
    const frames: Frame[] = [];
    while (this.#held.length >= HEADER_BYTES) {
      const end = LENGTH_BYTES + this.#held.readUInt32BE(0);
      if (end > HEADER_BYTES + PAYLOAD_BYTES_MAX)
        throw new Error('the serial port lost its frames');
      if (this.#held.length < end) break;
      frames.push({
        kind: this.#held.readUInt8(LENGTH_BYTES),
        process: this.#held.readUInt32BE(LENGTH_BYTES + 1),
        payload: Buffer.from(this.#held.subarray(HEADER_BYTES, end)),
      });
      this.#held = this.#held.subarray(end);
    }
    return frames;
  }
}

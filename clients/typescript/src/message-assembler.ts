/**
 * Messages put together again from the pieces in which HTTP/2 brings them, each with
 * its prefix (message-prefix.ts).
 *
 * A message lies in memory of its own. Who is done with one may give that back: then gigabytes go
 * through a few buffers, which stay in the processor's cache, and make no garbage.
 */
import { MESSAGE_PREFIX_BYTES } from './message-prefix.js';
import { malformedMessage } from './wire-reader.js';

/** Memory below this is not worth keeping. */
const KEPT_BYTES_MIN = 16 * 1024;
/** What is kept has lengths in this step, so that it fits messages of about the same length. */
const KEPT_BYTES_STEP = 32 * 1024;
/** How many pieces of memory are kept. */
const SPARE_MAX = 16;

export class MessageAssembler {
  readonly #messageBytesMax: number;
  readonly #receive: (message: Buffer) => void;
  readonly #spare: ArrayBuffer[] = [];
  readonly #prefix = Buffer.alloc(MESSAGE_PREFIX_BYTES);
  #prefixBytes = 0;
  #message: Buffer | undefined;
  #messageBytes = 0;

  constructor(messageBytesMax: number, receive: (message: Buffer) => void) {
    this.#messageBytesMax = messageBytesMax;
    this.#receive = receive;
  }

  /**
   * Takes the next piece, and hands out the messages that it completes.
   * @throws XenvifClientError RESPONSE_MALFORMED for a message that is compressed or too long.
   */
  push(piece: Buffer): void {
    for (let position = 0; position < piece.length; ) {
      const message = this.#message;
      if (message === undefined) {
        this.#prefix[this.#prefixBytes] = piece[position] as number;
        this.#prefixBytes += 1;
        position += 1;
        if (this.#prefixBytes === MESSAGE_PREFIX_BYTES) this.#begin();
        continue;
      }
      const end = Math.min(piece.length, position + message.length - this.#messageBytes);
      piece.copy(message, this.#messageBytes, position, end);
      this.#messageBytes += end - position;
      position = end;
      if (this.#messageBytes === message.length) this.#finish(message);
    }
  }

  /** Takes the memory of a message back, which nobody looks at any more. */
  recycle(message: Buffer): void {
    const memory = message.buffer;
    // Of a small message the memory is shared with others.
    if (!(memory instanceof ArrayBuffer) || message.length < KEPT_BYTES_MIN) return;
    if (this.#spare.length < SPARE_MAX) this.#spare.push(memory);
  }

  #begin(): void {
    const length = this.#prefix.readUInt32BE(1);
    if (this.#prefix[0] !== 0) throw malformedMessage('it is compressed');
    if (length > this.#messageBytesMax) throw malformedMessage(`it has ${length} bytes`);
    const message = this.#memoryFor(length);
    this.#prefixBytes = 0;
    this.#messageBytes = 0;
    if (length === 0) this.#receive(message);
    else this.#message = message;
  }

  #finish(message: Buffer): void {
    this.#message = undefined;
    this.#receive(message);
  }

  #memoryFor(length: number): Buffer {
    if (length < KEPT_BYTES_MIN) return Buffer.allocUnsafe(length);
    const spare = this.#spare.pop();
    if (spare !== undefined && spare.byteLength >= length) return Buffer.from(spare, 0, length);
    const room = Math.ceil(length / KEPT_BYTES_STEP) * KEPT_BYTES_STEP;
    return Buffer.allocUnsafeSlow(room).subarray(0, length);
  }
}

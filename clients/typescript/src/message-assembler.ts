/**
 * Messages put together again from the pieces in which HTTP/2 brings them, each behind its prefix
 * (message-prefix.ts).
 *
 * Bytes are written to where the assembler says, which is where they stay: a message lies in the memory
 * that it was received into, behind its prefix. Who is done with one may give that memory back: then
 * gigabytes go through a few buffers, which stay in the processor's cache, and make no garbage.
 */
import { MESSAGE_PREFIX_BYTES } from './message-prefix.js';
import { malformedMessage } from './wire-reader.js';

/** A message shorter than this is copied out, and its memory used for the next at once. */
const KEPT_BYTES_MIN = 16 * 1024;
/** Memory has lengths in this step, so that it fits messages of about the same length. */
const ROOM_BYTES_STEP = 32 * 1024;
/** How many pieces of memory are kept. */
const SPARE_MAX = 16;

/** Memory of somebody else's, for messages that are to lie there. */
export interface MessageMemory {
  /** Memory of at least so many bytes; undefined where there is none. */
  take(byteCount: number): Buffer | undefined;
  /** Takes back what begins where `memory` does, or up to a page before; false where it is not its own. */
  takeBack(memory: Buffer): boolean;
}

/** Makes the error for a message that is not taken. */
export type Refuse = (what: string, isTooLong: boolean) => Error;

export class MessageAssembler {
  readonly #messageBytesMax: number;
  readonly #receive: (message: Buffer) => void;
  readonly #refuse: Refuse;
  readonly #lender: MessageMemory | undefined;
  readonly #spare: Buffer[] = [];
  #memory: Buffer = Buffer.allocUnsafeSlow(ROOM_BYTES_STEP);
  /** Bytes of `#memory` that have arrived, the prefix of the message at its start included. */
  #used = 0;
  /** Where that message ends; 0 while its prefix is not whole. */
  #end = 0;

  constructor(
    messageBytesMax: number,
    receive: (message: Buffer) => void,
    refuse: Refuse = malformedMessage,
    lender?: MessageMemory,
  ) {
    this.#messageBytesMax = messageBytesMax;
    this.#receive = receive;
    this.#refuse = refuse;
    this.#lender = lender;
  }

  /** Where the next bytes go: room for one at least, and for none behind the message at hand. */
  get place(): Buffer {
    return this.#memory.subarray(this.#used, this.#end || this.#memory.length);
  }

  /**
   * Says that so many bytes are at `place`, and hands out the messages that they complete.
   * @throws what `refuse` makes, by default RESPONSE_MALFORMED, for a message that is compressed or too
   *   long; nothing can be received after it.
   */
  filled(byteCount: number): void {
    this.#used += byteCount;
    while (this.#end !== 0 || this.#begin()) {
      if (this.#used < this.#end) return;
      this.#finish();
    }
  }

  /** Takes the next piece where it could not be written to `place`. @throws as `filled`. */
  push(piece: Buffer): void {
    for (let position = 0; position < piece.length; ) {
      const copied = piece.copy(this.place, 0, position);
      position += copied;
      this.filled(copied);
    }
  }

  /** Takes the memory of a message back, which nobody looks at any more. */
  recycle(message: Buffer): void {
    if (this.#lender?.takeBack(message) === true) return;
    // A shorter one was copied to memory that is shared with others.
    if (message.length < KEPT_BYTES_MIN || this.#spare.length >= SPARE_MAX) return;
    this.#spare.push(Buffer.from(message.buffer, 0, message.buffer.byteLength));
  }

  /** Reads the prefix if it is whole, and makes room for its message. */
  #begin(): boolean {
    if (this.#used < MESSAGE_PREFIX_BYTES) return false;
    const length = this.#memory.readUInt32BE(1);
    const isTooLong = length > this.#messageBytesMax;
    if (isTooLong || this.#memory[0] !== 0) {
      // There is a place for what still comes, though nobody reads it.
      this.#used = 0;
      throw this.#refuse(isTooLong ? `it has ${length} bytes` : 'it is compressed', isTooLong);
    }
    this.#end = MESSAGE_PREFIX_BYTES + length;
    if (this.#end > this.#memory.length) {
      const short = this.#memory;
      this.#moveTo(this.#memoryFor(this.#end), 0);
      this.#lender?.takeBack(short);
    }
    return true;
  }

  /** Hands the message at hand out, and goes on with what lies behind it. */
  #finish(): void {
    const memory = this.#memory;
    const end = this.#end;
    let message = memory.subarray(MESSAGE_PREFIX_BYTES, end);
    if (message.length < KEPT_BYTES_MIN) {
      message = Buffer.from(message);
      this.#moveTo(memory, end);
    } else {
      this.#moveTo(this.#memoryFor(memory.length), end);
    }
    this.#end = 0;
    this.#receive(message);
  }

  /** Goes on in `target` with what has arrived from `start` on. */
  #moveTo(target: Buffer, start: number): void {
    this.#memory.copy(target, 0, start, this.#used);
    this.#memory = target;
    this.#used -= start;
  }

  #memoryFor(byteCount: number): Buffer {
    const lent = this.#lender?.take(byteCount);
    if (lent !== undefined) return lent;
    const spare = this.#spare.pop();
    if (spare !== undefined && spare.length >= byteCount) return spare;
    return Buffer.allocUnsafeSlow(Math.ceil(byteCount / ROOM_BYTES_STEP) * ROOM_BYTES_STEP);
  }
}

/**
 * The XenStore wire protocol (xs_wire.h): every message, either way, is a header of four
 * little-endian 32-bit words (type, req_id, tx_id, len) and `len` bytes of payload. Lengths are
 * never trusted: one above the limit ends the stream, as there is no way back into step.
 */
import { ProtocolError, StoreError } from '../../errors.js';

/** The size of `struct xsd_sockmsg`, in bytes. */
export const HEADER_BYTES = 16;
/** XENSTORE_PAYLOAD_MAX: the most bytes that may follow a header. */
export const PAYLOAD_BYTES_MAX = 4096;

/** `enum xsd_sockmsg_type`. The number 20 was XS_RESTRICT and is no longer valid. */
export const MessageType = {
  CONTROL: 0,
  DIRECTORY: 1,
  READ: 2,
  GET_PERMS: 3,
  WATCH: 4,
  UNWATCH: 5,
  TRANSACTION_START: 6,
  TRANSACTION_END: 7,
  INTRODUCE: 8,
  RELEASE: 9,
  GET_DOMAIN_PATH: 10,
  WRITE: 11,
  MKDIR: 12,
  RM: 13,
  SET_PERMS: 14,
  WATCH_EVENT: 15,
  ERROR: 16,
  IS_DOMAIN_INTRODUCED: 17,
  RESUME: 18,
  SET_TARGET: 19,
  RESET_WATCHES: 21,
  DIRECTORY_PART: 22,
} as const;

/** The name of a message type without its `XS_`, such as `READ`. */
export type MessageName = keyof typeof MessageType;

const messageNames = new Map<number, MessageName>(
  Object.entries(MessageType).map(([name, type]) => [type, name as MessageName]),
);

/** The name of a type, or undefined when xs_wire.h knows none of that number. */
export function messageName(type: number): MessageName | undefined {
  return messageNames.get(type);
}

/**
 * The error names of xs_wire.h (`xsd_errors`), and EQUOTA, which oxenstored answers although the
 * header does not list it.
 */
export const storeErrnos = [
  'EINVAL',
  'EACCES',
  'EEXIST',
  'EISDIR',
  'ENOENT',
  'ENOMEM',
  'ENOSPC',
  'EIO',
  'ENOTEMPTY',
  'ENOSYS',
  'EROFS',
  'EBUSY',
  'EAGAIN',
  'EISCONN',
  'E2BIG',
  'EPERM',
  'EQUOTA',
] as const;

/** The name of an error as it travels in an ERROR message. */
export type StoreErrno = (typeof storeErrnos)[number];

/** One message, request or reply. The payload belongs to the message and may be kept. */
export interface Message {
  readonly type: number;
  /** Chosen by the client, echoed by xenstored; 0 in a WATCH_EVENT. */
  readonly requestId: number;
  /** 0 outside transactions. */
  readonly transactionId: number;
  readonly payload: Buffer;
}

/**
 * One message as bytes, in one buffer: /dev/xen/xenbus wants a whole message in each write.
 * @throws StoreError E2BIG when the payload is longer than `payloadBytesMax`.
 */
export function emitMessage(message: Message, payloadBytesMax: number = PAYLOAD_BYTES_MAX): Buffer {
  const { type, requestId, transactionId, payload } = message;
  if (payload.length > payloadBytesMax) {
    throw new StoreError(
      'E2BIG',
      `a XenStore message carries at most ${payloadBytesMax} bytes, not ${payload.length}`,
    );
  }
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + payload.length);
  bytes.writeUInt32LE(type, 0);
  bytes.writeUInt32LE(requestId, 4);
  bytes.writeUInt32LE(transactionId, 8);
  bytes.writeUInt32LE(payload.length, 12);
  payload.copy(bytes, HEADER_BYTES);
  return bytes;
}

/**
 * Cuts a byte stream into messages, however it is chopped. Holds at most one message, and makes
 * room for a payload only after its length was checked.
 */
export class MessageParser {
  readonly #payloadBytesMax: number;
  readonly #header = Buffer.alloc(HEADER_BYTES);
  #headerFilled = 0;
  #payload: Buffer | undefined;
  #payloadFilled = 0;

  constructor(payloadBytesMax: number = PAYLOAD_BYTES_MAX) {
    this.#payloadBytesMax = payloadBytesMax;
  }

  /** Whether a message has begun and not ended: the stream must not close here. */
  get midway(): boolean {
    return this.#headerFilled > 0;
  }

  /**
   * Yields each message that `chunk` completes.
   * @throws ProtocolError XENSTORE_PAYLOAD_TOO_LONG; the stream is of no more use then.
   */
  *feed(chunk: Uint8Array): Generator<Message, void, void> {
    let offset = 0;
    while (offset < chunk.length) {
      if (this.#payload === undefined) {
        offset += this.#takeHeader(chunk.subarray(offset));
      } else {
        const part = chunk.subarray(offset, offset + this.#payload.length - this.#payloadFilled);
        this.#payload.set(part, this.#payloadFilled);
        this.#payloadFilled += part.length;
        offset += part.length;
      }
      if (this.#payload !== undefined && this.#payloadFilled === this.#payload.length) {
        yield this.#finish(this.#payload);
      }
    }
  }

  #takeHeader(bytes: Uint8Array): number {
    const part = bytes.subarray(0, HEADER_BYTES - this.#headerFilled);
    this.#header.set(part, this.#headerFilled);
    this.#headerFilled += part.length;
    if (this.#headerFilled === HEADER_BYTES) {
      const length = this.#header.readUInt32LE(12);
      if (length > this.#payloadBytesMax) {
        throw new ProtocolError(
          'XENSTORE_PAYLOAD_TOO_LONG',
          `a XenStore message announces ${length} bytes, more than ${this.#payloadBytesMax}`,
        );
      }
      this.#payload = Buffer.alloc(length);
      this.#payloadFilled = 0;
    }
    return part.length;
  }

  #finish(payload: Buffer): Message {
    const message: Message = {
      type: this.#header.readUInt32LE(0),
      requestId: this.#header.readUInt32LE(4),
      transactionId: this.#header.readUInt32LE(8),
      payload,
    };
    this.#payload = undefined;
    this.#headerFilled = 0;
    return message;
  }
}

/** Each string followed by a NUL, as most payloads are. The strings must hold no NUL themselves. */
export function emitStrings(...strings: readonly string[]): Buffer {
  return Buffer.from(strings.map((string) => `${string}\0`).join(''), 'utf8');
}

/**
 * The strings of a payload in which each is followed by a NUL; undefined when the last is not.
 * An empty payload has none.
 */
export function parseStrings(payload: Buffer): string[] | undefined {
  if (payload.length === 0) {
    return [];
  }
  if (payload[payload.length - 1] !== 0) {
    return undefined;
  }
  return payload.toString('utf8', 0, payload.length - 1).split('\0');
}

/**
 * `@xenvif/client/message-prefix`: what gRPC puts in front of each message, one byte of flags and four
 * of length, big-endian (gRPC over HTTP2, "Length-Prefixed-Message"). The SDK and the daemon both lay
 * long messages out with room for it, so that they can go into HTTP/2 as they lie.
 */

/** The room that a message needs in front of it. */
export const MESSAGE_PREFIX_BYTES = 5;

/** Copies a message that has no room in front of it to where it has. */
export function copyWithRoom(message: Uint8Array): Buffer {
  const copy = Buffer.allocUnsafe(MESSAGE_PREFIX_BYTES + message.length);
  copy.set(message, MESSAGE_PREFIX_BYTES);
  return copy.subarray(MESSAGE_PREFIX_BYTES);
}

/**
 * Writes the prefix of a message, which `message` is or begins, into the room in front of it; both
 * together are returned. `length` is that of the whole message.
 */
export function withPrefix(message: Buffer, length = message.length): Buffer {
  const start = message.byteOffset - MESSAGE_PREFIX_BYTES;
  const bytes = Buffer.from(message.buffer, start, MESSAGE_PREFIX_BYTES + message.length);
  bytes[0] = 0;
  bytes.writeUInt32BE(length, 1);
  return bytes;
}

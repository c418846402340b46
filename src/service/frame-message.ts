/** The messages of the server, in the forms that they have on their way out. */
import { StreamFramesResponse } from '../gen/xenvif/v1/frame_service.js';

/** A message that is encoded in two parts: both have to go out, one behind the other. */
export class SplitMessage {
  /** Has `MESSAGE_PREFIX_BYTES` of room in front of it. */
  readonly head: Buffer;
  readonly body: Buffer;

  constructor(head: Buffer, body: Buffer) {
    this.head = head;
    this.body = body;
  }

  get length(): number {
    return this.head.length + this.body.length;
  }
}

/** A message that is encoded already. */
export type EncodedMessage = Buffer | SplitMessage;

/** One that ts-proto encodes, or one that is encoded already. */
export type FrameMessage = StreamFramesResponse | EncodedMessage;

/** The message in one piece, as grpc-js takes it. */
export function inOnePiece(message: FrameMessage): Buffer {
  if (Buffer.isBuffer(message)) return message;
  if (message instanceof SplitMessage) return Buffer.concat([message.head, message.body]);
  return Buffer.from(StreamFramesResponse.encode(message).finish());
}

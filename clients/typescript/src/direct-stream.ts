/**
 * The HTTP/2 stream below a call of grpc-js, for messages of frames in bulk. On the way through
 * grpc-js each message is copied twice, pauses the stream and passes a dozen promises; here it is put
 * together once and handed over at once. What is on the wire is the same, and the call's headers,
 * status, deadline and end stay grpc-js's.
 *
 * This is the only file that reaches for what grpc-js keeps to itself. Where that is not found, or
 * something is not as expected, everything goes through grpc-js.
 */
import type { ClientDuplexStream } from '@grpc/grpc-js';
import { withPrefix } from './message-prefix.js';
import { type ByteSource, isByteSource, MessageReceiver } from './message-receiver.js';

/** What is needed of an HTTP/2 stream. */
interface ByteStream extends ByteSource {
  readonly destroyed: boolean;
  readonly writableEnded: boolean;
  write(bytes: Uint8Array, done: (error?: Error | null) => void): boolean;
}

export interface DirectStreamOptions {
  readonly messageBytesMax: number;
  readonly receive: (message: Buffer) => void;
  /** What comes cannot be read. */
  readonly fail: (error: unknown) => void;
}

export class DirectStream {
  /** What the call receives, to be paused and given memory back. */
  readonly receiver: MessageReceiver;
  readonly #stream: ByteStream;

  private constructor(stream: ByteStream, options: DirectStreamOptions) {
    this.#stream = stream;
    this.receiver = new MessageReceiver(stream, options);
  }

  /**
   * Takes over what `call` receives. To be called in its event `metadata`, for then nothing has been
   * received. Undefined where grpc-js is not as this file knows it.
   */
  static of(
    call: ClientDuplexStream<Buffer, Buffer>,
    options: DirectStreamOptions,
  ): DirectStream | undefined {
    const stream = byteStreamBelow(call);
    return stream === undefined ? undefined : new DirectStream(stream, options);
  }

  /**
   * Sends a message that has `MESSAGE_PREFIX_BYTES` of room in front of it. `done` runs when its
   * memory is the caller's again; with an error where the stream broke.
   */
  write(message: Buffer, done: (error?: Error | null) => void): void {
    const { destroyed, writableEnded } = this.#stream;
    if (destroyed || writableEnded) return;
    this.#stream.write(withPrefix(message), done);
  }
}

/** A call of grpc-js wraps another, down to the one that has the stream. */
const DEPTH_MAX = 10;

function byteStreamBelow(call: object): ByteStream | undefined {
  let next: unknown = call;
  for (let depth = 0; depth < DEPTH_MAX && isObject(next); depth += 1) {
    const stream: unknown = Reflect.get(next, 'http2Stream');
    if (stream !== undefined) return isByteStream(stream) ? stream : undefined;
    next = below(next);
  }
  return undefined;
}

function below(call: object): unknown {
  const attempts: unknown = Reflect.get(call, 'underlyingCalls');
  if (Array.isArray(attempts)) return below(Object(attempts.at(-1)));
  for (const name of ['call', 'nextCall', 'child']) {
    const inner: unknown = Reflect.get(call, name);
    if (isObject(inner)) return inner;
  }
  return undefined;
}

function isByteStream(stream: unknown): stream is ByteStream {
  return isByteSource(stream) && typeof Reflect.get(stream, 'write') === 'function';
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}

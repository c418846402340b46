/**
 * The HTTP/2 stream below a call of grpc-js. On the way through grpc-js every message is copied once
 * more, and each that comes pauses the stream and passes several promises; frames in bulk go past it.
 * What is on the wire is the same, and the call's headers, status and end stay grpc-js's.
 *
 * This is the only file that reaches for what grpc-js keeps to itself. Where that is not found, every
 * message goes through grpc-js.
 */
import { type ByteSource, isByteSource } from '@xenvif/client/message-receiver';

/** What is needed of an HTTP/2 stream. */
export interface CallStream extends ByteSource {
  readonly destroyed: boolean;
  readonly writableEnded: boolean;
  /** Nothing is received any more, and nothing sent. */
  once(event: 'close', listener: () => void): unknown;
  write(bytes: Uint8Array, done?: () => void): boolean;
  /** Keeps what is written until `uncork`, so that it goes out together. */
  cork(): void;
  uncork(): void;
}

/** The stream below `call`; undefined where there is none that looks like one. */
export function streamBelow(call: object): CallStream | undefined {
  const inner = innerCall(call);
  const stream: unknown = inner && Reflect.get(inner, 'stream');
  return isCallStream(stream) ? stream : undefined;
}

/** Whether the client has said that it compresses none of its messages. */
export function sendsPlain(call: object): boolean {
  const inner = innerCall(call);
  return inner !== undefined && Reflect.get(inner, 'incomingEncoding') === 'identity';
}

function innerCall(call: object): object | undefined {
  const inner: unknown = Reflect.get(call, 'call');
  return typeof inner === 'object' && inner !== null ? inner : undefined;
}

function isCallStream(stream: unknown): stream is CallStream {
  return (
    isByteSource(stream) &&
    'respond' in stream &&
    'once' in stream &&
    'write' in stream &&
    typeof stream.write === 'function' &&
    'cork' in stream &&
    'destroyed' in stream &&
    'writableEnded' in stream
  );
}

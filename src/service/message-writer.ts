/**
 * Messages on their way into HTTP/2. What is encoded in memory already, with room in front of it for
 * gRPC's prefix, is handed to the stream as it lies: grpc-js would copy each message into memory of
 * its own first, which is most of what it costs. In no case do both ways mix on one call, for then one
 * message could overtake another.
 */
import { Metadata, type ServerDuplexStream } from '@grpc/grpc-js';
import { withPrefix } from '@xenvif/client/message-prefix';
import { streamBelow } from './call-stream.js';
import type { EncodedMessage } from './frame-message.js';

/** Hands a message over; `done` is called when its memory is the caller's again, sent or not. */
export type WriteEncoded = (message: EncodedMessage, done: () => void) => void;

/** A way past grpc-js for the messages of `call`; undefined where there is none. */
export function encodedWriter<Request, Response>(
  call: ServerDuplexStream<Request, Response>,
): WriteEncoded | undefined {
  const stream = streamBelow(call);
  if (stream === undefined) return undefined;
  let hasHeaders = false;
  return (message, done) => {
    if (stream.destroyed || stream.writableEnded) {
      // As with every write, the caller does not hear of it within the call.
      process.nextTick(done);
      return;
    }
    if (!hasHeaders) call.sendMetadata(new Metadata());
    hasHeaders = true;
    if (Buffer.isBuffer(message)) {
      stream.write(withPrefix(message), done);
      return;
    }
    stream.cork();
    stream.write(withPrefix(message.head, message.length));
    stream.write(message.body, done);
    stream.uncork();
  };
}

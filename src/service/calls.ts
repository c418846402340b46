/**
 * Between grpc-js and our handlers: a unary handler is an async function that returns the response
 * or throws, a streaming one gets a signal that fires when the client has gone.
 */
import type {
  handleServerStreamingCall,
  handleUnaryCall,
  ServerDuplexStream,
  ServerWritableStream,
} from '@grpc/grpc-js';
import type { Logger } from 'pino';
import { UnimplementedError } from '../errors.js';
import { toStatus } from './status.js';

/** Serves a unary call with an async function. */
export function unary<Request, Response>(
  logger: Logger,
  handle: (request: Request, signal: AbortSignal) => Promise<Response> | Response,
): handleUnaryCall<Request, Response> {
  return (call, callback) => {
    const abort = new AbortController();
    call.on('cancelled', () => abort.abort());
    const run = async () => await handle(call.request, abort.signal);
    run().then(
      (response) => callback(null, response),
      (error: unknown) => callback(toStatus(error, logger)),
    );
  };
}

/** Serves a server-streaming call; the stream ends when the function returns. */
export function serverStream<Request, Response>(
  logger: Logger,
  handle: (call: ServerWritableStream<Request, Response>, signal: AbortSignal) => Promise<void>,
): handleServerStreamingCall<Request, Response> {
  return (call) => {
    const abort = new AbortController();
    call.on('cancelled', () => abort.abort());
    call.on('error', () => abort.abort());
    handle(call, abort.signal).then(
      () => call.end(),
      (error: unknown) => failCall(call, error, logger),
    );
  };
}

/** Ends a stream with an error. */
export function failCall<Request, Response>(
  call: ServerWritableStream<Request, Response> | ServerDuplexStream<Request, Response>,
  error: unknown,
  logger: Logger,
): void {
  if (!call.destroyed) call.emit('error', toStatus(error, logger));
}

/** Serves a unary call that this version does not do. */
export function unimplemented<Request, Response>(
  logger: Logger,
  method: string,
): handleUnaryCall<Request, Response> {
  return unary(logger, () => {
    throw new UnimplementedError(`${method} is not implemented in this version.`);
  });
}

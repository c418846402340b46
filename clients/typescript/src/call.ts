/** One request, one answer: gRPC's callback as a promise, with a signal and a time limit. */
import { Metadata } from '@grpc/grpc-js';
import { cancelCall } from './cancel-call.js';
import type { Connection } from './connection.js';
import { cancelled, errorFromStatus } from './errors.js';

/** What every call takes. */
export interface CallOptions {
  /** Ends the call; it then throws `XenvifClientError` with code `CANCELLED`. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Milliseconds that the daemon may take to answer, and for a stream, to open it. Default 15 s,
   * and for create and delete 15 s more than what the daemon itself may wait.
   */
  readonly timeoutMs?: number | undefined;
}

/** How long the daemon may take where the caller does not say. */
export const DEFAULT_TIMEOUT_MS = 15_000;

/** What the SDK needs of a generated method definition. */
export interface Method<Request, Response> {
  readonly path: string;
  readonly requestSerialize: (value: Request) => Buffer;
  readonly responseDeserialize: (value: Buffer) => Response;
}

/** Calls a unary method. @throws XenvifClientError */
export function callUnary<Request, Response>(
  connection: Connection,
  method: Method<Request, Response>,
  request: Request,
  options: CallOptions = {},
): Promise<Response> {
  const { signal, timeoutMs = DEFAULT_TIMEOUT_MS } = options;
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(cancelled(signal.reason));
    const abort = (): void => cancelCall(call);
    const call = connection.client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      new Metadata(),
      { deadline: Date.now() + timeoutMs },
      (failure, response) => {
        connection.calls.delete(call);
        signal?.removeEventListener('abort', abort);
        if (failure === null && response !== undefined) resolve(response);
        else if (signal?.aborted) reject(cancelled(signal.reason));
        else if (failure !== null) reject(errorFromStatus(failure, connection));
      },
    );
    connection.calls.add(call);
    signal?.addEventListener('abort', abort, { once: true });
  });
}

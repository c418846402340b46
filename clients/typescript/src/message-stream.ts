/**
 * The receiving half of a streaming call: messages in order, asked for one at a time. What arrives
 * faster than it is taken waits in a queue whose size `MessageStreamOptions.pauseAtBytes` bounds:
 * beyond it the call is paused, HTTP/2 stops the daemon, and the daemon's own policy on slow readers
 * decides what is lost.
 */
import type { Readable } from 'node:stream';
import type { ServiceError } from '@grpc/grpc-js';
import { AsyncQueue } from './async-queue.js';
import { type CallOptions, DEFAULT_TIMEOUT_MS } from './call.js';
import { cancelCall } from './cancel-call.js';
import type { Connection } from './connection.js';
import { cancelled, errorFromStatus, timedOut, XenvifClientError } from './errors.js';

/** How a stream of messages is bounded. */
export interface MessageStreamOptions<Message> extends CallOptions {
  readonly connection: Connection;
  /** What a message counts in the queue, in bytes. */
  readonly sizeOf: (message: Message) => number;
  /** The call is paused while more than this waits. */
  readonly pauseAtBytes: number;
  /** Called once when no more will come; with the error, if it is one. */
  readonly onEnd?: (error?: XenvifClientError) => void;
}

/** What the receiving half needs of a gRPC call. */
type ReceivingCall = Readable & { cancel(): void };

/** Where messages come from in place of the call. */
export interface MessageSource {
  isPaused(): boolean;
  pause(): void;
  resume(): void;
  /** Hands out what has been received and waits in a source that was paused. */
  drain(): void;
}

export class MessageStream<Raw, Message> {
  readonly #call: ReceivingCall;
  readonly #options: MessageStreamOptions<Message>;
  readonly #decode: (raw: Raw) => Message | undefined;
  readonly #queue = new AsyncQueue<Message>();
  #source: MessageSource | undefined;
  #queuedBytes = 0;
  #openTimer: NodeJS.Timeout | undefined;

  /**
   * @param call a call that has just been made.
   * @param decode makes the message; undefined for one that the decoder dealt with itself. What it
   *   throws ends the stream.
   */
  constructor(
    call: ReceivingCall,
    decode: (raw: Raw) => Message | undefined,
    options: MessageStreamOptions<Message>,
  ) {
    this.#call = call;
    this.#decode = decode;
    this.#options = options;
    call.on('data', (raw: Raw) => this.receive(raw));
    call.on('end', () => this.#finish(undefined, () => this.#queue.end()));
    call.on('error', (failure: ServiceError) => this.#fail(failure));
    options.connection.calls.add(call);
    const { signal, timeoutMs = DEFAULT_TIMEOUT_MS } = options;
    if (Number.isFinite(timeoutMs)) {
      this.#openTimer = setTimeout(() => this.abort(timedOut(timeoutMs)), timeoutMs);
    }
    if (signal?.aborted) queueMicrotask(this.#onAbort);
    else signal?.addEventListener('abort', this.#onAbort, { once: true });
  }

  /** The next message, or undefined when the stream is over. @throws XenvifClientError, once. */
  async next(): Promise<Message | undefined> {
    const message = await this.#queue.take();
    if (message !== undefined) this.#taken(message);
    return message;
  }

  /** The next message if one waits. */
  poll(): Message | undefined {
    const message = this.#queue.poll();
    if (message !== undefined) this.#taken(message);
    return message;
  }

  /** Ends the stream with `error`, behind what has been received. */
  abort(error: XenvifClientError): void {
    this.#finish(error, () => this.#queue.fail(error));
    cancelCall(this.#call);
  }

  /** Ends the call, quietly; what has been received can still be taken. */
  stop(): void {
    this.#finish(undefined, () => this.#queue.end());
    cancelCall(this.#call);
  }

  /** Ends the stream at once and quietly; what waits is forgotten. */
  close(): void {
    this.#finish(undefined, () => this.#queue.discard());
    cancelCall(this.#call);
  }

  #onAbort = (): void => this.abort(cancelled(this.#options.signal?.reason));

  #taken(message: Message): void {
    this.#queuedBytes -= this.#options.sizeOf(message);
    const source = this.#source ?? this.#call;
    if (source.isPaused() && this.#queuedBytes <= this.#options.pauseAtBytes / 2) source.resume();
  }

  /** From now on messages come from `source`, by `receive`; the call's end and status do not. */
  readFrom(source: MessageSource): void {
    this.#source = source;
  }

  /** Takes a message as it comes. */
  receive(raw: Raw): void {
    if (this.#openTimer !== undefined) {
      clearTimeout(this.#openTimer);
      this.#openTimer = undefined;
    }
    if (this.#queue.ended) return;
    try {
      const message = this.#decode(raw);
      if (message === undefined) return;
      this.#queuedBytes += this.#options.sizeOf(message);
      this.#queue.push(message);
      if (this.#queuedBytes > this.#options.pauseAtBytes) (this.#source ?? this.#call).pause();
    } catch (error) {
      this.refuse(error);
    }
  }

  /** Ends the stream because of something that cannot be read. */
  refuse(error: unknown): void {
    this.abort(error instanceof XenvifClientError ? error : malformed(error));
  }

  #fail(failure: ServiceError): void {
    // A paused call still holds messages that came before the status.
    for (let raw = this.#call.read(); raw !== null; raw = this.#call.read()) this.receive(raw);
    this.#source?.drain();
    const error = errorFromStatus(failure, this.#options.connection);
    this.#finish(error, () => this.#queue.fail(error));
  }

  #finish(error: XenvifClientError | undefined, endQueue: () => void): void {
    const first = !this.#queue.ended;
    clearTimeout(this.#openTimer);
    this.#options.connection.calls.delete(this.#call);
    this.#options.signal?.removeEventListener('abort', this.#onAbort);
    endQueue();
    if (first) this.#options.onEnd?.(error);
  }
}

function malformed(cause: unknown): XenvifClientError {
  const message = 'The daemon sent a message that cannot be read.';
  return new XenvifClientError('RESPONSE_MALFORMED', 'INTERNAL', message, { cause });
}

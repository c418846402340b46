/**
 * One connection to xenstored, from its opening to its loss; it never comes back to life. Requests
 * are pipelined: each has an id of its own, and the reply is matched by it. Whatever breaks the
 * protocol, and a request that stays unanswered, ends the connection, since what xenstored did or
 * did not do is unknown from then on.
 */
import type { Duplex } from 'node:stream';
import { ResourceExhaustedError, StoreError, UnavailableError } from '../../errors.js';
import {
  emitMessage,
  type Message,
  MessageParser,
  MessageType,
  messageName,
  parseStrings,
} from './wire.js';

/** What a connection needs of its owner. */
export interface StoreConnectionOptions {
  readonly requestTimeoutMs: number;
  /** How many requests may wait for their replies. */
  readonly requestsMax: number;
  /** The longest reply to accept, in bytes. */
  readonly replyBytesMax: number;
  readonly onWatchEvent: (path: string, token: string) => void;
  /** Called once, when the connection is gone. */
  readonly onLost: (reason: Error) => void;
}

interface PendingRequest {
  readonly type: number;
  /** What the request was about, for the message of an error. */
  readonly subject: string;
  readonly resolve: (payload: Buffer) => void;
  readonly reject: (error: Error) => void;
  readonly deadlineMs: number;
}

export class StoreConnection {
  readonly #stream: Duplex;
  readonly #options: StoreConnectionOptions;
  readonly #parser: MessageParser;
  readonly #pending = new Map<number, PendingRequest>();
  #nextRequestId = 1;
  #timer: NodeJS.Timeout | undefined;
  #lost: Error | undefined;

  constructor(stream: Duplex, options: StoreConnectionOptions) {
    this.#stream = stream;
    this.#options = options;
    this.#parser = new MessageParser(options.replyBytesMax);
    stream.on('data', (chunk: Buffer) => this.#receive(chunk));
    stream.on('error', (error) => this.#lose(error));
    stream.on('end', () => this.#lose(new Error('xenstored closed the connection')));
    stream.on('close', () => this.#lose(new Error('the connection was closed')));
  }

  get alive(): boolean {
    return this.#lost === undefined;
  }

  /**
   * Sends a request and waits for its reply.
   * @param subject what the request is about, in the words of an error message.
   * @throws StoreError with what xenstored answered; UnavailableError when the connection is lost.
   */
  request(type: number, transactionId: number, payload: Buffer, subject: string): Promise<Buffer> {
    if (this.#lost !== undefined) {
      return Promise.reject(unavailable(this.#lost, subject));
    }
    if (this.#pending.size >= this.#options.requestsMax) {
      const message = `${this.#pending.size} requests to XenStore wait already; ${subject} was not sent`;
      return Promise.reject(new ResourceExhaustedError('XENSTORE_BUSY', message));
    }
    return new Promise((resolve, reject) => {
      const requestId = this.#takeRequestId();
      const message = emitMessage({ type, requestId, transactionId, payload });
      const deadlineMs = performance.now() + this.#options.requestTimeoutMs;
      this.#pending.set(requestId, { type, subject, resolve, reject, deadlineMs });
      this.#stream.write(message);
      this.#armTimer(this.#options.requestTimeoutMs);
    });
  }

  /** Ends the connection; requests that wait fail with `reason`. */
  close(reason: Error): void {
    this.#lose(reason);
  }

  #takeRequestId(): number {
    // 0 is the id of watch events, and an id still in use must not be given twice.
    while (this.#nextRequestId === 0 || this.#pending.has(this.#nextRequestId)) {
      this.#nextRequestId = (this.#nextRequestId + 1) >>> 0;
    }
    const requestId = this.#nextRequestId;
    this.#nextRequestId = (requestId + 1) >>> 0;
    return requestId;
  }

  #receive(chunk: Buffer): void {
    try {
      for (const message of this.#parser.feed(chunk)) {
        this.#dispatch(message);
        if (this.#lost !== undefined) {
          return;
        }
      }
    } catch (error) {
      this.#lose(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #dispatch(message: Message): void {
    if (message.type === MessageType.WATCH_EVENT) {
      const [path, token] = parseStrings(message.payload) ?? [];
      if (path === undefined || token === undefined) {
        throw new Error('xenstored sent a watch event without a path and a token');
      }
      this.#options.onWatchEvent(path, token);
      return;
    }
    const request = this.#pending.get(message.requestId);
    if (request === undefined) {
      throw new Error(`xenstored answered the request ${message.requestId}, which nobody sent`);
    }
    if (message.type !== request.type && message.type !== MessageType.ERROR) {
      const name = messageName(message.type) ?? message.type;
      throw new Error(`xenstored answered ${request.subject} with a message of the type ${name}`);
    }
    this.#pending.delete(message.requestId);
    if (message.type === MessageType.ERROR) {
      const errno = parseStrings(message.payload)?.[0] ?? 'EIO';
      request.reject(new StoreError(errno, `XenStore refused to ${request.subject}: ${errno}`));
    } else {
      request.resolve(message.payload);
    }
    if (this.#pending.size === 0) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
    }
  }

  /** One timer serves all requests: they time out in the order in which they were sent. */
  #armTimer(delayMs: number): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      const [oldest] = this.#pending.values();
      if (oldest === undefined) {
        return;
      }
      const leftMs = oldest.deadlineMs - performance.now();
      if (leftMs > 0) {
        this.#armTimer(leftMs);
      } else {
        const { requestTimeoutMs } = this.#options;
        this.#lose(new Error(`xenstored did not answer within ${requestTimeoutMs} ms`));
      }
    }, delayMs);
  }

  #lose(reason: Error): void {
    if (this.#lost !== undefined) {
      return;
    }
    this.#lost = reason;
    clearTimeout(this.#timer);
    this.#stream.destroy();
    for (const request of this.#pending.values()) {
      request.reject(unavailable(reason, request.subject));
    }
    this.#pending.clear();
    this.#options.onLost(reason);
  }
}

function unavailable(reason: Error, subject: string): UnavailableError {
  return new UnavailableError(
    'XENSTORE_UNAVAILABLE',
    `XenStore cannot be reached (${reason.message}); could not ${subject}`,
    {},
    { cause: reason },
  );
}

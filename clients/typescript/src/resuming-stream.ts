/**
 * A stream that is opened again when the connection is lost: the loop around one call after the
 * other, written once for watches and statistics.
 */
import { isUnavailable, XenvifClientError } from './errors.js';
import { Backoff, pause } from './retry.js';

/** What a resuming stream needs of one call. */
export interface StreamAttempt<Message> {
  next(): Promise<Message | undefined>;
  close(): void;
}

export interface ResumeOptions {
  readonly signal?: AbortSignal | undefined;
  /** Open the stream again after the connection was lost. Default true. */
  readonly reconnect?: boolean | undefined;
}

/** An async iterable with an end that either side can call. */
export abstract class ResumingStream<Message, Event> implements AsyncIterable<Event> {
  readonly #options: ResumeOptions;
  readonly #closing = new AbortController();
  #attempt: StreamAttempt<Message> | undefined;

  constructor(options: ResumeOptions) {
    this.#options = options;
  }

  /** Opens the call, for the first time or again. */
  protected abstract open(): StreamAttempt<Message>;
  /** What a message is to the caller; undefined for one that a newer daemon sends. */
  protected abstract event(message: Message): Event | undefined;
  /** What the caller is told when the stream has been opened again, if anything. */
  protected abstract reopened(): Event | undefined;
  /** Whether the stream can be opened again at once after `error`, which is no lost connection. */
  protected restartsAfter(_error: XenvifClientError): boolean {
    return false;
  }

  /** Ends the stream; a loop over it ends without an error. */
  close(): void {
    this.#closing.abort();
    this.#attempt?.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  /** @throws XenvifClientError when the stream fails and cannot be opened again. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Event, void, undefined> {
    const backoff = new Backoff();
    let wasOpen = false;
    try {
      while (!this.#closing.signal.aborted) {
        let messages = 0;
        this.#attempt = this.open();
        try {
          for (;;) {
            const message = await this.#attempt.next();
            if (message === undefined) return;
            if (messages === 0 && wasOpen) {
              const reopened = this.reopened();
              if (reopened !== undefined) yield reopened;
            }
            messages += 1;
            wasOpen = true;
            backoff.reset();
            const event = this.event(message);
            if (event !== undefined) yield event;
          }
        } catch (error) {
          if (!(error instanceof XenvifClientError)) throw error;
          if (this.restartsAfter(error)) continue;
          if (!wasOpen || !this.#mayResume(error)) throw error;
        }
        await pause(backoff.nextMs(), this.#anySignal());
        if (this.#options.signal?.aborted) return;
      }
    } finally {
      this.close();
    }
  }

  #mayResume(error: XenvifClientError): boolean {
    return isUnavailable(error) && (this.#options.reconnect ?? true);
  }

  #anySignal(): AbortSignal {
    const { signal } = this.#options;
    return signal === undefined
      ? this.#closing.signal
      : AbortSignal.any([signal, this.#closing.signal]);
  }
}

/**
 * A call of FrameService that is made again when the connection breaks: for a NIC, which shall stay
 * what it is while the daemon restarts or the network stumbles. One `FrameCall` follows the other;
 * whoever reads gets what the broken one had received and goes on with the next.
 */
import type { Connection } from './connection.js';
import { Deferred } from './deferred.js';
import { cancelled, isUnavailable, XenvifClientError } from './errors.js';
import { FrameCall, type FrameEventMessage } from './frame-call.js';
import type { FramePurpose, FrameStreamOptions, OpenedFrames } from './frame-options.js';
import { Backoff, pause } from './retry.js';

export interface ResumingFrameCallOptions {
  /** What the first call asks for, or one that follows `before`. */
  readonly purpose: (before?: OpenedFrames) => FramePurpose;
  readonly stream: FrameStreamOptions;
  /** How long to try again after the connection broke, in milliseconds. 0: not at all. */
  readonly resumeForMs: number;
  /** Sees every message of `call` as it arrives; answers whether it is dealt with and `next` skips it. */
  readonly onMessage: (message: FrameEventMessage, call: FrameCall) => boolean;
  /** The connection broke; the call is being made again. */
  readonly onBroken: () => void;
  /** The call has been made again. */
  readonly onResumed: (opened: OpenedFrames) => void;
  /** It is over for good; with the error, if it is one. Called once. */
  readonly onEnd: (error?: XenvifClientError) => void;
}

/** One call, and how things go on behind it. */
interface Attempt {
  readonly call: FrameCall;
  readonly ended: Deferred<XenvifClientError | undefined>;
  /** Whether another attempt follows. */
  readonly followed: Deferred<boolean>;
}

export class ResumingFrameCall {
  readonly #connection: Connection;
  readonly #options: ResumingFrameCallOptions;
  readonly #stopping = new AbortController();
  #attempt: Attempt;
  #opened: OpenedFrames | undefined;
  #ended = false;
  #failure: XenvifClientError | undefined;

  /** Makes the first call. @throws XenvifClientError CREDIT_TOO_SMALL, and what `purpose` throws. */
  constructor(connection: Connection, options: ResumingFrameCallOptions) {
    this.#connection = connection;
    this.#options = options;
    this.#attempt = this.#begin(options.stream.timeoutMs);
  }

  /** Settles when the daemon has answered the first open message. @throws XenvifClientError */
  async open(): Promise<OpenedFrames> {
    const attempt = this.#attempt;
    try {
      this.#opened = await attempt.call.opened;
      return this.#opened;
    } finally {
      // A call that never opened is not made again.
      this.#follow(attempt, this.#opened !== undefined);
    }
  }

  /** The next message, or undefined when it is over. As `FrameCall.next`. @throws XenvifClientError, once. */
  async next(): Promise<FrameEventMessage | undefined> {
    for (;;) {
      const attempt = this.#attempt;
      let failed = false;
      try {
        const message = await attempt.call.next();
        if (message !== undefined) return message;
      } catch {
        failed = true;
      }
      if (await attempt.followed.promise) continue;
      // What ended it may be something else than what broke this call.
      if (failed && this.#failure !== undefined) throw this.#failure;
      return undefined;
    }
  }

  /** Hands what waits to `take`, with its call, for as long as `wants` says so. */
  drain(wants: () => boolean, take: (message: FrameEventMessage, call: FrameCall) => void): void {
    const { call } = this.#attempt;
    while (wants()) {
      const message = call.poll();
      if (message === undefined) return;
      take(message, call);
    }
  }

  /** As `FrameCall.send`: while the connection is broken, `onAccepted` never runs. */
  send(message: Buffer, onAccepted: () => void): void {
    this.#attempt.call.send(message, onAccepted);
  }

  /** Says that nothing more will be sent: the daemon ends the call, and no other follows. */
  halfClose(): void {
    this.#stopping.abort();
    this.#attempt.call.halfClose();
  }

  /** Ends it at once and quietly. */
  close(): void {
    this.#stopping.abort();
    this.#attempt.call.close();
  }

  #begin(timeoutMs: number | undefined): Attempt {
    const { purpose, stream, onMessage } = this.#options;
    const ended = new Deferred<XenvifClientError | undefined>();
    const call: FrameCall = new FrameCall(
      this.#connection,
      purpose(this.#opened),
      { ...stream, timeoutMs },
      {
        onMessage: (message) => onMessage(message, call),
        onEnd: (error) => ended.resolve(error),
      },
    );
    return { call, ended, followed: new Deferred() };
  }

  /** Decides what comes when `attempt` has ended: another, or the end. */
  #follow(attempt: Attempt, mayResume: boolean): void {
    attempt.ended.promise
      .then(async (error) => {
        const resumes = mayResume && this.#mayResume(error);
        const failure = resumes ? await this.#resume(error) : error;
        if (this.#attempt !== attempt) return;
        this.#finish(attempt, failure);
      })
      .catch((error: unknown) => {
        // What a callback throws must not leave a NIC that is neither here nor gone.
        this.close();
        this.#finish(attempt, error instanceof XenvifClientError ? error : cancelled(error));
      });
  }

  /**
   * Makes the call again until it opens, the time is up, or trying is of no use. Answers the error that
   * is to be told; undefined also when another attempt has taken over.
   */
  async #resume(broken: XenvifClientError): Promise<XenvifClientError | undefined> {
    this.#options.onBroken();
    const { calls } = this.#connection;
    // Between two attempts there is no call that the end of the client could cancel.
    const waiting = { cancel: () => this.#stopping.abort() };
    calls.add(waiting);
    const untilMs = performance.now() + this.#options.resumeForMs;
    const backoff = new Backoff();
    let reason = broken;
    try {
      for (;;) {
        const leftMs = untilMs - performance.now();
        if (leftMs <= 0) return reason;
        await pause(Math.min(backoff.nextMs(), leftMs), this.#anySignal());
        const failure = this.#stopping.signal.aborted ? undefined : await this.#tryAgain(untilMs);
        if (this.#connection.isClosed) return cancelled();
        if (failure === undefined || this.#stopping.signal.aborted) return undefined;
        if (!isTransient(failure)) return failure;
        if (failure.fromDaemon) reason = failure;
      }
    } finally {
      calls.delete(waiting);
    }
  }

  /** Makes one call; undefined when it has opened and taken over from the one before. */
  async #tryAgain(untilMs: number): Promise<XenvifClientError | undefined> {
    const last = this.#attempt;
    const attempt = this.#begin(Math.max(1, untilMs - performance.now()));
    const stop = (): void => attempt.call.close();
    this.#stopping.signal.addEventListener('abort', stop, { once: true });
    try {
      const opened = await attempt.call.opened;
      if (this.#stopping.signal.aborted) return undefined;
      this.#opened = opened;
    } catch (error) {
      if (error instanceof XenvifClientError) return error;
      throw error;
    } finally {
      this.#stopping.signal.removeEventListener('abort', stop);
    }
    this.#attempt = attempt;
    last.followed.resolve(true);
    this.#follow(attempt, true);
    this.#options.onResumed(this.#opened);
    return undefined;
  }

  #mayResume(error: XenvifClientError | undefined): error is XenvifClientError {
    if (this.#options.resumeForMs <= 0 || this.#stopping.signal.aborted) return false;
    return isUnavailable(error) && !this.#connection.isClosed;
  }

  #finish(last: Attempt, error: XenvifClientError | undefined): void {
    if (!this.#ended) this.#failure = error;
    last.followed.resolve(false);
    if (this.#ended) return;
    this.#ended = true;
    this.#options.onEnd(error);
  }

  #anySignal(): AbortSignal {
    const { signal } = this.#options.stream;
    const stopping = this.#stopping.signal;
    return signal === undefined ? stopping : AbortSignal.any([signal, stopping]);
  }
}

/**
 * Whether a later attempt may succeed where this one failed. A daemon that has just started may not
 * have found everything, and one that has not missed us yet has our place taken.
 */
function isTransient({ grpcStatus }: XenvifClientError): boolean {
  return ['UNAVAILABLE', 'DEADLINE_EXCEEDED', 'NOT_FOUND', 'ALREADY_EXISTS'].includes(grpcStatus);
}

/**
 * Time as the stack knows it, behind an interface so that a simulation may have a time of its own, and
 * a timer that is cheap to move: what a TCP connection does with each acknowledgement.
 */
export interface Clock {
  /** Milliseconds from anywhere, never going back. */
  nowMs(): number;
  /**
   * Calls `run` after `delayMs`; what it returns forbids it. Without `keepsAlive` the wait does not
   * keep the process from ending.
   */
  wake(delayMs: number, run: () => void, keepsAlive?: boolean): () => void;
}

export const monotonicClock: Clock = {
  nowMs: () => performance.now(),
  wake: (delayMs, run, keepsAlive = true) => {
    const timer = setTimeout(run, delayMs);
    if (!keepsAlive) timer.unref();
    return () => clearTimeout(timer);
  },
};

/** Resolves after `delayMs`, or as soon as the signal is aborted. */
export function pause(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      cancel();
      signal?.removeEventListener('abort', end);
      resolve();
    };
    const cancel = clock.wake(delayMs, end);
    if (signal?.aborted) end();
    else signal?.addEventListener('abort', end, { once: true });
  });
}

/**
 * Calls `run` at a time that may be moved at no cost: moved back, the wake that was asked for finds
 * that it is early and asks for another.
 */
export class DeadlineTimer {
  readonly #clock: Clock;
  readonly #run: () => void;
  #keepsAlive: boolean;
  #deadlineMs = Number.POSITIVE_INFINITY;
  #wakeMs = Number.POSITIVE_INFINITY;
  #cancel: (() => void) | undefined;
  readonly #onWake = () => this.#wake();

  constructor(clock: Clock, run: () => void, keepsAlive = true) {
    this.#clock = clock;
    this.#run = run;
    this.#keepsAlive = keepsAlive;
  }

  /** Moves the time; infinity: never. */
  set(deadlineMs: number): void {
    this.#deadlineMs = deadlineMs;
    if (deadlineMs < this.#wakeMs) this.#ask(deadlineMs);
  }

  /** From now on the wait does not keep the process from ending. */
  release(): void {
    this.#keepsAlive = false;
    this.stop();
  }

  stop(): void {
    this.#deadlineMs = Number.POSITIVE_INFINITY;
    this.#wakeMs = Number.POSITIVE_INFINITY;
    this.#cancel?.();
    this.#cancel = undefined;
  }

  #ask(atMs: number): void {
    this.#cancel?.();
    this.#wakeMs = atMs;
    const delayMs = Math.max(0, Math.ceil(atMs - this.#clock.nowMs()));
    this.#cancel = this.#clock.wake(delayMs, this.#onWake, this.#keepsAlive);
  }

  #wake(): void {
    this.#cancel = undefined;
    this.#wakeMs = Number.POSITIVE_INFINITY;
    if (this.#deadlineMs === Number.POSITIVE_INFINITY) return;
    if (this.#clock.nowMs() < this.#deadlineMs) {
      this.#ask(this.#deadlineMs);
      return;
    }
    this.#deadlineMs = Number.POSITIVE_INFINITY;
    this.#run();
  }
}

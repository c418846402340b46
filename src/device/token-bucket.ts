/**
 * A token bucket over monotonic time: what may pass, growing with time up to a burst. The caller asks
 * for what it wants to take and, where there is not enough, how long to wait.
 */

export class TokenBucket {
  readonly #perMs: number;
  readonly #burst: number;
  #tokens: number;
  #filledMs: number;

  /** A full bucket, at time `nowMs` of the clock that the caller will use ever after. */
  constructor(perMs: number, burst: number, nowMs: number) {
    this.#perMs = perMs;
    this.#burst = burst;
    this.#tokens = burst;
    this.#filledMs = nowMs;
  }

  /** Takes `count` tokens, no more than the burst, if they are there. */
  take(count: number, nowMs: number): boolean {
    this.#fill(nowMs);
    if (this.#tokens < count) return false;
    this.#tokens -= count;
    return true;
  }

  /** How long, in milliseconds, until `count` tokens can be taken. */
  waitMs(count: number, nowMs: number): number {
    this.#fill(nowMs);
    return Math.max(0, (count - this.#tokens) / this.#perMs);
  }

  #fill(nowMs: number): void {
    const elapsedMs = nowMs - this.#filledMs;
    if (elapsedMs <= 0) return;
    this.#filledMs = nowMs;
    this.#tokens = Math.min(this.#burst, this.#tokens + elapsedMs * this.#perMs);
  }
}

/** A limit as the toolstack writes it: so many bytes in each interval. */
export interface RateLimit {
  readonly bytesPerInterval: number;
  readonly intervalUs: number;
}

/** The least burst, in bytes: two frames of the greatest length, as in Linux's netback. */
const BURST_BYTES_MIN = 128 * 1024;

/** A bucket of bytes, for a limit on what a guest or a port may send. */
export class RateBucket extends TokenBucket {
  readonly limit: RateLimit;

  constructor(limit: RateLimit, nowMs: number) {
    const { bytesPerInterval, intervalUs } = limit;
    const burst = Math.max(BURST_BYTES_MIN, bytesPerInterval);
    super((bytesPerInterval * 1000) / intervalUs, burst, nowMs);
    this.limit = limit;
  }
}

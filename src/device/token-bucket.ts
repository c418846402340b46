/**
 * A token bucket over monotonic time: bytes that may pass, growing with time up to a burst. The
 * caller asks for what it wants to send and, where there is not enough, how long to wait.
 */

/** A limit as the toolstack writes it: so many bytes in each interval. */
export interface RateLimit {
  readonly bytesPerInterval: number;
  readonly intervalUs: number;
}

/** The least burst, in bytes: two frames of the greatest length, as in Linux's netback. */
const BURST_BYTES_MIN = 128 * 1024;

export class TokenBucket {
  readonly limit: RateLimit;
  readonly #bytesPerMs: number;
  readonly #burstBytes: number;
  #tokens: number;
  #filledMs: number;

  /** A full bucket, at time `nowMs` of the clock that the caller will use ever after. */
  constructor(limit: RateLimit, nowMs: number) {
    this.limit = limit;
    this.#bytesPerMs = (limit.bytesPerInterval * 1000) / limit.intervalUs;
    this.#burstBytes = Math.max(BURST_BYTES_MIN, limit.bytesPerInterval);
    this.#tokens = this.#burstBytes;
    this.#filledMs = nowMs;
  }

  /** Takes `bytes` (no more than 64 KiB) if they are there. */
  take(bytes: number, nowMs: number): boolean {
    this.#fill(nowMs);
    if (this.#tokens < bytes) return false;
    this.#tokens -= bytes;
    return true;
  }

  /** How long, in milliseconds, until `bytes` can be taken. */
  waitMs(bytes: number, nowMs: number): number {
    this.#fill(nowMs);
    return Math.max(0, (bytes - this.#tokens) / this.#bytesPerMs);
  }

  #fill(nowMs: number): void {
    const elapsedMs = nowMs - this.#filledMs;
    this.#filledMs = nowMs;
    this.#tokens = Math.min(this.#burstBytes, this.#tokens + elapsedMs * this.#bytesPerMs);
  }
}

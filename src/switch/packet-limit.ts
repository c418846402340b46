/** A token bucket that counts frames: what a storm is measured with. */

/** How much of a second's frames may come at once. */
const BURST_SECONDS = 0.1;
/** The least burst: a turn of a ring must not look like a storm. */
const BURST_MIN = 64;

export class PacketLimit {
  readonly perSecond: number;
  readonly #burst: number;
  #tokens: number;
  #filledMs: number;

  /** A full bucket, at time `nowMs` of the clock that the caller will use ever after. */
  constructor(perSecond: number, nowMs: number) {
    this.perSecond = perSecond;
    this.#burst = Math.max(BURST_MIN, perSecond * BURST_SECONDS);
    this.#tokens = this.#burst;
    this.#filledMs = nowMs;
  }

  /** Takes a frame's token if there is one. */
  take(nowMs: number): boolean {
    const elapsedMs = nowMs - this.#filledMs;
    if (elapsedMs > 0) {
      this.#filledMs = nowMs;
      this.#tokens = Math.min(this.#burst, this.#tokens + (elapsedMs * this.perSecond) / 1000);
    }
    if (this.#tokens < 1) return false;
    this.#tokens -= 1;
    return true;
  }
}

/**
 * A bound on the lines that a stranger can make us log: so many at once, and then one now and then,
 * with the number of those that were left out.
 */

/** Lines that may follow one another. */
const BURST = 10;
/** How long, in milliseconds, until one more may. */
const INTERVAL_MS = 1000;

export class LogLimit {
  #tokens = BURST;
  #filledMs = performance.now();
  #suppressed = 0;

  /** Writes a line by `write`, which gets how many were left out before it; or leaves it out. */
  line(write: (suppressed: number | undefined) => void): void {
    const nowMs = performance.now();
    this.#tokens = Math.min(BURST, this.#tokens + (nowMs - this.#filledMs) / INTERVAL_MS);
    this.#filledMs = nowMs;
    if (this.#tokens < 1) {
      this.#suppressed += 1;
      return;
    }
    this.#tokens -= 1;
    const suppressed = this.#suppressed === 0 ? undefined : this.#suppressed;
    this.#suppressed = 0;
    write(suppressed);
  }
}

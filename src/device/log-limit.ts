/**
 * A bound on the lines that a stranger can make us log: so many at once, and then one now and then,
 * with the number of those that were left out.
 */

import { TokenBucket } from './token-bucket.js';

/** Lines that may follow one another. */
const BURST = 10;
/** How long, in milliseconds, until one more may. */
const INTERVAL_MS = 1000;

export class LogLimit {
  readonly #bucket = new TokenBucket(1 / INTERVAL_MS, BURST, performance.now());
  #suppressed = 0;

  /** Writes a line by `write`, which gets how many were left out before it; or leaves it out. */
  line(write: (suppressed: number | undefined) => void): void {
    if (!this.#bucket.take(1, performance.now())) {
      this.#suppressed += 1;
      return;
    }
    const suppressed = this.#suppressed === 0 ? undefined : this.#suppressed;
    this.#suppressed = 0;
    write(suppressed);
  }
}

/** Numbers that look random and are the same for the same seed: xorshift32 (Marsaglia, 2003). */
export class SeededRandom {
  #state: number;

  constructor(seed: number) {
    // Seeds that lie close together shall not begin alike, and zero would stay zero.
    this.#state = Math.imul(seed, 0x9e3779b1) >>> 0 || 1;
  }

  /** From 0 to 1, without 1. */
  next(): number {
    let state = this.#state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#state = state >>> 0;
    return this.#state / 2 ** 32;
  }

  /** A whole number from 0 to `end`, without `end`. */
  below(end: number): number {
    return Math.floor(this.next() * end);
  }
}

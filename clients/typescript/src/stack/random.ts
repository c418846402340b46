/** Random numbers that nobody can guess, behind an interface so that a simulation can repeat itself. */
import { randomFillSync } from 'node:crypto';

export interface RandomSource {
  /** Any number from 0 to 2^32 - 1. */
  u32(): number;
}

const POOL_NUMBERS = 256;

class UnguessableNumbers implements RandomSource {
  readonly #pool = new Uint32Array(POOL_NUMBERS);
  #next = POOL_NUMBERS;

  u32(): number {
    if (this.#next === POOL_NUMBERS) {
      randomFillSync(this.#pool);
      this.#next = 0;
    }
    const number = this.#pool[this.#next] as number;
    this.#next += 1;
    return number;
  }
}

export const unguessable: RandomSource = new UnguessableNumbers();

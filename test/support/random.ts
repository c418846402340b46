/** A small seeded generator (xorshift32): the same seed gives the same test for ever. */
export interface SeededRandom {
  /** Any 32-bit number. */
  u32(): number;
  /** A number from 0 to `end`, without `end`. */
  below(end: number): number;
}

export function seededRandom(seed: number): SeededRandom {
  let state = (seed * 2654435761) >>> 0 || 1;
  const u32 = () => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state;
  };
  return { u32, below: (end) => u32() % end };
}

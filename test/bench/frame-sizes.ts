/** What frames are like in a row of the benchmark: all of one length, or a mix. */

/** The simple Internet mix: seven frames of 64 bytes, four of 590 and one of 1514. */
const IMIX = [64, 590, 64, 64, 590, 64, 1514, 64, 590, 64, 590, 64];

/** The lengths of frames, again and again in this order, of `name`: a number of bytes, or "imix". */
export function sizesOf(name: string): readonly number[] {
  return name === 'imix' ? IMIX : [Number(name)];
}

/** The length of a frame, on average. */
export function meanSize(name: string): number {
  const sizes = sizesOf(name);
  return sizes.reduce((sum, size) => sum + size, 0) / sizes.length;
}

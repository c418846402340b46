/**
 * The Internet checksum (RFC 1071). One's complement sums do not depend on the byte order in which
 * they are taken, but for a swap at the end: long ranges are summed as the 32-bit words of the
 * machine, which is little-endian wherever Xen's rings are.
 */

/** Ranges shorter than this are summed by bytes: there the words are not worth finding. */
const WORDS_WORTH_BYTES = 64;

/** One view of words for each buffer that was summed in, for making one costs more than a sum. */
const wordViews = new WeakMap<ArrayBufferLike, Uint32Array>();

/** The one's complement sum of `bytes[start .. end)`, folded to 16 bits, before the complement. */
export function sumWords(bytes: Uint8Array, start: number, end: number, initial = 0): number {
  if (end - start >= WORDS_WORTH_BYTES) return foldSum(initial + sumAligned(bytes, start, end));
  let sum = initial;
  let index = start;
  for (; index + 1 < end; index += 2) {
    sum += ((bytes[index] as number) << 8) | (bytes[index + 1] as number);
  }
  if (index < end) sum += (bytes[index] as number) << 8;
  return foldSum(sum);
}

/** The checksum to be written where the field itself is zero; 0 over a range that has a right one. */
export function internetChecksum(bytes: Uint8Array, start: number, end: number): number {
  return ~sumWords(bytes, start, end) & 0xffff;
}

/** Folds a sum of 16-bit words, which may have any size below 2^53, to 16 bits. */
export function foldSum(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded & 0xffff) + Math.floor(folded / 0x10000);
  return folded;
}

/**
 * Sums a range of at least four bytes through the aligned words in it. `even` and `odd` gather the
 * bytes at even and odd addresses, which are the low and high bytes of little-endian words.
 */
function sumAligned(bytes: Uint8Array, start: number, end: number): number {
  const words = wordsOf(bytes.buffer);
  const base = bytes.byteOffset;
  let even = 0;
  let odd = 0;
  let index = start;
  for (; ((base + index) & 3) !== 0; index += 1) {
    if (((base + index) & 1) === 0) even += bytes[index] as number;
    else odd += bytes[index] as number;
  }
  const wordsEnd = (base + end) >>> 2;
  const sum = sumWholeWords(words, (base + index) >>> 2, wordsEnd);
  for (index = wordsEnd * 4 - base; index < end; index += 1) {
    if (((base + index) & 1) === 0) even += bytes[index] as number;
    else odd += bytes[index] as number;
  }
  const folded = foldSum(sum + even + odd * 256);
  // A range that starts at an odd address has its first bytes, the high ones, in the odd places.
  if (((base + start) & 1) === 1) return folded;
  return ((folded & 0xff) << 8) | (folded >>> 8);
}

/** Sums both halves of `words[first .. end)`, each apart, so that small integers suffice. */
function sumWholeWords(words: Uint32Array, first: number, end: number): number {
  let low = 0;
  let high = 0;
  let index = first;
  for (; index + 3 < end; index += 4) {
    const a = words[index] as number;
    const b = words[index + 1] as number;
    const c = words[index + 2] as number;
    const d = words[index + 3] as number;
    low += (a & 0xffff) + (b & 0xffff) + (c & 0xffff) + (d & 0xffff);
    high += (a >>> 16) + (b >>> 16) + (c >>> 16) + (d >>> 16);
  }
  for (; index < end; index += 1) {
    const word = words[index] as number;
    low += word & 0xffff;
    high += word >>> 16;
  }
  return low + high;
}

function wordsOf(buffer: ArrayBufferLike): Uint32Array {
  const known = wordViews.get(buffer);
  if (known !== undefined) return known;
  const words = new Uint32Array(buffer, 0, buffer.byteLength >>> 2);
  wordViews.set(buffer, words);
  return words;
}

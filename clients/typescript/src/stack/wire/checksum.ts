/**
 * The Internet checksum (RFC 1071) and the pseudo-header of TCP and UDP (RFC 9293, section 3.1; RFC
 * 768). The sum is taken over the words of the machine where that is worth it: one's complement sums
 * do not depend on byte order but for a swap at the end, and Node runs on little-endian machines.
 */

/** Ranges shorter than this are summed by bytes: there the words are not worth finding. */
const WORDS_WORTH_BYTES = 64;

/** One view of words for each buffer that was summed in, for making one costs more than a sum. */
const wordViews = new WeakMap<ArrayBufferLike, Uint32Array>();

/** The one's complement sum of `bytes[start .. end)` and `initial`, folded to 16 bits. */
export function sumBytes(bytes: Uint8Array, start: number, end: number, initial = 0): number {
  if (end - start >= WORDS_WORTH_BYTES) return foldSum(initial + sumWords(bytes, start, end));
  let sum = initial;
  let index = start;
  for (; index + 1 < end; index += 2) {
    sum += ((bytes[index] as number) << 8) | (bytes[index + 1] as number);
  }
  if (index < end) sum += (bytes[index] as number) << 8;
  return foldSum(sum);
}

/** The checksum for a range whose own field is zero; 0 over a range that has a right one. */
export function internetChecksum(
  bytes: Uint8Array,
  start: number,
  end: number,
  initial = 0,
): number {
  return ~sumBytes(bytes, start, end, initial) & 0xffff;
}

/** The sum of the pseudo-header: addresses as 32-bit numbers, the protocol, the bytes behind IP. */
export function pseudoHeaderSum(
  source: number,
  destination: number,
  protocol: number,
  length: number,
): number {
  return foldSum(
    (source >>> 16) +
      (source & 0xffff) +
      (destination >>> 16) +
      (destination & 0xffff) +
      protocol +
      length,
  );
}

/** Folds a sum below 2^53 to 16 bits. */
export function foldSum(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded & 0xffff) + Math.floor(folded / 0x10000);
  return folded;
}

/** `even` and `odd` gather bytes at even and odd addresses: the low and high halves of words. */
function sumWords(bytes: Uint8Array, start: number, end: number): number {
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
  let low = 0;
  let high = 0;
  for (let word = (base + index) >>> 2; word < wordsEnd; word += 1) {
    const value = words[word] as number;
    low += value & 0xffff;
    high += value >>> 16;
  }
  for (index = wordsEnd * 4 - base; index < end; index += 1) {
    if (((base + index) & 1) === 0) even += bytes[index] as number;
    else odd += bytes[index] as number;
  }
  const folded = foldSum(low + high + even + odd * 256);
  // A range that starts at an odd address has its first bytes, the high ones, in the odd places.
  if (((base + start) & 1) === 1) return folded;
  return ((folded & 0xff) << 8) | (folded >>> 8);
}

function wordsOf(buffer: ArrayBufferLike): Uint32Array {
  const known = wordViews.get(buffer);
  if (known !== undefined) return known;
  const words = new Uint32Array(buffer, 0, buffer.byteLength >>> 2);
  wordViews.set(buffer, words);
  return words;
}

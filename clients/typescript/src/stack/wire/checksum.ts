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
  const low = sum >>> 0;
  const high = (sum / 0x1_0000_0000) | 0;
  const once = (low & 0xffff) + (low >>> 16) + (high & 0xffff) + (high >>> 16);
  const twice = (once & 0xffff) + (once >>> 16);
  return (twice & 0xffff) + (twice >>> 16);
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

/**
 * The plain sum of `words[first .. end)`, exact up to eight megabytes: folded to 16 bits it is the same
 * as that of their halves, for 2^32 is 1 modulo 65535. Four sums, none of which waits for another.
 */
function sumWholeWords(words: Uint32Array, first: number, end: number): number {
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  let at = first;
  for (; at + 7 < end; at += 8) {
    a += (words[at] as number) + (words[at + 1] as number);
    b += (words[at + 2] as number) + (words[at + 3] as number);
    c += (words[at + 4] as number) + (words[at + 5] as number);
    d += (words[at + 6] as number) + (words[at + 7] as number);
  }
  for (; at < end; at += 1) a += words[at] as number;
  return a + b + c + d;
}

function wordsOf(buffer: ArrayBufferLike): Uint32Array {
  const known = wordViews.get(buffer);
  if (known !== undefined) return known;
  const words = new Uint32Array(buffer, 0, buffer.byteLength >>> 2);
  wordViews.set(buffer, words);
  return words;
}

/** The Internet checksum (RFC 1071). */

/** The one's complement sum of `bytes[start .. end)`, folded to 16 bits, before the complement. */
export function sumWords(bytes: Uint8Array, start: number, end: number, initial = 0): number {
  let sum = initial;
  let index = start;
  for (; index + 1 < end; index += 2) {
    sum += ((bytes[index] as number) << 8) | (bytes[index + 1] as number);
  }
  if (index < end) sum += (bytes[index] as number) << 8;
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return sum;
}

/** The checksum to be written where the field itself is zero; 0 over a range that has a right one. */
export function internetChecksum(bytes: Uint8Array, start: number, end: number): number {
  return ~sumWords(bytes, start, end) & 0xffff;
}

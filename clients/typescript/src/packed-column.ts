/**
 * A column of a batch: `repeated uint32`, packed. It is decoded when somebody first looks at it, for
 * most programs never look at most columns.
 */
import { malformedMessage, WireReader } from './wire-reader.js';

/** What stands for a column that was left out: every entry is zero. */
export const ABSENT_COLUMN = new Uint32Array(0);

/**
 * Decodes the numbers in `bytes[start .. end)`, of which there must be `count`.
 * @throws XenvifClientError RESPONSE_MALFORMED
 */
export function decodeColumn(
  bytes: Buffer,
  start: number,
  end: number,
  count: number,
  name: string,
): Uint32Array {
  const values = new Uint32Array(count);
  const found = readPacked(bytes, start, end, values, 0);
  if (found !== count) throw wrongCount(name, found, count);
  return values;
}

export function wrongCount(name: string, found: number, count: number): Error {
  return malformedMessage(`the column ${name} has ${found} entries for ${count} frames`);
}

/**
 * Writes the numbers in `bytes[start .. end)` to `values` from `first` on, as far as they fit; answers
 * the index behind the last, also of those that did not.
 */
export function readPacked(
  bytes: Buffer,
  start: number,
  end: number,
  values: Uint32Array,
  first: number,
): number {
  let count = first;
  let pos = start;
  while (pos < end) {
    let value = bytes[pos++] as number;
    if (value >= 0x80) {
      // Up to three bytes here: a flag, and the distance in time of 2 ms.
      const second = pos < end ? (bytes[pos] as number) : 0xff;
      const third = pos + 1 < end ? (bytes[pos + 1] as number) : 0xff;
      if (second < 0x80) {
        value = (value & 0x7f) | (second << 7);
        pos += 1;
      } else if (third < 0x80) {
        value = (value & 0x7f) | ((second & 0x7f) << 7) | (third << 14);
        pos += 2;
      } else {
        const reader = new WireReader(bytes, pos - 1, end);
        value = reader.varint32();
        pos = reader.pos;
      }
    }
    values[count++] = value;
  }
  return count;
}

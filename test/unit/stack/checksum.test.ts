import { internetChecksum, sumBytes } from '@xenvif/client/wire';
import { describe, expect, test } from 'vitest';
import { seededRandom } from '../../support/random.js';
import { onesComplement, randomBytes } from '../wire/packet-builder.js';

describe('the Internet checksum', () => {
  test('is that of the example in RFC 1071, section 3', () => {
    const bytes = Uint8Array.of(0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7);
    expect(sumBytes(bytes, 0, 8)).toBe(0xddf2);
    expect(internetChecksum(bytes, 0, 8)).toBe(0x220d);
  });

  test('agrees with arithmetic modulo 65535 at every start, length and place in memory', () => {
    const random = seededRandom(1);
    const memory = new Uint8Array(4099);
    for (let round = 0; round < 3000; round += 1) {
      const bytes = memory.subarray(random.below(9), memory.length - random.below(9));
      const start = random.below(64);
      const end = start + random.below(round < 1500 ? 160 : 3900);
      bytes.set(randomBytes(random, end - start), start);
      if (round % 5 === 0) bytes.fill(round % 2 === 0 ? 0xff : 0, start, end);
      const naive = onesComplement([...bytes.subarray(start, end)]);
      expect(internetChecksum(bytes, start, end), `round ${round}`).toBe(naive);
    }
  });

  test('does not overflow over the longest frame, nor over far more', () => {
    const bytes = new Uint8Array(4 * 1024 * 1024).fill(0xff);
    for (const end of [65535, 131072, bytes.length]) {
      const odd = end % 2 === 1;
      expect(sumBytes(bytes, 0, end)).toBe(odd ? 0xff00 : 0xffff);
    }
  });

  test('goes on from a sum that was begun elsewhere', () => {
    const bytes = Uint8Array.from({ length: 300 }, (_, index) => index * 7);
    const first = sumBytes(bytes, 0, 100);
    expect(sumBytes(bytes, 100, 300, first)).toBe(sumBytes(bytes, 0, 300));
  });
});

import { describe, expect, test } from 'vitest';
import { allocateKernelMemory, CopyList } from '../../../../src/xen/emulated/copy-kernel.js';
import { seededRandom } from '../../../support/random.js';

const BYTES = 1024 * 1024;
const FIRST = 4096;

describe('the list of copies', () => {
  test('does what copyWithin does, in order, for any length and any number, 100 seeds', () => {
    const memory = allocateKernelMemory(BYTES);
    const list = new CopyList(memory);
    const bytes = new Uint8Array(memory.buffer, FIRST, BYTES - FIRST);
    for (let seed = 1; seed <= 100; seed += 1) {
      const random = seededRandom(seed);
      for (let index = 0; index < bytes.length; index += 97) bytes[index] = random.below(256);
      const oracle = bytes.slice();
      const half = bytes.length / 2;
      for (let copies = random.below(1000); copies > 0; copies -= 1) {
        const length = random.below(random.below(2) === 0 ? 20 : 4096);
        // A copy's target may be the next one's source.
        const isBack = random.below(2) === 0;
        const low = random.below(half - 4096);
        const high = half + random.below(half - 4096);
        const [source, target] = isBack ? [high, low] : [low, high];
        list.add(FIRST + source, FIRST + target, length);
        oracle.copyWithin(target, source, source + length);
      }
      list.run();
      expect(Buffer.compare(bytes, oracle), `seed ${seed}`).toBe(0);
    }
  });

  test('traps at the end of the memory instead of reaching beyond it', () => {
    const list = new CopyList(allocateKernelMemory(BYTES));
    list.add(BYTES - 32, FIRST, 64);
    expect(() => list.run()).toThrow(/out of bounds/);
  });
});

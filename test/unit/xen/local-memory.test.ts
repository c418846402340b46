import { describe, expect, test } from 'vitest';
import { GrantError, MisuseError } from '../../../src/errors.js';
import { LocalMemory, type LocalRegion } from '../../../src/xen/local-memory.js';
import { PAGE_SIZE } from '../../../src/xen/xen.js';

function memoryOf(pages: number): LocalMemory {
  return new LocalMemory(new ArrayBuffer(pages * PAGE_SIZE), 0n);
}

function isAllocated(memory: LocalMemory, offset: number, length: number): boolean {
  return memory.allocatedUntil(offset) >= offset + length;
}

describe('local memory', () => {
  test('gives whole pages that do not overlap', () => {
    const memory = memoryOf(4);
    const first = memory.allocate(1);
    const second = memory.allocate(PAGE_SIZE + 1);
    expect([first.offset, first.length]).toEqual([0, PAGE_SIZE]);
    expect([second.offset, second.length]).toEqual([PAGE_SIZE, 2 * PAGE_SIZE]);
    expect(memory.allocatedBytes).toBe(3 * PAGE_SIZE);
  });

  test('joins what is given back with its free neighbours, in any order', () => {
    for (const order of [
      [0, 1, 2],
      [0, 2, 1],
      [1, 0, 2],
      [1, 2, 0],
      [2, 0, 1],
      [2, 1, 0],
    ]) {
      const memory = memoryOf(3);
      const regions = [1, 2, 3].map(() => memory.allocate(PAGE_SIZE));
      for (const index of order) regions[index]?.free();
      expect(memory.allocatedBytes).toBe(0);
      expect(memory.allocate(3 * PAGE_SIZE).offset).toBe(0);
    }
  });

  test('refuses what fits nowhere in one piece, and nothing at all', () => {
    const memory = memoryOf(3);
    memory.allocate(PAGE_SIZE);
    const middle = memory.allocate(PAGE_SIZE);
    memory.allocate(PAGE_SIZE);
    expect(() => memory.allocate(1)).toThrow(GrantError);
    middle.free();
    expect(() => memory.allocate(PAGE_SIZE + 1)).toThrow(GrantError);
    expect(() => memory.allocate(0)).toThrow(GrantError);
    expect(memory.allocate(1).offset).toBe(PAGE_SIZE);
  });

  test('refuses to take the same region back twice', () => {
    const memory = memoryOf(1);
    const region = memory.allocate(1);
    region.free();
    expect(() => region.free()).toThrow(MisuseError);
    expect(memory.allocatedBytes).toBe(0);
  });

  test('stays inside the part of the buffer that it was given', () => {
    const buffer = new ArrayBuffer(8 * PAGE_SIZE);
    const memory = new LocalMemory(buffer, 0n, 2 * PAGE_SIZE, 3 * PAGE_SIZE);
    expect(memory.allocate(3 * PAGE_SIZE).offset).toBe(2 * PAGE_SIZE);
    expect(() => memory.allocate(1)).toThrow(GrantError);
  });

  test('knows which bytes are taken', () => {
    const memory = new LocalMemory(new ArrayBuffer(8 * PAGE_SIZE), 0n, PAGE_SIZE, 6 * PAGE_SIZE);
    memory.allocate(PAGE_SIZE);
    const second = memory.allocate(PAGE_SIZE);
    memory.allocate(PAGE_SIZE);
    expect(isAllocated(memory, PAGE_SIZE, 3 * PAGE_SIZE)).toBe(true);
    expect(isAllocated(memory, PAGE_SIZE - 1, 2)).toBe(false);
    expect(isAllocated(memory, 4 * PAGE_SIZE - 1, 2)).toBe(false);
    expect(isAllocated(memory, 7 * PAGE_SIZE, 1)).toBe(false);
    second.free();
    expect(isAllocated(memory, PAGE_SIZE, PAGE_SIZE)).toBe(true);
    expect(isAllocated(memory, 2 * PAGE_SIZE, 1)).toBe(false);
    expect(isAllocated(memory, PAGE_SIZE, 3 * PAGE_SIZE)).toBe(false);
    expect(isAllocated(memory, 3 * PAGE_SIZE, PAGE_SIZE)).toBe(true);
  });

  test('agrees with a bitmap over ten thousand random steps', () => {
    const pages = 64;
    const memory = memoryOf(pages);
    const taken = new Uint8Array(pages);
    const live: LocalRegion[] = [];
    let seed = 12_345;
    const random = (below: number) => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
      return (seed >>> 8) % below;
    };
    for (let step = 0; step < 10_000; step++) {
      const count = 1 + random(6);
      if (random(2) === 0 && live.length > 0) {
        const [region] = live.splice(random(live.length), 1);
        region?.free();
        if (region !== undefined) {
          taken.fill(0, region.offset / PAGE_SIZE, (region.offset + region.length) / PAGE_SIZE);
        }
      } else {
        // The oracle of first fit: the first index where `count` pages in a row are free.
        const start = Array.from(taken.keys()).find(
          (at) => at + count <= pages && taken.subarray(at, at + count).every((used) => used === 0),
        );
        if (start === undefined) {
          expect(() => memory.allocate(count * PAGE_SIZE)).toThrow(GrantError);
        } else {
          const region = memory.allocate(count * PAGE_SIZE);
          expect(region.offset).toBe(start * PAGE_SIZE);
          taken.fill(1, start, start + count);
          live.push(region);
        }
      }
      const page = random(pages);
      expect(isAllocated(memory, page * PAGE_SIZE, PAGE_SIZE)).toBe(taken[page] === 1);
    }
  });
});

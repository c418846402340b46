import { describe, expect, test } from 'vitest';
import { BatchCopy } from '../../../src/device/batch-copy.js';
import { FrameBatch, runHeaderBytes, writeRunHeader } from '../../../src/device/frame-batch.js';
import { stretchEnd } from '../../../src/device/frame-stretch.js';
import { LocalMemory } from '../../../src/xen/local-memory.js';
import { seededRandom } from '../../support/random.js';

const MEMORY_BYTES = 4 * 1024 * 1024;

/** Frames with these lengths, with so many bytes before each. */
function framesIn(bytes: Uint8Array, start: number, layout: readonly [number, number][]) {
  const batch = new FrameBatch(bytes, layout.length);
  let place = start;
  for (const [index, [gap, length]] of layout.entries()) {
    place += gap;
    for (let byte = 0; byte < length; byte += 1) bytes[place + byte] = (byte * 7 + index) & 0xff;
    batch.add(place, length, index);
    place += length;
  }
  return batch;
}

function contentOf(batch: FrameBatch): string[] {
  return Array.from({ length: batch.count }, (_, index) => {
    const start = batch.offset(index);
    const frame = Buffer.from(batch.bytes.subarray(start, start + batch.length(index)));
    return `${batch.flag(index)} ${frame.toString('hex')}`;
  });
}

describe('a stretch', () => {
  const bytes = new Uint8Array(64 * 1024);

  test('has all frames of a run', () => {
    const batch = new FrameBatch(bytes, 3);
    let place = 100;
    for (const length of [60, 1514, 20_000]) {
      const start = writeRunHeader(bytes, place, length);
      expect(start - place).toBe(runHeaderBytes(length));
      batch.add(start, length, 0);
      place = start + length;
    }
    expect(stretchEnd(batch, 0, 3, 65536)).toBe(3);
    expect(stretchEnd(batch, 1, 2, 65536)).toBe(2);
  });

  test('ends where the next frame lies before, over it, or farther behind', () => {
    const cases: [number, boolean][] = [
      [0, true],
      [8, true],
      [9, false],
      [-1, false],
      [-60, false],
      [-1000, false],
    ];
    for (const [gap, isOne] of cases) {
      const batch = framesIn(bytes, 2000, [
        [0, 60],
        [gap, 60],
      ]);
      expect(stretchEnd(batch, 0, 2, 65536), `${gap}`).toBe(isOne ? 2 : 1);
    }
  });

  test('has no more bytes than wanted, but for its first frame', () => {
    const batch = framesIn(bytes, 0, [
      [0, 60],
      [2, 60],
      [2, 60],
    ]);
    expect(stretchEnd(batch, 0, 3, 184)).toBe(3);
    expect(stretchEnd(batch, 0, 3, 183)).toBe(2);
    expect(stretchEnd(batch, 0, 3, 59)).toBe(1);
  });
});

describe('a copy of a batch', () => {
  test.each([1, 2, 3, 4, 5, 6])(
    'has every frame as it was, wherever each lies, seed %i',
    (seed) => {
      const random = seededRandom(seed);
      const memory = new LocalMemory(new ArrayBuffer(MEMORY_BYTES), 0n);
      const elsewhere = random.below(2) === 0;
      const bytes = elsewhere ? new Uint8Array(MEMORY_BYTES) : memory.bytes;
      const start = memory.allocate(2 * 1024 * 1024).offset;
      const layout = Array.from({ length: 700 }, (): [number, number] => [
        random.below(3) === 0 ? random.below(100) : random.below(4),
        14 + random.below(random.below(10) === 0 ? 9000 : 100),
      ]);
      const source = framesIn(bytes, start, layout);
      const copy = new BatchCopy(memory);
      const copied: string[] = [];
      let next = random.below(20);
      const first = next;
      let fills = 0;
      while (next < source.count) {
        const until = copy.fill(source, next, source.count);
        expect(until).toBeGreaterThan(next);
        expect(copy.batch.count).toBe(until - next);
        copied.push(...contentOf(copy.batch));
        next = until;
        fills += 1;
      }
      expect(copied).toEqual(contentOf(source).slice(first));
      expect(fills).toBeGreaterThan(2);
    },
  );
});

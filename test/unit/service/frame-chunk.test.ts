import { describe, expect, test } from 'vitest';
import { FrameBatch } from '../../../src/device/frame-batch.js';
import { StreamFramesResponse } from '../../../src/gen/xenvif/v1/frame_service.js';
import { FrameChunk } from '../../../src/service/frame-chunk.js';
import { LocalMemory } from '../../../src/xen/local-memory.js';
import { seededRandom } from '../../support/random.js';

const LIMITS = { bytes: 64 * 1024, frames: 2048 };
const BASE_NS = 1_700_000_000_123_456_789n;

/** Fills a chunk with seeded frames and says what it must decode to. */
function fill(seed: number) {
  const random = seededRandom(seed);
  const memory = new LocalMemory(new ArrayBuffer(4 * 1024 * 1024), 0n);
  const chunk = new FrameChunk(memory, LIMITS, 65535);
  const source = memory.allocate(70_000).offset;
  for (let index = 0; index < 70_000; index += 1) memory.bytes[source + index] = random.u32();
  const batch = new FrameBatch(memory.bytes, 1);
  const many = random.below(4) === 0;
  const count = 1 + random.below(many ? 2000 : 40);
  const snaplen = random.below(3) === 0 ? 64 : 65535;
  const vifs = random.below(2) === 0 ? 1 : 300;
  const frames: Buffer[] = [];
  const columns = {
    delta: [] as number[],
    original: [] as number[],
    vif: [] as number[],
    flags: [] as number[],
  };
  let timeNs = BASE_NS;
  const first = 1 + random.below(0x7fffffff) * 1024;
  for (let index = 0; index < count; index += 1) {
    const length = 14 + random.below(many ? 20 : 1600);
    const offset = source + random.below(1000);
    const flags = random.u32();
    const vif = random.below(vifs);
    timeNs += index === 0 ? 0n : BigInt(random.below(2_000_000));
    batch.clear();
    batch.timeNs = timeNs;
    batch.add(offset, length, flags);
    const kept = Math.min(length, snaplen);
    if (!chunk.fits(kept, timeNs)) break;
    chunk.add(batch, 0, kept, vif, flags, first + index);
    frames.push(Buffer.from(memory.bytes.subarray(offset, offset + kept)));
    columns.delta.push(Number(timeNs - BASE_NS));
    columns.original.push(length);
    columns.vif.push(vif);
    columns.flags.push(flags);
  }
  return { chunk, frames, columns, first };
}

function decode(message: Buffer) {
  const { message: oneof } = StreamFramesResponse.decode(message);
  if (oneof?.$case !== 'frames') throw new Error(`Not frames but ${oneof?.$case}.`);
  return oneof.value;
}

/** A column as a reader sees it: all zero when it was left out. */
function column(values: readonly number[], count: number): readonly number[] {
  return values.length === 0 ? new Array<number>(count).fill(0) : values;
}

describe('a hand-encoded batch', () => {
  test('reads by ts-proto as what went in, 300 seeds', () => {
    for (let seed = 1; seed <= 300; seed += 1) {
      const { chunk, frames, columns, first } = fill(seed);
      const batch = decode(chunk.seal());
      expect(batch.frames.length, `seed ${seed}`).toBe(frames.length);
      expect(batch.frames.every((frame, index) => frame.equals(frames[index] as Buffer))).toBe(
        true,
      );
      expect(batch.baseTimeNs).toBe(BASE_NS);
      expect(column(batch.timeDeltaNs, frames.length)).toEqual(columns.delta);
      expect(column(batch.vifIndex, frames.length)).toEqual(columns.vif);
      expect(batch.flags).toEqual(columns.flags);
      expect(batch.firstSequence).toBe(BigInt(first));
      const cut = columns.original.some((length, index) => length !== frames[index]?.length);
      expect(batch.originalLength).toEqual(cut ? columns.original : []);
    }
  });

  test('is the same when ts-proto encodes it again', () => {
    for (let seed = 1; seed <= 50; seed += 1) {
      const message = fill(seed).chunk.seal();
      const again = Buffer.from(
        StreamFramesResponse.encode(StreamFramesResponse.decode(message)).finish(),
      );
      expect(again.equals(message), `seed ${seed}`).toBe(true);
    }
  });

  test('gives its first frames out, and keeps the others', () => {
    for (let seed = 1; seed <= 100; seed += 1) {
      const { chunk, frames, columns, first } = fill(seed);
      const credit = Math.floor(chunk.frameBytes / 3);
      const part = chunk.takeFront(credit);
      const taken = part?.frames.length ?? 0;
      const rest = chunk.count === 0 ? undefined : decode(chunk.seal());
      const all = [...(part?.frames ?? []), ...(rest?.frames ?? [])];
      expect(all.length).toBe(frames.length);
      expect(all.every((frame, index) => frame.equals(frames[index] as Buffer))).toBe(true);
      const bytes = frames.slice(0, taken).reduce((sum, frame) => sum + frame.length, 0);
      expect(bytes).toBeLessThanOrEqual(credit);
      expect(bytes + (frames[taken]?.length ?? credit + 1)).toBeGreaterThan(credit);
      expect(rest?.firstSequence).toBe(BigInt(first + taken));
      expect(rest?.flags).toEqual(columns.flags.slice(taken));
    }
  });

  test('takes a number written over its last frame, as far as the frame has not been cut', () => {
    for (const [kept, expected] of [
      [20, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1234aaaa'],
      [18, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1234'],
      [17, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa12'],
      [16, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'],
    ] as const) {
      const memory = new LocalMemory(new ArrayBuffer(1024 * 1024), 0n);
      const chunk = new FrameChunk(memory, LIMITS, 65535);
      const source = memory.allocate(4096).offset;
      memory.bytes.fill(0xaa, source, source + 20);
      const batch = new FrameBatch(memory.bytes, 2);
      batch.add(source, 20, 1);
      batch.add(source, 20, 1);
      for (const index of [0, 1]) chunk.add(batch, index, kept, 0, 1, index + 1);
      chunk.overwriteU16(16, 0x1234);
      const { frames } = decode(chunk.seal());
      const untouched = 'aa'.repeat(kept);
      expect(frames.map((frame) => frame.toString('hex'))).toEqual([untouched, expected]);
    }
  });
});

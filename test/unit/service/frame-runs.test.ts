import { describe, expect, test } from 'vitest';
import { FrameBatch, writeRunHeader } from '../../../src/device/frame-batch.js';
import { OverflowPolicy } from '../../../src/gen/xenvif/v1/frame_service.js';
import { inOnePiece } from '../../../src/service/frame-message.js';
import { FrameStream } from '../../../src/service/frame-stream.js';
import { LocalMemory } from '../../../src/xen/local-memory.js';
import { seededRandom } from '../../support/random.js';
import { stopTime } from './still-time.js';

interface Shape {
  readonly direction: number;
  readonly snaplen: number;
  readonly sampleOneIn: number;
  readonly chunkBytes: number;
  readonly chunkFrames: number;
  readonly framesMax: number;
  readonly queueBytes: number;
  /** Credit that comes before each batch; none where it is 0. */
  readonly creditBytes: number;
}

type Random = ReturnType<typeof seededRandom>;

function anyShape(random: Random): Shape {
  return {
    direction: random.below(3),
    snaplen: random.below(4) === 0 ? 60 : 65535,
    sampleOneIn: random.below(4) === 0 ? 3 : 1,
    chunkBytes: 64 + random.below(20_000),
    chunkFrames: 1 + random.below(100),
    framesMax: random.below(3) === 0 ? 1 + random.below(300) : 0,
    queueBytes: 64 * 1024,
    creditBytes: random.below(2) === 0 ? 0 : 1 + random.below(9000),
  };
}

/** Puts the same frames through a stream, as runs or one by one, and answers all that it wrote. */
function messagesOf(seed: number, asRuns: boolean): string[] {
  const random = seededRandom(seed);
  const shape = anyShape(random);
  const memory = new LocalMemory(new ArrayBuffer(8 * 1024 * 1024), 0n);
  const written: string[] = [];
  const { chunkBytes: bytes, chunkFrames: frames, framesMax, queueBytes, creditBytes } = shape;
  const stream = new FrameStream(shape, {
    memory,
    chunk: { bytes, frames },
    lingerMs: 0,
    queueBytes,
    inFlightBytes: 1024 * 1024,
    policy: OverflowPolicy.DROP_NEWEST,
    creditBytes: creditBytes === 0 ? undefined : 0,
    framesMax,
    write: (message, done) => {
      written.push(inOnePiece(message).toString('hex'));
      done();
    },
    end: () => written.push('end'),
  });
  const place = memory.allocate(1024 * 1024).offset;
  const batch = new FrameBatch(memory.bytes, 256);
  for (let round = 0; round < 6; round += 1) {
    if (creditBytes > 0) stream.addCredit(creditBytes);
    batch.clear();
    batch.timeNs = BigInt(round * random.below(5_000_000));
    const flags = 1 + random.below(2) + 8 * random.below(2);
    let next = place;
    for (let count = 1 + random.below(256); count > 0; count -= 1) {
      const length = 14 + random.below(random.below(2) === 0 ? 4000 : 120);
      const start = writeRunHeader(memory.bytes, next, length);
      for (let byte = 0; byte < 14; byte += 1) memory.bytes[start + byte] = random.below(256);
      batch.add(start, length, flags);
      next = start + length;
    }
    batch.isRun = asRuns;
    stream.push(batch, random.below(3));
  }
  stream.flush();
  stream.close();
  return written;
}

describe('frames that lie one behind the other as they are sent', () => {
  stopTime();

  test('are sent as those are that come one by one, 200 seeds', () => {
    for (let seed = 1; seed <= 200; seed += 1) {
      expect(messagesOf(seed, true), `seed ${seed}`).toEqual(messagesOf(seed, false));
    }
  });
});

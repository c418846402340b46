import { describe, expect, test } from 'vitest';
import { StreamFramesRequest } from '../../../src/gen/xenvif/v1/frame_service.js';
import { decodeClientMessage, SentFrames } from '../../../src/service/frame-request.js';
import { seededRandom } from '../../support/random.js';

type Random = ReturnType<typeof seededRandom>;

function anyRequest(random: Random): Buffer {
  const frames = Array.from({ length: random.below(30) }, () => {
    const isLong = random.below(20) === 0;
    const length = random.below(isLong ? 70_000 : random.below(2) === 0 ? 20 : 200);
    return Buffer.alloc(length, random.below(256));
  });
  const firstSequence = BigInt(random.below(3) === 0 ? 0 : random.u32());
  const flags = random.below(8) === 0 ? frames.map(() => 1) : [];
  const value = { frames, firstSequence, flags };
  const request = StreamFramesRequest.fromPartial({ message: { $case: 'frames', value } });
  return Buffer.from(StreamFramesRequest.encode(request).finish());
}

/** The frames of a message, walked as the stage walks them. */
function framesOf({ bytes, start, end }: SentFrames): string[] {
  const frames: string[] = [];
  for (let position = start; position < end; ) {
    let length = 0;
    let next = position + 1;
    for (let shift = 0; ; shift += 7, next += 1) {
      length |= ((bytes[next] as number) & 0x7f) << shift;
      if ((bytes[next] as number) < 0x80) break;
    }
    frames.push(bytes.toString('hex', next + 1, next + 1 + length));
    position = next + 1 + length;
  }
  return frames;
}

describe('what a client sends', () => {
  test('is walked to the same frames that ts-proto makes of it, 300 seeds', () => {
    let walked = 0;
    for (let seed = 1; seed <= 300; seed += 1) {
      const bytes = anyRequest(seededRandom(seed));
      const sent = decodeClientMessage(bytes);
      const { message } = StreamFramesRequest.decode(bytes);
      if (!(sent instanceof SentFrames)) {
        expect(sent.message, `seed ${seed}`).toEqual(message);
        continue;
      }
      walked += 1;
      if (message?.$case !== 'frames') throw new Error('Not frames.');
      const { firstSequence, frames } = message.value;
      const oracle = frames.map((frame) => frame.toString('hex'));
      // Joined, for a comparison of long lists of long texts takes its time.
      expect(framesOf(sent).join() === oracle.join(), `seed ${seed}`).toBe(true);
      expect(sent.firstSequence).toBe(firstSequence);
      const fault = frames.findIndex(({ length }) => length < 14 || length > 65535);
      expect(sent.faultIndex).toBe(fault);
    }
    expect(walked).toBeGreaterThan(200);
  });

  test('that is damaged is what ts-proto makes of it, or nothing, 1000 seeds', () => {
    for (let seed = 1; seed <= 1000; seed += 1) {
      const random = seededRandom(seed);
      const bytes = anyRequest(random).subarray(0, 1 + random.below(3000));
      bytes[random.below(bytes.length)] = random.below(256);
      let sent: ReturnType<typeof decodeClientMessage>;
      try {
        sent = decodeClientMessage(bytes);
      } catch {
        expect(() => StreamFramesRequest.decode(bytes)).toThrow();
        continue;
      }
      const { message } = StreamFramesRequest.decode(bytes);
      if (!(sent instanceof SentFrames)) continue;
      if (message?.$case !== 'frames') throw new Error(`Not frames, seed ${seed}.`);
      const frames = message.value.frames.map((frame) => frame.toString('hex'));
      expect(framesOf(sent), `seed ${seed}`).toEqual(frames);
    }
  });

  test('with a length of more bytes than it needs is left to ts-proto', () => {
    const frame = [0x0a, 0x8e, 0x00, ...new Array<number>(14).fill(7)];
    const sent = decodeClientMessage(Buffer.from([0x12, frame.length, ...frame]));
    expect(sent).not.toBeInstanceOf(SentFrames);
  });
});

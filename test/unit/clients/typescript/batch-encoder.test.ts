import { describe, expect, it } from 'vitest';
import {
  BatchEncoder,
  checkFrameLength,
  type EncodedBatch,
} from '../../../../clients/typescript/src/batch-encoder.js';
import { StreamFramesRequest } from '../../../../clients/typescript/src/gen/xenvif/v1/frame_service.js';

function frame(length: number, fill: number): Buffer {
  return Buffer.alloc(length, fill);
}

/** What the generated decoder, as the daemon's oracle, makes of a message. */
function decoded({ message }: EncodedBatch): { frames: Buffer[]; firstSequence: bigint } {
  const request = StreamFramesRequest.decode(message);
  if (request.message?.$case !== 'frames') throw new Error('not a message of frames');
  return request.message.value;
}

describe('the encoder of frames', () => {
  it.each([
    [[14]],
    [[14, 127, 128, 129]],
    [[1514, 60, 65_535]],
    [new Array<number>(2048).fill(14)],
  ])('writes what the generated decoder reads: %j', (lengths) => {
    const encoder = new BatchEncoder();
    const frames = lengths.map((length, index) => frame(length, index));
    for (const one of frames) encoder.add(one);
    const batch = encoder.finish(7);
    expect(decoded(batch).frames).toEqual(frames);
    expect(decoded(batch).firstSequence).toBe(7n);
    expect(batch.frameCount).toBe(frames.length);
    expect(batch.byteCount).toBe(lengths.reduce((sum, length) => sum + length, 0));
  });

  it('joins parts to one frame', () => {
    const encoder = new BatchEncoder();
    encoder.addParts([frame(6, 1), frame(6, 2), frame(2, 3), frame(0, 4), frame(40, 5)], 54);
    const [joined] = decoded(encoder.finish(0)).frames;
    expect(joined).toEqual(Buffer.concat([frame(6, 1), frame(6, 2), frame(2, 3), frame(40, 5)]));
  });

  it('numbers beyond 32 bits survive', () => {
    const encoder = new BatchEncoder();
    encoder.add(frame(14, 0));
    const sequence = 2 ** 52 + 3;
    expect(decoded(encoder.finish(sequence)).firstSequence).toBe(BigInt(sequence));
  });

  it('is full at 64 KiB or 2048 frames, and then still has room for the longest frame', () => {
    const encoder = new BatchEncoder();
    for (let index = 0; index < 2047; index += 1) encoder.add(frame(32, 1));
    expect(encoder.isFull).toBe(false);
    encoder.add(frame(65_535, 2));
    expect(encoder.isFull).toBe(true);
    expect(decoded(encoder.finish(2 ** 53 - 1)).frames).toHaveLength(2048);
  });

  it('uses memory again only once it is released', () => {
    const encoder = new BatchEncoder();
    encoder.add(frame(14, 1));
    const first = encoder.finish(0);
    encoder.add(frame(14, 2));
    const second = encoder.finish(0);
    expect(decoded(first).frames).toEqual([frame(14, 1)]);
    expect(second.message.buffer).not.toBe(first.message.buffer);
    first.release();
    encoder.add(frame(14, 3));
    expect(encoder.finish(0).message.buffer).toBe(first.message.buffer);
    expect(decoded(second).frames).toEqual([frame(14, 2)]);
  });
});

describe('the length of a frame', () => {
  it.each([14, 60, 1514, 65_535])('may be %i', (length) => {
    expect(() => checkFrameLength(length)).not.toThrow();
  });

  it.each([
    [0, 'FRAME_TOO_SHORT'],
    [13, 'FRAME_TOO_SHORT'],
    [65_536, 'FRAME_TOO_LONG'],
  ])('of %i bytes is %s', (length, code) => {
    expect(() => checkFrameLength(length)).toThrow(
      expect.objectContaining({ code, grpcStatus: 'INVALID_ARGUMENT' }),
    );
  });
});

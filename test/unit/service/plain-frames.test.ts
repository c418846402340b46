import { describe, expect, test } from 'vitest';
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  DIRECTION_FROM_GUEST,
} from '../../../src/device/frame-batch.js';
import { PlainFrames } from '../../../src/service/plain-frames.js';
import { Segmenter } from '../../../src/wire/segmentation.js';
import { seededRandom } from '../../support/random.js';
import { buildPacket, expectedFrame, randomPacket, TCP, UDP } from '../wire/packet-builder.js';
import { gsoFlags, hex, openStream } from './captured-frames.js';

const MTU = 1500;
const BLANK = CHECKSUM_BLANK | DATA_VALIDATED;
const PLAIN = DIRECTION_FROM_GUEST | DATA_VALIDATED;

/** The segments as the segmenter, which has its own tests, makes them. */
function segments(frame: Uint8Array, gsoSize: number): string[] {
  const segmenter = new Segmenter();
  const count = segmenter.begin(frame, 0, frame.length, gsoSize, MTU);
  return Array.from({ length: count }, () => {
    const target = new Uint8Array(2048);
    return hex(target.subarray(0, segmenter.next(target, 0)));
  });
}

describe('frames for a plain NIC', () => {
  test('are cut to the MTU, each with a number of its own, between those that need no cut', () => {
    const { memory, stream, frames, batchOf, inMemory } = openStream();
    const plain = new PlainFrames(memory);
    const random = seededRandom(1);
    const small = randomPacket(random, { protocol: UDP, payloadBytes: 40 });
    const blank = randomPacket(random, { protocol: TCP, payloadBytes: 50 });
    const large = randomPacket(random, { protocol: TCP, payloadBytes: 60000 });
    const another = randomPacket(random, { protocol: TCP, payloadBytes: 5000 });
    const batch = batchOf([
      { frame: small.frame, flags: DIRECTION_FROM_GUEST },
      { frame: large.frame, flags: gsoFlags(1, 1448) | BLANK },
      { frame: another.frame, flags: gsoFlags(2, 9000) | BLANK },
      { frame: blank.frame, flags: DIRECTION_FROM_GUEST | BLANK },
      { frame: small.frame, flags: DIRECTION_FROM_GUEST },
    ]);
    plain.push(batch, MTU, stream, 0);
    stream.flush();
    const cut = [...segments(large.frame, 1448), ...segments(another.frame, 9000)];
    expect(cut.length).toBeGreaterThan(45);
    expect(frames.map((frame) => frame.hex)).toEqual([
      hex(small.frame),
      ...cut,
      hex(expectedFrame(blank)),
      hex(small.frame),
    ]);
    expect(frames.map(({ flags }) => flags)).toEqual([
      DIRECTION_FROM_GUEST,
      ...cut.map(() => PLAIN),
      PLAIN,
      DIRECTION_FROM_GUEST,
    ]);
    expect(frames.map(({ sequence }) => sequence)).toEqual(frames.map((_, index) => index + 1));
    for (const frame of frames) expect(frame.hex.length / 2).toBeLessThanOrEqual(MTU + 22);
    // What goes on to other guests is whole and blank, or says that it was completed.
    expect(inMemory(batch, 1)).toBe(hex(large.frame));
    expect(batch.flag(1)).toBe((gsoFlags(1, 1448) | BLANK) >>> 0);
    expect(inMemory(batch, 3)).toBe(hex(expectedFrame(blank)));
    expect(batch.flag(3)).toBe(PLAIN);
    plain.free();
    stream.close();
  });

  test('come in as many rounds as the segments need', () => {
    const { memory, stream, frames, batchOf } = openStream();
    const plain = new PlainFrames(memory);
    const { frame } = randomPacket(seededRandom(3), { protocol: TCP, payloadBytes: 65000 });
    plain.push(batchOf([{ frame, flags: gsoFlags(1, 64) | BLANK }]), MTU, stream, 0);
    stream.flush();
    const expected = segments(frame, 64);
    expect(expected.length).toBe(1016);
    expect(frames.map((captured) => captured.hex)).toEqual(expected);
    stream.close();
  });

  test('with the longest headers that can be cut stay within the place for segments', () => {
    const { memory, stream, frames, batchOf } = openStream();
    const content = new Uint8Array(390);
    content.set([1, 254, ...new Array<number>(254).fill(0), 1, 132]);
    const packet = buildPacket({
      version: 6,
      protocol: TCP,
      payload: new Uint8Array(65000),
      extensions: [{ type: 60, content }],
      tcpOptions: new Uint8Array(40).fill(1),
    });
    expect(packet.payloadOffset).toBe(506);
    const batch = batchOf([{ frame: packet.frame, flags: gsoFlags(2, 510) | BLANK }]);
    const plain = new PlainFrames(memory);
    const guard = memory.allocate(65536).offset;
    plain.push(batch, MTU, stream, 0);
    stream.flush();
    expect(frames.length).toBe(128);
    const beside = memory.bytes.subarray(guard, guard + 65536);
    expect(beside.every((byte) => byte === 0)).toBe(true);
    stream.close();
  });

  test('come as they are where they cannot be cut, with the mark that they are to be', () => {
    const { memory, stream, frames, batchOf } = openStream();
    const plain = new PlainFrames(memory);
    const packet = randomPacket(seededRandom(4), { protocol: TCP, payloadBytes: 300 });
    plain.push(batchOf([{ frame: packet.frame, flags: gsoFlags(1, 20) | BLANK }]), MTU, stream, 0);
    stream.flush();
    const flags = (gsoFlags(1, 20) | DATA_VALIDATED) >>> 0;
    expect(frames).toMatchObject([{ hex: hex(expectedFrame(packet)), flags }]);
    stream.close();
  });
});

import { describe, expect, test } from 'vitest';
import {
  GSO_SIZE_MIN,
  SEGMENTS_MAX,
  Segmenter,
  segmentBytesMax,
} from '../../../src/wire/segmentation.js';
import { seededRandom } from '../../support/random.js';
import {
  type BuiltPacket,
  buildPacket,
  expectedFrame,
  randomBytes,
  randomPacket,
  TCP,
  UDP,
} from './packet-builder.js';

const FIN_PSH = 0x09;
const CWR = 0x80;

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

/** Cuts one frame that lies somewhere in memory, into a place in the same memory. */
function segment(frame: Uint8Array, gsoSize: number, packetBytesMax?: number): string[] {
  const offset = 9;
  const target = offset + frame.length + 13;
  const bytes = new Uint8Array(target + frame.length + 64).fill(0xa5);
  bytes.set(frame, offset);
  const segmenter = new Segmenter();
  const count = segmenter.begin(bytes, offset, frame.length, gsoSize, packetBytesMax);
  const segments: string[] = [];
  for (;;) {
    bytes.fill(0xa5, target);
    const length = segmenter.next(bytes, target);
    const beside = Buffer.concat([bytes.subarray(0, offset), bytes.subarray(target + length)]);
    expect(beside.equals(Buffer.alloc(beside.length, 0xa5))).toBe(true);
    if (length === 0) break;
    expect(length).toBeLessThanOrEqual(segmenter.longest);
    expect(length).toBeLessThanOrEqual(segmentBytesMax(frame.length, gsoSize));
    segments.push(hex(bytes.subarray(target, target + length)));
  }
  expect(hex(bytes.subarray(offset, offset + frame.length))).toBe(hex(frame));
  expect(segments.length).toBe(count);
  return segments;
}

/** What the segments must be: packets built one by one, each with its part of the payload. */
function expectedSegments({ plan }: BuiltPacket, gsoSize: number): string[] {
  const count = Math.max(1, Math.ceil(plan.payload.length / gsoSize));
  return Array.from({ length: count }, (_, index) => {
    let tcpFlags = plan.tcpFlags ?? 0x10;
    if (index < count - 1) tcpFlags &= ~FIN_PSH;
    if (index > 0) tcpFlags &= ~CWR;
    const packet = buildPacket({
      ...plan,
      payload: plan.payload.slice(index * gsoSize, (index + 1) * gsoSize),
      sequence: ((plan.sequence ?? 1) + index * gsoSize) % 2 ** 32,
      identification: ((plan.identification ?? 0) + index) % 65536,
      tcpFlags,
      paddingBytes: 0,
    });
    return hex(expectedFrame(packet));
  });
}

const PAYLOAD = Uint8Array.from({ length: 3000 }, (_, index) => index);

describe('a segmented frame', () => {
  test('gives the packets that its parts would be alone, 400 seeds', () => {
    for (let seed = 1; seed <= 400; seed += 1) {
      const random = seededRandom(seed);
      const packet = randomPacket(random, { protocol: TCP, payloadBytes: random.below(5000) });
      const gsoSize = GSO_SIZE_MIN + random.below(random.below(2) === 0 ? 100 : 3000);
      const segments = segment(packet.frame, gsoSize);
      expect(segments, `seed ${seed}`).toEqual(expectedSegments(packet, gsoSize));
    }
  });

  test('of the largest size gives at most 1024 segments', () => {
    const payload = randomBytes(seededRandom(1), 65535 - 54);
    const packet = buildPacket({ version: 4, protocol: TCP, payload });
    const segments = segment(packet.frame, GSO_SIZE_MIN);
    expect(segments).toEqual(expectedSegments(packet, GSO_SIZE_MIN));
    expect(segments.length).toBe(SEGMENTS_MAX);
  });

  test('goes into other memory as well', () => {
    const packet = buildPacket({ version: 6, protocol: TCP, payload: PAYLOAD });
    const segmenter = new Segmenter();
    expect(segmenter.begin(packet.frame, 0, packet.frame.length, 1440)).toBe(3);
    const target = new Uint8Array(2000);
    for (const expected of expectedSegments(packet, 1440)) {
      const length = segmenter.next(target, 5);
      expect(hex(target.subarray(5, 5 + length))).toBe(expected);
    }
    expect(segmenter.next(target, 5)).toBe(0);
  });

  test('has packets no longer than the link takes, whatever size was asked for', () => {
    const tcpOptions = new Uint8Array(12).fill(1);
    const plan = { protocol: TCP, payload: PAYLOAD, tcpOptions } as const;
    const ipv4 = buildPacket({ ...plan, version: 4 });
    const ipv6 = buildPacket({ ...plan, version: 6, tags: [0x8100] });
    expect(segment(ipv4.frame, 9000, 1500)).toEqual(expectedSegments(ipv4, 1448));
    expect(segment(ipv6.frame, 9000, 1500)).toEqual(expectedSegments(ipv6, 1428));
    expect(segment(ipv4.frame, 1000, 1500)).toEqual(expectedSegments(ipv4, 1000));
    expect(segment(ipv4.frame, 1000, 115)).toEqual([]);
  });

  test('is none where the frame cannot be cut', () => {
    const plan = { version: 4, protocol: TCP, payload: PAYLOAD } as const;
    const sound = buildPacket(plan).frame;
    const fragment = buildPacket({ ...plan, ipv4Fragment: 0x2000 }).frame;
    const udp = buildPacket({ ...plan, protocol: UDP }).frame;
    expect(segment(sound, 1448).length).toBe(3);
    expect(segment(sound, GSO_SIZE_MIN - 1)).toEqual([]);
    expect(segment(sound, 0)).toEqual([]);
    expect(segment(sound, Number.NaN)).toEqual([]);
    expect(segment(sound.subarray(0, sound.length - 1), 1448)).toEqual([]);
    expect(segment(fragment, 1448)).toEqual([]);
    expect(segment(udp, 1448)).toEqual([]);
  });

  test('is none where its headers would be most of what is sent', () => {
    const withHeaders = (bytes: number) => {
      const content = new Uint8Array(bytes - 2);
      content.set([1, bytes - 4]);
      const extensions = [{ type: 60, content }];
      return buildPacket({ version: 6, protocol: TCP, payload: PAYLOAD, extensions }).frame;
    };
    expect(segment(withHeaders(432), 1000).length).toBe(3);
    expect(segment(withHeaders(440), 1000).length).toBe(0);
  });

  test('leaves nothing of an earlier frame behind', () => {
    const segmenter = new Segmenter();
    const { frame } = buildPacket({ version: 4, protocol: TCP, payload: PAYLOAD });
    const target = new Uint8Array(2000);
    expect(segmenter.next(target, 0)).toBe(0);
    expect(segmenter.begin(frame, 0, frame.length, 1448)).toBe(3);
    segmenter.next(target, 0);
    expect(segmenter.begin(frame, 0, 20, 1448)).toBe(0);
    expect(segmenter.next(target, 0)).toBe(0);
  });

  test('of garbage stays within its place, 5000 seeds', () => {
    let cut = 0;
    for (let seed = 1; seed <= 5000; seed += 1) {
      const random = seededRandom(seed);
      const { frame } = randomPacket(random, { protocol: TCP, payloadBytes: random.below(300) });
      for (let count = 1 + random.below(3); count > 0; count -= 1) {
        frame[12 + random.below(60)] = random.below(256);
      }
      if (segment(frame, 60 + random.below(100)).length > 0) cut += 1;
    }
    expect(cut).toBeGreaterThan(500);
    expect(cut).toBeLessThan(4500);
  });
});

import { describe, expect, test } from 'vitest';
import {
  blankChecksum,
  canComplete,
  completeChecksum,
  computeChecksum,
  locateChecksum,
  locateTransport,
} from '../../../src/wire/checksum-offload.js';
import { seededRandom } from '../../support/random.js';
import {
  buildPacket,
  expectedChecksum,
  expectedFrame,
  expectedPseudoHeader,
  randomBytes,
  randomPacket,
  TCP,
  UDP,
} from './packet-builder.js';

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

/** A frame somewhere in memory, and a look at whether anything beside it was touched. */
function place(frame: Uint8Array, offset: number) {
  const bytes = new Uint8Array(offset + frame.length + 40).fill(0xa5);
  bytes.set(frame, offset);
  const end = offset + frame.length;
  const outside = () => Buffer.concat([bytes.subarray(0, offset), bytes.subarray(end)]);
  return {
    bytes,
    frame: () => Buffer.from(bytes.subarray(offset, end)).toString('hex'),
    untouched: () => outside().equals(Buffer.alloc(offset + 40, 0xa5)),
  };
}

describe('the checksum of a frame that was sent without one', () => {
  test('is completed whatever the field held, and nothing else changes, 1000 seeds', () => {
    for (let seed = 1; seed <= 1000; seed += 1) {
      const random = seededRandom(seed);
      const packet = randomPacket(random);
      const offset = random.below(64);
      const placed = place(packet.frame, offset);
      const { length } = packet.frame;
      expect(canComplete(placed.bytes, offset, length)).toBe(true);
      expect(locateChecksum(placed.bytes, offset, length)).toBe(offset + packet.checksumOffset);
      expect(locateTransport(placed.bytes, offset, length)).toBe(offset + packet.transportOffset);
      expect(computeChecksum(placed.bytes, offset, length)).toBe(expectedChecksum(packet));
      expect(placed.frame()).toBe(hex(packet.frame));
      expect(completeChecksum(placed.bytes, offset, length)).toBe(true);
      expect(placed.frame(), `seed ${seed}`).toBe(hex(expectedFrame(packet)));
      expect(placed.untouched()).toBe(true);
    }
  });

  test('is right for the longest frame', () => {
    const packet = randomPacket(seededRandom(2), { protocol: TCP, payloadBytes: 65000 });
    expect(completeChecksum(packet.frame, 0, packet.frame.length)).toBe(true);
    expect(hex(packet.frame)).toBe(hex(expectedFrame(packet)));
  });

  test('of zero is written as 0xffff in UDP and as it is in TCP', () => {
    for (const [protocol, written] of [
      [UDP, 0xffff],
      [TCP, 0],
    ] as const) {
      const blank = buildPacket({ version: 4, protocol, payload: new Uint8Array(2) });
      // A payload that is the sum's complement brings the sum to its zero.
      const rest = computeChecksum(blank.frame, 0, blank.frame.length);
      const payload = Uint8Array.of(rest >> 8, rest & 0xff);
      const packet = buildPacket({ version: 4, protocol, payload });
      expect(completeChecksum(packet.frame, 0, packet.frame.length)).toBe(true);
      const { frame, checksumOffset } = packet;
      const field = new DataView(frame.buffer).getUint16(checksumOffset);
      expect(field).toBe(written);
    }
  });

  test('is made blank again as the sum of the pseudo-header, 500 seeds', () => {
    for (let seed = 1; seed <= 500; seed += 1) {
      const packet = randomPacket(seededRandom(seed));
      const placed = place(packet.frame, seed % 7);
      expect(blankChecksum(placed.bytes, seed % 7, packet.frame.length)).toBe(true);
      const sum = expectedPseudoHeader(packet);
      const blank = packet.frame.slice();
      blank[packet.checksumOffset] = sum >> 8;
      blank[packet.checksumOffset + 1] = sum & 0xff;
      expect(placed.frame(), `seed ${seed}`).toBe(hex(blank));
      expect(placed.untouched()).toBe(true);
    }
  });

  test('cannot be completed in a fragment, another protocol, or no IP, and nothing is written', () => {
    const payload = Uint8Array.of(1, 2, 3, 4);
    const fragment = buildPacket({ version: 4, protocol: TCP, payload, ipv4Fragment: 0x2000 });
    const icmp = buildPacket({ version: 4, protocol: 1, payload });
    const arp = buildPacket({ version: 4, protocol: UDP, payload });
    arp.frame[13] = 6;
    for (const { frame } of [fragment, icmp, arp]) {
      const before = frame.slice();
      expect(canComplete(frame, 0, frame.length)).toBe(false);
      expect(completeChecksum(frame, 0, frame.length)).toBe(false);
      expect(blankChecksum(frame, 0, frame.length)).toBe(false);
      expect(computeChecksum(frame, 0, frame.length)).toBe(-1);
      expect(locateChecksum(frame, 0, frame.length)).toBe(-1);
      expect(locateTransport(frame, 0, frame.length)).toBe(-1);
      expect(frame).toEqual(before);
    }
  });

  test('of garbage is written within the frame or not at all, 20000 seeds', () => {
    let completed = 0;
    for (let seed = 1; seed <= 20000; seed += 1) {
      const random = seededRandom(seed);
      const sound = randomPacket(random, { payloadBytes: random.below(30) });
      const frame = random.below(8) === 0 ? randomBytes(random, 80) : sound.frame;
      for (let count = 1 + random.below(3); count > 0; count -= 1) {
        frame[12 + random.below(70)] = random.below(256);
      }
      const length = random.below(3) === 0 ? random.below(frame.length + 1) : frame.length;
      const placed = place(frame.subarray(0, length), 16);
      const done = completeChecksum(placed.bytes, 16, length);
      expect(placed.untouched(), `seed ${seed}`).toBe(true);
      if (!done) expect(placed.frame()).toBe(hex(frame.subarray(0, length)));
      expect(canComplete(placed.bytes, 16, length)).toBe(done);
      completed += done ? 1 : 0;
    }
    expect(completed).toBeGreaterThan(2000);
    expect(completed).toBeLessThan(18000);
  });
});

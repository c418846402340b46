import { describe, expect, test } from 'vitest';
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  DIRECTION_FROM_GUEST,
  DIRECTION_TO_GUEST,
  GSO_MASK,
} from '../../../src/device/frame-batch.js';
import { seededRandom } from '../../support/random.js';
import { buildPacket, expectedFrame, randomPacket, TCP, UDP } from '../wire/packet-builder.js';
import { gsoFlags, hex, openStream } from './captured-frames.js';

const FROM_GUEST = DIRECTION_FROM_GUEST | CHECKSUM_BLANK | DATA_VALIDATED;
const TO_GUEST = DIRECTION_TO_GUEST | CHECKSUM_BLANK | DATA_VALIDATED;

describe('a captured frame with a blank checksum', () => {
  test('comes with its checksum, and the guests behind us need not fill it in, 200 seeds', () => {
    const { stream, frames, batchOf, inMemory } = openStream();
    for (let seed = 1; seed <= 200; seed += 1) {
      const packet = randomPacket(seededRandom(seed));
      const batch = batchOf([
        { frame: packet.frame, flags: DIRECTION_FROM_GUEST | CHECKSUM_BLANK },
      ]);
      stream.push(batch, 0);
      stream.flush();
      const completed = hex(expectedFrame(packet));
      const flags = DIRECTION_FROM_GUEST | DATA_VALIDATED;
      expect(frames.at(-1), `seed ${seed}`).toMatchObject({ hex: completed, flags });
      expect(batch.flag(0)).toBe(flags);
      expect(inMemory(batch, 0)).toBe(completed);
    }
    stream.close();
  });

  test('stays blank in memory when it goes to a guest, for others get it with the old flags', () => {
    const { stream, frames, batchOf, inMemory } = openStream();
    const packet = randomPacket(seededRandom(1), { protocol: UDP });
    const batch = batchOf([{ frame: packet.frame, flags: TO_GUEST }]);
    stream.push(batch, 0);
    stream.flush();
    const completed = { hex: hex(expectedFrame(packet)), flags: TO_GUEST & ~CHECKSUM_BLANK };
    expect(frames).toMatchObject([completed]);
    expect(batch.flag(0)).toBe(TO_GUEST);
    expect(inMemory(batch, 0)).toBe(hex(packet.frame));
    stream.close();
  });

  test('stays blank in memory when it is to be cut, and is captured in one piece', () => {
    const { stream, frames, batchOf, inMemory } = openStream();
    const packet = randomPacket(seededRandom(2), { protocol: TCP, payloadBytes: 60000 });
    const flags = gsoFlags(1, 1448) | CHECKSUM_BLANK | DATA_VALIDATED;
    const batch = batchOf([{ frame: packet.frame, flags }]);
    stream.push(batch, 0);
    stream.flush();
    expect(frames[0]?.hex).toBe(hex(expectedFrame(packet)));
    expect(frames[0]?.flags).toBe((flags & ~CHECKSUM_BLANK) >>> 0);
    expect((frames[0]?.flags ?? 0) & GSO_MASK).toBe(flags & GSO_MASK);
    expect(batch.flag(0)).toBe(flags >>> 0);
    expect(inMemory(batch, 0)).toBe(hex(packet.frame));
    stream.close();
  });

  test('has the checksum of the whole frame where it is cut, if the place is in what is left', () => {
    for (const flags of [FROM_GUEST, TO_GUEST, gsoFlags(1, 1448) | CHECKSUM_BLANK]) {
      const packet = buildPacket({
        version: 4,
        protocol: TCP,
        payload: new Uint8Array(3000).fill(9),
      });
      for (const snaplen of [14, 49, 50, 51, 52, 60]) {
        const { stream, frames, batchOf } = openStream(snaplen);
        stream.push(batchOf([{ frame: packet.frame, flags }]), 0);
        stream.flush();
        expect(frames[0]).toMatchObject({
          hex: hex(expectedFrame(packet).subarray(0, snaplen)),
          originalLength: packet.frame.length,
        });
        expect((frames[0]?.flags ?? 0) & CHECKSUM_BLANK).toBe(0);
        stream.close();
      }
    }
  });

  test('that cannot be filled in comes as it is, and says so', () => {
    const { stream, frames, batchOf } = openStream();
    const payload = new Uint8Array(30);
    const fragment = buildPacket({ version: 4, protocol: UDP, payload, ipv4Fragment: 0x2000 });
    for (const flags of [FROM_GUEST, TO_GUEST]) {
      const batch = batchOf([{ frame: fragment.frame, flags }]);
      stream.push(batch, 0);
      stream.flush();
      expect(frames.at(-1)).toMatchObject({ hex: hex(fragment.frame), flags });
      expect(batch.flag(0)).toBe(flags);
    }
    stream.close();
  });

  test('leaves its neighbours alone', () => {
    const { stream, frames, batchOf } = openStream();
    const packets = [1, 2, 3].map((seed) => randomPacket(seededRandom(seed)));
    const flags = [DIRECTION_FROM_GUEST, FROM_GUEST, DIRECTION_FROM_GUEST];
    const list = packets.map(({ frame }, index) => ({ frame, flags: flags[index] ?? 0 }));
    stream.push(batchOf(list), 0);
    stream.flush();
    const bytes = packets.map((packet, index) =>
      hex(index === 1 ? expectedFrame(packet) : packet.frame),
    );
    expect(frames.map((frame) => frame.hex)).toEqual(bytes);
    stream.close();
  });
});

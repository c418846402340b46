import { describe, expect, test } from 'vitest';
import { PacketLayout, parseLayout, parseTransport } from '../../../src/wire/packet-layout.js';
import { seededRandom } from '../../support/random.js';
import { buildPacket, randomPacket, TCP, UDP } from './packet-builder.js';

const PAYLOAD = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);

function parse(frame: Uint8Array, length = frame.length) {
  const layout = new PacketLayout();
  return { ok: parseLayout(frame, 0, length, layout), layout };
}

describe('the layout of a frame', () => {
  test('is found as it was built, 2000 seeds', () => {
    for (let seed = 1; seed <= 2000; seed += 1) {
      const random = seededRandom(seed);
      const packet = randomPacket(random);
      const offset = random.below(50);
      const bytes = new Uint8Array(offset + packet.frame.length + 10);
      bytes.set(packet.frame, offset);
      const layout = new PacketLayout();
      expect(parseTransport(bytes, offset, packet.frame.length, layout), `seed ${seed}`).toBe(true);
      expect(layout, `seed ${seed}`).toMatchObject({
        ipVersion: packet.plan.version,
        networkOffset: offset + packet.networkOffset,
        ipHeaderBytes: packet.transportOffset - packet.networkOffset,
        protocol: packet.plan.protocol,
        isFragment: false,
        transportOffset: offset + packet.transportOffset,
        transportHeaderBytes: packet.payloadOffset - packet.transportOffset,
        payloadOffset: offset + packet.payloadOffset,
        transportEnd: offset + packet.packetEnd,
        packetEnd: offset + packet.packetEnd,
      });
      const { sourceOffset, destinationOffset } = layout;
      const size = packet.plan.version === 4 ? 4 : 16;
      expect(bytes.slice(sourceOffset, sourceOffset + size)).toEqual(packet.source);
      const destination = bytes.slice(destinationOffset, destinationOffset + size);
      expect(destination, `seed ${seed}`).toEqual(packet.finalDestination);
    }
  });

  test('is refused wherever the packet is cut, and only there', () => {
    for (let seed = 1; seed <= 60; seed += 1) {
      const { frame, packetEnd } = randomPacket(seededRandom(seed), { payloadBytes: 5 });
      for (let length = 0; length <= frame.length; length += 1) {
        expect(parse(frame, length).ok, `seed ${seed} length ${length}`).toBe(length >= packetEnd);
      }
    }
  });

  test('does not depend on what lies behind the frame', () => {
    for (let seed = 1; seed <= 300; seed += 1) {
      const random = seededRandom(seed);
      const { frame } = randomPacket(random);
      const at = 12 + random.below(Math.min(60, frame.length - 12));
      frame[at] = random.below(256);
      const length = Math.max(14, frame.length - random.below(40));
      const results = [0, 255].map((fill) => {
        const bytes = new Uint8Array(frame.length + 4096).fill(fill);
        bytes.set(frame.subarray(0, length));
        return parse(bytes, length);
      });
      expect(results[0], `seed ${seed}`).toEqual(results[1]);
    }
  });

  test('has no transport header in a fragment, be it the first', () => {
    for (const ipv4Fragment of [0x2000, 0x0001, 0x2010, 0x1fff]) {
      const packet = buildPacket({ version: 4, protocol: TCP, payload: PAYLOAD, ipv4Fragment });
      const { ok, layout } = parse(packet.frame);
      expect(ok).toBe(true);
      expect(layout).toMatchObject({ isFragment: true, protocol: TCP, transportHeaderBytes: 0 });
      expect(parseTransport(packet.frame, 0, packet.frame.length, layout)).toBe(false);
    }
    for (const fragment of [0x0001, 0x0008, 0xfff9]) {
      const content = Uint8Array.of(fragment >> 8, fragment & 0xff, 0, 0, 0, 1);
      const extensions = [{ type: 44, content }];
      const packet = buildPacket({ version: 6, protocol: UDP, payload: PAYLOAD, extensions });
      const { ok, layout } = parse(packet.frame);
      expect(ok).toBe(true);
      expect(layout).toMatchObject({ isFragment: true, protocol: UDP, transportHeaderBytes: 0 });
    }
  });

  test('has an IP header and nothing behind it for other protocols', () => {
    const { ok, layout } = parse(buildPacket({ version: 4, protocol: 1, payload: PAYLOAD }).frame);
    expect(ok).toBe(true);
    expect(layout).toMatchObject({ protocol: 1, transportHeaderBytes: 0, payloadOffset: 34 });
  });

  test('is refused with too many VLAN tags or extension headers', () => {
    const plan = { version: 6, protocol: UDP, payload: PAYLOAD } as const;
    const header = { type: 60, content: Uint8Array.of(1, 4, 0, 0, 0, 0) };
    const withHeaders = (count: number) =>
      parse(buildPacket({ ...plan, extensions: new Array(count).fill(header) }).frame).ok;
    const withTags = (count: number) =>
      parse(buildPacket({ ...plan, tags: new Array(count).fill(0x8100) }).frame).ok;
    expect([withHeaders(8), withHeaders(9)]).toEqual([true, false]);
    expect([withTags(2), withTags(3)]).toEqual([true, false]);
  });

  test('is refused where an extension header is longer than the packet', () => {
    const extensions = [{ type: 60, content: Uint8Array.of(1, 4, 0, 0, 0, 0) }];
    const { frame } = buildPacket({ version: 6, protocol: 58, payload: PAYLOAD, extensions });
    const claim = (units: number) => {
      frame[55] = units;
      return parse(frame).ok;
    };
    expect([claim(0), claim(1), claim(2)]).toEqual([true, true, false]);
  });

  test('is refused where a routing header hides the destination', () => {
    const route = (type: number, left: number, content: number) => {
      const bytes = Uint8Array.from([type, left, ...new Array<number>(content).fill(0)]);
      const extensions = [{ type: 43, content: bytes }];
      return parse(buildPacket({ version: 6, protocol: UDP, payload: PAYLOAD, extensions }).frame);
    };
    expect(route(3, 1, 20).ok).toBe(false);
    expect(route(0, 1, 4).ok).toBe(false);
    expect(route(3, 0, 20).ok).toBe(true);
  });

  test.each([
    ['an IP version that is not what the EtherType says', 14, 0x65],
    ['an IPv4 header shorter than the least', 14, 0x44],
    ['a total length beyond the frame', 16, 0xff],
    ['a TCP header shorter than the least', 46, 0x40],
    ['a TCP header longer than the packet', 46, 0xf0],
  ])('is refused for %s', (_, index, value) => {
    const { frame } = buildPacket({ version: 4, protocol: TCP, payload: PAYLOAD });
    expect(parse(frame).ok).toBe(true);
    frame[index] = value;
    expect(parse(frame).ok).toBe(false);
  });

  test('ends a datagram where UDP says, and refuses one that claims more than there is', () => {
    const { frame, transportOffset } = buildPacket({ version: 4, protocol: UDP, payload: PAYLOAD });
    const claim = (bytes: number) => {
      frame[transportOffset + 5] = bytes;
      return parse(frame);
    };
    expect(claim(12).layout.transportEnd).toBe(transportOffset + 12);
    expect([claim(16).ok, claim(17).ok, claim(7).ok, claim(0).ok]).toEqual([
      true,
      false,
      false,
      false,
    ]);
  });
});

import { describe, expect, test } from 'vitest';
import { flowHash } from '../../../src/wire/flow-hash.js';
import { seededRandom } from '../../support/random.js';
import {
  buildPacket,
  type PacketPlan,
  randomBytes,
  randomPacket,
  TCP,
  UDP,
} from './packet-builder.js';

const hash = (frame: Uint8Array) => flowHash(frame, 0, frame.length);
const hashOf = (plan: PacketPlan) => hash(buildPacket(plan).frame);

describe('the hash of a flow', () => {
  test('is the same for every frame of it, whatever else is in them, 300 seeds', () => {
    for (let seed = 1; seed <= 300; seed += 1) {
      const random = seededRandom(seed);
      const { plan } = randomPacket(random);
      const first = hashOf(plan);
      const again = buildPacket({
        ...plan,
        payload: randomBytes(random, random.below(200)),
        tags: [0x8100],
        tcpOptions: new Uint8Array(12).fill(1),
        tcpFlags: 0x18,
        sequence: random.u32(),
        identification: random.below(65536),
        checksum: random.below(65536),
        paddingBytes: 7,
      });
      const bytes = new Uint8Array(again.frame.length + 40).fill(seed);
      bytes.set(again.frame, 23);
      expect(flowHash(bytes, 23, again.frame.length), `seed ${seed}`).toBe(first);
    }
  });

  test('differs with each address, each port and the protocol', () => {
    const payload = new Uint8Array(4);
    const plan: PacketPlan = { version: 4, protocol: TCP, payload, ports: [1000, 2000] };
    const hashes = [
      plan,
      { ...plan, protocol: UDP },
      { ...plan, ports: [1001, 2000] as const },
      { ...plan, ports: [1000, 2001] as const },
      { ...plan, ports: [2000, 1000] as const },
      { ...plan, source: Uint8Array.of(10, 0, 0, 9) },
      { ...plan, destination: Uint8Array.of(10, 0, 0, 9) },
      { ...plan, version: 6 as const },
    ].map(hashOf);
    expect(new Set(hashes).size).toBe(hashes.length);
    for (const value of hashes) expect(Number.isInteger(value) && value >= 0).toBe(true);
  });

  test('is of the addresses alone for all fragments of a packet', () => {
    const fragment = (ipv4Fragment: number, ports: readonly [number, number], protocol = UDP) =>
      hashOf({ version: 4, protocol, payload: new Uint8Array(32), ipv4Fragment, ports });
    expect(fragment(0x2000, [1, 2])).toBe(fragment(0x2004, [3, 4]));
    expect(fragment(0x2000, [1, 2])).toBe(fragment(0x0008, [5, 6]));
    expect(fragment(0x2000, [1, 2])).toBe(fragment(0x2000, [1, 2], TCP));
  });

  test('is of the MAC addresses for what is not IP', () => {
    const { frame } = buildPacket({ version: 4, protocol: UDP, payload: new Uint8Array(4) });
    frame[13] = 6;
    const before = hash(frame);
    frame[30] = 99;
    expect(hash(frame)).toBe(before);
    frame[11] = 99;
    expect(hash(frame)).not.toBe(before);
    for (let length = 0; length < 14; length += 1) {
      expect(flowHash(frame, 0, length)).toBe(flowHash(frame.slice(0, length), 0, length));
    }
  });

  test('spreads flows that differ in one port evenly over queues', () => {
    for (const queues of [2, 3, 8]) {
      const counts = new Array<number>(queues).fill(0);
      for (let port = 1; port <= 8000; port += 1) {
        const ports = [port, 80] as const;
        const value = hashOf({ version: 4, protocol: TCP, payload: new Uint8Array(0), ports });
        counts[value % queues] = (counts[value % queues] ?? 0) + 1;
      }
      // Six standard deviations of a fair throw.
      const mean = 8000 / queues;
      for (const count of counts) expect(Math.abs(count - mean)).toBeLessThan(6 * Math.sqrt(mean));
    }
  });
});

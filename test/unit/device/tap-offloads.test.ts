import { describe, expect, test } from 'vitest';
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  FrameBatch,
  GSO_SIZE_SHIFT,
  GSO_TYPE_SHIFT,
} from '../../../src/device/frame-batch.js';
import { FrameOffloads } from '../../../src/device/tap/frame-offloads.js';
import { VirtioNetHeader } from '../../../src/device/tap/virtio-net-header.js';
import { GSO_TYPE_TCPV4, GSO_TYPE_TCPV6 } from '../../../src/ring/netif-extra.js';
import { seededRandom } from '../../support/random.js';
import {
  type BuiltPacket,
  buildPacket,
  expectedPseudoHeader,
  type PacketPlan,
  randomPacket,
  TCP,
  UDP,
} from '../wire/packet-builder.js';

/** Where frames start in these tests: nowhere in particular. */
const OFFSET = 22;
const ICMP = 1;
const CWR_ACK = 0x90;

/** struct virtio_net_hdr as linux/virtio_net.h has it, written by hand. */
function headerBytes(
  flags: number,
  gsoType: number,
  [headerLength, gsoSize, checksumStart, checksumOffset]: readonly [number, number, number, number],
): string {
  const bytes = Buffer.from([flags, gsoType, 0, 0, 0, 0, 0, 0, 0, 0]);
  for (const [index, value] of [headerLength, gsoSize, checksumStart, checksumOffset].entries()) {
    bytes.writeUInt16LE(value, 2 + 2 * index);
  }
  return bytes.toString('hex');
}

function gso(type: number, size: number): number {
  return (type << GSO_TYPE_SHIFT) | (size << GSO_SIZE_SHIFT);
}

function stage(frame: Uint8Array, flags: number): FrameBatch {
  const bytes = new Uint8Array(OFFSET + frame.length);
  bytes.set(frame, OFFSET);
  const batch = new FrameBatch(bytes, 1);
  batch.add(OFFSET, frame.length, flags);
  return batch;
}

/** What a frame with `flags` is given to the kernel with. */
function toHeader(frame: Uint8Array, flags: number) {
  const memory = new ArrayBuffer(16);
  // What the header held before must not matter.
  new Uint8Array(memory).fill(0xff);
  const batch = stage(frame, flags);
  const fault = new FrameOffloads().toHeader(batch, 0, new VirtioNetHeader(memory, 2));
  const around = Buffer.from(memory).toString('hex');
  expect(around.slice(0, 4) + around.slice(-8)).toBe('ffffffffffff');
  return { fault, header: around.slice(4, -8), batch, frame: batch.bytes.subarray(OFFSET) };
}

/** What is known of a frame that the kernel gave with this header. */
function fromHeader(frame: Uint8Array, header: string) {
  const memory = new Uint8Array(Buffer.from(header, 'hex')).buffer;
  const { bytes } = stage(frame, 0);
  const view = new VirtioNetHeader(memory, 0);
  const flags = new FrameOffloads().fromHeader(bytes, OFFSET, frame.length, view);
  return { flags, frame: bytes.subarray(OFFSET) };
}

function packetOf(plan: Partial<PacketPlan>): BuiltPacket {
  return buildPacket({ version: 4, protocol: TCP, payload: new Uint8Array(3000), ...plan });
}

const PLAIN = headerBytes(0, 0, [0, 0, 0, 0]);
const VALID = headerBytes(2, 0, [0, 0, 0, 0]);

describe('a frame on its way to the kernel', () => {
  test('with nothing left undone has an empty header', () => {
    const { frame } = packetOf({ checksum: 0x1234 });
    expect(toHeader(frame, 0)).toMatchObject({ fault: undefined, header: PLAIN, frame });
    expect(toHeader(frame, DATA_VALIDATED)).toMatchObject({ header: VALID, frame });
  });

  test('with a blank checksum says where it is and gets its pseudo-header sum, 500 seeds', () => {
    for (let seed = 1; seed <= 500; seed += 1) {
      const packet = randomPacket(seededRandom(seed));
      const { fault, header, frame, batch } = toHeader(packet.frame, CHECKSUM_BLANK);
      const field = packet.checksumOffset - packet.transportOffset;
      expect(fault).toBeUndefined();
      expect(header).toBe(headerBytes(1, 0, [0, 0, packet.transportOffset, field]));
      const expected = packet.frame.slice();
      new DataView(expected.buffer).setUint16(packet.checksumOffset, expectedPseudoHeader(packet));
      expect(Buffer.compare(frame, expected), `seed ${seed}`).toBe(0);
      expect(batch.flag(0)).toBe(CHECKSUM_BLANK);
    }
  });

  test.each([
    ['IPv4', packetOf({}), GSO_TYPE_TCPV4, 1, [54, 34]],
    [
      'IPv4 with TCP options',
      packetOf({ tcpOptions: new Uint8Array(12) }),
      GSO_TYPE_TCPV4,
      1,
      [66, 34],
    ],
    ['IPv4 with two VLAN tags', packetOf({ tags: [0x88a8, 0x8100] }), GSO_TYPE_TCPV4, 1, [62, 42]],
    ['IPv6', packetOf({ version: 6 }), GSO_TYPE_TCPV6, 4, [74, 54]],
    ['IPv4 with CWR', packetOf({ tcpFlags: CWR_ACK }), GSO_TYPE_TCPV4, 0x81, [54, 34]],
  ] as const)(
    'as many segments in one over %s',
    (_, packet, type, virtioType, [payload, start]) => {
      for (const blank of [CHECKSUM_BLANK, 0]) {
        const { fault, header, batch } = toHeader(packet.frame, blank | gso(type, 40_000));
        expect(fault).toBeUndefined();
        expect(header).toBe(headerBytes(1, virtioType, [payload, 40_000, start, 16]));
        // The frame goes on to others with a sum in its field, and must say so.
        expect(batch.flag(0) & CHECKSUM_BLANK).toBe(CHECKSUM_BLANK);
      }
    },
  );

  test.each([
    [
      'a blank checksum of ICMP',
      packetOf({ protocol: ICMP }),
      CHECKSUM_BLANK,
      'CHECKSUM_UNPLACEABLE',
    ],
    [
      'a blank checksum of a fragment',
      packetOf({ ipv4Fragment: 0x2000 }),
      CHECKSUM_BLANK,
      'CHECKSUM_UNPLACEABLE',
    ],
    ['segments of UDP', packetOf({ protocol: UDP }), gso(GSO_TYPE_TCPV4, 1000), 'GSO_INVALID'],
    ['IPv6 segments of IPv4', packetOf({}), gso(GSO_TYPE_TCPV6, 1000), 'GSO_INVALID'],
    ['segments of no size', packetOf({}), gso(GSO_TYPE_TCPV4, 0), 'GSO_INVALID'],
    ['segments of a type that is none', packetOf({ version: 6 }), gso(3, 1000), 'GSO_INVALID'],
  ] as const)('with %s is refused as it is', (_, packet, flags, fault) => {
    const result = toHeader(packet.frame, flags);
    expect(result.fault).toBe(fault);
    expect(Buffer.compare(result.frame, packet.frame)).toBe(0);
    expect(result.batch.flag(0)).toBe(flags);
  });
});

describe('a frame on its way from the kernel', () => {
  test('comes back as it went, with all that is known of it', () => {
    const blank = CHECKSUM_BLANK | DATA_VALIDATED;
    for (const [packet, flags] of [
      [packetOf({}), 0],
      [packetOf({}), DATA_VALIDATED],
      [packetOf({}), blank],
      [packetOf({ protocol: UDP }), blank],
      [packetOf({ version: 6, tags: [0x8100] }), blank | gso(GSO_TYPE_TCPV6, 1428)],
      [packetOf({ tcpFlags: CWR_ACK }), blank | gso(GSO_TYPE_TCPV4, 65_535)],
    ] as const) {
      const { header, frame } = toHeader(packet.frame, flags);
      const back = fromHeader(frame, header);
      expect(back.flags).toBe(flags);
      expect(Buffer.compare(back.frame, frame)).toBe(0);
    }
  });

  test.each([
    ['with UDP fragmentation, which was not asked for', headerBytes(1, 3, [42, 1000, 34, 16])],
    ['with UDP segmentation, which was not asked for', headerBytes(1, 5, [42, 1000, 34, 16])],
    ['with segments of no size', headerBytes(1, 1, [54, 0, 34, 16])],
    ['with segments whose checksums are not blank', headerBytes(0, 1, [54, 1000, 0, 0])],
    ['with segments and the checksum at another place', headerBytes(1, 1, [54, 1000, 34, 6])],
    ['with a checksum beyond its end', headerBytes(1, 0, [0, 0, 34, 3019])],
    ['with a checksum far beyond its end', headerBytes(1, 0, [0, 0, 65_535, 65_535])],
  ])('%s is none to hand on', (_, header) => {
    const { frame } = packetOf({});
    const back = fromHeader(frame, header);
    expect(back.flags).toBeUndefined();
    expect(Buffer.compare(back.frame, frame)).toBe(0);
  });

  test('with a checksum that is no blank one of TCP or UDP gets it completed', () => {
    const frame = Uint8Array.from({ length: 60 }, () => 0);
    frame.set([0x88, 0xb5], 12);
    // Words 0x0102 and 0xfffe from byte 40 on; the field at 46 holds a sum to start with.
    frame.set([1, 2, 0xff, 0xfe, 0, 0, 0, 3], 40);
    const back = fromHeader(frame, headerBytes(1, 0, [0, 0, 40, 6]));
    expect(back.flags).toBe(DATA_VALIDATED);
    // 0x0102 + 0xfffe + 0x0003 is 0x10103, folded 0x0104.
    expect(Buffer.from(back.frame).readUInt16BE(46)).toBe(0xffff - 0x0104);
  });

  test('whose sum is all ones gets a checksum that UDP does not take for none', () => {
    const frame = new Uint8Array(60);
    frame.set([0xff, 0xff], 40);
    const back = fromHeader(frame, headerBytes(1, 0, [0, 0, 40, 6]));
    expect(Buffer.from(back.frame).readUInt16BE(46)).toBe(0xffff);
  });
});

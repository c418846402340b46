import { describe, expect, test } from 'vitest';
import { ArpPacket, parseArp, writeArp } from '../../../clients/typescript/src/stack/wire/arp.js';
import {
  IcmpMessage,
  parseIcmp,
  writeIcmp,
} from '../../../clients/typescript/src/stack/wire/icmp.js';
import {
  Ipv4Header,
  parseIpv4,
  writeIpv4,
} from '../../../clients/typescript/src/stack/wire/ipv4.js';
import {
  parseTcp,
  TcpSegment,
  writeTcp,
  writeTcpChecksum,
  writeTimestamps,
} from '../../../clients/typescript/src/stack/wire/tcp.js';
import { parseUdp, UdpHeader, writeUdp } from '../../../clients/typescript/src/stack/wire/udp.js';
import { arp, echo, ipv4, u16, udp, withTransportChecksum } from './packets.js';

const PEER = 0x0a000002;
const OURS = 0x0a000001;

describe('ARP', () => {
  test('is read and written as RFC 826 has it', () => {
    const frame = arp({ operation: 1, senderIp: '10.0.0.2', targetIp: '10.0.0.1' });
    const packet = new ArpPacket();
    expect(parseArp(frame, 14, 28, packet)).toBe(true);
    expect(packet).toMatchObject({ operation: 1, senderIp: PEER, targetIp: OURS });
    const written = Buffer.alloc(28);
    writeArp(written, 0, packet);
    expect(written.equals(frame.subarray(14))).toBe(true);
  });

  test.each([
    ['another hardware', 1],
    ['another protocol', 3],
    ['other lengths', 4],
    ['another operation', 7],
  ])('of %s is none', (_, place) => {
    const frame = arp({ operation: 1, senderIp: '10.0.0.2', targetIp: '10.0.0.1' });
    frame[14 + place] = 9;
    expect(parseArp(frame, 14, 28, new ArpPacket())).toBe(false);
    expect(parseArp(frame, 14, 27, new ArpPacket())).toBe(false);
  });
});

describe('IPv4', () => {
  test('is read and written, with options skipped', () => {
    const options = Buffer.from('94040000', 'hex');
    const fields = { protocol: 17, identification: 0xabcd, fragmentOffset: 1480, ttl: 3, options };
    const packet = ipv4({ ...fields, moreFragments: true }, Buffer.from('abc'));
    const header = new Ipv4Header();
    expect(parseIpv4(packet, 0, packet.length, header)).toBeUndefined();
    expect(header).toMatchObject({
      ...{ headerBytes: 24, totalBytes: 27, identification: 0xabcd, moreFragments: true },
      ...{ fragmentOffset: 1480, ttl: 3, protocol: 17, source: PEER, destination: OURS },
    });
    const plain = ipv4({ protocol: 6, identification: 5 }, Buffer.from('abc'));
    const written = Buffer.alloc(20);
    writeIpv4(written, 0, 23, 5, 0, 64, 6, PEER, OURS);
    expect(written.equals(plain.subarray(0, 20))).toBe(true);
  });

  test('with a fault is told by the fault', () => {
    const good = ipv4({ protocol: 6 }, Buffer.from('abcd'));
    const faultOf = (change: (packet: Buffer) => void, length = good.length) => {
      const packet = Buffer.from(good);
      change(packet);
      return parseIpv4(packet, 0, length, new Ipv4Header());
    };
    expect(faultOf((packet) => packet.writeUInt8(0x65, 0))).toBe('VERSION');
    expect(faultOf((packet) => packet.writeUInt8(0x44, 0))).toBe('HEADER_LENGTH');
    expect(faultOf((packet) => packet.writeUInt8(0x4f, 0))).toBe('TOTAL_LENGTH');
    expect(faultOf((packet) => packet.writeUInt16BE(19, 2))).toBe('TOTAL_LENGTH');
    expect(faultOf((packet) => packet.writeUInt16BE(25, 2))).toBe('TRUNCATED');
    expect(faultOf((packet) => packet.writeUInt8(63, 8))).toBe('CHECKSUM');
    expect(faultOf(() => undefined, 19)).toBe('TRUNCATED');
  });
});

describe('ICMP', () => {
  test('is read and written', () => {
    const bytes = echo(8, 0x1234, 7, Buffer.from('data'));
    const message = new IcmpMessage();
    expect(parseIcmp(bytes, 0, bytes.length, message)).toBe(true);
    expect(message).toMatchObject({ type: 8, code: 0, high: 0x1234, low: 7, dataBytes: 4 });
    const written = Buffer.concat([Buffer.alloc(8), Buffer.from('data')]);
    writeIcmp(written, 0, written.length, 8, 0, 0x1234, 7);
    expect(written.equals(bytes)).toBe(true);
    bytes.writeUInt8(1, 9);
    expect(parseIcmp(bytes, 0, bytes.length, message)).toBe(false);
    expect(parseIcmp(bytes, 0, 7, message)).toBe(false);
  });
});

describe('UDP', () => {
  test('is read and written', () => {
    const bytes = udp(1000, 53, Buffer.from('query'));
    const header = new UdpHeader();
    expect(parseUdp(bytes, 0, bytes.length, PEER, OURS, false, header)).toBe(true);
    expect(header).toMatchObject({ sourcePort: 1000, destinationPort: 53, payloadBytes: 5 });
    const written = Buffer.concat([Buffer.alloc(8), Buffer.from('query')]);
    writeUdp(written, 0, written.length, PEER, OURS, 1000, 53);
    expect(written.equals(bytes)).toBe(true);
  });

  test('may have no checksum, but not a wrong one, and no length but its own', () => {
    const header = new UdpHeader();
    const parse = (bytes: Buffer, length = bytes.length) =>
      parseUdp(bytes, 0, length, PEER, OURS, false, header);
    const bytes = udp(1000, 53, Buffer.from('query'));
    bytes.writeUInt16BE(0, 6);
    expect(parse(bytes)).toBe(true);
    bytes.writeUInt16BE(1, 6);
    expect(parse(bytes)).toBe(false);
    expect(parseUdp(bytes, 0, bytes.length, PEER, OURS, true, header)).toBe(true);
    const short = udp(1000, 53, Buffer.from('query'));
    expect(parse(short, 12)).toBe(false);
    expect(parse(short, 7)).toBe(false);
    expect(parse(Buffer.concat([short, Buffer.from('padding')]))).toBe(true);
    expect(header.payloadBytes).toBe(5);
    short.writeUInt16BE(7, 4);
    expect(parse(short)).toBe(false);
  });
});

describe('TCP', () => {
  const SYN_OPTIONS = Buffer.from('020405b40402080a00000001000000020103030e', 'hex');

  function segmentOf(options: Uint8Array, flags: number, data = Buffer.alloc(0)): Buffer {
    const head = Buffer.alloc(20);
    head.writeUInt16BE(4000, 0);
    head.writeUInt16BE(80, 2);
    head.writeUInt32BE(0xfffffff0, 4);
    head.writeUInt32BE(17, 8);
    head[12] = ((20 + options.length) / 4) << 4;
    head[13] = flags;
    head.writeUInt16BE(512, 14);
    return withTransportChecksum(6, Buffer.concat([head, options, data]));
  }

  function parsed(bytes: Buffer): TcpSegment | undefined {
    const segment = new TcpSegment();
    const isGood = parseTcp(bytes, 0, bytes.length, PEER, OURS, false, segment);
    return isGood ? segment : undefined;
  }

  test('is read with all its options', () => {
    expect(parsed(segmentOf(SYN_OPTIONS, 2))).toMatchObject({
      ...{ sourcePort: 4000, destinationPort: 80, sequence: -16, acknowledgement: 17 },
      ...{ mss: 1460, windowShift: 14, sackPermitted: true, window: 512 },
      ...{ hasTimestamps: true, timestamp: 1, timestampEcho: 2, sequenceLength: 1 },
    });
    const sack = Buffer.concat([Buffer.from('0101050a', 'hex'), u16(0, 100, 0, 200)]);
    const segment = parsed(segmentOf(sack, 16, Buffer.from('hello')));
    expect(segment).toMatchObject({ sackCount: 1, payloadBytes: 5, mss: 0 });
    expect(Array.from(segment?.sackEdges.subarray(0, 2) ?? [])).toEqual([100, 200]);
  });

  test('with options that make no sense is read up to them', () => {
    for (const text of ['02010000', '02ff0000', '05090000000000000000', '00000000', '0303ff01']) {
      const options = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8, '0'), 'hex');
      expect(parsed(segmentOf(options, 2))).toMatchObject({ mss: 0, sackCount: 0 });
    }
    expect(parsed(segmentOf(Buffer.from('0303ff01', 'hex'), 2))?.windowShift).toBe(14);
  });

  test('that is damaged or cut short is none', () => {
    const good = segmentOf(SYN_OPTIONS, 2);
    for (let bit = 0; bit < good.length * 8; bit += 1) {
      const bytes = Buffer.from(good);
      bytes[bit >> 3] = (bytes[bit >> 3] as number) ^ (1 << (bit & 7));
      expect(parsed(bytes)).toBeUndefined();
    }
    const segment = new TcpSegment();
    for (const [length, offset] of [
      [19, 5],
      [20, 4],
      [20, 6],
    ] as const) {
      const bytes = Buffer.alloc(20);
      bytes[12] = offset << 4;
      expect(parseTcp(bytes, 0, length, PEER, OURS, true, segment)).toBe(false);
    }
  });

  test('is written as it is read', () => {
    const bytes = Buffer.alloc(37);
    bytes.write('hello', 32);
    writeTcp(bytes, 0, 32, 4000, 80, -16, 17, 24, 512);
    writeTimestamps(bytes, 20, 123, -5);
    writeTcpChecksum(bytes, 0, 37, PEER, OURS);
    expect(parsed(bytes)).toMatchObject({
      ...{ sourcePort: 4000, destinationPort: 80, sequence: -16, acknowledgement: 17, flags: 24 },
      ...{ window: 512, hasTimestamps: true, timestamp: 123, timestampEcho: -5, payloadBytes: 5 },
    });
  });
});

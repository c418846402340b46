/**
 * Packets of all kinds, mostly right, with bytes changed and lengths cut: each codec of the stack must
 * read what a naive reader reads, which knows nothing but the RFCs; and a stack that gets them all
 * must neither throw nor grow.
 */
import { Stack, type TcpSocket } from '@xenvif/client/stack';
import { test } from 'vitest';
import { IcmpMessage, parseIcmp } from '../../clients/typescript/src/stack/wire/icmp.js';
import { Ipv4Header, parseIpv4 } from '../../clients/typescript/src/stack/wire/ipv4.js';
import { parseTcp, TcpSegment } from '../../clients/typescript/src/stack/wire/tcp.js';
import { parseUdp, UdpHeader } from '../../clients/typescript/src/stack/wire/udp.js';
import { type SeededRandom, seededRandom } from '../support/random.js';
import { MemoryLink } from '../unit/stack/memory-link.js';
import {
  arp,
  echo,
  ethernet,
  ipv4,
  naiveChecksum,
  OUR_IP,
  PEER_IP,
  u16,
  withTransportChecksum,
} from '../unit/stack/packets.js';
import { settle, VirtualClock } from '../unit/stack/virtual-clock.js';
import { fuzz, fuzzTimeoutMs, once, pick, shorter, type Target } from './engine.js';

const PORT = 80;
const GOOD = 'good';
const BAD = 'bad';

/** Frames in hex, as they come. */
type Case = string[];

interface World {
  readonly clock: VirtualClock;
  readonly link: MemoryLink;
  readonly stack: Stack;
}

const target: Target<World, Case> = {
  name: 'stack-packets',
  outcomes: ['ipv4', 'tcp', 'udp', 'icmp'].flatMap((name) => [`${name} ${GOOD}`, `${name} ${BAD}`]),
  casesForAll: 500,
  async open() {
    const clock = new VirtualClock();
    const link = new MemoryLink();
    const random = seededRandom(1);
    const stack = Stack.connect(link, { clock, random, cidr: `${OUR_IP}/24` });
    const take = (socket: TcpSocket) => socket.on('error', () => undefined).pipe(socket);
    stack.createServer({ allowHalfOpen: true }, take).listen(PORT);
    stack
      .createUdpSocket()
      .on('error', () => undefined)
      .bind(53);
    return { clock, link, stack };
  },
  async close({ stack }) {
    await stack.disconnect();
  },
  generate: (random) => Array.from({ length: 1 + random.below(30) }, () => frameOf(random)),
  async run({ clock, link, stack }, frames, count) {
    for (const text of frames) {
      const frame = Buffer.from(text, 'hex');
      if (frame.length >= 14) compare(frame.subarray(14), count);
      link.receives(frame);
    }
    await settle();
    await clock.pass(50);
    link.take();
    const { total, halfOpen } = stack.tcpConnections;
    const isBounded = total <= 4096 && halfOpen <= 256 && stack.ipv4.reassembly.size <= 64;
    if (!isBounded) throw new Error(`${total} connections, ${halfOpen} of them half open.`);
  },
  smaller: (frames) => shorter(frames),
};

function compare(packet: Buffer, count: (outcome: string) => void): void {
  const header = new Ipv4Header();
  const isGood = parseIpv4(packet, 0, packet.length, header) === undefined;
  same('ipv4', isGood ? { ...header } : undefined, naiveIpv4(packet));
  count(`ipv4 ${isGood ? GOOD : BAD}`);
  if (!isGood) return;
  const payload = packet.subarray(header.payloadOffset, header.totalBytes);
  const { source, destination } = header;
  const addresses = packet.subarray(12, 20);
  const tell = (name: string, parsed: object | undefined, naive: object | undefined) => {
    same(name, parsed, naive);
    count(`${name} ${parsed === undefined ? BAD : GOOD}`);
  };
  const segment = new TcpSegment();
  const isTcp = parseTcp(payload, 0, payload.length, source, destination, false, segment);
  tell('tcp', isTcp ? plainTcp(segment) : undefined, naiveTcp(payload, addresses));
  const udp = new UdpHeader();
  const isUdp = parseUdp(payload, 0, payload.length, source, destination, false, udp);
  tell('udp', isUdp ? { ...udp } : undefined, naiveUdp(payload, addresses));
  const message = new IcmpMessage();
  const isIcmp = parseIcmp(payload, 0, payload.length, message);
  tell('icmp', isIcmp ? { ...message } : undefined, naiveIcmp(payload));
}

function same(name: string, parsed: object | undefined, naive: object | undefined): void {
  const [a, b] = [parsed, naive].map((found) =>
    JSON.stringify(Object.entries(found ?? {}).sort(([x], [y]) => x.localeCompare(y))),
  );
  if (a !== b) throw new Error(`${name}: read ${a}, and naively ${b}`);
}

function naiveIpv4(bytes: Buffer): object | undefined {
  if (bytes.length < 20) return undefined;
  const headerBytes = (bytes.readUInt8(0) % 16) * 4;
  const totalBytes = bytes.readUInt16BE(2);
  if (bytes.readUInt8(0) >> 4 !== 4 || headerBytes < 20 || totalBytes < headerBytes)
    return undefined;
  if (totalBytes > bytes.length || naiveChecksum(bytes.subarray(0, headerBytes)) !== 0)
    return undefined;
  const word = bytes.readUInt16BE(6).toString(2).padStart(16, '0');
  return {
    ...{ headerOffset: 0, headerBytes, totalBytes, service: bytes.readUInt8(1) },
    ...{ identification: bytes.readUInt16BE(4), dontFragment: word[1] === '1' },
    ...{ moreFragments: word[2] === '1', fragmentOffset: Number.parseInt(word.slice(3), 2) * 8 },
    ...{ ttl: bytes.readUInt8(8), protocol: bytes.readUInt8(9) },
    ...{ source: bytes.readUInt32BE(12), destination: bytes.readUInt32BE(16) },
  };
}

function naivePseudo(addresses: Buffer, protocol: number, payload: Buffer): number {
  return naiveChecksum(Buffer.concat([addresses, u16(protocol, payload.length), payload]));
}

function naiveUdp(bytes: Buffer, addresses: Buffer): object | undefined {
  if (bytes.length < 8) return undefined;
  const length = bytes.readUInt16BE(4);
  if (length < 8 || length > bytes.length) return undefined;
  const isSummed = bytes.readUInt16BE(6) !== 0;
  if (isSummed && naivePseudo(addresses, 17, bytes.subarray(0, length)) !== 0) return undefined;
  return {
    ...{ sourcePort: bytes.readUInt16BE(0), destinationPort: bytes.readUInt16BE(2) },
    ...{ payloadOffset: 8, payloadBytes: length - 8 },
  };
}

function naiveIcmp(bytes: Buffer): object | undefined {
  if (bytes.length < 8 || naiveChecksum(bytes) !== 0) return undefined;
  return {
    ...{ type: bytes.readUInt8(0), code: bytes.readUInt8(1), high: bytes.readUInt16BE(4) },
    ...{ low: bytes.readUInt16BE(6), dataOffset: 8, dataBytes: bytes.length - 8 },
  };
}

function plainTcp(segment: TcpSegment): object {
  const { sackEdges, sackCount, timestamp, timestampEcho, ...rest } = segment;
  const times = segment.hasTimestamps ? { timestamp, timestampEcho } : {};
  return { ...rest, ...times, sacks: Array.from(sackEdges.subarray(0, 2 * sackCount)) };
}

function naiveTcp(bytes: Buffer, addresses: Buffer): object | undefined {
  if (bytes.length < 20) return undefined;
  const headerBytes = (bytes.readUInt8(12) >> 4) * 4;
  if (headerBytes < 20 || headerBytes > bytes.length) return undefined;
  if (naivePseudo(addresses, 6, bytes) !== 0) return undefined;
  const flags = bytes.readUInt8(13) % 64;
  const isSyn = (flags & 2) === 2;
  const found: Record<string, unknown> = {
    ...{ sourcePort: bytes.readUInt16BE(0), destinationPort: bytes.readUInt16BE(2) },
    ...{ sequence: bytes.readInt32BE(4), acknowledgement: bytes.readInt32BE(8), flags },
    ...{ window: bytes.readUInt16BE(14), payloadOffset: headerBytes },
    ...{ payloadBytes: bytes.length - headerBytes, mss: 0, windowShift: -1 },
    ...{ sackPermitted: false, hasTimestamps: false, sacks: [] },
  };
  let rest = bytes.subarray(20, headerBytes);
  while (rest.length > 0 && rest[0] !== 0) {
    if (rest[0] === 1) {
      rest = rest.subarray(1);
      continue;
    }
    const length = rest[1] ?? 0;
    if (length < 2 || length > rest.length) break;
    const kind = `${rest[0]}/${length}`;
    const value = rest.subarray(2, length);
    if (kind === '2/4' && isSyn) found['mss'] = value.readUInt16BE(0);
    if (kind === '3/3' && isSyn) found['windowShift'] = Math.min(14, value.readUInt8(0));
    if (kind === '4/2' && isSyn) found['sackPermitted'] = true;
    if (kind === '8/10') {
      found['hasTimestamps'] = true;
      found['timestamp'] = value.readInt32BE(0);
      found['timestampEcho'] = value.readInt32BE(4);
    }
    if (rest[0] === 5 && value.length > 0 && value.length % 8 === 0) {
      const edges = Array.from({ length: value.length / 4 }, (_, index) =>
        value.readInt32BE(index * 4),
      );
      found['sacks'] = edges.slice(0, 8);
    }
    rest = rest.subarray(length);
  }
  return found;
}

function frameOf(random: SeededRandom): string {
  const frame = goodFrame(random);
  const changes = once(random, 2) ? 0 : random.below(4);
  for (let change = 0; change < changes; change += 1) {
    frame[random.below(frame.length)] = random.below(256);
  }
  const length = once(random, 6) ? random.below(frame.length) : frame.length;
  return frame.subarray(0, length).toString('hex');
}

function goodFrame(random: SeededRandom): Buffer {
  const bytes = (length: number) => Buffer.from(Array.from({ length }, () => random.below(256)));
  if (once(random, 12))
    return arp({ operation: 1 + random.below(2), senderIp: PEER_IP, targetIp: OUR_IP });
  if (once(random, 20)) return ethernet(random.below(65_536), bytes(random.below(60)));
  const source = once(random, 4) ? `10.0.0.${random.below(256)}` : PEER_IP;
  const protocol = pick(random, [1, 6, 6, 6, 17, random.below(256)]);
  const fields = {
    ...{ protocol, source, options: bytes(once(random, 8) ? 4 * random.below(11) : 0) },
    ...{
      moreFragments: once(random, 12),
      fragmentOffset: once(random, 12) ? 8 * random.below(9) : 0,
    },
  };
  return ethernet(0x0800, ipv4(fields, payloadOf(random, protocol, source, bytes)));
}

function payloadOf(
  random: SeededRandom,
  protocol: number,
  source: string,
  bytes: (length: number) => Buffer,
): Buffer {
  const data = bytes(random.below(80));
  if (protocol === 1)
    return echo(pick(random, [0, 3, 8, 11]), random.below(9), random.below(9), data);
  if (protocol === 17) {
    const head = u16(1000 + random.below(4), pick(random, [53, 9]), 8 + data.length, 0);
    return withTransportChecksum(17, Buffer.concat([head, data]), source);
  }
  if (protocol !== 6) return data;
  const options = pick(random, [
    ...[bytes(4 * random.below(11)), Buffer.alloc(0), Buffer.from('020405b4', 'hex')],
    Buffer.from('020405b40402080a00000001000000000103030e', 'hex'),
    Buffer.concat([Buffer.from('0101050a', 'hex'), bytes(8)]),
  ]);
  const head = Buffer.alloc(20);
  u16(1000 + random.below(4), pick(random, [PORT, 9])).copy(head);
  head.writeUInt32BE(random.below(3) * 50, 4);
  head.writeUInt32BE(random.u32(), 8);
  head.writeUInt8(((20 + options.length) / 4) << 4, 12);
  head.writeUInt8(once(random, 2) ? 2 : random.below(64), 13);
  head.writeUInt16BE(random.below(65_536), 14);
  return withTransportChecksum(6, Buffer.concat([head, options, data]), source);
}

test('whatever packets come, they are read as the RFCs have it and none does harm', {
  timeout: fuzzTimeoutMs,
}, async () => {
  await fuzz(target);
});

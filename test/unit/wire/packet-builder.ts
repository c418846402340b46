/**
 * Frames made to measure, and what is true of them by construction: what the parsers of src/wire
 * are checked against. Written slowly and without a line of theirs.
 */
import type { SeededRandom } from '../../support/random.js';

export const TCP = 6;
export const UDP = 17;

export interface PacketPlan {
  readonly version: 4 | 6;
  readonly protocol: number;
  readonly payload: Uint8Array;
  /** EtherTypes of VLAN tags, the outermost first. */
  readonly tags?: readonly number[];
  /** A multiple of four bytes. */
  readonly ipOptions?: Uint8Array;
  /** Bytes 2 on of each IPv6 extension header, with its number; the whole a multiple of eight. */
  readonly extensions?: readonly { readonly type: number; readonly content: Uint8Array }[];
  readonly tcpOptions?: Uint8Array;
  readonly tcpFlags?: number;
  readonly sequence?: number;
  readonly identification?: number;
  /** The 16 bits of the IPv4 flags and fragment offset. */
  readonly ipv4Fragment?: number;
  readonly paddingBytes?: number;
  readonly ports?: readonly [number, number];
  readonly source?: Uint8Array;
  readonly destination?: Uint8Array;
  /** In the pseudo-header, where it is not `destination`. */
  readonly finalDestination?: Uint8Array;
  /** What the checksum's place holds. */
  readonly checksum?: number;
}

export interface BuiltPacket {
  readonly plan: PacketPlan;
  readonly frame: Uint8Array;
  readonly networkOffset: number;
  readonly transportOffset: number;
  readonly payloadOffset: number;
  readonly packetEnd: number;
  readonly checksumOffset: number;
  readonly source: Uint8Array;
  readonly finalDestination: Uint8Array;
}

const u16 = (value: number) => [(value >>> 8) & 0xff, value & 0xff];
const u32 = (value: number) => [...u16(value >>> 16), ...u16(value & 0xffff)];

export function buildPacket(plan: PacketPlan): BuiltPacket {
  const source = plan.source ?? address(plan.version, 1);
  const destination = plan.destination ?? address(plan.version, 2);
  const ethernet = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
  for (const tag of plan.tags ?? []) ethernet.push(...u16(tag), 0, 7);
  ethernet.push(...u16(plan.version === 4 ? 0x0800 : 0x86dd));
  const transport = transportHeader(plan);
  const transportBytes = transport.length + plan.payload.length;
  const network =
    plan.version === 4
      ? ipv4Header(plan, source, destination, transportBytes)
      : ipv6Header(plan, source, destination, transportBytes);
  const padding = new Array<number>(plan.paddingBytes ?? 0).fill(0xee);
  const transportOffset = ethernet.length + network.length;
  const payloadOffset = transportOffset + transport.length;
  return {
    plan,
    frame: Uint8Array.from([...ethernet, ...network, ...transport, ...plan.payload, ...padding]),
    networkOffset: ethernet.length,
    transportOffset,
    payloadOffset,
    packetEnd: payloadOffset + plan.payload.length,
    checksumOffset: transportOffset + (plan.protocol === TCP ? 16 : 6),
    source,
    finalDestination: plan.finalDestination ?? destination,
  };
}

/** The checksum that `packet` should have, whatever is in the field now. */
export function expectedChecksum(packet: BuiltPacket): number {
  const covered = [...packet.frame.subarray(packet.transportOffset, packet.packetEnd)];
  const field = packet.checksumOffset - packet.transportOffset;
  covered[field] = 0;
  covered[field + 1] = 0;
  const checksum = onesComplement([
    ...packet.source,
    ...packet.finalDestination,
    ...u32(covered.length),
    ...u32(packet.plan.protocol),
    ...covered,
  ]);
  return packet.plan.protocol === UDP && checksum === 0 ? 0xffff : checksum;
}

/** The packet's frame with the checksum it should have. */
export function expectedFrame(packet: BuiltPacket): Uint8Array {
  const frame = packet.frame.slice();
  frame.set(u16(expectedChecksum(packet)), packet.checksumOffset);
  return frame;
}

/** The sum of the pseudo-header alone, not complemented. */
export function expectedPseudoHeader(packet: BuiltPacket): number {
  const length = packet.packetEnd - packet.transportOffset;
  const { source, finalDestination, plan } = packet;
  return (
    0xffff - onesComplement([...source, ...finalDestination, 0, plan.protocol, ...u32(length)])
  );
}

/** The complement of the sum of 16-bit words: a number in base 65536 modulo 65535. */
export function onesComplement(bytes: readonly number[]): number {
  const even = bytes.length % 2 === 0 ? bytes : [...bytes, 0];
  const whole = BigInt(`0x0${Buffer.from(even).toString('hex')}`);
  if (whole === 0n) return 0xffff;
  const rest = Number(whole % 65535n);
  return 0xffff - (rest === 0 ? 0xffff : rest);
}

export function randomBytes(random: SeededRandom, count: number): Uint8Array {
  return Uint8Array.from({ length: count }, () => random.below(256));
}

/** Any sound TCP or UDP packet: tags, options, extension headers and padding by chance. */
export function randomPacket(
  random: SeededRandom,
  wish: { readonly protocol?: number; readonly payloadBytes?: number } = {},
): BuiltPacket {
  const version = random.below(2) === 0 ? 4 : 6;
  const finalDestination = randomAddress(random, version);
  const route = random.below(5) === 0 ? sourceRoute(random, version, finalDestination) : undefined;
  const extensions = version === 6 ? randomExtensions(random) : [];
  if (route?.extension !== undefined) extensions.push(route.extension);
  return buildPacket({
    version,
    protocol: wish.protocol ?? (random.below(2) === 0 ? TCP : UDP),
    payload: randomBytes(random, wish.payloadBytes ?? random.below(random.below(4) * 500 + 3)),
    tags: [[], [0x8100], [0x88a8, 0x8100]][random.below(3)] ?? [],
    ipOptions:
      route?.options ?? new Uint8Array(version === 4 && random.below(3) === 0 ? 4 : 0).fill(1),
    extensions,
    tcpOptions: new Uint8Array(random.below(11) * 4).fill(1),
    // ACK, and what segmentation changes: FIN, PSH, CWR.
    tcpFlags: 0x10 | (random.u32() & 0x89),
    sequence: random.below(3) === 0 ? 0xffffffff - random.below(2000) : random.u32(),
    identification: random.below(65536),
    paddingBytes: random.below(2) * random.below(20),
    ports: [1 + random.below(65535), 1 + random.below(65535)],
    source: randomAddress(random, version),
    destination: route === undefined ? finalDestination : randomAddress(random, version),
    finalDestination,
    checksum: random.below(65536),
  });
}

function randomAddress(random: SeededRandom, version: 4 | 6): Uint8Array {
  const bytes = randomBytes(random, version === 4 ? 4 : 16);
  bytes[0] = version === 4 ? 10 : 0x20;
  return bytes;
}

function randomExtensions(random: SeededRandom) {
  const extensions: { type: number; content: Uint8Array }[] = [];
  if (random.below(4) === 0) extensions.push({ type: 0, content: padOption(6) });
  if (random.below(4) === 0) extensions.push({ type: 60, content: padOption(14) });
  if (random.below(6) === 0)
    extensions.push({ type: 44, content: Uint8Array.of(0, 0, 1, 2, 3, 4) });
  return extensions;
}

/** A PadN option of `bytes` bytes (RFC 8200, section 4.2). */
function padOption(bytes: number): Uint8Array {
  const content = new Uint8Array(bytes);
  content[0] = 1;
  content[1] = bytes - 2;
  return content;
}

/** What makes a packet still travel to `last`: an IPv4 option, or an IPv6 routing header. */
function sourceRoute(random: SeededRandom, version: 4 | 6, last: Uint8Array) {
  const other = randomAddress(random, version);
  if (version === 4) {
    const type = random.below(2) === 0 ? 131 : 137;
    return { options: Uint8Array.of(1, type, 11, 4, ...other, ...last) };
  }
  const isSegmentRouting = random.below(2) === 0;
  const content = isSegmentRouting
    ? [4, 1, 1, 0, 0, 0, ...last, ...other]
    : [0, 2, 0, 0, 0, 0, ...other, ...last];
  return { extension: { type: 43, content: Uint8Array.from(content) } };
}

function address(version: 4 | 6, last: number): Uint8Array {
  if (version === 4) return Uint8Array.of(10, 0, 0, last);
  return Uint8Array.of(0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last);
}

function transportHeader(plan: PacketPlan): number[] {
  const [from, to] = plan.ports ?? [1000, 2000];
  const checksum = u16(plan.checksum ?? 0);
  if (plan.protocol === UDP) {
    return [...u16(from), ...u16(to), ...u16(8 + plan.payload.length), ...checksum];
  }
  if (plan.protocol !== TCP) return [];
  const options = plan.tcpOptions ?? [];
  const words = (20 + options.length) / 4;
  const head = [...u16(from), ...u16(to), ...u32(plan.sequence ?? 1), ...u32(77), words << 4];
  return [...head, plan.tcpFlags ?? 0x10, ...u16(512), ...checksum, ...u16(0), ...options];
}

function ipv4Header(
  plan: PacketPlan,
  source: Uint8Array,
  destination: Uint8Array,
  transportBytes: number,
): number[] {
  const options = plan.ipOptions ?? [];
  const headerBytes = 20 + options.length;
  const head = [0x40 | (headerBytes / 4), 0, ...u16(headerBytes + transportBytes)];
  head.push(...u16(plan.identification ?? 0), ...u16(plan.ipv4Fragment ?? 0x4000));
  head.push(64, plan.protocol, 0, 0, ...source, ...destination, ...options);
  const [high, low] = u16(onesComplement(head));
  head[10] = high as number;
  head[11] = low as number;
  return head;
}

function ipv6Header(
  plan: PacketPlan,
  source: Uint8Array,
  destination: Uint8Array,
  transportBytes: number,
): number[] {
  const extensions: number[] = [];
  const list = plan.extensions ?? [];
  for (const [index, { type, content }] of list.entries()) {
    const next = list[index + 1]?.type ?? plan.protocol;
    const units = type === 44 ? 0 : (content.length + 2) / 8 - 1;
    extensions.push(next, units, ...content);
  }
  const first = list[0]?.type ?? plan.protocol;
  const payloadBytes = extensions.length + transportBytes;
  const head = [0x60, 0, 0, 0, ...u16(payloadBytes), first, 64];
  return [...head, ...source, ...destination, ...extensions];
}

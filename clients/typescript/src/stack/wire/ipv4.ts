/**
 * IPv4 (RFC 791): 0 version and header length, 1 service, 2 total length, 4 identification, 6 flags
 * and fragment offset, 8 TTL, 9 protocol, 10 checksum, 12 source, 16 destination, 20 options.
 */
import { readU16, readU32, writeU16, writeU32 } from './bytes.js';
import { internetChecksum } from './checksum.js';

export const IPV4_HEADER_BYTES = 20;
export const IPV4_PACKET_BYTES_MAX = 65535;
export const IPV4_TTL_DEFAULT = 64;
/** What every link must carry in one piece. */
export const IPV4_MTU_MIN = 68;

export const PROTOCOL_ICMP = 1;
export const PROTOCOL_TCP = 6;
export const PROTOCOL_UDP = 17;

export const FLAG_DONT_FRAGMENT = 0x4000;
export const FLAG_MORE_FRAGMENTS = 0x2000;
export const FRAGMENT_OFFSET_MASK = 0x1fff;

/** Why the bytes are no packet to be taken. */
export type Ipv4Fault = 'TRUNCATED' | 'VERSION' | 'HEADER_LENGTH' | 'TOTAL_LENGTH' | 'CHECKSUM';

/** A header; reused for one packet after the other. Offsets are indices into what was parsed. */
export class Ipv4Header {
  headerOffset = 0;
  headerBytes = 0;
  /** The packet's, header included; what is behind it in the frame is padding. */
  totalBytes = 0;
  service = 0;
  identification = 0;
  dontFragment = false;
  moreFragments = false;
  /** Where the payload belongs in the whole, in bytes. */
  fragmentOffset = 0;
  ttl = 0;
  protocol = 0;
  source = 0;
  destination = 0;

  get isFragment(): boolean {
    return this.moreFragments || this.fragmentOffset !== 0;
  }

  get payloadOffset(): number {
    return this.headerOffset + this.headerBytes;
  }

  get payloadBytes(): number {
    return this.totalBytes - this.headerBytes;
  }
}

/** Fills `header` from `bytes[offset .. offset + length)`; answers what is wrong, if anything is. */
export function parseIpv4(
  bytes: Uint8Array,
  offset: number,
  length: number,
  header: Ipv4Header,
): Ipv4Fault | undefined {
  if (length < IPV4_HEADER_BYTES) return 'TRUNCATED';
  const first = bytes[offset] as number;
  if (first >> 4 !== 4) return 'VERSION';
  header.headerOffset = offset;
  header.headerBytes = (first & 15) * 4;
  header.totalBytes = readU16(bytes, offset + 2);
  if (header.headerBytes < IPV4_HEADER_BYTES) return 'HEADER_LENGTH';
  if (header.totalBytes < header.headerBytes) return 'TOTAL_LENGTH';
  if (header.totalBytes > length) return 'TRUNCATED';
  if (internetChecksum(bytes, offset, offset + header.headerBytes) !== 0) return 'CHECKSUM';
  const fragment = readU16(bytes, offset + 6);
  header.service = bytes[offset + 1] as number;
  header.identification = readU16(bytes, offset + 4);
  header.dontFragment = (fragment & FLAG_DONT_FRAGMENT) !== 0;
  header.moreFragments = (fragment & FLAG_MORE_FRAGMENTS) !== 0;
  header.fragmentOffset = (fragment & FRAGMENT_OFFSET_MASK) * 8;
  header.ttl = bytes[offset + 8] as number;
  header.protocol = bytes[offset + 9] as number;
  header.source = readU32(bytes, offset + 12);
  header.destination = readU32(bytes, offset + 16);
  return undefined;
}

/** Writes a header of 20 bytes. `fragment` is the word of flags and offset in eights. */
export function writeIpv4(
  bytes: Uint8Array,
  offset: number,
  totalBytes: number,
  identification: number,
  fragment: number,
  ttl: number,
  protocol: number,
  source: number,
  destination: number,
): void {
  bytes[offset] = 0x45;
  bytes[offset + 1] = 0;
  writeU16(bytes, offset + 2, totalBytes);
  writeU16(bytes, offset + 4, identification);
  writeU16(bytes, offset + 6, fragment);
  bytes[offset + 8] = ttl;
  bytes[offset + 9] = protocol;
  writeU16(bytes, offset + 10, 0);
  writeU32(bytes, offset + 12, source);
  writeU32(bytes, offset + 16, destination);
  writeU16(bytes, offset + 10, internetChecksum(bytes, offset, offset + IPV4_HEADER_BYTES));
}

/**
 * TCP (RFC 9293): 0 source port, 2 destination port, 4 sequence number, 8 acknowledgement,
 * 12 data offset, 13 flags, 14 window, 16 checksum, 18 urgent pointer, 20 options: MSS (2), window
 * scale (3), SACK permitted (4), SACK (5, RFC 2018), timestamps (8, RFC 7323).
 *
 * Sequence numbers are 32-bit numbers with a sign, so that `(a - b) | 0` orders them.
 */
import { readI32, readU16, writeU16, writeU32 } from './bytes.js';
import { foldSum, internetChecksum, pseudoHeaderSum } from './checksum.js';
import { PROTOCOL_TCP } from './ipv4.js';

export const TCP_HEADER_BYTES = 20;
export const TCP_OPTIONS_BYTES_MAX = 40;
export const TCP_CHECKSUM_OFFSET = 16;

export const TCP_FIN = 1;
export const TCP_SYN = 2;
export const TCP_RST = 4;
export const TCP_PSH = 8;
export const TCP_ACK = 16;

export const OPTION_MSS_BYTES = 4;
export const OPTION_SYN_BYTES_MAX = 20;
/** Timestamps with the two bytes in front that align them. */
export const OPTION_TIMESTAMPS_BYTES = 12;
/** The largest shift of a window (RFC 7323, section 2.3). */
export const WINDOW_SHIFT_MAX = 14;
const SACK_BLOCKS_MAX = 4;

/** A parsed segment; reused for one after the other. */
export class TcpSegment {
  sourcePort = 0;
  destinationPort = 0;
  sequence = 0;
  acknowledgement = 0;
  flags = 0;
  /** As it stands in the header, without its scale. */
  window = 0;
  payloadOffset = 0;
  payloadBytes = 0;
  /** 0: there was none. */
  mss = 0;
  /** -1: there was none. */
  windowShift = -1;
  sackPermitted = false;
  hasTimestamps = false;
  timestamp = 0;
  timestampEcho = 0;
  sackCount = 0;
  /** Left and right edge of each block in turn. */
  readonly sackEdges = new Int32Array(2 * SACK_BLOCKS_MAX);

  has(flag: number): boolean {
    return (this.flags & flag) !== 0;
  }

  /** How much of the sequence space the segment takes. */
  get sequenceLength(): number {
    return this.payloadBytes + ((this.flags >> 1) & 1) + (this.flags & 1);
  }
}

/**
 * Fills `segment` from the payload of a packet. False where it is cut short or its checksum is wrong;
 * `isVerified` says that somebody looked at the checksum already. Options that make no sense end
 * the reading of options, as RFC 9293 allows.
 */
export function parseTcp(
  bytes: Uint8Array,
  offset: number,
  length: number,
  source: number,
  destination: number,
  isVerified: boolean,
  segment: TcpSegment,
): boolean {
  if (length < TCP_HEADER_BYTES) return false;
  const headerBytes = ((bytes[offset + 12] as number) >> 4) * 4;
  if (headerBytes < TCP_HEADER_BYTES || headerBytes > length) return false;
  if (!isVerified) {
    const pseudo = pseudoHeaderSum(source, destination, PROTOCOL_TCP, length);
    if (internetChecksum(bytes, offset, offset + length, pseudo) !== 0) return false;
  }
  segment.sourcePort = readU16(bytes, offset);
  segment.destinationPort = readU16(bytes, offset + 2);
  segment.sequence = readI32(bytes, offset + 4);
  segment.acknowledgement = readI32(bytes, offset + 8);
  segment.flags = (bytes[offset + 13] as number) & 0x3f;
  segment.window = readU16(bytes, offset + 14);
  segment.payloadOffset = offset + headerBytes;
  segment.payloadBytes = length - headerBytes;
  segment.mss = 0;
  segment.windowShift = -1;
  segment.sackPermitted = false;
  segment.hasTimestamps = false;
  segment.sackCount = 0;
  if (headerBytes > TCP_HEADER_BYTES) {
    parseOptions(bytes, offset + TCP_HEADER_BYTES, offset + headerBytes, segment);
  }
  return true;
}

function parseOptions(bytes: Uint8Array, start: number, end: number, segment: TcpSegment): void {
  let position = start;
  while (position < end) {
    const kind = bytes[position] as number;
    if (kind === 0) return;
    if (kind === 1) {
      position += 1;
      continue;
    }
    if (position + 1 >= end) return;
    const length = bytes[position + 1] as number;
    if (length < 2 || position + length > end) return;
    parseOption(bytes, position, kind, length, segment);
    position += length;
  }
}

function parseOption(
  bytes: Uint8Array,
  position: number,
  kind: number,
  length: number,
  segment: TcpSegment,
): void {
  const isSyn = segment.has(TCP_SYN);
  if (kind === 2 && length === 4 && isSyn) segment.mss = readU16(bytes, position + 2);
  else if (kind === 3 && length === 3 && isSyn) {
    segment.windowShift = Math.min(WINDOW_SHIFT_MAX, bytes[position + 2] as number);
  } else if (kind === 4 && length === 2 && isSyn) segment.sackPermitted = true;
  else if (kind === 8 && length === 10) {
    segment.hasTimestamps = true;
    segment.timestamp = readI32(bytes, position + 2);
    segment.timestampEcho = readI32(bytes, position + 6);
  } else if (kind === 5 && length >= 10 && (length - 2) % 8 === 0) {
    const count = Math.min(SACK_BLOCKS_MAX, (length - 2) / 8);
    for (let edge = 0; edge < count * 2; edge += 1) {
      segment.sackEdges[edge] = readI32(bytes, position + 2 + edge * 4);
    }
    segment.sackCount = count;
  }
}

/** Writes a header without its options and checksum. `headerBytes` counts the options. */
export function writeTcp(
  bytes: Uint8Array,
  offset: number,
  headerBytes: number,
  sourcePort: number,
  destinationPort: number,
  sequence: number,
  acknowledgement: number,
  flags: number,
  window: number,
): void {
  writeU16(bytes, offset, sourcePort);
  writeU16(bytes, offset + 2, destinationPort);
  writeU32(bytes, offset + 4, sequence);
  writeU32(bytes, offset + 8, acknowledgement);
  bytes[offset + 12] = (headerBytes >> 2) << 4;
  bytes[offset + 13] = flags;
  writeU16(bytes, offset + 14, window);
  writeU32(bytes, offset + 16, 0);
}

/** Writes timestamps and the two bytes that align them; answers where they end. */
export function writeTimestamps(
  bytes: Uint8Array,
  position: number,
  timestamp: number,
  echo: number,
): number {
  writeU32(bytes, position, 0x0101_080a);
  writeU32(bytes, position + 4, timestamp);
  writeU32(bytes, position + 8, echo);
  return position + OPTION_TIMESTAMPS_BYTES;
}

/** Writes the checksum of a segment that is `length` bytes long, options and data in place. */
export function writeTcpChecksum(
  bytes: Uint8Array,
  offset: number,
  length: number,
  source: number,
  destination: number,
): void {
  const pseudo = pseudoHeaderSum(source, destination, PROTOCOL_TCP, length);
  const checksum = internetChecksum(bytes, offset, offset + length, pseudo);
  writeU16(bytes, offset + TCP_CHECKSUM_OFFSET, checksum);
}

/** Writes the pseudo-header's sum, which is what a blank checksum holds in its place. */
export function writeBlankTcpChecksum(
  bytes: Uint8Array,
  offset: number,
  length: number,
  source: number,
  destination: number,
): void {
  const pseudo = pseudoHeaderSum(source, destination, PROTOCOL_TCP, length);
  writeU16(bytes, offset + TCP_CHECKSUM_OFFSET, foldSum(pseudo));
}

/** UDP (RFC 768): 0 source port, 2 destination port, 4 length, 6 checksum (0: none), 8 data. */
import { readU16, writeU16 } from './bytes.js';
import { internetChecksum, pseudoHeaderSum } from './checksum.js';
import { PROTOCOL_UDP } from './ipv4.js';

export const UDP_HEADER_BYTES = 8;
export const UDP_CHECKSUM_OFFSET = 6;
/** What an IPv4 packet has room for. */
export const UDP_PAYLOAD_BYTES_MAX = 65535 - 20 - UDP_HEADER_BYTES;

export class UdpHeader {
  sourcePort = 0;
  destinationPort = 0;
  payloadOffset = 0;
  payloadBytes = 0;
}

/**
 * Fills `header` from the payload of a packet. False where it is cut short or its checksum is wrong;
 * `isVerified` says that somebody looked at the checksum already.
 */
export function parseUdp(
  bytes: Uint8Array,
  offset: number,
  length: number,
  source: number,
  destination: number,
  isVerified: boolean,
  header: UdpHeader,
): boolean {
  if (length < UDP_HEADER_BYTES) return false;
  const datagramBytes = readU16(bytes, offset + 4);
  if (datagramBytes < UDP_HEADER_BYTES || datagramBytes > length) return false;
  if (!isVerified && readU16(bytes, offset + UDP_CHECKSUM_OFFSET) !== 0) {
    const pseudo = pseudoHeaderSum(source, destination, PROTOCOL_UDP, datagramBytes);
    if (internetChecksum(bytes, offset, offset + datagramBytes, pseudo) !== 0) return false;
  }
  header.sourcePort = readU16(bytes, offset);
  header.destinationPort = readU16(bytes, offset + 2);
  header.payloadOffset = offset + UDP_HEADER_BYTES;
  header.payloadBytes = datagramBytes - UDP_HEADER_BYTES;
  return true;
}

/** Writes the header of a datagram whose data is in place: `length` counts both. */
export function writeUdp(
  bytes: Uint8Array,
  offset: number,
  length: number,
  source: number,
  destination: number,
  sourcePort: number,
  destinationPort: number,
): void {
  writeU16(bytes, offset, sourcePort);
  writeU16(bytes, offset + 2, destinationPort);
  writeU16(bytes, offset + 4, length);
  writeU16(bytes, offset + UDP_CHECKSUM_OFFSET, 0);
  const pseudo = pseudoHeaderSum(source, destination, PROTOCOL_UDP, length);
  const checksum = internetChecksum(bytes, offset, offset + length, pseudo);
  // Zero says that there is none; its other representation stands for the value.
  writeU16(bytes, offset + UDP_CHECKSUM_OFFSET, checksum === 0 ? 0xffff : checksum);
}

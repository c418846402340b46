/**
 * What a NIC with checksum offload does, in software: the TCP (RFC 9293, section 3.1) and UDP
 * (RFC 768) checksums over IPv4 and IPv6 (RFC 8200, section 8.1). The checksum is always taken over
 * everything; what the field held is never part of it, for some senders leave the pseudo-header's
 * sum there and others zero.
 *
 * Every function takes the whole frame `bytes[offset .. offset + length)` from its Ethernet header
 * on, and neither reads nor writes a byte beside it.
 */
import { foldSum, PROTOCOL_UDP, sumBytes, writeU16 } from '@xenvif/client/wire';
import { PacketLayout, parseTransport } from './packet-layout.js';

const TCP_CHECKSUM_OFFSET = 16;
const UDP_CHECKSUM_OFFSET = 6;

/** Where the frame at hand has its headers: filled and read within one call. */
const scratch = new PacketLayout();

/** Whether the frame is a whole TCP segment or UDP datagram over unfragmented IP. */
export function canComplete(bytes: Uint8Array, offset: number, length: number): boolean {
  return parseTransport(bytes, offset, length, scratch);
}

/** The index in `bytes` of the checksum's first byte; -1 where `canComplete` is false. */
export function locateChecksum(bytes: Uint8Array, offset: number, length: number): number {
  return parseTransport(bytes, offset, length, scratch) ? checksumField(scratch) : -1;
}

/** The index in `bytes` of the TCP or UDP header, which the checksum covers; -1 as above. */
export function locateTransport(bytes: Uint8Array, offset: number, length: number): number {
  return parseTransport(bytes, offset, length, scratch) ? scratch.transportOffset : -1;
}

/** The checksum that the frame should have; -1 where `canComplete` is false. Writes nothing. */
export function computeChecksum(bytes: Uint8Array, offset: number, length: number): number {
  return parseTransport(bytes, offset, length, scratch) ? transportChecksum(bytes, scratch) : -1;
}

/** Writes the right checksum into the frame. False, and nothing written, where `canComplete` is. */
export function completeChecksum(bytes: Uint8Array, offset: number, length: number): boolean {
  if (!parseTransport(bytes, offset, length, scratch)) return false;
  writeU16(bytes, checksumField(scratch), transportChecksum(bytes, scratch));
  return true;
}

/**
 * Writes the folded sum of the pseudo-header, not complemented, into the checksum's place: what
 * Linux expects of a frame whose checksum is blank (CHECKSUM_PARTIAL). False, and nothing written,
 * where `canComplete` is.
 */
export function blankChecksum(bytes: Uint8Array, offset: number, length: number): boolean {
  if (!parseTransport(bytes, offset, length, scratch)) return false;
  writeU16(bytes, checksumField(scratch), foldSum(pseudoHeaderSum(bytes, scratch)));
  return true;
}

/** The index of the checksum's first byte in a frame that `parseTransport` took. */
export function checksumField(layout: PacketLayout): number {
  const isUdp = layout.protocol === PROTOCOL_UDP;
  return layout.transportOffset + (isUdp ? UDP_CHECKSUM_OFFSET : TCP_CHECKSUM_OFFSET);
}

/** The checksum of a frame that `parseTransport` took. */
function transportChecksum(bytes: Uint8Array, layout: PacketLayout): number {
  const field = checksumField(layout);
  const beforeField = sumBytes(bytes, layout.transportOffset, field);
  const behindField = sumBytes(bytes, field + 2, layout.transportEnd);
  const sum = foldSum(pseudoHeaderSum(bytes, layout) + beforeField + behindField);
  const checksum = ~sum & 0xffff;
  // In UDP, zero says that there is no checksum; its other representation stands for the value.
  return checksum === 0 && layout.protocol === PROTOCOL_UDP ? 0xffff : checksum;
}

/** Addresses, protocol and length; IPv6 writes the last two in 32 bits, which sums up the same. */
function pseudoHeaderSum(bytes: Uint8Array, layout: PacketLayout): number {
  const transportBytes = layout.transportEnd - layout.transportOffset;
  return addressSum(bytes, layout) + layout.protocol + transportBytes;
}

/** The part of the pseudo-header's sum that all segments of a frame have in common. */
export function addressSum(bytes: Uint8Array, layout: PacketLayout): number {
  const { sourceOffset, destinationOffset, ipVersion } = layout;
  const addressBytes = ipVersion === 4 ? 4 : 16;
  return (
    sumBytes(bytes, sourceOffset, sourceOffset + addressBytes) +
    sumBytes(bytes, destinationOffset, destinationOffset + addressBytes)
  );
}

/**
 * Where the headers of a TCP or UDP packet lie in a frame: Ethernet with up to two VLAN tags
 * (IEEE 802.1Q, 802.1ad), IPv4 (RFC 791) or IPv6 with extension headers (RFC 8200), TCP (RFC 9293)
 * or UDP (RFC 768). The frame is a stranger's: every field is checked against what is there, and
 * nothing is allocated.
 *
 * After `parseLayout` returned true, `networkOffset <= transportOffset <= payloadOffset <=
 * transportEnd <= packetEnd <= offset + length`.
 */
import {
  ETHERTYPE_IPV4,
  IPV4_HEADER_BYTES,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  readU16,
  TCP_HEADER_BYTES,
  UDP_HEADER_BYTES,
} from '@xenvif/client/wire';

export const ETHERTYPE_VLAN = 0x8100;
export const ETHERTYPE_SERVICE_VLAN = 0x88a8;
export const ETHERTYPE_IPV6 = 0x86dd;
export const IPV6_HEADER_BYTES = 40;

const ETHERTYPE_OFFSET = 12;
const VLAN_TAG_BYTES = 4;
const VLAN_TAGS_MAX = 2;

const NEXT_HOP_BY_HOP = 0;
const NEXT_ROUTING = 43;
const NEXT_FRAGMENT = 44;
const NEXT_DESTINATION = 60;
/** RFC 8200 recommends five different ones; more than this is nobody's traffic. */
const EXTENSION_HEADERS_MAX = 8;
/** Routing types whose last address is the final destination (RFC 5095, 6275). */
const ROUTING_SOURCE = 0;
const ROUTING_MOBILE = 2;
/** The segment routing header, whose first address is the final destination (RFC 8754). */
const ROUTING_SEGMENT = 4;

const OPTION_END = 0;
const OPTION_NO_OPERATION = 1;
const OPTION_LOOSE_ROUTE = 131;
const OPTION_STRICT_ROUTE = 137;

/** What `parseLayout` finds. Offsets are indices into the bytes that were parsed. */
export class PacketLayout {
  /** 4 or 6; 0 when there is no whole IP header. */
  ipVersion = 0;
  networkOffset = 0;
  /** With IPv4 options or IPv6 extension headers. */
  ipHeaderBytes = 0;
  /** Where the source address is, 4 or 16 bytes. */
  sourceOffset = 0;
  /** Where the final destination is, which is in the pseudo-header: source routes have it last. */
  destinationOffset = 0;
  /** The IP protocol behind all that belongs to IP. */
  protocol = 0;
  /** A part of a packet. (An IPv6 packet in one fragment is a whole packet: RFC 6946.) */
  isFragment = false;
  transportOffset = 0;
  /** With TCP options; 0 for a fragment, and for what is neither TCP nor UDP. */
  transportHeaderBytes = 0;
  /** Behind the transport header; behind the IP header where that has 0 bytes. */
  payloadOffset = 0;
  /** Where the segment or datagram ends, which for UDP may be before the packet does. */
  transportEnd = 0;
  /** Where the packet ends as IP says; the frame may be padded. */
  packetEnd = 0;
}

/**
 * Finds the headers of the frame `bytes[offset .. offset + length)`. Returns false when it is not
 * IP, or when a header, or what the headers promise, is not all there; `layout.ipVersion` is 0
 * then, and the other fields mean nothing.
 */
export function parseLayout(
  bytes: Uint8Array,
  offset: number,
  length: number,
  layout: PacketLayout,
): boolean {
  layout.ipVersion = 0;
  const end = offset + length;
  let position = offset + ETHERTYPE_OFFSET;
  for (let tags = 0; position + 2 <= end; tags += 1) {
    const type = readU16(bytes, position);
    if (type === ETHERTYPE_IPV4) return parseIpv4Header(bytes, position + 2, end, layout);
    if (type === ETHERTYPE_IPV6) return parseIpv6Header(bytes, position + 2, end, layout);
    const isTag = type === ETHERTYPE_VLAN || type === ETHERTYPE_SERVICE_VLAN;
    if (!isTag || tags === VLAN_TAGS_MAX) return false;
    position += VLAN_TAG_BYTES;
  }
  return false;
}

/** As `parseLayout`, but true only for a whole TCP segment or UDP datagram in an unfragmented packet. */
export function parseTransport(
  bytes: Uint8Array,
  offset: number,
  length: number,
  layout: PacketLayout,
): boolean {
  return parseLayout(bytes, offset, length, layout) && layout.transportHeaderBytes > 0;
}

/** The big-endian number at `offset`. */
function parseIpv4Header(
  bytes: Uint8Array,
  start: number,
  end: number,
  layout: PacketLayout,
): boolean {
  if (start + IPV4_HEADER_BYTES > end) return false;
  const first = bytes[start] as number;
  const headerBytes = (first & 15) * 4;
  const totalBytes = readU16(bytes, start + 2);
  if (first >> 4 !== 4 || headerBytes < IPV4_HEADER_BYTES || totalBytes < headerBytes) return false;
  if (start + totalBytes > end) return false;
  layout.networkOffset = start;
  layout.packetEnd = start + totalBytes;
  layout.sourceOffset = start + 12;
  layout.destinationOffset = start + 16;
  layout.protocol = bytes[start + 9] as number;
  // The offset and the bit that more fragments follow.
  layout.isFragment = (readU16(bytes, start + 6) & 0x3fff) !== 0;
  if (headerBytes > IPV4_HEADER_BYTES) followIpv4Route(bytes, start + headerBytes, layout);
  return parseTransportHeader(bytes, start + headerBytes, 4, layout);
}

/** A packet on a source route (RFC 791, section 3.1) has its final destination in the option. */
function followIpv4Route(bytes: Uint8Array, end: number, layout: PacketLayout): void {
  let position = layout.networkOffset + IPV4_HEADER_BYTES;
  while (position + 1 < end) {
    const type = bytes[position] as number;
    if (type === OPTION_END) return;
    if (type === OPTION_NO_OPERATION) {
      position += 1;
      continue;
    }
    const optionBytes = bytes[position + 1] as number;
    if (optionBytes < 2 || position + optionBytes > end) return;
    const isRoute = type === OPTION_LOOSE_ROUTE || type === OPTION_STRICT_ROUTE;
    // The pointer counts from 1; past the option, the packet is at the route's end.
    if (isRoute && optionBytes >= 7 && (bytes[position + 2] as number) <= optionBytes - 3) {
      layout.destinationOffset = position + optionBytes - 4;
      return;
    }
    position += optionBytes;
  }
}

function parseIpv6Header(
  bytes: Uint8Array,
  start: number,
  end: number,
  layout: PacketLayout,
): boolean {
  if (start + IPV6_HEADER_BYTES > end || (bytes[start] as number) >> 4 !== 6) return false;
  const packetEnd = start + IPV6_HEADER_BYTES + readU16(bytes, start + 4);
  if (packetEnd > end) return false;
  layout.networkOffset = start;
  layout.packetEnd = packetEnd;
  layout.sourceOffset = start + 8;
  layout.destinationOffset = start + 24;
  layout.isFragment = false;
  let next = bytes[start + 6] as number;
  let position = start + IPV6_HEADER_BYTES;
  for (let headers = 0; isExtension(next) && !layout.isFragment; headers += 1) {
    if (headers === EXTENSION_HEADERS_MAX || position + 8 > packetEnd) return false;
    const headerBytes = next === NEXT_FRAGMENT ? 8 : ((bytes[position + 1] as number) + 1) * 8;
    if (position + headerBytes > packetEnd) return false;
    if (next === NEXT_FRAGMENT) layout.isFragment = (readU16(bytes, position + 2) & 0xfff9) !== 0;
    if (next === NEXT_ROUTING && !followIpv6Route(bytes, position, headerBytes, layout)) {
      return false;
    }
    next = bytes[position] as number;
    position += headerBytes;
  }
  layout.protocol = next;
  return parseTransportHeader(bytes, position, 6, layout);
}

function isExtension(next: number): boolean {
  return (
    next === NEXT_HOP_BY_HOP ||
    next === NEXT_ROUTING ||
    next === NEXT_FRAGMENT ||
    next === NEXT_DESTINATION
  );
}

/**
 * Finds the final destination of a packet that has not reached it (RFC 8200, section 8.1). False
 * when the routing header does not say it in a way that is known.
 */
function followIpv6Route(
  bytes: Uint8Array,
  start: number,
  headerBytes: number,
  layout: PacketLayout,
): boolean {
  const segmentsLeft = bytes[start + 3] as number;
  if (segmentsLeft === 0) return true;
  if (headerBytes < 24) return false;
  switch (bytes[start + 2]) {
    case ROUTING_SOURCE:
    case ROUTING_MOBILE:
      layout.destinationOffset = start + headerBytes - 16;
      return true;
    case ROUTING_SEGMENT:
      layout.destinationOffset = start + 8;
      return true;
    default:
      return false;
  }
}

function parseTransportHeader(
  bytes: Uint8Array,
  start: number,
  version: number,
  layout: PacketLayout,
): boolean {
  const { protocol, packetEnd } = layout;
  layout.ipHeaderBytes = start - layout.networkOffset;
  layout.transportOffset = start;
  layout.transportEnd = packetEnd;
  layout.transportHeaderBytes = 0;
  if (!layout.isFragment && protocol === PROTOCOL_TCP) {
    if (start + TCP_HEADER_BYTES > packetEnd) return false;
    const headerBytes = ((bytes[start + 12] as number) >> 4) * 4;
    if (headerBytes < TCP_HEADER_BYTES || start + headerBytes > packetEnd) return false;
    layout.transportHeaderBytes = headerBytes;
  } else if (!layout.isFragment && protocol === PROTOCOL_UDP) {
    if (start + UDP_HEADER_BYTES > packetEnd) return false;
    const datagramBytes = readU16(bytes, start + 4);
    if (datagramBytes < UDP_HEADER_BYTES || start + datagramBytes > packetEnd) return false;
    layout.transportHeaderBytes = UDP_HEADER_BYTES;
    layout.transportEnd = start + datagramBytes;
  }
  layout.payloadOffset = start + layout.transportHeaderBytes;
  layout.ipVersion = version;
  return true;
}

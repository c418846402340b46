/**
 * IPv4 headers (RFC 791): 0 version and header length, 2 total length, 4 identification,
 * 6 fragment, 8 TTL, 9 protocol, 10 checksum, 12 source, 16 destination.
 */
import { internetChecksum } from './checksum.js';
import { ETHERNET_HEADER_BYTES } from './ethernet.js';

export const IPV4_HEADER_BYTES = 20;
export const PROTOCOL_ICMP = 1;

export interface Ipv4 {
  readonly protocol: number;
  readonly source: Uint8Array;
  readonly destination: Uint8Array;
  readonly payload: Uint8Array;
}

/** Parses the whole, unfragmented IPv4 packet in a frame; undefined when there is none. */
export function parseIpv4(frame: Uint8Array): Ipv4 | undefined {
  const packet = frame.subarray(ETHERNET_HEADER_BYTES);
  if (packet.length < IPV4_HEADER_BYTES || (packet[0] as number) >> 4 !== 4) return undefined;
  const headerBytes = ((packet[0] as number) & 15) * 4;
  const totalBytes = ((packet[2] as number) << 8) | (packet[3] as number);
  if (headerBytes < IPV4_HEADER_BYTES || totalBytes < headerBytes) return undefined;
  if (totalBytes > packet.length || internetChecksum(packet, 0, headerBytes) !== 0) {
    return undefined;
  }
  const isFragment = ((packet[6] as number) & 0x3f) !== 0 || packet[7] !== 0;
  if (isFragment) return undefined;
  return {
    protocol: packet[9] as number,
    source: packet.subarray(12, 16),
    destination: packet.subarray(16, 20),
    payload: packet.subarray(headerBytes, totalBytes),
  };
}

/** Writes a header without options in front of a payload that is there already. */
export function writeIpv4(
  packet: Uint8Array,
  protocol: number,
  source: Uint8Array,
  destination: Uint8Array,
): void {
  packet.fill(0, 0, IPV4_HEADER_BYTES);
  packet[0] = 0x45;
  packet[2] = packet.length >> 8;
  packet[3] = packet.length & 0xff;
  packet[6] = 0x40;
  packet[8] = 64;
  packet[9] = protocol;
  packet.set(source, 12);
  packet.set(destination, 16);
  const checksum = internetChecksum(packet, 0, IPV4_HEADER_BYTES);
  packet[10] = checksum >> 8;
  packet[11] = checksum & 0xff;
}

/** Parses four decimal numbers with dots; undefined when `text` is something else. */
export function parseIpv4Address(text: string): Uint8Array | undefined {
  const parts = text.split('.');
  if (parts.length !== 4 || !parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part))) {
    return undefined;
  }
  const bytes = parts.map(Number);
  return bytes.every((byte) => byte <= 255) ? Uint8Array.from(bytes) : undefined;
}

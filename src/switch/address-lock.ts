/**
 * Which IP addresses a station may speak for: the source of IPv4 and IPv6, the sender of ARP and
 * RARP, and what neighbour discovery claims. Whatever says it is one of these and is not all there
 * does not pass, nor does what hides behind more tags than we look through; other protocols pass.
 *
 * A station without an address yet may ask for one: DHCP from 0.0.0.0, ARP probes (RFC 5227), and
 * from :: what duplicate address detection and multicast listeners send (RFC 4862, 3810). Where an
 * IPv6 address is allowed, so is the link-local one that the MAC address makes (RFC 4291, appendix
 * A), for nothing of IPv6 works without one. Router advertisements and redirects never pass: they
 * speak for the link.
 */

import { ETHERTYPE_ARP, ETHERTYPE_IPV4, PROTOCOL_UDP, readU16 } from '@xenvif/client/wire';
import { InvalidArgumentError } from '../errors.js';
import {
  ETHERTYPE_IPV6,
  ETHERTYPE_SERVICE_VLAN,
  ETHERTYPE_VLAN,
  IPV6_HEADER_BYTES,
  PacketLayout,
  parseLayout,
} from '../wire/packet-layout.js';
import { parseIpAddress } from './ip-address.js';

const ADDRESSES_MAX = 256;
const ETHERTYPE_RARP = 0x8035;
const ARP_BYTES = 28;
const ARP_SENDER_MAC = 8;
const ARP_SENDER_IP = 14;
const IPV4_HEADER_BYTES = 20;
const PROTOCOL_ICMPV6 = 58;
const DHCP_SERVER_PORT = 67;
const VLAN_TAGS_MAX = 2;

const LISTENER_REPORT = 131;
const LISTENER_DONE = 132;
const ROUTER_SOLICITATION = 133;
const ROUTER_ADVERTISEMENT = 134;
const NEIGHBOUR_SOLICITATION = 135;
const NEIGHBOUR_ADVERTISEMENT = 136;
const REDIRECT = 137;
const LISTENER_REPORT_V2 = 143;
/** Where a neighbour solicitation or advertisement has its target, 16 bytes. */
const TARGET_OFFSET = 8;
const TARGET_END = 24;

const layout = new PacketLayout();

export class AddressLock {
  readonly #ipv4: Uint32Array;
  /** Four words an address. */
  readonly #ipv6: Uint32Array;

  /**
   * `mac` are the six bytes of the station's own address, where it is known.
   * @throws InvalidArgumentError ADDRESS_INVALID, TOO_MANY_ADDRESSES.
   */
  constructor(addresses: readonly string[], mac?: Uint8Array) {
    if (addresses.length > ADDRESSES_MAX) {
      const text = `A port can allow ${ADDRESSES_MAX} addresses, not ${addresses.length}.`;
      throw new InvalidArgumentError('TOO_MANY_ADDRESSES', 'allowedAddresses', text);
    }
    const parsed = addresses.map((address) => parse(address));
    const ipv6 = parsed.filter((bytes) => bytes.length === 16);
    if (ipv6.length > 0 && mac !== undefined) ipv6.push(linkLocal(mac));
    this.#ipv4 = words(parsed.filter((bytes) => bytes.length === 4));
    this.#ipv6 = words(ipv6);
  }

  /** Whether the frame `bytes[offset .. offset + length)`, 14 bytes at least, claims nothing else. */
  allows(bytes: Uint8Array, offset: number, length: number): boolean {
    const end = offset + length;
    let position = offset + 12;
    for (let tags = 0; position + 2 <= end; tags += 1) {
      const type = readU16(bytes, position);
      const start = position + 2;
      if (type === ETHERTYPE_IPV4) return this.#allowsIpv4(bytes, offset, length, start);
      if (type === ETHERTYPE_IPV6) return this.#allowsIpv6(bytes, offset, length, start);
      if (type === ETHERTYPE_ARP || type === ETHERTYPE_RARP) {
        return this.#allowsArp(bytes, start, end);
      }
      if (type !== ETHERTYPE_VLAN && type !== ETHERTYPE_SERVICE_VLAN) return true;
      if (tags === VLAN_TAGS_MAX) return false;
      position += 4;
    }
    return false;
  }

  #allowsArp(bytes: Uint8Array, start: number, end: number): boolean {
    if (start + ARP_BYTES > end) return false;
    // Only Ethernet with addresses of 6 and 4 bytes has the sender where we look.
    if (readU16(bytes, start + 4) !== 0x0604) return false;
    const sender = readU32(bytes, start + ARP_SENDER_IP);
    return sender === 0 || this.#hasIpv4(sender);
  }

  #allowsIpv4(bytes: Uint8Array, offset: number, length: number, start: number): boolean {
    if (start + IPV4_HEADER_BYTES > offset + length) return false;
    const source = readU32(bytes, start + 12);
    if (source !== 0) return this.#hasIpv4(source);
    return (
      parseLayout(bytes, offset, length, layout) &&
      layout.protocol === PROTOCOL_UDP &&
      layout.transportHeaderBytes > 0 &&
      readU16(bytes, layout.transportOffset + 2) === DHCP_SERVER_PORT
    );
  }

  #allowsIpv6(bytes: Uint8Array, offset: number, length: number, start: number): boolean {
    if (start + IPV6_HEADER_BYTES > offset + length) return false;
    const isUnspecified = isZero(bytes, start + 8);
    if (!isUnspecified && !this.#hasIpv6(bytes, start + 8)) return false;
    if (!parseLayout(bytes, offset, length, layout)) return false;
    // Hosts take no neighbour discovery out of fragments (RFC 6980).
    if (layout.protocol !== PROTOCOL_ICMPV6 || layout.isFragment) return !isUnspecified;
    const message = layout.transportOffset;
    if (message + 4 > layout.packetEnd) return false;
    return this.#allowsMessage(bytes, message, layout.packetEnd, isUnspecified);
  }

  #allowsMessage(bytes: Uint8Array, start: number, end: number, isUnspecified: boolean): boolean {
    switch (bytes[start]) {
      case NEIGHBOUR_SOLICITATION:
        // From an address of its own a station may look for anybody's.
        if (!isUnspecified) return true;
        return start + TARGET_END <= end && this.#hasIpv6(bytes, start + TARGET_OFFSET);
      case NEIGHBOUR_ADVERTISEMENT:
        if (isUnspecified) return false;
        return start + TARGET_END <= end && this.#hasIpv6(bytes, start + TARGET_OFFSET);
      case ROUTER_ADVERTISEMENT:
      case REDIRECT:
        return false;
      case ROUTER_SOLICITATION:
      case LISTENER_REPORT:
      case LISTENER_DONE:
      case LISTENER_REPORT_V2:
        return true;
      default:
        return !isUnspecified;
    }
  }

  #hasIpv4(address: number): boolean {
    const allowed = this.#ipv4;
    for (let index = 0; index < allowed.length; index += 1) {
      if (allowed[index] === address) return true;
    }
    return false;
  }

  #hasIpv6(bytes: Uint8Array, offset: number): boolean {
    const allowed = this.#ipv6;
    for (let index = 0; index < allowed.length; index += 4) {
      if (
        allowed[index] === readU32(bytes, offset) &&
        allowed[index + 1] === readU32(bytes, offset + 4) &&
        allowed[index + 2] === readU32(bytes, offset + 8) &&
        allowed[index + 3] === readU32(bytes, offset + 12)
      ) {
        return true;
      }
    }
    return false;
  }
}

/**
 * Whether an ARP packet in the frame says the sender's MAC address is another than the frame's
 * source: an untagged or tagged frame alike.
 */
export function arpSenderDiffers(bytes: Uint8Array, offset: number, length: number): boolean {
  const end = offset + length;
  let position = offset + 12;
  for (let tags = 0; position + 2 <= end && tags <= VLAN_TAGS_MAX; tags += 1) {
    const type = readU16(bytes, position);
    if (type === ETHERTYPE_ARP) {
      const sender = position + 2 + ARP_SENDER_MAC;
      if (position + 2 + ARP_BYTES > end) return false;
      for (let byte = 0; byte < 6; byte += 1) {
        if (bytes[sender + byte] !== bytes[offset + 6 + byte]) return true;
      }
      return false;
    }
    if (type !== ETHERTYPE_VLAN && type !== ETHERTYPE_SERVICE_VLAN) return false;
    position += 4;
  }
  return false;
}

function parse(text: string): Uint8Array {
  const bytes = parseIpAddress(text);
  if (bytes !== undefined) return bytes;
  throw new InvalidArgumentError(
    'ADDRESS_INVALID',
    'allowedAddresses',
    `"${text}" is no IPv4 or IPv6 address.`,
  );
}

/** The address in fe80::/64 with the modified EUI-64 of a MAC address. */
function linkLocal(mac: Uint8Array): Uint8Array {
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = mac;
  return Uint8Array.of(0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f);
}

function words(addresses: readonly Uint8Array[]): Uint32Array {
  return Uint32Array.from(
    addresses.flatMap((bytes) =>
      Array.from({ length: bytes.length / 4 }, (_, index) => readU32(bytes, index * 4)),
    ),
  );
}

function readU32(bytes: Uint8Array, offset: number): number {
  return (readU16(bytes, offset) * 0x10000 + readU16(bytes, offset + 2)) >>> 0;
}

function isZero(bytes: Uint8Array, offset: number): boolean {
  for (let index = 0; index < 16; index += 1) if (bytes[offset + index] !== 0) return false;
  return true;
}

/**
 * ARP for IPv4 over Ethernet (RFC 826), 28 bytes: 0 hardware type, 2 protocol type, 4 lengths,
 * 6 operation, 8 sender MAC, 14 sender IP, 18 target MAC, 24 target IP.
 */
import { readU16, readU32, writeU16, writeU32 } from './bytes.js';

export const ARP_BYTES = 28;
export const ARP_REQUEST = 1;
export const ARP_REPLY = 2;

const HARDWARE_ETHERNET = 1;
const PROTOCOL_IPV4 = 0x0800;
const ADDRESS_LENGTHS = 0x0604;

/** An ARP packet; reused for one packet after the other. */
export class ArpPacket {
  operation = 0;
  senderIp = 0;
  targetIp = 0;
  readonly senderMac = new Uint8Array(6);
  readonly targetMac = new Uint8Array(6);
}

/** Fills `packet`; false when the bytes are no request or reply for IPv4 over Ethernet. */
export function parseArp(
  bytes: Uint8Array,
  offset: number,
  length: number,
  packet: ArpPacket,
): boolean {
  if (length < ARP_BYTES) return false;
  const isKnown =
    readU16(bytes, offset) === HARDWARE_ETHERNET &&
    readU16(bytes, offset + 2) === PROTOCOL_IPV4 &&
    readU16(bytes, offset + 4) === ADDRESS_LENGTHS;
  packet.operation = readU16(bytes, offset + 6);
  if (!isKnown || (packet.operation !== ARP_REQUEST && packet.operation !== ARP_REPLY)) {
    return false;
  }
  for (let index = 0; index < 6; index += 1) {
    packet.senderMac[index] = bytes[offset + 8 + index] as number;
    packet.targetMac[index] = bytes[offset + 18 + index] as number;
  }
  packet.senderIp = readU32(bytes, offset + 14);
  packet.targetIp = readU32(bytes, offset + 24);
  return true;
}

export function writeArp(bytes: Uint8Array, offset: number, packet: ArpPacket): void {
  writeU16(bytes, offset, HARDWARE_ETHERNET);
  writeU16(bytes, offset + 2, PROTOCOL_IPV4);
  writeU16(bytes, offset + 4, ADDRESS_LENGTHS);
  writeU16(bytes, offset + 6, packet.operation);
  bytes.set(packet.senderMac, offset + 8);
  writeU32(bytes, offset + 14, packet.senderIp);
  bytes.set(packet.targetMac, offset + 18);
  writeU32(bytes, offset + 24, packet.targetIp);
}

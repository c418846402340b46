/**
 * ARP for IPv4 over Ethernet (RFC 826), 28 bytes behind the Ethernet header:
 * 0 hardware type, 2 protocol type, 4 lengths, 6 operation, 8 sender MAC, 14 sender IP,
 * 18 target MAC, 24 target IP.
 */
import { ETHERNET_HEADER_BYTES, ETHERTYPE_ARP, writeEthernet } from './ethernet.js';

export const ARP_REQUEST = 1;
export const ARP_REPLY = 2;
const ARP_FRAME_BYTES = ETHERNET_HEADER_BYTES + 28;
const ARP_FIXED = Uint8Array.of(0, 1, 8, 0, 6, 4);

export interface Arp {
  readonly operation: number;
  readonly senderMac: Uint8Array;
  readonly senderIp: Uint8Array;
  readonly targetMac: Uint8Array;
  readonly targetIp: Uint8Array;
}

/** Parses the ARP packet in a frame; undefined when it is none for IPv4 over Ethernet. */
export function parseArp(frame: Uint8Array): Arp | undefined {
  if (frame.length < ARP_FRAME_BYTES) return undefined;
  const packet = frame.subarray(ETHERNET_HEADER_BYTES);
  if (!ARP_FIXED.every((byte, index) => packet[index] === byte)) return undefined;
  return {
    operation: ((packet[6] as number) << 8) | (packet[7] as number),
    senderMac: packet.subarray(8, 14),
    senderIp: packet.subarray(14, 18),
    targetMac: packet.subarray(18, 24),
    targetIp: packet.subarray(24, 28),
  };
}

/** Makes a whole frame that carries `arp` to `destination`. */
export function emitArp(destination: Uint8Array, arp: Arp): Uint8Array {
  const frame = new Uint8Array(ARP_FRAME_BYTES);
  writeEthernet(frame, destination, arp.senderMac, ETHERTYPE_ARP);
  const packet = frame.subarray(ETHERNET_HEADER_BYTES);
  packet.set(ARP_FIXED, 0);
  packet[7] = arp.operation;
  packet.set(arp.senderMac, 8);
  packet.set(arp.senderIp, 14);
  packet.set(arp.targetMac, 18);
  packet.set(arp.targetIp, 24);
  return frame;
}

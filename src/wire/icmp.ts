/** ICMP echo (RFC 792): 0 type, 1 code, 2 checksum, 4 identifier, 6 sequence number, 8 data. */
import { internetChecksum } from './checksum.js';
import { ETHERNET_HEADER_BYTES, ETHERTYPE_IPV4, writeEthernet } from './ethernet.js';
import { IPV4_HEADER_BYTES, PROTOCOL_ICMP, writeIpv4 } from './ipv4.js';

export const ICMP_ECHO_REPLY = 0;
export const ICMP_ECHO_REQUEST = 8;
const ICMP_HEADER_BYTES = 8;

export interface IcmpEcho {
  readonly type: number;
  readonly identifier: number;
  readonly sequence: number;
  readonly data: Uint8Array;
}

/** Parses an echo request or reply with a right checksum; undefined for all else. */
export function parseIcmpEcho(packet: Uint8Array): IcmpEcho | undefined {
  if (packet.length < ICMP_HEADER_BYTES || packet[1] !== 0) return undefined;
  if (packet[0] !== ICMP_ECHO_REQUEST && packet[0] !== ICMP_ECHO_REPLY) return undefined;
  if (internetChecksum(packet, 0, packet.length) !== 0) return undefined;
  return {
    type: packet[0],
    identifier: ((packet[4] as number) << 8) | (packet[5] as number),
    sequence: ((packet[6] as number) << 8) | (packet[7] as number),
    data: packet.subarray(ICMP_HEADER_BYTES),
  };
}

/** Where a frame comes from or goes to. */
export interface Endpoint {
  readonly mac: Uint8Array;
  readonly ip: Uint8Array;
}

/** Makes a whole frame that carries `echo` from `source` to `destination`. */
export function emitIcmpEcho(source: Endpoint, destination: Endpoint, echo: IcmpEcho): Uint8Array {
  const headers = ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES;
  const frame = new Uint8Array(headers + ICMP_HEADER_BYTES + echo.data.length);
  const packet = frame.subarray(headers);
  packet[0] = echo.type;
  packet[4] = echo.identifier >> 8;
  packet[5] = echo.identifier & 0xff;
  packet[6] = echo.sequence >> 8;
  packet[7] = echo.sequence & 0xff;
  packet.set(echo.data, ICMP_HEADER_BYTES);
  const checksum = internetChecksum(packet, 0, packet.length);
  packet[2] = checksum >> 8;
  packet[3] = checksum & 0xff;
  writeIpv4(frame.subarray(ETHERNET_HEADER_BYTES), PROTOCOL_ICMP, source.ip, destination.ip);
  writeEthernet(frame, destination.mac, source.mac, ETHERTYPE_IPV4);
  return frame;
}

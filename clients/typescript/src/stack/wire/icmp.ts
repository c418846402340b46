/** ICMP (RFC 792, RFC 1191): 0 type, 1 code, 2 checksum, 4 rest of the header, 8 data. */
import { readU16, writeU16 } from './bytes.js';
import { internetChecksum } from './checksum.js';

export const ICMP_HEADER_BYTES = 8;
export const ICMP_ECHO_REPLY = 0;
export const ICMP_UNREACHABLE = 3;
export const ICMP_ECHO_REQUEST = 8;
export const ICMP_TIME_EXCEEDED = 11;
export const ICMP_PARAMETER_PROBLEM = 12;

export const UNREACHABLE_HOST = 1;
export const UNREACHABLE_PROTOCOL = 2;
export const UNREACHABLE_PORT = 3;
export const UNREACHABLE_FRAGMENTATION = 4;
export const EXCEEDED_TRANSIT = 0;
export const EXCEEDED_REASSEMBLY = 1;

/** A message; reused. For echoes `high` is the identifier and `low` the sequence number; for
 * UNREACHABLE_FRAGMENTATION `low` is the next link's MTU. */
export class IcmpMessage {
  type = 0;
  code = 0;
  high = 0;
  low = 0;
  dataOffset = 0;
  dataBytes = 0;
}

/** Fills `message`; false where it is cut short or its checksum is wrong. */
export function parseIcmp(
  bytes: Uint8Array,
  offset: number,
  length: number,
  message: IcmpMessage,
): boolean {
  if (length < ICMP_HEADER_BYTES) return false;
  if (internetChecksum(bytes, offset, offset + length) !== 0) return false;
  message.type = bytes[offset] as number;
  message.code = bytes[offset + 1] as number;
  message.high = readU16(bytes, offset + 4);
  message.low = readU16(bytes, offset + 6);
  message.dataOffset = offset + ICMP_HEADER_BYTES;
  message.dataBytes = length - ICMP_HEADER_BYTES;
  return true;
}

/** Writes the header of a message whose data is in place: `length` counts both. */
export function writeIcmp(
  bytes: Uint8Array,
  offset: number,
  length: number,
  type: number,
  code: number,
  high: number,
  low: number,
): void {
  bytes[offset] = type;
  bytes[offset + 1] = code;
  writeU16(bytes, offset + 2, 0);
  writeU16(bytes, offset + 4, high);
  writeU16(bytes, offset + 6, low);
  writeU16(bytes, offset + 2, internetChecksum(bytes, offset, offset + length));
}

/** Whether a message reports what became of another, so that none is sent about it (RFC 1122). */
export function isIcmpError(type: number): boolean {
  return (
    type === ICMP_UNREACHABLE ||
    type === ICMP_TIME_EXCEEDED ||
    type === ICMP_PARAMETER_PROBLEM ||
    type === 4 ||
    type === 5
  );
}

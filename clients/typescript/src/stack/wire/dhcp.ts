/**
 * DHCP (RFC 2131): 0 operation, 1 hardware type, 2 address length, 4 transaction, 8 seconds, 10 flags,
 * 12 client, 16 yours, 20 next server, 24 relay, 28 hardware address, 44 names, 236 cookie, 240 options
 * (RFC 2132).
 */
import { readU32, writeU16, writeU32 } from './bytes.js';

export const DHCP_SERVER_PORT = 67;
export const DHCP_CLIENT_PORT = 68;

export const DHCP_DISCOVER = 1;
export const DHCP_OFFER = 2;
export const DHCP_REQUEST = 3;
export const DHCP_DECLINE = 4;
export const DHCP_ACK = 5;
export const DHCP_NAK = 6;
export const DHCP_RELEASE = 7;

export const OPTION_NETMASK = 1;
export const OPTION_ROUTERS = 3;
export const OPTION_NAME_SERVERS = 6;
export const OPTION_REQUESTED = 50;
export const OPTION_LEASE = 51;
export const OPTION_TYPE = 53;
export const OPTION_SERVER = 54;
export const OPTION_PARAMETERS = 55;
export const OPTION_RENEWAL = 58;
export const OPTION_REBINDING = 59;
const OPTION_PAD = 0;
const OPTION_END = 255;

const OPTIONS_OFFSET = 240;
const COOKIE = 0x6382_5363;
/** What every server and relay takes (RFC 1542, section 2.1). */
const MESSAGE_BYTES_MIN = 300;
/** Asks for answers to everybody: there is no address yet to send them to. */
const FLAG_BROADCAST = 0x8000;

/** An answer of a server. Addresses are numbers; times are seconds. */
export interface DhcpAnswer {
  readonly type: number;
  readonly transaction: number;
  /** The address that is offered or granted. */
  readonly address: number;
  /** Each option by its number; the last counts where there are several. */
  readonly options: ReadonlyMap<number, Uint8Array>;
}

/** What a client says. */
export interface DhcpRequest {
  readonly type: number;
  readonly transaction: number;
  readonly mac: Uint8Array;
  /** Our address, where it is ours already. */
  readonly clientAddress: number;
  readonly options: ReadonlyMap<number, Uint8Array>;
}

/** Reads an answer for the client `mac`; undefined where it is none. */
export function parseDhcp(bytes: Uint8Array, mac: Uint8Array): DhcpAnswer | undefined {
  if (bytes.length < OPTIONS_OFFSET || bytes[0] !== 2 || bytes[1] !== 1 || bytes[2] !== 6) {
    return undefined;
  }
  if (readU32(bytes, 236) !== COOKIE || !mac.every((byte, index) => bytes[28 + index] === byte)) {
    return undefined;
  }
  const options = new Map<number, Uint8Array>();
  let position = OPTIONS_OFFSET;
  while (position < bytes.length && bytes[position] !== OPTION_END) {
    const kind = bytes[position] as number;
    if (kind === OPTION_PAD) {
      position += 1;
      continue;
    }
    const length = bytes[position + 1] ?? 0;
    if (position + 2 + length > bytes.length) return undefined;
    options.set(kind, bytes.slice(position + 2, position + 2 + length));
    position += 2 + length;
  }
  const type = options.get(OPTION_TYPE)?.[0];
  if (type === undefined) return undefined;
  const [transaction, address] = [readU32(bytes, 4), readU32(bytes, 16)];
  return { type, transaction, address, options };
}

export function emitDhcp(request: DhcpRequest): Uint8Array {
  let optionBytes = 4;
  for (const value of request.options.values()) optionBytes += 2 + value.length;
  const bytes = new Uint8Array(Math.max(MESSAGE_BYTES_MIN, OPTIONS_OFFSET + optionBytes));
  bytes.set([1, 1, 6, 0]);
  writeU32(bytes, 4, request.transaction);
  if (request.clientAddress === 0) writeU16(bytes, 10, FLAG_BROADCAST);
  writeU32(bytes, 12, request.clientAddress);
  bytes.set(request.mac, 28);
  writeU32(bytes, 236, COOKIE);
  bytes.set([OPTION_TYPE, 1, request.type], OPTIONS_OFFSET);
  let position = OPTIONS_OFFSET + 3;
  for (const [kind, value] of request.options) {
    bytes.set([kind, value.length], position);
    bytes.set(value, position + 2);
    position += 2 + value.length;
  }
  bytes[position] = OPTION_END;
  return bytes;
}

/** The number in an option of four bytes; undefined where it is not there. */
export function optionNumber(answer: DhcpAnswer, kind: number): number | undefined {
  const value = answer.options.get(kind);
  return value !== undefined && value.length >= 4 ? readU32(value, 0) : undefined;
}

/** An address as an option has it. */
export function addressOption(address: number): Uint8Array {
  const bytes = new Uint8Array(4);
  writeU32(bytes, 0, address);
  return bytes;
}

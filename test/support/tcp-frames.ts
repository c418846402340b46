/** Frames of TCP and UDP for tests of offloads, made by hand and slowly. */
import { sumBytes } from '@xenvif/client/wire';

export interface TcpFrameOptions {
  readonly version?: 4 | 6;
  readonly payload: Uint8Array;
  readonly sourcePort?: number;
  readonly destination?: readonly number[];
  readonly vlan?: number;
  /** Ends of TCP's flags; default ACK and PSH. */
  readonly flags?: number;
}

const SOURCE = [2, 0, 0, 0, 0, 1];
const DESTINATION = [2, 0, 0, 0, 0, 2];

/** A TCP frame whose checksum field holds the sum of the pseudo-header: blank, as Linux has it. */
export function blankTcpFrame(options: TcpFrameOptions): Uint8Array {
  const { payload, sourcePort = 1000, version = 4, vlan } = options;
  const tcp = new Uint8Array(20 + payload.length);
  const view = new DataView(tcp.buffer);
  view.setUint16(0, sourcePort);
  view.setUint16(2, 80);
  view.setUint32(4, 0x01020304);
  tcp[12] = 5 << 4;
  tcp[13] = options.flags ?? 0x18;
  view.setUint16(14, 65535);
  tcp.set(payload, 20);
  const ip = version === 4 ? ipv4Header(tcp.length) : ipv6Header(tcp.length);
  const addresses = version === 4 ? ip.subarray(12, 20) : ip.subarray(8, 40);
  view.setUint16(16, sumBytes(addresses, 0, addresses.length, 6 + tcp.length));
  const type = version === 4 ? [8, 0] : [0x86, 0xdd];
  const tag = vlan === undefined ? [] : [0x81, 0, vlan >> 8, vlan & 0xff];
  const header = [...(options.destination ?? DESTINATION), ...SOURCE, ...tag, ...type];
  return Uint8Array.from([...header, ...ip, ...tcp]);
}

/** Whether the TCP checksum of a frame without VLAN tag is right. */
export function hasRightTcpChecksum(frame: Uint8Array): boolean {
  const isIpv6 = frame[12] === 0x86;
  const start = isIpv6 ? 54 : 34;
  const totalBytes = ((frame[16] as number) << 8) | (frame[17] as number);
  const end = isIpv6 ? frame.length : 14 + totalBytes;
  const addresses = isIpv6 ? frame.subarray(22, 54) : frame.subarray(26, 34);
  const pseudo = sumBytes(addresses, 0, addresses.length, 6 + end - start);
  return sumBytes(frame, start, end, pseudo) === 0xffff;
}

function ipv4Header(payloadBytes: number): Uint8Array {
  const header = new Uint8Array(20);
  const view = new DataView(header.buffer);
  header[0] = 0x45;
  view.setUint16(2, 20 + payloadBytes);
  view.setUint16(4, 77);
  header[6] = 0x40;
  header[8] = 64;
  header[9] = 6;
  header.set([10, 0, 0, 1, 10, 0, 0, 2], 12);
  view.setUint16(10, ~sumBytes(header, 0, 20) & 0xffff);
  return header;
}

function ipv6Header(payloadBytes: number): Uint8Array {
  const header = new Uint8Array(40);
  header[0] = 0x60;
  new DataView(header.buffer).setUint16(4, payloadBytes);
  header[6] = 6;
  header[7] = 64;
  header[8] = 0xfe;
  header[9] = 0x80;
  header[23] = 1;
  header[24] = 0xfe;
  header[25] = 0x80;
  header[39] = 2;
  return header;
}

/** Packets written field by field, by code that shares nothing with the stack's. */
export const OUR_MAC = '02:00:00:00:00:01';
export const PEER_MAC = '02:00:00:00:00:02';
export const OUR_IP = '10.0.0.1';
export const PEER_IP = '10.0.0.2';

export function mac(text: string): Buffer {
  return Buffer.from(text.replaceAll(':', ''), 'hex');
}

export function ip(text: string): Buffer {
  return Buffer.from(text.split('.').map(Number));
}

export function u16(...values: number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 2);
  for (const [index, value] of values.entries()) bytes.writeUInt16BE(value & 0xffff, index * 2);
  return bytes;
}

/** The Internet checksum as RFC 1071 explains it. */
export function naiveChecksum(bytes: Uint8Array): number {
  let sum = 0;
  for (const [index, byte] of bytes.entries()) sum += index % 2 === 0 ? byte * 256 : byte;
  while (sum > 0xffff) sum = (sum % 0x10000) + Math.floor(sum / 0x10000);
  return 0xffff - sum;
}

export function ethernet(type: number, payload: Uint8Array, to = OUR_MAC, from = PEER_MAC): Buffer {
  return Buffer.concat([mac(to), mac(from), u16(type), payload]);
}

export interface ArpFields {
  readonly operation: number;
  readonly senderMac?: string;
  readonly senderIp: string;
  readonly targetMac?: string;
  readonly targetIp: string;
}

export function arp(fields: ArpFields, to = 'ff:ff:ff:ff:ff:ff'): Buffer {
  const { operation, senderMac = PEER_MAC, senderIp, targetMac = '00:00:00:00:00:00' } = fields;
  const packet = Buffer.concat([
    Buffer.from('0001080006040000', 'hex'),
    ...[mac(senderMac), ip(senderIp), mac(targetMac), ip(fields.targetIp)],
  ]);
  packet.writeUInt16BE(operation, 6);
  return ethernet(0x0806, packet, to, senderMac);
}

export interface Ipv4Fields {
  readonly source?: string;
  readonly destination?: string;
  readonly protocol: number;
  readonly identification?: number;
  readonly fragmentOffset?: number;
  readonly moreFragments?: boolean;
  readonly options?: Uint8Array;
  readonly ttl?: number;
}

/** A packet without its Ethernet header. */
export function ipv4(fields: Ipv4Fields, payload: Uint8Array): Buffer {
  const { options = new Uint8Array(0), fragmentOffset = 0, moreFragments = false } = fields;
  const header = Buffer.alloc(20);
  header[0] = 0x40 | ((20 + options.length) / 4);
  header.writeUInt16BE(20 + options.length + payload.length, 2);
  header.writeUInt16BE(fields.identification ?? 7, 4);
  header.writeUInt16BE(fragmentOffset / 8 + (moreFragments ? 0x2000 : 0), 6);
  header[8] = fields.ttl ?? 64;
  header[9] = fields.protocol;
  ip(fields.source ?? PEER_IP).copy(header, 12);
  ip(fields.destination ?? OUR_IP).copy(header, 16);
  header.writeUInt16BE(naiveChecksum(Buffer.concat([header, options])), 10);
  return Buffer.concat([header, options, payload]);
}

export function ipv4Frame(fields: Ipv4Fields, payload: Uint8Array, to = OUR_MAC): Buffer {
  return ethernet(0x0800, ipv4(fields, payload), to);
}

export function echo(type: number, identifier: number, sequence: number, data: Uint8Array): Buffer {
  const message = Buffer.concat([Buffer.from([type, 0, 0, 0]), u16(identifier, sequence), data]);
  message.writeUInt16BE(naiveChecksum(message), 2);
  return message;
}

/** A TCP segment or UDP datagram with its checksum in place. */
export function withTransportChecksum(
  protocol: number,
  transport: Uint8Array,
  source = PEER_IP,
  destination = OUR_IP,
): Buffer {
  const bytes = Buffer.from(transport);
  const place = protocol === 6 ? 16 : 6;
  const pseudo = Buffer.concat([ip(source), ip(destination), u16(protocol, bytes.length)]);
  bytes.writeUInt16BE(naiveChecksum(Buffer.concat([pseudo, bytes])), place);
  return bytes;
}

export function udp(sourcePort: number, destinationPort: number, data: Uint8Array): Buffer {
  const datagram = Buffer.concat([u16(sourcePort, destinationPort, 8 + data.length, 0), data]);
  return withTransportChecksum(17, datagram);
}

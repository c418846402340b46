/**
 * TCP and UDP as the models see them, written from the RFCs (791, 8200, 768, 9293, 3168) as simply
 * as they allow: where a segment lies in a frame, its checksum, and how it is cut.
 */

/** Where the TCP segment or UDP datagram of a frame lies; offsets count from the frame's start. */
export interface Transport {
  readonly version: 4 | 6;
  readonly protocol: number;
  /** Where the IP header begins. */
  readonly network: number;
  readonly start: number;
  readonly end: number;
  readonly headerBytes: number;
  readonly payloadBytes: number;
}

const TCP = 6;
const UDP = 17;

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** The whole TCP segment or UDP datagram in a frame; undefined where there is none. */
export function transportOf(frame: Uint8Array): Transport | undefined {
  const view = viewOf(frame);
  let network = 14;
  const typeAt = (offset: number) => (offset + 2 <= frame.length ? view.getUint16(offset) : 0);
  let type = typeAt(12);
  for (let tags = 0; tags < 2 && (type === 0x8100 || type === 0x88a8); tags += 1) {
    type = typeAt(network + 2);
    network += 4;
  }
  if (type === 0x0800) return ipv4TransportOf(frame, network);
  if (type === 0x86dd) return ipv6TransportOf(frame, network);
  return undefined;
}

function ipv4TransportOf(frame: Uint8Array, network: number): Transport | undefined {
  if (frame.length < network + 20) return undefined;
  const view = viewOf(frame);
  const headerBytes = (view.getUint8(network) & 15) * 4;
  const total = view.getUint16(network + 2);
  if (view.getUint8(network) >> 4 !== 4 || headerBytes < 20 || headerBytes > total)
    return undefined;
  if (network + total > frame.length) return undefined;
  // A fragment: it has an offset, or more of them follow.
  if ((view.getUint16(network + 6) & 0x3fff) !== 0) return undefined;
  const protocol = view.getUint8(network + 9);
  return segmentAt(
    frame,
    { version: 4, protocol, network },
    network + headerBytes,
    network + total,
  );
}

function ipv6TransportOf(frame: Uint8Array, network: number): Transport | undefined {
  if (frame.length < network + 40) return undefined;
  const view = viewOf(frame);
  const end = network + 40 + view.getUint16(network + 4);
  if (view.getUint8(network) >> 4 !== 6 || end > frame.length) return undefined;
  // Extension headers are not among the frames that are made here.
  const protocol = view.getUint8(network + 6);
  return segmentAt(frame, { version: 6, protocol, network }, network + 40, end);
}

function segmentAt(
  frame: Uint8Array,
  found: { version: 4 | 6; protocol: number; network: number },
  start: number,
  end: number,
): Transport | undefined {
  const view = viewOf(frame);
  if (found.protocol === TCP) {
    if (end - start < 20) return undefined;
    const headerBytes = (view.getUint8(start + 12) >> 4) * 4;
    if (headerBytes < 20 || headerBytes > end - start) return undefined;
    return { ...found, start, end, headerBytes, payloadBytes: end - start - headerBytes };
  }
  if (found.protocol === UDP) {
    if (end - start < 8) return undefined;
    const length = view.getUint16(start + 4);
    if (length < 8 || length > end - start) return undefined;
    return { ...found, start, end: start + length, headerBytes: 8, payloadBytes: length - 8 };
  }
  return undefined;
}

/** The ones' complement sum of big-endian words; an odd byte at the end is padded with zero. */
function onesComplementSum(bytes: Uint8Array): number {
  let sum = 0;
  for (let index = 0; index < bytes.length; index += 2) {
    sum += (bytes[index] as number) * 256 + (bytes[index + 1] ?? 0);
    if (sum > 0xffff) sum -= 0xffff;
  }
  return sum;
}

/** A copy of the frame with its TCP or UDP checksum computed from scratch. */
export function withChecksum(frame: Uint8Array, transport: Transport): Uint8Array {
  const { version, protocol, network, start, end } = transport;
  const result = frame.slice();
  const view = viewOf(result);
  const field = start + (protocol === TCP ? 16 : 6);
  view.setUint16(field, 0);
  const addresses =
    version === 4
      ? result.slice(network + 12, network + 20)
      : result.slice(network + 8, network + 40);
  const length = end - start;
  const summed = new Uint8Array(addresses.length + 4 + length);
  summed.set(addresses);
  summed.set([0, protocol, length >> 8, length & 0xff], addresses.length);
  summed.set(result.subarray(start, end), addresses.length + 4);
  const checksum = 0xffff - onesComplementSum(summed);
  view.setUint16(field, checksum === 0 && protocol === UDP ? 0xffff : checksum);
  return result;
}

/** The segments of a TCP frame with `size` bytes of payload each, checksums and all. */
export function segmentsOf(frame: Uint8Array, transport: Transport, size: number): Uint8Array[] {
  const { version, network, start, end, headerBytes } = transport;
  const payloadStart = start + headerBytes;
  const segments: Uint8Array[] = [];
  for (let from = payloadStart; from < end; from += size) {
    const payload = frame.slice(from, Math.min(end, from + size));
    const segment = new Uint8Array(payloadStart + payload.length);
    segment.set(frame.slice(0, payloadStart));
    segment.set(payload, payloadStart);
    const view = viewOf(segment);
    if (version === 4) {
      view.setUint16(network + 2, segment.length - network);
      view.setUint16(network + 4, view.getUint16(network + 4) + segments.length);
      view.setUint16(network + 10, 0);
      view.setUint16(network + 10, 0xffff - onesComplementSum(segment.slice(network, start)));
    } else {
      view.setUint16(network + 4, segment.length - network - 40);
    }
    view.setUint32(start + 4, view.getUint32(start + 4) + (from - payloadStart));
    const isFirst = segments.length === 0;
    const isLast = from + size >= end;
    const flags = view.getUint8(start + 13);
    const kept = (isLast ? 0xff : 0xf6) & (isFirst ? 0xff : 0x7f);
    view.setUint8(start + 13, flags & kept);
    segments.push(withChecksum(segment, { ...transport, end: segment.length }));
  }
  return segments;
}

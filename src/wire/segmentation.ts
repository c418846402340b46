/**
 * TCP segmentation in software: what a NIC with segmentation offload does with a frame that is
 * larger than the link takes. The segments have the headers of the frame, fixed as Linux's
 * tcp_gso_segment, inet_gso_segment and ipv6_gso_segment fix them, and whole checksums:
 *
 * - IPv4: total length, identification one more each, header checksum; IPv6: payload length;
 * - TCP: sequence number (RFC 9293), checksum; FIN and PSH on the last only (RFC 9293), CWR on the
 *   first only (RFC 3168, section 6.1.2).
 */
import {
  foldSum,
  internetChecksum,
  PROTOCOL_TCP,
  readU16,
  sumBytes,
  writeU16,
} from '@xenvif/client/wire';
import { addressSum, checksumField } from './checksum-offload.js';
import { IPV6_HEADER_BYTES, PacketLayout, parseTransport } from './packet-layout.js';

/** The smallest segment that is made: less would only multiply frames. */
export const GSO_SIZE_MIN = 64;
/** The most segments one frame gives: 65535 bytes of frame, less headers, in parts of the least. */
export const SEGMENTS_MAX = 1024;
/** The longest headers that are repeated for each segment, Ethernet included. */
export const SEGMENT_HEADER_BYTES_MAX = 512;
/** The longest IP packet that a length field can tell. */
const PACKET_BYTES_MAX = 65535;

const FLAGS_OFFSET = 13;
const SEQUENCE_OFFSET = 4;
const FIN_PSH = 0x09;
const CWR = 0x80;

/** An upper bound of the length of a segment, headers included, of a frame of `length` bytes. */
export function segmentBytesMax(length: number, gsoSize: number): number {
  return Math.min(length, SEGMENT_HEADER_BYTES_MAX + gsoSize);
}

/** Cuts one frame after another. Its state is taken once; a frame costs no allocation. */
export class Segmenter {
  readonly #layout = new PacketLayout();
  #bytes: Uint8Array = new Uint8Array(0);
  #offset = 0;
  #headerBytes = 0;
  #payloadBytes = 0;
  #segmentSize = 0;
  #addressSum = 0;
  /** Bytes of the payload that are in segments already. */
  #done = 0;
  #index = 0;
  #count = 0;

  /**
   * Takes the frame `bytes[offset .. offset + length)`, which must stay as it is until the last
   * segment is out, and returns how many segments it gives: at least 1, at most `SEGMENTS_MAX`.
   * `gsoSize` is the payload of each in bytes, lowered where the IP packets would have more than
   * `packetBytesMax` (the link's MTU).
   *
   * Returns 0, and `next` gives nothing, when the frame is no whole TCP segment over unfragmented
   * IP, its headers are longer than `SEGMENT_HEADER_BYTES_MAX`, or a segment would have less than
   * `GSO_SIZE_MIN` bytes of payload.
   */
  begin(
    bytes: Uint8Array,
    offset: number,
    length: number,
    gsoSize: number,
    packetBytesMax = PACKET_BYTES_MAX,
  ): number {
    const layout = this.#layout;
    this.#count = 0;
    this.#index = 0;
    if (!parseTransport(bytes, offset, length, layout)) return 0;
    if (layout.protocol !== PROTOCOL_TCP) return 0;
    const headerBytes = layout.payloadOffset - offset;
    const packetHeaderBytes = layout.payloadOffset - layout.networkOffset;
    const segmentSize = Math.min(gsoSize, packetBytesMax - packetHeaderBytes);
    if (headerBytes > SEGMENT_HEADER_BYTES_MAX || !(segmentSize >= GSO_SIZE_MIN)) return 0;
    this.#bytes = bytes;
    this.#offset = offset;
    this.#headerBytes = headerBytes;
    this.#payloadBytes = layout.transportEnd - layout.payloadOffset;
    this.#segmentSize = segmentSize;
    this.#addressSum = addressSum(bytes, layout);
    this.#done = 0;
    const count = Math.max(1, Math.ceil(this.#payloadBytes / segmentSize));
    // No length that netif can carry gives more; a caller's longer frame is refused.
    this.#count = count <= SEGMENTS_MAX ? count : 0;
    return this.#count;
  }

  /** The length of the longest segment of the frame, headers included. */
  get longest(): number {
    return this.#headerBytes + Math.min(this.#segmentSize, this.#payloadBytes);
  }

  /**
   * Writes the next segment to `target` from `targetOffset` on and returns its length; 0 when all
   * are out. The place has room for `longest` bytes and is no part of the frame. It costs no
   * allocation where `target` is the array that holds the frame.
   */
  next(target: Uint8Array, targetOffset: number): number {
    if (this.#index >= this.#count) return 0;
    const index = this.#index;
    const payloadBytes = Math.min(this.#segmentSize, this.#payloadBytes - this.#done);
    const length = this.#headerBytes + payloadBytes;
    const payload = this.#layout.payloadOffset + this.#done;
    copy(this.#bytes, this.#offset, this.#headerBytes, target, targetOffset);
    copy(this.#bytes, payload, payloadBytes, target, targetOffset + this.#headerBytes);
    const shift = targetOffset - this.#offset;
    this.#fixIp(target, shift, payloadBytes);
    this.#fixTcp(target, shift, targetOffset + length);
    this.#done += payloadBytes;
    this.#index = index + 1;
    return length;
  }

  /** Fixes the IP header of the segment that lies `shift` bytes from its frame. */
  #fixIp(target: Uint8Array, shift: number, payloadBytes: number): void {
    const layout = this.#layout;
    const start = layout.networkOffset + shift;
    const packetBytes = layout.ipHeaderBytes + layout.transportHeaderBytes + payloadBytes;
    if (layout.ipVersion === 6) {
      writeU16(target, start + 4, packetBytes - IPV6_HEADER_BYTES);
      return;
    }
    writeU16(target, start + 2, packetBytes);
    writeU16(target, start + 4, (readU16(target, start + 4) + this.#index) & 0xffff);
    writeU16(target, start + 10, 0);
    const checksum = internetChecksum(target, start, start + layout.ipHeaderBytes);
    writeU16(target, start + 10, checksum);
  }

  /** Fixes the TCP header of the segment that lies `shift` bytes from its frame and ends at `end`. */
  #fixTcp(target: Uint8Array, shift: number, end: number): void {
    const layout = this.#layout;
    const start = layout.transportOffset + shift;
    const low = readU16(target, start + SEQUENCE_OFFSET + 2) + this.#done;
    const high = readU16(target, start + SEQUENCE_OFFSET) + (low >>> 16);
    writeU16(target, start + SEQUENCE_OFFSET, high & 0xffff);
    writeU16(target, start + SEQUENCE_OFFSET + 2, low & 0xffff);
    let flags = target[start + FLAGS_OFFSET] as number;
    if (this.#index < this.#count - 1) flags &= ~FIN_PSH;
    if (this.#index > 0) flags &= ~CWR;
    target[start + FLAGS_OFFSET] = flags;
    const field = checksumField(layout) + shift;
    writeU16(target, field, 0);
    const pseudoHeader = this.#addressSum + PROTOCOL_TCP + (end - start);
    writeU16(target, field, ~foldSum(pseudoHeader + sumBytes(target, start, end)) & 0xffff);
  }
}

function copy(
  source: Uint8Array,
  start: number,
  length: number,
  target: Uint8Array,
  targetOffset: number,
): void {
  if (source === target) target.copyWithin(targetOffset, start, start + length);
  else target.set(source.subarray(start, start + length), targetOffset);
}

/**
 * What is left to be done for a frame, said the way of frame batches and the way of virtio-net.
 *
 * The two differ in where a checksum is: a batch says that the TCP or UDP checksum is blank, and
 * whoever completes it finds its place; virtio-net says the place, which may be that of another
 * protocol or of a packet inside a tunnel. So a blank checksum is looked for on the way to the
 * kernel, and one that is at no place where a batch could mean it is completed on the way from it.
 */

import { internetChecksum, PROTOCOL_TCP, writeU16 } from '@xenvif/client/wire';
import { GSO_TYPE_TCPV4, GSO_TYPE_TCPV6 } from '../../ring/netif-extra.js';
import { blankChecksum, checksumField } from '../../wire/checksum-offload.js';
import { PacketLayout, parseTransport } from '../../wire/packet-layout.js';
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  type FrameBatch,
  GSO_SIZE_SHIFT,
  GSO_TYPE_SHIFT,
  gsoSizeOf,
  gsoTypeOf,
} from '../frame-batch.js';
import {
  DATA_VALID,
  GSO_ECN,
  GSO_NONE,
  GSO_TCPV4,
  GSO_TCPV6,
  NEEDS_CSUM,
  type VirtioNetHeader,
} from './virtio-net-header.js';

/** Where the flags stand in a TCP header (RFC 9293), and the one of RFC 3168. */
const TCP_FLAGS = 13;
const TCP_CWR = 0x80;

/** Why a frame cannot be described to the kernel. */
export type OffloadFault = 'CHECKSUM_UNPLACEABLE' | 'GSO_INVALID';

export class FrameOffloads {
  readonly #layout = new PacketLayout();

  /**
   * Fills `header` for a frame of `batch`. Where its checksum is blank the pseudo-header's sum is
   * written to its place: that is what the flag promises of it, so the frame may still go to others.
   * Returns what makes that impossible, if anything.
   */
  toHeader(batch: FrameBatch, index: number, header: VirtioNetHeader): OffloadFault | undefined {
    const flags = batch.flag(index);
    const gsoType = gsoTypeOf(flags);
    if (gsoType === 0 && (flags & CHECKSUM_BLANK) === 0) {
      header.setPlain((flags & DATA_VALIDATED) !== 0 ? DATA_VALID : 0);
      return undefined;
    }
    const { bytes } = batch;
    const offset = batch.offset(index);
    const layout = this.#layout;
    if (!parseTransport(bytes, offset, batch.length(index), layout)) return 'CHECKSUM_UNPLACEABLE';
    const gsoSize = gsoSizeOf(flags);
    if (gsoType !== 0 && !isSegmentable(gsoType, gsoSize, layout)) return 'GSO_INVALID';
    blankChecksum(bytes, offset, batch.length(index));
    // Whoever sends segments in one without saying that each needs a checksum is taken to say it.
    batch.setFlag(index, flags | CHECKSUM_BLANK);
    const { transportOffset } = layout;
    header.setBlankChecksum(transportOffset - offset, checksumField(layout) - transportOffset);
    if (gsoType === 0) return undefined;
    const hasCwr = ((bytes[transportOffset + TCP_FLAGS] as number) & TCP_CWR) !== 0;
    const headerGsoType = gsoType === GSO_TYPE_TCPV4 ? GSO_TCPV4 : GSO_TCPV6;
    const headerBytes = layout.payloadOffset - offset;
    header.setSegmentation(headerGsoType | (hasCwr ? GSO_ECN : 0), headerBytes, gsoSize);
    return undefined;
  }

  /** The metadata of a frame that was read with `header`; undefined when that makes no sense. */
  fromHeader(
    bytes: Uint8Array,
    offset: number,
    length: number,
    header: VirtioNetHeader,
  ): number | undefined {
    const gso = batchGsoOf(header);
    if (gso === undefined) return undefined;
    if ((header.flags & NEEDS_CSUM) === 0) {
      if (gso !== 0) return undefined;
      return (header.flags & DATA_VALID) !== 0 ? DATA_VALIDATED : 0;
    }
    const layout = this.#layout;
    const start = offset + header.checksumStart;
    const place = start + header.checksumOffset;
    const isPlain =
      parseTransport(bytes, offset, length, layout) &&
      layout.transportOffset === start &&
      checksumField(layout) === place;
    if (isPlain) return gso | CHECKSUM_BLANK | DATA_VALIDATED;
    if (gso !== 0 || place + 2 > offset + length) return undefined;
    complete(bytes, start, offset + length, place);
    return DATA_VALIDATED;
  }
}

function isSegmentable(gsoType: number, gsoSize: number, layout: PacketLayout): boolean {
  if (gsoSize === 0 || layout.protocol !== PROTOCOL_TCP) return false;
  if (gsoType === GSO_TYPE_TCPV4) return layout.ipVersion === 4;
  return gsoType === GSO_TYPE_TCPV6 && layout.ipVersion === 6;
}

/** The segmentation bits of a header as a batch has them; undefined for what was never asked for. */
function batchGsoOf(header: VirtioNetHeader): number | undefined {
  const type = header.gsoType & ~GSO_ECN;
  if (type === GSO_NONE) return 0;
  if ((type !== GSO_TCPV4 && type !== GSO_TCPV6) || header.gsoSize === 0) return undefined;
  const batchType = type === GSO_TCPV4 ? GSO_TYPE_TCPV4 : GSO_TYPE_TCPV6;
  return (batchType << GSO_TYPE_SHIFT) | (header.gsoSize << GSO_SIZE_SHIFT);
}

/** Completes a checksum as the kernel does for a device that cannot: the sum from `start` on. */
function complete(bytes: Uint8Array, start: number, end: number, place: number): void {
  // Zero would say "no checksum" in UDP, and is the same number as all ones everywhere.
  writeU16(bytes, place, internetChecksum(bytes, start, end) || 0xffff);
}

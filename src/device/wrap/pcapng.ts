/**
 * The blocks of pcapng (draft-ietf-opsawg-pcapng) that a capture of one NIC needs: little-endian,
 * as the section header says, with times in nanoseconds and Ethernet frames. A frame whose checksum
 * is blank gets it in the copy, so that no reader takes it for broken.
 */
import { computeChecksum, locateChecksum } from '../../wire/checksum-offload.js';
import { CHECKSUM_BLANK, type FrameBatch } from '../frame-batch.js';

const SECTION_HEADER = 0x0a0d0d0a;
const INTERFACE_DESCRIPTION = 1;
const INTERFACE_STATISTICS = 5;
const ENHANCED_PACKET = 6;
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;
const LINKTYPE_ETHERNET = 1;

const SHB_USERAPPL = 4;
const IF_NAME = 2;
const IF_TSRESOL = 9;
const EPB_FLAGS = 2;
const EPB_DROPCOUNT = 4;
const ISB_IFRECV = 4;
const ISB_IFDROP = 5;

const TSRESOL_NANOSECONDS = 9;

/** The direction bits of a packet's flags. */
export const INBOUND = 1;
export const OUTBOUND = 2;

/** Block type, length, interface, time, both lengths; flags; end of options; length again. */
const PACKET_BYTES = 28 + 8 + 4 + 4;
const DROPCOUNT_BYTES = 12;

type Option = readonly [code: number, value: Buffer];

/** The first block of a file. */
export function sectionHeader(application: string): Buffer {
  const body = Buffer.alloc(16);
  body.writeUInt32LE(BYTE_ORDER_MAGIC, 0);
  body.writeUInt16LE(1, 4);
  // The length of the section is not known ahead: all ones.
  body.fill(0xff, 8);
  return block(SECTION_HEADER, body, [[SHB_USERAPPL, Buffer.from(application)]]);
}

/** The description of the one interface. `snaplen`: bytes kept of a frame; 0: all. */
export function interfaceDescription(name: string, snaplen: number): Buffer {
  const body = Buffer.alloc(8);
  body.writeUInt16LE(LINKTYPE_ETHERNET, 0);
  body.writeUInt32LE(snaplen, 4);
  return block(INTERFACE_DESCRIPTION, body, [
    [IF_NAME, Buffer.from(name)],
    [IF_TSRESOL, Buffer.from([TSRESOL_NANOSECONDS])],
  ]);
}

/** At the end: how many frames there were, and how many of them are not in the file. */
export function interfaceStatistics(timeNs: bigint, received: number, dropped: number): Buffer {
  const body = Buffer.alloc(12);
  writeTime(body, 4, timeNs);
  return block(INTERFACE_STATISTICS, body, [
    [ISB_IFRECV, uint64(received)],
    [ISB_IFDROP, uint64(dropped)],
  ]);
}

/**
 * All frames of a batch, which passed at `batch.timeNs`, as packets cut to `snaplen` (0: whole).
 * `missing` frames before the first were not captured.
 */
export function enhancedPackets(
  batch: FrameBatch,
  direction: typeof INBOUND | typeof OUTBOUND,
  snaplen: number,
  missing: number,
): Buffer {
  let size = missing > 0 ? DROPCOUNT_BYTES : 0;
  for (let index = 0; index < batch.count; index += 1) {
    size += PACKET_BYTES + padded(keptOf(batch.length(index), snaplen));
  }
  const target = Buffer.allocUnsafe(size);
  let position = 0;
  for (let index = 0; index < batch.count; index += 1) {
    const before = index === 0 ? missing : 0;
    position = writePacket(target, position, batch, index, direction, snaplen, before);
  }
  return target;
}

function writePacket(
  target: Buffer,
  start: number,
  batch: FrameBatch,
  index: number,
  direction: number,
  snaplen: number,
  missing: number,
): number {
  const length = batch.length(index);
  const kept = keptOf(length, snaplen);
  const blockBytes = PACKET_BYTES + padded(kept) + (missing > 0 ? DROPCOUNT_BYTES : 0);
  target.writeUInt32LE(ENHANCED_PACKET, start);
  target.writeUInt32LE(blockBytes, start + 4);
  target.writeUInt32LE(0, start + 8);
  writeTime(target, start + 12, batch.timeNs);
  target.writeUInt32LE(kept, start + 20);
  target.writeUInt32LE(length, start + 24);
  writeFrame(target, start + 28, batch, index, kept);
  let position = start + 28 + padded(kept);
  target.fill(0, start + 28 + kept, position);
  target.writeUInt16LE(EPB_FLAGS, position);
  target.writeUInt16LE(4, position + 2);
  target.writeUInt32LE(direction, position + 4);
  position += 8;
  if (missing > 0) {
    target.writeUInt16LE(EPB_DROPCOUNT, position);
    target.writeUInt16LE(8, position + 2);
    target.writeBigUInt64LE(BigInt(missing), position + 4);
    position += DROPCOUNT_BYTES;
  }
  target.writeUInt32LE(0, position);
  target.writeUInt32LE(blockBytes, position + 4);
  return position + 8;
}

function writeFrame(
  target: Buffer,
  start: number,
  batch: FrameBatch,
  index: number,
  kept: number,
): void {
  const { bytes } = batch;
  const offset = batch.offset(index);
  target.set(bytes.subarray(offset, offset + kept), start);
  if ((batch.flag(index) & CHECKSUM_BLANK) === 0) return;
  // Over the frame as it is, for the copy may be cut.
  const checksum = computeChecksum(bytes, offset, batch.length(index));
  const field = locateChecksum(bytes, offset, batch.length(index)) - offset;
  if (checksum >= 0 && field + 2 <= kept) target.writeUInt16BE(checksum, start + field);
}

function block(type: number, body: Buffer, options: readonly Option[]): Buffer {
  const content = Buffer.concat([body, ...options.map(option), Buffer.alloc(4)]);
  const target = Buffer.alloc(12 + content.length);
  target.writeUInt32LE(type, 0);
  target.writeUInt32LE(target.length, 4);
  content.copy(target, 8);
  target.writeUInt32LE(target.length, target.length - 4);
  return target;
}

function option([code, value]: Option): Buffer {
  const target = Buffer.alloc(4 + padded(value.length));
  target.writeUInt16LE(code, 0);
  target.writeUInt16LE(value.length, 2);
  value.copy(target, 4);
  return target;
}

function uint64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

/** A time is two words, the upper one first, whatever the byte order. */
function writeTime(target: Buffer, position: number, ns: bigint): void {
  target.writeUInt32LE(Number(BigInt.asUintN(32, ns >> 32n)), position);
  target.writeUInt32LE(Number(BigInt.asUintN(32, ns)), position + 4);
}

function keptOf(length: number, snaplen: number): number {
  return snaplen === 0 ? length : Math.min(length, snaplen);
}

/** Everything in pcapng starts at a multiple of four. */
function padded(length: number): number {
  return (length + 3) & ~3;
}

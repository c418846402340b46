/**
 * Writes pcapng (draft-ietf-opsawg-pcapng): pure functions that make blocks; who calls them does the
 * writing. Everything is little-endian, as the section header says. An interface is a vif, times are
 * nanoseconds, and directions are those of the daemon's side: what the guest sent came in to us
 * (inbound), what it receives went out (outbound).
 */
import type { FrameBatchView } from '@xenvif/client';

const SECTION_HEADER = 0x0a0d0d0a;
const INTERFACE_DESCRIPTION = 1;
const INTERFACE_STATISTICS = 5;
const ENHANCED_PACKET = 6;
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;
const LINKTYPE_ETHERNET = 1;

/** Options of all blocks, and of each. */
const OPT_COMMENT = 1;
const SHB_USERAPPL = 4;
const IF_NAME = 2;
const IF_DESCRIPTION = 3;
const IF_TSRESOL = 9;
const IF_FILTER = 11;
const EPB_FLAGS = 2;
const EPB_DROPCOUNT = 4;
const ISB_STARTTIME = 2;
const ISB_ENDTIME = 3;
const ISB_IFRECV = 4;
const ISB_IFDROP = 5;
const ISB_USRDELIV = 8;

const TSRESOL_NANOSECONDS = 9;
const INBOUND = 1;
const OUTBOUND = 2;

/** An interface of the capture. */
export interface CaptureInterface {
  /** The vif's name. */
  readonly name: string;
  readonly description: string;
  /** Bytes kept of each frame; 0: all. */
  readonly snaplen: number;
  /** The filter expression that frames had to pass; empty: none. */
  readonly filter: string;
}

/** What became of the frames of an interface. */
export interface CaptureStatistics {
  readonly startNs: bigint;
  readonly endNs: bigint;
  /** Frames that the stream selected. */
  readonly received: bigint;
  /** Those of them that were lost on the way to us. */
  readonly dropped: bigint;
}

/** The section header: the first block of a file. */
export function sectionHeader(application: string): Buffer {
  const body = Buffer.alloc(16);
  body.writeUInt32LE(BYTE_ORDER_MAGIC, 0);
  body.writeUInt16LE(1, 4);
  body.writeUInt16LE(0, 6);
  // The length of the section is not known ahead: all ones.
  body.fill(0xff, 8);
  return block(SECTION_HEADER, [body, ...options([[SHB_USERAPPL, Buffer.from(application)]])]);
}

/** The description of an interface; the first described has the number 0. */
export function interfaceDescription(captured: CaptureInterface): Buffer {
  const body = Buffer.alloc(8);
  body.writeUInt16LE(LINKTYPE_ETHERNET, 0);
  body.writeUInt32LE(captured.snaplen, 4);
  const list: Option[] = [
    [IF_NAME, Buffer.from(captured.name)],
    [IF_DESCRIPTION, Buffer.from(captured.description)],
    [IF_TSRESOL, Buffer.from([TSRESOL_NANOSECONDS])],
  ];
  // The first byte says what follows: 0 is a libpcap expression.
  if (captured.filter !== '') list.push([IF_FILTER, Buffer.from(`\0${captured.filter}`)]);
  return block(INTERFACE_DESCRIPTION, [body, ...options(list)]);
}

/** What the first packet of a batch tells of those that are missing before it. */
export interface MissingBefore {
  /** Frames lost since the packet before. */
  readonly lost: bigint;
  /** A remark for people, for example that the connection was lost. */
  readonly comment: string;
}

/** The first `count` frames of `batch` as enhanced packet blocks. */
export function enhancedPackets(
  batch: FrameBatchView,
  count: number,
  missing: MissingBefore,
): Buffer {
  const firstOptions = missingOptions(missing);
  let size = 0;
  for (let index = 0; index < count; index += 1) {
    size += PACKET_BYTES + padded(batch.length(index));
  }
  if (count > 0) size += firstOptions.length;
  const target = Buffer.allocUnsafe(size);
  let pos = 0;
  for (let index = 0; index < count; index += 1) {
    pos = writePacket(target, pos, batch, index, index === 0 ? firstOptions : NO_OPTIONS);
  }
  return target;
}

/** Block type, length, interface, time, both lengths; flags; end of options; length again. */
const PACKET_BYTES = 28 + 8 + 4 + 4;
const NO_OPTIONS = Buffer.alloc(0);

function writePacket(
  target: Buffer,
  start: number,
  batch: FrameBatchView,
  index: number,
  more: Buffer,
): number {
  const length = batch.length(index);
  const offset = batch.offset(index);
  const timestamp = batch.timestampNs(index);
  const blockBytes = PACKET_BYTES + padded(length) + more.length;
  target.writeUInt32LE(ENHANCED_PACKET, start);
  target.writeUInt32LE(blockBytes, start + 4);
  target.writeUInt32LE(batch.vifIndex(index), start + 8);
  writeTime(target, start + 12, timestamp);
  target.writeUInt32LE(length, start + 20);
  target.writeUInt32LE(batch.originalLength(index), start + 24);
  let pos = start + 28;
  batch.bytes.copy(target, pos, offset, offset + length);
  target.fill(0, pos + length, pos + padded(length));
  pos += padded(length);
  target.writeUInt16LE(EPB_FLAGS, pos);
  target.writeUInt16LE(4, pos + 2);
  target.writeUInt32LE(batch.direction(index) === 'from-guest' ? INBOUND : OUTBOUND, pos + 4);
  pos += 8;
  pos += more.copy(target, pos);
  target.writeUInt32LE(0, pos);
  target.writeUInt32LE(blockBytes, pos + 4);
  return pos + 8;
}

function missingOptions({ lost, comment }: MissingBefore): Buffer {
  const list: Option[] = [];
  if (lost > 0n) list.push([EPB_DROPCOUNT, uint64(lost)]);
  if (comment !== '') list.push([OPT_COMMENT, Buffer.from(comment)]);
  // Without the end mark, which the packet writes.
  return Buffer.concat(list.map(option));
}

/** The statistics of interface `index`, at the end of a capture. */
export function interfaceStatistics(index: number, statistics: CaptureStatistics): Buffer {
  const { startNs, endNs, received, dropped } = statistics;
  const body = Buffer.alloc(12);
  body.writeUInt32LE(index, 0);
  writeTime(body, 4, endNs);
  return block(INTERFACE_STATISTICS, [
    body,
    ...options([
      [ISB_STARTTIME, time(startNs)],
      [ISB_ENDTIME, time(endNs)],
      [ISB_IFRECV, uint64(received)],
      [ISB_IFDROP, uint64(dropped)],
      [ISB_USRDELIV, uint64(received - dropped)],
    ]),
  ]);
}

type Option = readonly [code: number, value: Buffer];

function options(list: readonly Option[]): Buffer[] {
  return [...list.map(option), Buffer.alloc(4)];
}

function option([code, value]: Option): Buffer {
  const header = Buffer.alloc(4);
  header.writeUInt16LE(code, 0);
  header.writeUInt16LE(value.length, 2);
  return Buffer.concat([header, value], 4 + padded(value.length));
}

function block(type: number, parts: readonly Buffer[]): Buffer {
  const content = Buffer.concat(parts);
  const length = 12 + content.length;
  const head = Buffer.alloc(8);
  head.writeUInt32LE(type, 0);
  head.writeUInt32LE(length, 4);
  return Buffer.concat([head, content, head.subarray(4)]);
}

function uint64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
}

/** A time is two words, the upper one first, whatever the byte order. */
function time(ns: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  writeTime(bytes, 0, ns);
  return bytes;
}

function writeTime(target: Buffer, pos: number, ns: bigint): void {
  target.writeUInt32LE(Number(BigInt.asUintN(32, ns >> 32n)), pos);
  target.writeUInt32LE(Number(BigInt.asUintN(32, ns)), pos + 4);
}

/** Everything in pcapng starts at a multiple of four. */
function padded(length: number): number {
  return (length + 3) & ~3;
}

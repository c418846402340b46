/**
 * Reads capture files: classic pcap (draft-ietf-opsawg-pcap) in both byte orders and both resolutions,
 * and pcapng. Only what is needed to send frames again: bytes and lengths.
 */
import { CliError } from './failure.js';

/** A frame of a capture file. */
export interface CapturedFrame {
  readonly data: Buffer;
  /** The length that it had; more than `data` has where it was cut. */
  readonly originalLength: number;
}

const LINKTYPE_ETHERNET = 1;
const PCAP_MAGIC = new Set([0xa1b2c3d4, 0xa1b23c4d]);
const SECTION_HEADER = 0x0a0d0d0a;
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;
const INTERFACE_DESCRIPTION = 1;
const SIMPLE_PACKET = 3;
const ENHANCED_PACKET = 6;

/**
 * The frames of the file whose bytes are `bytes`.
 * @throws CliError CAPTURE_MALFORMED, CAPTURE_NOT_ETHERNET
 */
export function readCapture(bytes: Buffer): CapturedFrame[] {
  if (bytes.length < 24) throw malformed('it is too short');
  if (bytes.readUInt32LE(0) === SECTION_HEADER) return readPcapng(bytes);
  if (PCAP_MAGIC.has(bytes.readUInt32LE(0))) return readPcap(bytes, word(bytes, true));
  if (PCAP_MAGIC.has(bytes.readUInt32BE(0))) return readPcap(bytes, word(bytes, false));
  throw malformed('it is neither pcap nor pcapng');
}

type Word = (offset: number) => number;

function word(bytes: Buffer, little: boolean): Word {
  return (offset) => (little ? bytes.readUInt32LE(offset) : bytes.readUInt32BE(offset));
}

function readPcap(bytes: Buffer, at: Word): CapturedFrame[] {
  // The upper bits tell of frame check sequences, which Ethernet captures of today do not have.
  checkLinkType(at(20) & 0xffff);
  const frames: CapturedFrame[] = [];
  let offset = 24;
  while (offset < bytes.length) {
    if (offset + 16 > bytes.length) throw malformed('a record is cut off');
    const length = at(offset + 8);
    const start = offset + 16;
    if (start + length > bytes.length) throw malformed('a frame is cut off');
    frames.push({ data: bytes.subarray(start, start + length), originalLength: at(offset + 12) });
    offset = start + length;
  }
  return frames;
}

/** What a section of a pcapng file has said so far. */
interface Section {
  readonly at: Word;
  readonly u16: Word;
  /** The snaplens of its interfaces; 0: none. */
  readonly snaplens: number[];
}

function readPcapng(bytes: Buffer): CapturedFrame[] {
  const frames: CapturedFrame[] = [];
  let section: Section | undefined;
  let offset = 0;
  while (offset < bytes.length) {
    if (offset + 12 > bytes.length) throw malformed('a block is cut off');
    // The type of a section header reads the same in both byte orders.
    if (bytes.readUInt32LE(offset) === SECTION_HEADER) section = startSection(bytes, offset);
    if (section === undefined) throw malformed('it does not start with a section header');
    const length = section.at(offset + 4);
    if (length < 12 || length % 4 !== 0 || offset + length > bytes.length) {
      throw malformed('the length of a block is wrong');
    }
    const frame = readBlock(bytes, section, offset, length);
    if (frame !== undefined) frames.push(frame);
    offset += length;
  }
  return frames;
}

function startSection(bytes: Buffer, offset: number): Section {
  const little = bytes.readUInt32LE(offset + 8) === BYTE_ORDER_MAGIC;
  if (!little && bytes.readUInt32BE(offset + 8) !== BYTE_ORDER_MAGIC) {
    throw malformed('the byte order of a section is not clear');
  }
  const u16: Word = (at) => (little ? bytes.readUInt16LE(at) : bytes.readUInt16BE(at));
  return { at: word(bytes, little), u16, snaplens: [] };
}

function readBlock(
  bytes: Buffer,
  { at, u16, snaplens }: Section,
  offset: number,
  blockLength: number,
): CapturedFrame | undefined {
  const end = offset + blockLength - 4;
  switch (at(offset)) {
    case INTERFACE_DESCRIPTION:
      if (blockLength < 20) throw malformed('an interface is cut off');
      checkLinkType(u16(offset + 8));
      snaplens.push(at(offset + 12));
      return undefined;
    case ENHANCED_PACKET: {
      if (blockLength < 32) throw malformed('a packet is cut off');
      const [length, originalLength] = [at(offset + 20), at(offset + 24)];
      return { data: slice(bytes, offset + 28, length, end), originalLength };
    }
    case SIMPLE_PACKET: {
      if (blockLength < 16) throw malformed('a packet is cut off');
      const originalLength = at(offset + 8);
      const length = Math.min(originalLength, snaplens[0] || originalLength);
      return { data: slice(bytes, offset + 12, length, end), originalLength };
    }
    default:
      return undefined;
  }
}

function slice(bytes: Buffer, start: number, length: number, end: number): Buffer {
  if (start + length > end) throw malformed('a frame is longer than its block');
  return bytes.subarray(start, start + length);
}

function checkLinkType(linkType: number): void {
  if (linkType === LINKTYPE_ETHERNET) return;
  const message = `The capture is not of Ethernet frames (link type ${linkType}).`;
  throw new CliError('CAPTURE_NOT_ETHERNET', message);
}

function malformed(what: string): CliError {
  return new CliError('CAPTURE_MALFORMED', `The capture cannot be read: ${what}.`);
}

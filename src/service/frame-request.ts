/**
 * What a client sends: StreamFramesRequest, of which a batch of frames is taken apart by hand. A
 * batch as every generated encoder writes it, and as our own clients do, is walked where it lies;
 * anything else that may stand in a message is left to ts-proto.
 */
import { FRAME_BYTES_MAX, FRAME_BYTES_MIN, runHeaderBytes } from '../device/frame-batch.js';
import { StreamFramesRequest } from '../gen/xenvif/v1/frame_service.js';

/** `StreamFramesRequest.frames`: field 2, length-delimited. */
const TAG_FRAMES_MESSAGE = 0x12;
/** `FrameBatch.frames`: field 1, length-delimited. */
const TAG_FRAME = 0x0a;
/** `FrameBatch.first_sequence`: field 7, varint. */
const TAG_FIRST_SEQUENCE = 0x38;

/** Frames where they lie in their message, one behind the other, each behind its tag and length. */
export class SentFrames {
  readonly bytes: Buffer;
  readonly count: number;
  readonly firstSequence: bigint;
  /** Where the tag of the first frame is, and where the last frame ends. */
  readonly start: number;
  readonly end: number;
  /** The index and the length of the first frame whose length is out of bounds. */
  readonly faultIndex: number;
  readonly faultLength: number;

  constructor(bytes: Buffer, walk: FrameWalk, firstSequence: bigint) {
    this.bytes = bytes;
    this.count = walk.count;
    this.firstSequence = firstSequence;
    this.start = walk.start;
    this.end = walk.end;
    this.faultIndex = walk.faultIndex;
    this.faultLength = walk.faultLength;
  }
}

/** A message of a client: frames to walk, or whatever else there is. */
export type ClientMessage = SentFrames | StreamFramesRequest;

/** Decodes a message. Throws what ts-proto throws where it is no StreamFramesRequest. */
export function decodeClientMessage(bytes: Buffer): ClientMessage {
  return sentFrames(bytes) ?? StreamFramesRequest.decode(bytes);
}

interface FrameWalk {
  readonly start: number;
  readonly end: number;
  readonly count: number;
  readonly faultIndex: number;
  readonly faultLength: number;
}

/** Undefined where the message is something else, or is written in another way. */
function sentFrames(bytes: Buffer): SentFrames | undefined {
  if (bytes[0] !== TAG_FRAMES_MESSAGE) return undefined;
  const length = readVarint(bytes, 1);
  if (length < 0 || varintEnd + length !== bytes.length) return undefined;
  const walk = walkFrames(bytes, varintEnd);
  if (walk.end === bytes.length) return new SentFrames(bytes, walk, 0n);
  if (bytes[walk.end] !== TAG_FIRST_SEQUENCE) return undefined;
  const firstSequence = readVarint(bytes, walk.end + 1);
  if (firstSequence < 0 || varintEnd !== bytes.length) return undefined;
  return new SentFrames(bytes, walk, BigInt(firstSequence));
}

/** Walks frames as far as there are some. All throughput of uploads goes through this loop. */
function walkFrames(bytes: Buffer, start: number): FrameWalk {
  const { length: limit } = bytes;
  let position = start;
  let count = 0;
  let faultIndex = -1;
  let faultLength = 0;
  while (position + 2 <= limit && bytes[position] === TAG_FRAME) {
    let length = bytes[position + 1] as number;
    let content = position + 2;
    if (length >= 0x80) {
      length = readVarint(bytes, position + 1);
      content = varintEnd;
    }
    // What cannot be read here is read, and refused, by ts-proto; so is a length of too many bytes,
    // for whoever takes the frames as a run knows where each begins by its length.
    if (length < 0 || content + length > limit) break;
    if (content - position !== runHeaderBytes(length)) break;
    if ((length < FRAME_BYTES_MIN || length > FRAME_BYTES_MAX) && faultIndex < 0) {
      faultIndex = count;
      faultLength = length;
    }
    position = content + length;
    count += 1;
  }
  return { start, end: position, count, faultIndex, faultLength };
}

/** Where the number that was read last ends. */
let varintEnd = 0;

/** Reads a number below 2^49; -1 where there is none such. */
function readVarint(bytes: Buffer, position: number): number {
  let value = 0;
  let scale = 1;
  for (let next = position; next < bytes.length && next < position + 7; next += 1) {
    const byte = bytes[next] as number;
    value += (byte & 0x7f) * scale;
    if (byte < 0x80) {
      varintEnd = next + 1;
      return value;
    }
    scale *= 0x80;
  }
  return -1;
}

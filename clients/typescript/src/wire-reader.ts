/**
 * The protobuf wire format, read in place: just what the hand-written decoder of frames needs. It
 * accepts what the generated decoders accept (a varint of up to ten bytes for 32 bits, of which the
 * low ones count) and throws a typed error for everything that is not well formed.
 */
import { XenvifClientError } from './errors.js';

/** Wire types (protobuf encoding, "Message Structure"). */
export const WIRE_VARINT = 0;
export const WIRE_FIXED64 = 1;
export const WIRE_BYTES = 2;
const WIRE_GROUP_START = 3;
const WIRE_GROUP_END = 4;
const WIRE_FIXED32 = 5;

/** As in other decoders; only an attacker nests unknown groups so deep. */
const GROUP_DEPTH_MAX = 100;

/** A message that is no protobuf, or breaks a rule of the contract. */
export function malformedMessage(what: string): XenvifClientError {
  const message = `The daemon sent a message that cannot be read: ${what}.`;
  return new XenvifClientError('RESPONSE_MALFORMED', 'INTERNAL', message);
}

/** A cursor over `bytes[pos .. end)`. */
export class WireReader {
  readonly bytes: Buffer;
  readonly end: number;
  pos: number;

  constructor(bytes: Buffer, start = 0, end = bytes.length) {
    this.bytes = bytes;
    this.pos = start;
    this.end = end;
  }

  /** A varint's low 32 bits, unsigned. */
  varint32(): number {
    let result = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      if (this.pos >= this.end) throw malformedMessage('a number is cut off');
      const byte = this.bytes[this.pos++] as number;
      // Beyond 32 bits JavaScript would shift around the corner; those bits do not count.
      if (shift < 32) result |= (byte & 0x7f) << shift;
      if (byte < 0x80) return result >>> 0;
    }
    throw malformedMessage('a number is longer than ten bytes');
  }

  /** A varint of 64 bits. */
  varint64(): bigint {
    let result = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      if (this.pos >= this.end) throw malformedMessage('a number is cut off');
      const byte = this.bytes[this.pos++] as number;
      result |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return BigInt.asUintN(64, result);
    }
    throw malformedMessage('a number is longer than ten bytes');
  }

  fixed64(): bigint {
    const pos = this.#advance(8);
    return this.bytes.readBigUInt64LE(pos);
  }

  /** Reads the length of a length-delimited field; answers where its content ends. */
  contentEnd(): number {
    const length = this.varint32();
    const end = this.pos + length;
    if (end > this.end) throw malformedMessage('a field reaches beyond its message');
    return end;
  }

  /** Passes over the content of a field that is not known. */
  skip(field: number, wireType: number, depth = 0): void {
    if (field === 0) throw malformedMessage('a field has the number 0');
    switch (wireType) {
      case WIRE_VARINT:
        this.varint64();
        return;
      case WIRE_FIXED64:
        this.#advance(8);
        return;
      case WIRE_BYTES:
        this.pos = this.contentEnd();
        return;
      case WIRE_FIXED32:
        this.#advance(4);
        return;
      case WIRE_GROUP_START:
        this.#skipGroup(field, depth + 1);
        return;
      default:
        throw malformedMessage(`there is no wire type ${wireType} here`);
    }
  }

  #skipGroup(group: number, depth: number): void {
    if (depth > GROUP_DEPTH_MAX) throw malformedMessage('groups are nested too deep');
    for (;;) {
      const tag = this.varint32();
      if ((tag & 7) === WIRE_GROUP_END) {
        if (tag >>> 3 !== group) throw malformedMessage('a group ends that did not start');
        return;
      }
      this.skip(tag >>> 3, tag & 7, depth);
    }
  }

  #advance(length: number): number {
    const pos = this.pos;
    if (pos + length > this.end) throw malformedMessage('a field is cut off');
    this.pos = pos + length;
    return pos;
  }
}

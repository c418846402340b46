import { describe, expect, it } from 'vitest';
import { readCapture } from '../../../../clients/cli/src/capture-reader.js';

const FRAME = Buffer.from('ffffffffffff00163e0000010800abcdef', 'hex');

type Write = (bytes: Buffer, value: number, offset: number) => void;
const little: Write = (bytes, value, offset) => void bytes.writeUInt32LE(value, offset);
const big: Write = (bytes, value, offset) => void bytes.writeUInt32BE(value, offset);

function words(write: Write, values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 4);
  values.forEach((value, index) => {
    write(bytes, value, index * 4);
  });
  return bytes;
}

function pcap(write: Write, magic: number, linkType = 1): Buffer {
  const header = words(write, [magic, 0x0002_0004, 0, 0, 65_535, linkType]);
  const cut = words(write, [1, 2, FRAME.length, 1514]);
  const whole = words(write, [1, 2, FRAME.length, FRAME.length]);
  return Buffer.concat([header, whole, FRAME, cut, FRAME]);
}

function block(write: Write, type: number, body: Buffer): Buffer {
  const padded = Buffer.concat([body, Buffer.alloc(-body.length & 3)]);
  const length = padded.length + 12;
  return Buffer.concat([words(write, [type, length]), padded, words(write, [length])]);
}

function pcapng(write: Write): Buffer {
  const section = block(write, 0x0a0d0d0a, words(write, [0x1a2b3c4d, 1, 0xffffffff, 0xffffffff]));
  // The link type is a half word in front of a reserved one: Ethernet, whatever the byte order.
  const ethernet = write === little ? 1 : 0x0001_0000;
  const description = block(write, 1, words(write, [ethernet, 16]));
  const packet = words(write, [0, 0, 0, FRAME.length, 1514]);
  return Buffer.concat([
    section,
    description,
    block(write, 6, Buffer.concat([packet, FRAME])),
    block(write, 3, Buffer.concat([words(write, [FRAME.length]), FRAME.subarray(0, 16)])),
    block(write, 0xbad, Buffer.from('unknown blocks are passed over')),
  ]);
}

describe('a capture file', () => {
  it.each([
    ['little-endian, microseconds', little, 0xa1b2c3d4],
    ['big-endian, microseconds', big, 0xa1b2c3d4],
    ['little-endian, nanoseconds', little, 0xa1b23c4d],
    ['big-endian, nanoseconds', big, 0xa1b23c4d],
  ])('is read as pcap, %s', (_what, write, magic) => {
    expect(readCapture(pcap(write, magic))).toEqual([
      { data: FRAME, originalLength: FRAME.length },
      { data: FRAME, originalLength: 1514 },
    ]);
  });

  it.each([
    ['little-endian', little],
    ['big-endian', big],
  ])('is read as pcapng, %s', (_what, write) => {
    expect(readCapture(pcapng(write))).toEqual([
      { data: FRAME, originalLength: 1514 },
      { data: FRAME.subarray(0, 16), originalLength: FRAME.length },
    ]);
  });

  it('may have sections of different byte orders', () => {
    expect(readCapture(Buffer.concat([pcapng(little), pcapng(big)]))).toHaveLength(4);
  });

  it('must be of Ethernet', () => {
    expect(() => readCapture(pcap(little, 0xa1b2c3d4, 113))).toThrow(
      expect.objectContaining({ code: 'CAPTURE_NOT_ETHERNET' }),
    );
  });

  it('that is cut off anywhere is refused, or has fewer frames', () => {
    for (const whole of [pcap(little, 0xa1b2c3d4), pcapng(little), pcapng(big)]) {
      for (let length = 0; length < whole.length; length += 1) {
        try {
          expect(readCapture(whole.subarray(0, length)).length).toBeLessThanOrEqual(2);
        } catch (error) {
          expect(error).toMatchObject({ code: 'CAPTURE_MALFORMED' });
        }
      }
    }
  });

  it('of another kind is refused', () => {
    expect(() => readCapture(Buffer.from('this is a text and no capture at all'))).toThrow(
      expect.objectContaining({ code: 'CAPTURE_MALFORMED' }),
    );
  });
});

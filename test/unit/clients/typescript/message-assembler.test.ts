import { describe, expect, it } from 'vitest';
import { DirectStream } from '../../../../clients/typescript/src/direct-stream.js';
import { MessageAssembler } from '../../../../clients/typescript/src/message-assembler.js';

function framed(message: Buffer, flags = 0): Buffer {
  const prefix = Buffer.alloc(5);
  prefix[0] = flags;
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

function filled(length: number, seed: number): Buffer {
  return Buffer.from(Uint8Array.from({ length }, (_, index) => (index * 31 + seed) & 0xff));
}

describe('messages in pieces', () => {
  it.each([1, 2, 3, 4, 5, 6, 7, 4096, 16_384, 70_001])('come out whole in pieces of %i', (size) => {
    const messages = [0, 1, 5, 100, 16_384, 70_000, 0, 300_000, 3].map(filled);
    const wire = Buffer.concat(messages.map((message) => framed(message)));
    const found: Buffer[] = [];
    const assembler = new MessageAssembler(2 ** 20, (message) => found.push(message));
    for (let start = 0; start < wire.length; start += size) {
      assembler.push(wire.subarray(start, start + size));
    }
    expect(found.map((message) => message.length)).toEqual(messages.map(({ length }) => length));
    expect(found.every((message, index) => message.equals(messages[index] as Buffer))).toBe(true);
  });

  it('lie in memory of their own until it is given back, and then in the same', () => {
    const found: Buffer[] = [];
    const assembler = new MessageAssembler(2 ** 20, (message) => found.push(message));
    for (const seed of [1, 2]) assembler.push(framed(filled(65_000, seed)));
    const [first, second] = found as [Buffer, Buffer];
    expect(second.buffer).not.toBe(first.buffer);
    assembler.recycle(first);
    // Where the third goes was settled when the second was complete.
    for (const seed of [3, 4]) assembler.push(framed(filled(65_500, seed)));
    expect(found[3]?.buffer).toBe(first.buffer);
    expect(found[3]?.equals(filled(65_500, 4))).toBe(true);
    expect(second.equals(filled(65_000, 2))).toBe(true);
  });

  it.each([1, 6, 1000, 16_384, 400_000])('are written where they stay, %i at most', (size) => {
    const messages = [0, 70_000, 3, 16_384, 300_000, 20_000].map(filled);
    const wire = Buffer.concat(messages.map((message) => framed(message)));
    const found: Buffer[] = [];
    const assembler = new MessageAssembler(2 ** 20, (message) => found.push(message));
    let roomMin = Number.POSITIVE_INFINITY;
    for (let start = 0; start < wire.length && roomMin > 0; ) {
      const { place } = assembler;
      roomMin = Math.min(roomMin, place.length);
      const written = wire.copy(place, 0, start, start + size);
      assembler.filled(written);
      start += written;
    }
    expect(roomMin).toBeGreaterThan(0);
    expect(found.map((message) => message.length)).toEqual(messages.map(({ length }) => length));
    expect(found.every((message, index) => message.equals(messages[index] as Buffer))).toBe(true);
  });

  it('get memory that is long enough', () => {
    const found: Buffer[] = [];
    const assembler = new MessageAssembler(2 ** 20, (message) => found.push(message));
    assembler.push(framed(filled(20_000, 1)));
    assembler.recycle(found[0] as Buffer);
    assembler.push(framed(filled(200_000, 2)));
    expect(found[1]?.equals(filled(200_000, 2))).toBe(true);
  });

  it('are refused when they are too long or compressed', () => {
    const assembler = (): MessageAssembler => new MessageAssembler(100, () => {});
    expect(() => assembler().push(framed(filled(101, 0)))).toThrow('it has 101 bytes');
    const refused = assembler();
    expect(() => refused.push(framed(filled(10, 0), 1))).toThrow('it is compressed');
    expect(refused.place.length).toBeGreaterThan(0);
  });
});

describe('the way past grpc-js', () => {
  it('is not taken where there is no stream that looks like one', () => {
    const options = { messageBytesMax: 100, receive: () => {}, fail: () => {} };
    for (const call of [{}, { call: { child: {} } }, { call: { http2Stream: {} } }]) {
      expect(DirectStream.of(call as never, options)).toBeUndefined();
    }
  });
});

import { describe, expect, test } from 'vitest';
import {
  emitMessage,
  emitStrings,
  type Message,
  MessageParser,
  MessageType,
  messageName,
  PAYLOAD_BYTES_MAX,
  parseStrings,
} from '../../../../src/xen/xenstore/wire.js';

/** mulberry32: small, seeded, the same everywhere. */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function randomMessages(random: () => number, count: number): Message[] {
  const below = (limit: number) => Math.floor(random() * limit);
  return Array.from({ length: count }, () => ({
    type: below(2 ** 32),
    requestId: below(2 ** 32),
    transactionId: below(2 ** 32),
    payload: Buffer.from(
      Array.from({ length: random() < 0.1 ? 4096 : below(60) }, () => below(256)),
    ),
  }));
}

describe('the XenStore codec', () => {
  test('a message is sixteen little-endian header bytes and its payload', () => {
    const message = {
      type: 2,
      requestId: 0x01020304,
      transactionId: 5,
      payload: emitStrings('/a'),
    };
    expect(emitMessage(message).toString('hex')).toBe(
      '0200000004030201050000000300000' + '02f6100',
    );
  });

  test('every message survives any chopping of the stream', () => {
    for (let seed = 1; seed <= 30; seed++) {
      const random = seeded(seed);
      const messages = randomMessages(random, 20);
      const stream = Buffer.concat(messages.map((message) => emitMessage(message)));
      const parser = new MessageParser();
      const parsed: Message[] = [];
      const chunkMax = [1, 3, 17, 5000][seed % 4] ?? 1;
      for (let offset = 0; offset < stream.length; ) {
        const length = 1 + Math.floor(random() * chunkMax);
        parsed.push(...parser.feed(stream.subarray(offset, offset + length)));
        offset += length;
      }
      expect(parsed, `seed ${seed}`).toEqual(messages);
      expect(parser.midway).toBe(false);
    }
  });

  test('a parsed payload does not change when the chunk does', () => {
    const chunk = emitMessage({
      type: 2,
      requestId: 1,
      transactionId: 0,
      payload: emitStrings('a'),
    });
    const [message] = [...new MessageParser().feed(chunk)];
    chunk.fill(0xff);
    expect(message?.payload).toEqual(emitStrings('a'));
  });

  test('a payload of the greatest length passes, one byte more ends the stream', () => {
    const longest = Buffer.alloc(PAYLOAD_BYTES_MAX, 7);
    const message = { type: 11, requestId: 1, transactionId: 0, payload: longest };
    const bytes = emitMessage(message);
    expect([...new MessageParser().feed(bytes)]).toEqual([message]);
    bytes.writeUInt32LE(PAYLOAD_BYTES_MAX + 1, 12);
    expect(() => [...new MessageParser().feed(bytes)]).toThrow('announces 4097 bytes');
    bytes.writeUInt32LE(0xffffffff, 12);
    expect(() => [...new MessageParser().feed(bytes)]).toThrow('announces 4294967295 bytes');
  });

  test('what came before a bad header is still delivered', () => {
    const good = { type: 2, requestId: 1, transactionId: 0, payload: emitStrings('/a') };
    const bad = Buffer.alloc(16, 0xff);
    const seen: Message[] = [];
    expect(() => {
      for (const message of new MessageParser().feed(Buffer.concat([emitMessage(good), bad]))) {
        seen.push(message);
      }
    }).toThrow();
    expect(seen).toEqual([good]);
  });

  test('a payload that is too long is refused before it is sent', () => {
    const payload = Buffer.alloc(PAYLOAD_BYTES_MAX + 1);
    const message = { type: 11, requestId: 1, transactionId: 0, payload };
    expect(() => emitMessage(message)).toThrow(expect.objectContaining({ errno: 'E2BIG' }));
  });

  test('random bytes never break the parser in any other way', () => {
    for (let seed = 1; seed <= 200; seed++) {
      const random = seeded(seed);
      const parser = new MessageParser();
      const bytes = Buffer.from(Array.from({ length: 300 }, () => Math.floor(random() * 256)));
      try {
        for (const message of parser.feed(bytes)) {
          expect(message.payload.length).toBeLessThanOrEqual(PAYLOAD_BYTES_MAX);
        }
      } catch (error) {
        expect(error).toMatchObject({ code: 'XENSTORE_PAYLOAD_TOO_LONG' });
      }
    }
  });

  test('strings each end with a NUL', () => {
    expect(emitStrings('a', '', 'b').toString()).toBe('a\0\0b\0');
    expect(parseStrings(Buffer.from('a\0\0b\0'))).toEqual(['a', '', 'b']);
    expect(parseStrings(Buffer.alloc(0))).toEqual([]);
    expect(parseStrings(Buffer.from('a\0b'))).toBeUndefined();
  });

  test('types have the numbers of xs_wire.h', () => {
    expect(MessageType).toMatchObject({ CONTROL: 0, READ: 2, WATCH_EVENT: 15, ERROR: 16 });
    expect(MessageType).toMatchObject({ SET_TARGET: 19, RESET_WATCHES: 21, DIRECTORY_PART: 22 });
    expect(messageName(20)).toBeUndefined();
    expect(messageName(13)).toBe('RM');
  });
});

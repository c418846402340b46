import { BinaryWriter } from '@bufbuild/protobuf/wire';
import { describe, expect, it } from 'vitest';
import { decodeFrameBatch } from '../../../../clients/typescript/src/batch-decoder.js';
import { XenvifClientError } from '../../../../clients/typescript/src/errors.js';
import type { FrameBatchView } from '../../../../clients/typescript/src/frame-batch-view.js';
import { decodeFrameMessage } from '../../../../clients/typescript/src/frame-messages.js';
import {
  FrameBatch,
  StreamFramesResponse,
} from '../../../../clients/typescript/src/gen/xenvif/v1/frame_service.js';

/** mulberry32: a small generator with a seed, so that a failure can be had again. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

type Random = (below: number) => number;

/** Numbers of every varint length come up, and the largest. */
function anyUint32(next: Random): number {
  return [next(128), next(1 << 14), next(2 ** 32), 0, 0xffff_ffff][next(5)] as number;
}

function anyBatch(next: Random): FrameBatch {
  const count = next(5) === 0 ? 0 : next(40);
  const column = (): number[] =>
    next(4) === 0 ? [] : Array.from({ length: count }, () => anyUint32(next));
  return {
    frames: Array.from({ length: count }, () =>
      Buffer.from(Array.from({ length: next(3) === 0 ? next(300) : next(20) }, () => next(256))),
    ),
    baseTimeNs: next(4) === 0 ? 0n : BigInt(next(2 ** 32)) * BigInt(next(2 ** 32)),
    timeDeltaNs: column(),
    originalLength: column(),
    vifIndex: column(),
    flags: column(),
    firstSequence: next(4) === 0 ? 0n : (BigInt(next(2 ** 32)) << 32n) | BigInt(next(2 ** 32)),
  };
}

/** A field that no version of the contract has. */
function unknownField(writer: BinaryWriter, next: Random): void {
  const field = 8 + next(3000);
  switch (next(5)) {
    case 0:
      writer.tag(field, 0).uint64((BigInt(next(2 ** 32)) << 32n) | 0xffff_ffffn);
      return;
    case 1:
      writer.tag(field, 1).fixed64(7n);
      return;
    case 2:
      writer.tag(field, 2).bytes(new Uint8Array(next(200)));
      return;
    case 3:
      writer.tag(field, 5).fixed32(7);
      return;
    default:
      writer.tag(field, 3).tag(1, 0).uint32(300).tag(2, 3).tag(2, 4).tag(field, 4);
  }
}

/**
 * Writes a batch as some other encoder might: fields in any order, columns packed, unpacked or in
 * several pieces, fields unknown to us in between, scalars more than once.
 */
function wildEncoding(batch: FrameBatch, next: Random): Buffer {
  const pieces: ((writer: BinaryWriter) => void)[] = [];
  const columns = [batch.timeDeltaNs, batch.originalLength, batch.vifIndex, batch.flags];
  // The entries of one list keep their order; the lists mix as they like.
  const lists: ((writer: BinaryWriter) => void)[][] = [
    batch.frames.map((frame) => (writer) => writer.tag(1, 2).bytes(frame)),
    [
      (writer) => writer.tag(2, 1).fixed64(99n),
      (writer) => writer.tag(2, 1).fixed64(batch.baseTimeNs),
    ],
    [(writer) => writer.tag(7, 0).uint64(batch.firstSequence)],
  ];
  columns.forEach((column, index) => {
    const list: ((writer: BinaryWriter) => void)[] = [];
    for (let start = 0; start < column.length; ) {
      const end = start + 1 + next(column.length - start);
      const values = column.slice(start, end);
      list.push((writer) => {
        if (next(2) === 0) {
          for (const value of values) writer.tag(3 + index, 0).uint32(value);
        } else {
          writer.tag(3 + index, 2).fork();
          for (const value of values) writer.uint32(value);
          writer.join();
        }
      });
      start = end;
    }
    lists.push(list);
  });
  while (lists.some((list) => list.length > 0)) {
    const list = lists[next(lists.length)] as (typeof lists)[number];
    const piece = list.shift();
    if (piece !== undefined) pieces.push(piece);
    if (next(6) === 0) pieces.push((writer) => unknownField(writer, next));
  }
  const writer = new BinaryWriter();
  for (const piece of pieces) piece(writer);
  return Buffer.from(writer.finish());
}

function expectSame(view: FrameBatchView, batch: FrameBatch): void {
  const { frames, baseTimeNs, firstSequence } = batch;
  // One comparison for the batch: an expectation for each of some hundred thousand cells takes long.
  const seen = frames.map((_, index) => [
    view.frame(index).toString('hex'),
    view.bytes.toString('hex', view.offset(index), view.offset(index) + view.length(index)),
    view.timeDeltaNs(index),
    view.timestampNs(index),
    view.originalLength(index),
    view.vifIndex(index),
    view.flags(index),
    view.sequence(index),
  ]);
  const expected = frames.map((frame, index) => [
    frame.toString('hex'),
    frame.toString('hex'),
    batch.timeDeltaNs[index] ?? 0,
    baseTimeNs + BigInt(batch.timeDeltaNs[index] ?? 0),
    batch.originalLength[index] || frame.length,
    batch.vifIndex[index] ?? 0,
    batch.flags[index] ?? 0,
    firstSequence + BigInt(index),
  ]);
  expect(seen).toEqual(expected);
  expect(view).toMatchObject({ count: frames.length, baseTimeNs, firstSequence });
  expect(view.byteCount).toBe(frames.reduce((sum, frame) => sum + frame.length, 0));
}

function codeOf(body: () => unknown): string {
  try {
    body();
  } catch (error) {
    return error instanceof XenvifClientError ? error.code : `not typed: ${error}`;
  }
  return 'no error';
}

/** Looks at the first frame's entry in every column, for that is when columns are decoded. */
function look(view: FrameBatchView): void {
  view.timeDeltaNs(0);
  view.originalLength(0);
  view.vifIndex(0);
  view.flags(0);
}

describe('the decoder of frame batches', () => {
  it('agrees with the generated one on batches as the generated encoder writes them', () => {
    for (let seed = 1; seed <= 300; seed += 1) {
      const batch = anyBatch(random(seed));
      const bytes = Buffer.from(FrameBatch.encode(batch).finish());
      expectSame(decodeFrameBatch(bytes), FrameBatch.decode(bytes));
    }
  });

  it('agrees with the generated one on any other encoding of the same', () => {
    for (let seed = 1; seed <= 300; seed += 1) {
      const next = random(seed);
      const batch = anyBatch(next);
      const bytes = wildEncoding(batch, next);
      const oracle = FrameBatch.decode(bytes);
      expect(oracle).toEqual(batch);
      expectSame(decodeFrameBatch(bytes), oracle);
    }
  });

  it('leaves batches as they are when others are decoded', () => {
    const batches = Array.from({ length: 200 }, (_, seed) => anyBatch(random(seed)));
    const views = batches.map((batch) => {
      return decodeFrameBatch(Buffer.from(FrameBatch.encode(batch).finish()));
    });
    batches.forEach((batch, index) => {
      expectSame(views[index] as FrameBatchView, batch);
    });
    const many = {
      ...anyBatch(random(1)),
      frames: new Array<Buffer>(70_000).fill(Buffer.alloc(14)),
    };
    const columns = { timeDeltaNs: [], originalLength: [], vifIndex: [], flags: [] };
    const bytes = Buffer.from(FrameBatch.encode({ ...many, ...columns }).finish());
    expectSame(decodeFrameBatch(bytes), { ...many, ...columns });
  });

  it('reads a batch in the middle of a larger buffer', () => {
    const batch = anyBatch(random(7));
    const bytes = Buffer.from(FrameBatch.encode(batch).finish());
    const padded = Buffer.concat([Buffer.alloc(5, 0xff), bytes, Buffer.alloc(9, 0xff)]);
    expectSame(decodeFrameBatch(padded, 5, 5 + bytes.length), batch);
  });

  it('answers every truncation with the whole of some prefix or a typed error', () => {
    const next = random(11);
    const batch = { ...anyBatch(next), frames: [Buffer.alloc(20), Buffer.alloc(200)] };
    for (const column of ['timeDeltaNs', 'originalLength', 'vifIndex', 'flags'] as const) {
      batch[column] = [1, 0xffff_ffff];
    }
    const bytes = Buffer.from(FrameBatch.encode(batch).finish());
    for (let length = 0; length < bytes.length; length += 1) {
      const code = codeOf(() => look(decodeFrameBatch(bytes, 0, length)));
      expect(['no error', 'RESPONSE_MALFORMED']).toContain(code);
    }
  });

  it('answers flipped bits with a batch or a typed error, never with anything else', () => {
    for (let seed = 1; seed <= 500; seed += 1) {
      const next = random(seed);
      const bytes = Buffer.from(FrameBatch.encode(anyBatch(next)).finish());
      for (let flips = 1 + next(4); flips > 0 && bytes.length > 0; flips -= 1) {
        const at = next(bytes.length);
        bytes[at] = (bytes[at] as number) ^ (1 << next(8));
      }
      const code = codeOf(() => look(decodeFrameBatch(bytes)));
      expect(['no error', 'RESPONSE_MALFORMED']).toContain(code);
    }
  });

  it.each([
    ['a frame that is cut off', [0x0a, 5, 1, 2]],
    ['a length without end', [0x0a, 0xff, 0xff]],
    ['a number of eleven bytes', [0x38, ...new Array<number>(10).fill(0x80), 1]],
    ['a column longer than the batch', [0x0a, 0, 0x32, 2, 1, 1]],
    ['a column shorter than the batch', [0x0a, 0, 0x0a, 0, 0x32, 1, 1]],
    ['a number that leaves its column', [0x0a, 0, 0x32, 1, 0x81, 0x01]],
    ['the field number 0', [0x00, 1]],
    ['a group that ends without a start', [0x4c]],
    ['a group without an end', [0x4b, 0x08, 1]],
    ['a group that another one ends', [0x4b, 0x54]],
    ['a wire type that does not exist', [0x4f]],
    ['a time that is cut off', [0x11, 1, 2, 3]],
  ])('refuses %s', (_what, bytes) => {
    expect(codeOf(() => look(decodeFrameBatch(Buffer.from(bytes))))).toBe('RESPONSE_MALFORMED');
  });

  it('reads flags as words', () => {
    const frames = [Buffer.alloc(14), Buffer.alloc(14), Buffer.alloc(14)];
    const flags = [1 | (1 << 2) | (1 << 3) | (1 << 4) | (1448 << 16), 2 | (1 << 3), 2 | (2 << 4)];
    const batch = FrameBatch.fromPartial({ frames, flags });
    const view = decodeFrameBatch(Buffer.from(FrameBatch.encode(batch).finish()));
    expect([0, 1, 2].map((index) => view.direction(index))).toEqual([
      'from-guest',
      'to-guest',
      'to-guest',
    ]);
    expect([0, 1, 2].map((index) => view.checksum(index))).toEqual([
      'blank',
      'verified',
      'unverified',
    ]);
    expect(view.segmentation(0)).toEqual({ type: 'tcpv4', segmentBytes: 1448 });
    expect(view.segmentation(1)).toBeUndefined();
    expect(view.segmentation(2)).toEqual({ type: 'tcpv6', segmentBytes: 0 });
  });
});

describe('a batch that is released', () => {
  const encoded = (length: number, count: number): Buffer => {
    const frames = Array.from({ length: count }, (_, index) => Buffer.alloc(length + index, index));
    return Buffer.from(FrameBatch.encode(FrameBatch.fromPartial({ frames })).finish());
  };

  it('gives its memory back once, and no other batch notices', () => {
    const back: Buffer[] = [];
    const decode = (bytes: Buffer) =>
      decodeFrameBatch(bytes, 0, bytes.length, (message) => back.push(message));
    const [first, second] = [encoded(20, 7), encoded(100, 30)];
    const [kept, released] = [decode(first), decode(second)];
    released.release();
    released.release();
    expect(back).toEqual([second]);
    const later = decode(encoded(60, 50));
    kept.release();
    const last = decode(encoded(40, 9));
    for (const [batch, length, count] of [
      [later, 60, 50],
      [last, 40, 9],
    ] as const) {
      expect(batch.count).toBe(count);
      for (let index = 0; index < count; index += 1) {
        expect(batch.frame(index).equals(Buffer.alloc(length + index, index))).toBe(true);
      }
    }
  });
});

describe('the decoder of messages', () => {
  it('finds the batch of a message, also between unknown fields', () => {
    const batch = anyBatch(random(3));
    const writer = new BinaryWriter();
    unknownField(writer, random(1));
    writer.tag(2, 2).bytes(FrameBatch.encode(batch).finish());
    unknownField(writer, random(2));
    const message = decodeFrameMessage(Buffer.from(writer.finish()));
    expect(message?.type).toBe('batch');
    if (message?.type === 'batch') expectSame(message.batch, batch);
  });

  it('takes the last field of the oneof, as protobuf says', () => {
    const batch = FrameBatch.encode(
      FrameBatch.fromPartial({ frames: [Buffer.alloc(14)] }),
    ).finish();
    const bytes = new BinaryWriter()
      .tag(2, 2)
      .bytes(batch)
      .tag(3, 2)
      .bytes(new Uint8Array())
      .finish();
    expect(decodeFrameMessage(Buffer.from(bytes))?.type).toBe('lost');
  });

  it('says nothing of a message of a kind that it does not know', () => {
    const bytes = new BinaryWriter().tag(15, 2).string('later').finish();
    expect(decodeFrameMessage(Buffer.from(bytes))).toBeUndefined();
  });

  it('turns results into words', () => {
    const message = StreamFramesResponse.fromPartial({
      message: { $case: 'results', value: { firstSequence: 4n, outcomes: [1, 3] } },
    });
    const bytes = Buffer.from(StreamFramesResponse.encode(message).finish());
    expect(decodeFrameMessage(bytes)).toEqual({
      type: 'results',
      firstSequence: 4n,
      outcomes: ['accepted', 'queue-full'],
    });
  });
});

import { describe, expect, test, vi } from 'vitest';
import { FrameBatch, writeRunHeader } from '../../../src/device/frame-batch.js';
import {
  LossCause,
  OverflowPolicy,
  StreamFramesResponse,
} from '../../../src/gen/xenvif/v1/frame_service.js';
import { type FrameMessage, inOnePiece } from '../../../src/service/frame-message.js';
import { FrameStream } from '../../../src/service/frame-stream.js';
import { LocalMemory } from '../../../src/xen/local-memory.js';
import { seededRandom } from '../../support/random.js';

const ALL = { direction: 0, snaplen: 65535, sampleOneIn: 1 };

/** A client that reads when the test says so, and keeps account of every sequence number. */
function setUp(options: {
  policy: OverflowPolicy;
  creditBytes?: number;
  queueBytes?: number;
  framesMax?: number;
  memoryBytes?: number;
}) {
  const memory = new LocalMemory(new ArrayBuffer(options.memoryBytes ?? 32 * 1024 * 1024), 0n);
  const source = memory.allocate(65536).offset;
  const batch = new FrameBatch(memory.bytes, 256);
  const before = memory.allocatedBytes;
  const unread: { message: FrameMessage; done: () => void }[] = [];
  const ended: (Error | undefined)[] = [];
  const stream = new FrameStream(ALL, {
    memory,
    chunk: { bytes: 8192, frames: 64 },
    lingerMs: 0,
    queueBytes: options.queueBytes ?? 65536,
    inFlightBytes: 16384,
    policy: options.policy,
    creditBytes: options.creditBytes,
    framesMax: options.framesMax ?? 0,
    write: (message, done) => unread.push({ message, done }),
    end: (error) => ended.push(error),
  });
  const received = new Set<number>();
  const lost: { first: number; last: number; cause: LossCause }[] = [];
  let next = 1;
  let receivedBytes = 0;

  /** Takes what was written, checks that numbers go on without a gap, and lets more come. */
  function read(most = Number.POSITIVE_INFINITY): number {
    let taken = 0;
    while (unread.length > 0 && taken < most) {
      const { message, done } = unread.shift() as (typeof unread)[number];
      const { message: oneof } = StreamFramesResponse.decode(inOnePiece(message));
      if (oneof?.$case === 'frames') {
        expect(oneof.value.firstSequence).toBe(BigInt(next));
        for (const frame of oneof.value.frames) {
          expect(frame.readUInt32LE(0)).toBe(next);
          received.add(next);
          receivedBytes += frame.length;
          next += 1;
        }
      } else if (oneof?.$case === 'lost') {
        const { count, firstSequence, lastSequence, cause } = oneof.value;
        expect(firstSequence).toBe(BigInt(next));
        expect(count).toBe(lastSequence - firstSequence + 1n);
        next = Number(lastSequence) + 1;
        lost.push({ first: Number(firstSequence), last: Number(lastSequence), cause });
      }
      taken += 1;
      done();
    }
    return taken;
  }

  let sent = 0;
  function push(count: number, length: number): void {
    batch.clear();
    batch.timeNs = 1000n + BigInt(sent);
    for (let index = 0; index < count; index += 1) {
      sent += 1;
      const offset = source + index * 256;
      new DataView(memory.bytes.buffer).setUint32(offset, sent, true);
      batch.add(offset, length, 1);
    }
    stream.push(batch, 0);
  }

  /** As `push`, with frames that lie one behind the other. */
  function pushRun(count: number, length: number): void {
    batch.clear();
    batch.timeNs = 1000n + BigInt(sent);
    let place = source;
    for (let index = 0; index < count; index += 1) {
      sent += 1;
      const start = writeRunHeader(memory.bytes, place, length);
      new DataView(memory.bytes.buffer).setUint32(start, sent, true);
      batch.add(start, length, 1);
      place = start + length;
    }
    batch.isRun = true;
    stream.push(batch, 0);
  }

  const lostCount = () => lost.reduce((sum, { first, last }) => sum + last - first + 1, 0);
  const leaked = () => memory.allocatedBytes - before;
  return {
    stream,
    read,
    push,
    pushRun,
    received,
    lost,
    lostCount,
    ended,
    leaked,
    unread,
    sent: () => sent,
    receivedBytes: () => receivedBytes,
  };
}

async function turn(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

describe('a stream of frames', () => {
  for (const policy of [OverflowPolicy.DROP_OLDEST, OverflowPolicy.DROP_NEWEST]) {
    test(`accounts for every frame, 100 seeded clients, policy ${policy}`, async () => {
      for (let seed = 1; seed <= 100; seed += 1) {
        const random = seededRandom(seed);
        const client = setUp({ policy });
        for (let round = 0; round < 60; round += 1) {
          client.push(1 + random.below(200), 64 + random.below(180));
          if (random.below(3) === 0) await turn();
          if (random.below(4) === 0) client.read(1 + random.below(6));
        }
        client.stream.flush();
        while (client.read() > 0) await turn();
        expect(client.received.size + client.lostCount(), `seed ${seed}`).toBe(client.sent());
        client.stream.close();
        expect(client.leaked(), `seed ${seed}`).toBe(0);
      }
    });
  }

  for (const policy of [OverflowPolicy.DROP_OLDEST, OverflowPolicy.DROP_NEWEST]) {
    test(`accounts for every frame of runs, 100 seeded clients, policy ${policy}`, async () => {
      for (let seed = 1; seed <= 100; seed += 1) {
        const random = seededRandom(seed);
        const client = setUp({ policy });
        for (let round = 0; round < 60; round += 1) {
          const push = random.below(8) === 0 ? client.push : client.pushRun;
          push(1 + random.below(200), 64 + random.below(180));
          expect(client.stream.waitingBytes).toBeLessThanOrEqual(65536);
          if (random.below(3) === 0) await turn();
          if (random.below(4) === 0) client.read(1 + random.below(6));
        }
        client.stream.flush();
        while (client.read() > 0) await turn();
        expect(client.received.size + client.lostCount(), `seed ${seed}`).toBe(client.sent());
        if (policy === OverflowPolicy.DROP_OLDEST)
          expect(client.received.has(client.sent())).toBe(true);
        client.stream.close();
        expect(client.leaked(), `seed ${seed}`).toBe(0);
      }
    });
  }

  test('a client that never reads has the oldest told as one loss, whatever comes', async () => {
    const client = setUp({ policy: OverflowPolicy.DROP_OLDEST });
    for (let round = 0; round < 1000; round += 1) client.pushRun(60, 200);
    await turn();
    const waiting = client.stream.waitingBytes;
    expect(waiting).toBeGreaterThan(65536 - 2 * 8192 - 60 * 200);
    while (client.read() > 0) await turn();
    expect(client.lost).toHaveLength(1);
    expect(client.received.size + client.lostCount()).toBe(60_000);
    expect(client.received.has(60_000)).toBe(true);
    client.stream.close();
  });

  test('where memory is short, a client makes do with what it has, and frames are told as lost', () => {
    // Room for the frames' source and two messages.
    const memoryBytes = 65536 + 2 * 80 * 1024;
    const client = setUp({ policy: OverflowPolicy.DROP_OLDEST, memoryBytes });
    for (let round = 0; round < 100; round += 1) client.pushRun(60, 200);
    client.stream.flush();
    while (client.read() > 0);
    expect(client.received.size).toBeGreaterThan(0);
    expect(client.received.size + client.lostCount()).toBe(6000);
    client.stream.close();
    expect(client.leaked()).toBe(0);
  });

  test('a client that keeps up loses nothing', async () => {
    const client = setUp({ policy: OverflowPolicy.DROP_OLDEST });
    for (let round = 0; round < 500; round += 1) {
      client.push(20, 100);
      await turn();
      client.read();
    }
    while (client.read() > 0) await turn();
    expect(client.received.size).toBe(10_000);
    expect(client.lost).toEqual([]);
    client.stream.close();
  });

  test('in a calm frames go at once; in a burst they wait for company, a millisecond at most', () => {
    vi.useFakeTimers({ toFake: ['performance', 'setImmediate', 'clearImmediate'] });
    try {
      vi.advanceTimersByTime(10);
      const client = setUp({ policy: OverflowPolicy.DROP_OLDEST });
      client.push(1, 100);
      expect(client.unread).toHaveLength(1);
      client.push(1, 100);
      client.push(1, 100);
      expect(client.unread).toHaveLength(1);
      vi.advanceTimersToNextTimer();
      expect(client.unread).toHaveLength(1);
      // This round of the event loop brought nothing more.
      vi.advanceTimersToNextTimer();
      expect(client.unread).toHaveLength(2);
      vi.advanceTimersByTime(10);
      client.push(1, 100);
      expect(client.unread).toHaveLength(3);
      client.read();
      expect(client.received.size).toBe(4);
      client.stream.close();
    } finally {
      vi.useRealTimers();
    }
  });

  test('drop-oldest keeps the newest frames, drop-newest the oldest', () => {
    const oldest = setUp({ policy: OverflowPolicy.DROP_OLDEST });
    const newest = setUp({ policy: OverflowPolicy.DROP_NEWEST });
    for (const client of [oldest, newest]) {
      for (let round = 0; round < 10; round += 1) client.push(200, 100);
      client.stream.flush();
      while (client.read() > 0);
    }
    expect(oldest.received.has(2000)).toBe(true);
    expect(newest.received.has(2000)).toBe(false);
    expect(oldest.lost.length).toBe(1);
    expect(newest.lost.length).toBe(1);
    expect(newest.lost[0]?.last).toBe(2000);
    expect(newest.lost[0]?.cause).toBe(LossCause.SLOW_READER);
  });

  test('with policy END a client that does not read is cut off with a clear error', () => {
    const client = setUp({ policy: OverflowPolicy.END });
    for (let round = 0; round < 10; round += 1) client.push(200, 100);
    expect(client.ended.length).toBe(1);
    expect(client.ended[0]).toMatchObject({ code: 'SUBSCRIBER_TOO_SLOW' });
  });

  test('never sends more than the credit, down to a byte, and sends all that it covers', async () => {
    for (let seed = 1; seed <= 50; seed += 1) {
      const random = seededRandom(seed);
      let granted = random.below(3000);
      const client = setUp({
        policy: OverflowPolicy.DROP_OLDEST,
        creditBytes: granted,
        queueBytes: 1 << 20,
      });
      client.push(200, 64 + random.below(150));
      for (let round = 0; round < 100; round += 1) {
        await turn();
        client.read();
        expect(client.receivedBytes()).toBeLessThanOrEqual(granted);
        const more = random.below(2000);
        granted += more;
        client.stream.addCredit(more);
      }
      client.stream.addCredit(1 << 20);
      while (client.read() > 0) await turn();
      expect(client.received.size).toBe(200);
      client.stream.close();
      expect(client.leaked()).toBe(0);
    }
  });

  test('says that it was the credit that was missing', async () => {
    const client = setUp({ policy: OverflowPolicy.DROP_NEWEST, creditBytes: 0 });
    for (let round = 0; round < 10; round += 1) client.push(200, 100);
    await turn();
    expect(client.unread).toEqual([]);
    client.stream.addCredit(1 << 20);
    while (client.read() > 0) await turn();
    expect(client.lost[0]?.cause).toBe(LossCause.NO_CREDIT);
    expect(client.received.size + client.lostCount()).toBe(2000);
  });

  test('ends by itself after the frames it was asked for', async () => {
    const client = setUp({ policy: OverflowPolicy.DROP_OLDEST, framesMax: 150 });
    client.push(100, 100);
    client.push(100, 100);
    await turn();
    while (client.read() > 0) await turn();
    expect(client.received.size).toBe(150);
    expect(client.ended).toEqual([undefined]);
    client.stream.close();
    expect(client.leaked()).toBe(0);
  });

  test('a client that gives no credit is told of its losses once it does, not one by one', () => {
    const client = setUp({ policy: OverflowPolicy.DROP_OLDEST, creditBytes: 0 });
    for (let round = 0; round < 100; round += 1) client.push(200, 100);
    client.stream.flush();
    expect(client.unread).toHaveLength(0);
    client.stream.addCredit(1024 * 1024);
    while (client.read() > 0);
    expect(client.lost).toHaveLength(1);
    expect(client.received.size + client.lostCount()).toBe(client.sent());
    client.stream.close();
    expect(client.leaked()).toBe(0);
  });

  test('selects by direction, cuts to the snaplen and takes one of so many', async () => {
    const client = setUp({ policy: OverflowPolicy.DROP_OLDEST });
    client.stream.select({ direction: 2, snaplen: 65535, sampleOneIn: 1 });
    client.push(10, 100);
    client.stream.select({ direction: 1, snaplen: 65535, sampleOneIn: 5 });
    const messages: FrameMessage[] = [];
    client.push(10, 100);
    await turn();
    for (const { message } of client.unread) messages.push(message);
    const { message: oneof } = StreamFramesResponse.decode(messages[0] as Buffer);
    expect(oneof?.$case === 'frames' && oneof.value.frames.length).toBe(2);
  });
});

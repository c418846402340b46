import { describe, expect, test } from 'vitest';
import { FrameBatch, writeRunHeader } from '../../../src/device/frame-batch.js';
import { RunFiller } from '../../../src/device/run-filler.js';
import { RunPool } from '../../../src/device/run-storage.js';
import { OverflowPolicy, StreamFramesResponse } from '../../../src/gen/xenvif/v1/frame_service.js';
import { type FrameMessage, inOnePiece, SplitMessage } from '../../../src/service/frame-message.js';
import { FrameStream } from '../../../src/service/frame-stream.js';
import { LocalMemory } from '../../../src/xen/local-memory.js';
import { seededRandom } from '../../support/random.js';
import { stopTime } from './still-time.js';

const MEMORY_BYTES = 32 * 1024 * 1024;

interface Waiting {
  readonly message: FrameMessage;
  readonly done: () => void;
}

/** A client that reads when it is told to, and then keeps what it got. */
class Client {
  readonly stream: FrameStream;
  readonly unread: Waiting[] = [];
  /** Each frame's first bytes by its number, and the numbers of those that were lost. */
  readonly frames = new Map<number, string>();
  readonly lost = new Set<number>();
  readonly vifs = new Set<number>();
  readonly flags = new Set<number>();
  split = 0;

  constructor(
    memory: LocalMemory,
    queueBytes: number,
    inFlightBytes: number,
    creditBytes?: number,
  ) {
    this.stream = new FrameStream(
      { direction: 0, snaplen: 65535, sampleOneIn: 1 },
      {
        memory,
        chunk: { bytes: 64 * 1024, frames: 2048 },
        lingerMs: 0,
        queueBytes,
        inFlightBytes,
        policy: OverflowPolicy.DROP_OLDEST,
        creditBytes,
        framesMax: 0,
        write: (message, done) => this.unread.push({ message, done }),
        end: () => undefined,
      },
    );
  }

  read(): void {
    for (let next = this.unread.shift(); next !== undefined; next = this.unread.shift()) {
      if (next.message instanceof SplitMessage) this.split += 1;
      const { message } = StreamFramesResponse.decode(inOnePiece(next.message));
      if (message?.$case === 'lost') {
        const { firstSequence, lastSequence } = message.value;
        for (let number = Number(firstSequence); number <= Number(lastSequence); number += 1) {
          this.lost.add(number);
        }
      } else if (message?.$case === 'frames') {
        const { firstSequence, flags, frames, vifIndex } = message.value;
        expect(flags).toHaveLength(frames.length);
        for (const [index, frame] of frames.entries()) {
          this.frames.set(
            Number(firstSequence) + index,
            `${frame.length} ${frame.toString('hex', 0, 14)}`,
          );
          this.vifs.add(vifIndex[index] ?? 0);
          this.flags.add(flags[index] ?? 0);
        }
      }
      next.done();
    }
  }
}

describe('frames that are sent from where the ring put them', () => {
  stopTime();

  test('are shared by all who get them, whenever they read, 100 seeds', () => {
    let runs = 0;
    let split = 0;
    let lost = 0;
    for (let seed = 1; seed <= 100; seed += 1) {
      const random = seededRandom(seed);
      const memory = new LocalMemory(new ArrayBuffer(MEMORY_BYTES), 0n);
      const pool = new RunPool(memory);
      const batch = new FrameBatch(memory.bytes, 256);
      const clients = Array.from(
        { length: 3 },
        // The last one gives credit, mostly less than a message has.
        (_, index) =>
          new Client(
            memory,
            256 * 1024,
            64 * 1024 * (1 + random.below(4)),
            index < 2 ? undefined : 0,
          ),
      );
      const sent: string[] = [];
      const queues = [new RunFiller(pool), new RunFiller(pool)] as const;
      let joined = 0;
      for (let round = 0; round < 40; round += 1) {
        // Two queues take turns, mostly the first.
        const queue = queues[random.below(4) === 0 ? 1 : 0];
        const storage = queue.begin(8 * 1024);
        if (storage === undefined) throw new Error('There is memory for all that are held.');
        if (storage.end > storage.start) joined += 1;
        batch.clear();
        batch.timeNs = BigInt(round * 1000);
        const flags = 1 + 8 * random.below(2);
        const most = Math.min(storage.limit, storage.end + 1 + random.below(64 * 1024));
        let next = storage.end;
        while (batch.count < 256) {
          const length = 14 + random.below(2000);
          if (batch.count > 0 && next + length + 3 > most) break;
          const start = writeRunHeader(memory.bytes, next, length);
          for (let byte = 0; byte < 14; byte += 1) memory.bytes[start + byte] = random.below(256);
          batch.add(start, length, flags);
          next = start + length;
          const head = Buffer.from(memory.bytes.subarray(start, start + 14)).toString('hex');
          sent.push(`${length} ${head}`);
        }
        batch.isRun = true;
        batch.storage = storage;
        batch.storageStart = storage.end;
        for (const [index, client] of clients.entries()) client.stream.push(batch, index * 100);
        queue.end(batch);
        clients[2]?.stream.addCredit(random.below(64 * 1024));
        for (const client of clients) if (random.below(3) === 0) client.read();
      }
      for (const [index, client] of clients.entries()) {
        client.stream.addCredit(1024 * 1024);
        client.stream.flush();
        while (client.unread.length > 0) client.read();
        for (const [place, frame] of sent.entries()) {
          const got = client.frames.get(place + 1);
          if (client.lost.has(place + 1)) expect(got, `seed ${seed}`).toBeUndefined();
          else expect(got, `seed ${seed}, frame ${place + 1}`).toBe(frame);
        }
        expect(client.frames.size + client.lost.size).toBe(sent.length);
        expect([...client.vifs]).toEqual([index * 100]);
        expect([...client.flags].every((seen) => seen === 1 || seen === 9)).toBe(true);
        split += client.split;
        lost += client.lost.size;
        client.stream.close();
      }
      pool.free();
      expect(memory.allocatedBytes, `seed ${seed}`).toBe(0);
      runs += joined;
    }
    // Runs were joined, and sent both ways; and there were queues that had no more room.
    expect(runs).toBeGreaterThan(100);
    expect(split).toBeGreaterThan(100);
    expect(lost).toBeGreaterThan(100);
  });

  test('are given back by a stream that ends before they were sent', () => {
    const memory = new LocalMemory(new ArrayBuffer(MEMORY_BYTES), 0n);
    const pool = new RunPool(memory);
    const batch = new FrameBatch(memory.bytes, 256);
    const client = new Client(memory, 1024 * 1024, 64 * 1024);
    const filler = new RunFiller(pool);
    for (let round = 0; round < 5; round += 1) {
      const storage = filler.begin(32 * 1024);
      let next = storage?.end ?? 0;
      batch.clear();
      for (let count = 0; count < 20; count += 1) {
        const start = writeRunHeader(memory.bytes, next, 1514);
        batch.add(start, 1514, 1);
        next = start + 1514;
      }
      batch.isRun = true;
      batch.storage = storage;
      batch.storageStart = storage?.end ?? 0;
      client.stream.push(batch, 0);
      filler.end(batch);
    }
    client.stream.close();
    // What HTTP/2 still reads from is not free yet.
    expect(memory.allocatedBytes).toBeGreaterThan(0);
    for (const { done } of client.unread) done();
    pool.free();
    expect(memory.allocatedBytes).toBe(0);
  });
});

import {
  Client,
  type ClientDuplexStream,
  compressionAlgorithms,
  credentials,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServiceError,
  status,
} from '@grpc/grpc-js';
import { pino } from 'pino';
import { afterEach, describe, expect, it } from 'vitest';

import { failCall } from '../../../src/service/calls.js';
import { MessagePool } from '../../../src/service/message-memory.js';
import {
  MESSAGE_BYTES_MAX,
  type MessageSource,
  readMessages,
} from '../../../src/service/message-reader.js';
import { LocalMemory } from '../../../src/xen/local-memory.js';

const PATH = '/test.Messages/Take';
const asIs = (bytes: Buffer): Buffer => bytes;
const logger = pino({ level: 'silent' });

/** A server with one call, which answers nothing but its end. */
class Taker {
  readonly memory = new LocalMemory(new ArrayBuffer(4 * 1024 * 1024), 0n);
  readonly pool = new MessagePool(this.memory);
  readonly taken: number[][] = [];
  /** Messages that are kept rather than given back. */
  readonly kept: Buffer[] = [];
  keeps = 0;
  source: MessageSource | undefined;
  onTaken: () => void = () => undefined;
  readonly #server = new Server({ 'grpc.max_receive_message_length': MESSAGE_BYTES_MAX });
  #client: Client | undefined;

  /** What has been taken of each message: its length, its first byte and its last. */
  async open(options: object = {}): Promise<ClientDuplexStream<Buffer, Buffer>> {
    const shape = {
      path: PATH,
      requestStream: true,
      responseStream: true,
      requestSerialize: asIs,
      requestDeserialize: decode,
      responseSerialize: asIs,
      responseDeserialize: asIs,
    };
    this.#server.addService(
      { take: shape },
      { take: (call: ServerDuplexStream<Buffer, Buffer>) => this.#take(call) },
    );
    const port = await new Promise<number>((resolve, reject) => {
      this.#server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
        error === null ? resolve(bound) : reject(error),
      );
    });
    this.#client = new Client(`127.0.0.1:${port}`, credentials.createInsecure(), options);
    const call = this.#client.makeBidiStreamRequest(PATH, asIs, asIs);
    call.on('data', () => undefined);
    return call;
  }

  stop(): void {
    this.#client?.close();
    this.#server.forceShutdown();
  }

  #take(call: ServerDuplexStream<Buffer, Buffer>): void {
    this.source = readMessages(call, {
      pool: this.pool,
      decode,
      take: (message) => {
        this.taken.push([message.length, message[0] ?? -1, message.at(-1) ?? -1]);
        if (this.kept.length < this.keeps) this.kept.push(message);
        this.onTaken();
      },
      isKept: (message) => this.kept.includes(message),
      end: () => call.end(),
      fail: (error) => failCall(call, error, logger),
    });
  }
}

/** 0xff in front is what no message has. */
function decode(bytes: Buffer): Buffer {
  if (bytes[0] === 0xff) throw new Error('This is no message.');
  return bytes;
}

function message(length: number, index: number): Buffer {
  const bytes = Buffer.alloc(length, 7);
  if (length > 0) bytes[0] = index;
  return bytes;
}

/** How many regions a pool still has; they are gone then. */
function borrowAll(pool: MessagePool): number {
  let regions = 0;
  while (pool.borrow() !== undefined) regions += 1;
  return regions;
}

function ended(call: ClientDuplexStream<Buffer, Buffer>): Promise<status> {
  return new Promise((resolve) => {
    call.on('error', (error: ServiceError) => resolve(error.code));
    call.on('end', () => resolve(status.OK));
  });
}

const LENGTHS = [1, 70_000, 0, 20_000, MESSAGE_BYTES_MAX, 3, 70_001, 65_536];
const EXPECTED = LENGTHS.map((length, index) => [
  length,
  length === 0 ? -1 : index,
  length === 0 ? -1 : length === 1 ? index : 7,
]);

let taker = new Taker();

afterEach(() => {
  taker.stop();
  taker = new Taker();
});

describe('messages of a client', () => {
  it.each([
    ['past grpc-js', {}],
    [
      'through grpc-js where they are compressed',
      { 'grpc.default_compression_algorithm': compressionAlgorithms.gzip },
    ],
  ])('come whole, in their order and before the end, %s', async (_, options) => {
    const call = await taker.open(options);
    for (const [index, length] of LENGTHS.entries()) call.write(message(length, index));
    call.end();
    expect(await ended(call)).toBe(status.OK);
    expect(taker.taken).toEqual(EXPECTED);
  });

  it('lie in local memory as long as there is some, and give it back when both ends are done', async () => {
    const regions = 16;
    taker.keeps = 20;
    const call = await taker.open();
    for (let index = 0; index < 30; index += 1) call.write(message(65_536, index));
    await expect.poll(() => taker.taken.length).toBe(30);
    const local = taker.kept.filter(({ buffer }) => buffer === taker.memory.bytes.buffer);
    expect(local.length).toBeGreaterThan(regions - 3);
    expect(local.length).toBeLessThan(taker.keeps);
    for (const [index, kept] of taker.kept.entries()) {
      expect(kept.equals(message(65_536, index)), `message ${index}`).toBe(true);
    }
    taker.source?.recycle(local[0] as Buffer);
    expect(borrowAll(taker.pool)).toBe(1);
    // What was received is somebody's while it is looked at, though the call is over.
    call.cancel();
    await ended(call);
    expect(borrowAll(taker.pool)).toBe(0);
    taker.source?.release();
    await expect.poll(() => borrowAll(taker.pool)).toBe(regions - 1);
  });

  it('wait while who takes them has paused, and so does the end', async () => {
    const call = await taker.open();
    const isOver = ended(call);
    taker.onTaken = () => {
      taker.source?.pause();
      // Nothing comes in between: one message a round.
      const { length } = taker.taken;
      setImmediate(() => {
        expect(taker.taken).toHaveLength(length);
        taker.source?.resume();
      });
    };
    for (let round = 0; round < 3; round += 1) {
      for (const [index, length] of LENGTHS.entries()) call.write(message(length, index));
    }
    call.end();
    expect(await isOver).toBe(status.OK);
    expect(taker.taken).toEqual([...EXPECTED, ...EXPECTED, ...EXPECTED]);
  });

  it('end the call where one is longer than may be, or is none', async () => {
    const long = await taker.open();
    long.write(message(MESSAGE_BYTES_MAX + 1, 1));
    expect(await ended(long)).toBe(status.RESOURCE_EXHAUSTED);
    taker.stop();
    taker = new Taker();
    const wrong = await taker.open();
    wrong.write(message(10, 0xff));
    expect(await ended(wrong)).toBe(status.INVALID_ARGUMENT);
    expect(taker.taken).toEqual([]);
  });
});

import { once } from 'node:events';
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  createServer,
  type Http2Server,
} from 'node:http2';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Receiver, readInto } from '../../../../clients/typescript/src/read-into.js';

const CONTENT = Buffer.from(Uint8Array.from({ length: 1_000_000 }, (_, index) => index * 31));
const WINDOW_BYTES = 256 * 1024;

/** Receives into one small buffer again and again. */
class SmallReceiver implements Receiver {
  readonly pieces: Buffer[] = [];
  readonly #buffer = Buffer.alloc(7001);
  #places = 0;

  get place(): Buffer {
    this.#places += 1;
    return this.#buffer.subarray(this.#places % 7);
  }

  filled(byteCount: number): void {
    const start = this.#places % 7;
    this.pieces.push(Buffer.from(this.#buffer.subarray(start, start + byteCount)));
  }

  get bytes(): number {
    return this.pieces.reduce((sum, { length }) => sum + length, 0);
  }
}

let server: Http2Server;
let session: ClientHttp2Session;

beforeEach(async () => {
  server = createServer((_, response) => response.end(CONTENT));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const settings = { initialWindowSize: WINDOW_BYTES };
  session = connect(`http://127.0.0.1:${port}`, { settings });
});

afterEach(() => {
  session.destroy();
  server.close();
});

/** A stream that has begun and received nothing. */
async function startedStream(): Promise<ClientHttp2Stream> {
  const stream = session.request();
  await once(stream, 'response');
  return stream;
}

describe('an HTTP/2 stream that is read into buffers of its reader', () => {
  it('brings every byte in its order, and then its end', async () => {
    const stream = await startedStream();
    const receiver = new SmallReceiver();
    const before: Buffer[] = [];
    for (let piece = stream.read(); piece !== null; piece = stream.read()) before.push(piece);
    expect(readInto(stream, receiver)).toBeDefined();
    stream.resume();
    await once(stream, 'end');
    expect(Buffer.concat([...before, ...receiver.pieces]).equals(CONTENT)).toBe(true);
  });

  it('receives no more than its window while it is paused, and the rest after that', async () => {
    const stream = await startedStream();
    const receiver = new SmallReceiver();
    const receiveAgain = readInto(stream, receiver);
    stream.pause();
    // An answer to a ping comes behind all that the server may send.
    await new Promise((resolve) => session.ping(resolve));
    await new Promise((resolve) => session.ping(resolve));
    expect(receiver.bytes).toBeLessThanOrEqual(WINDOW_BYTES + 64 * 1024);
    stream.resume();
    receiveAgain?.();
    await once(stream, 'end');
    expect(receiver.bytes).toBe(CONTENT.length);
  });

  it('may be told to receive when it is gone', async () => {
    const stream = await startedStream();
    const receiveAgain = readInto(stream, new SmallReceiver());
    stream.destroy();
    expect(receiveAgain).not.toThrow();
  });

  it('is none where Node has something else', () => {
    expect(readInto({}, new SmallReceiver())).toBeUndefined();
    expect(readInto({ session: { socket: {} } }, new SmallReceiver())).toBeUndefined();
  });
});

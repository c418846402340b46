/**
 * Runs in dom0 as long as tests do: our ends of vchans, each under a name. Answers questions as
 * vif-answers.mjs does, with the time of this domain where a time is asked for, and ends with its input.
 *
 *     node vchan-ends.mjs
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectVchan, VchanServer, type VchanStream } from '../../../src/device/vchan/index.js';
import { openNativeXen } from '../../../src/xen/native/index.js';

/** How long an answer may be waited for; who asks comes again. */
const PATIENCE_MS = 100_000;
/** A prime number of bytes, so that what is misplaced by a page, a ring or a block is not the same. */
const BLOCK_BYTES = 65_521;
const RATE_CHUNK_BYTES = 65_536;
/** After so many bytes in writes of every size, the rest of a long exchange goes in the largest. */
const EVERY_SIZE_BYTES = 1024 * 1024;

interface Place {
  readonly domid: number;
  readonly path: string;
  readonly ringBytes?: number;
}

interface Exchange {
  readonly seed: number;
  /** How much goes each way. */
  readonly bytes: number;
  /** Leaves when both directions are through; else the peer does. */
  readonly leaves: boolean;
}

interface Question {
  readonly id: number;
  readonly question: string;
  readonly parameters: readonly never[];
}

const xen = await openNativeXen();
const opening = new Map<string, Promise<VchanStream>>();
const exchanges = new Map<string, Promise<unknown>>();
const ends = new Map<string, Promise<number>>();

function keep(name: string, opened: Promise<VchanStream>): void {
  opening.set(name, opened);
  const end = opened.then(
    (stream) =>
      new Promise<number>((resolve) => {
        stream.on('error', () => undefined);
        stream.once('close', () => resolve(Date.now()));
      }),
  );
  end.catch(() => undefined);
  ends.set(name, end);
}

function streamOf(name: string): Promise<VchanStream> {
  const opened = opening.get(name);
  if (opened === undefined) throw new Error(`There is no vchan ${name}.`);
  return opened;
}

function serve({ domid, path, ringBytes }: Place): Promise<VchanServer> {
  const sizes = { readRingBytes: ringBytes, writeRingBytes: ringBytes };
  return VchanServer.listen(xen, { domid, path, ...sizes });
}

/** Bytes that nobody would guess, the n-th block after another mark than the one before. */
function* noise(seed: number, bytes: number): Generator<Buffer> {
  const block = Buffer.alloc(BLOCK_BYTES);
  let state = (seed * 2_654_435_761) >>> 0 || 1;
  for (let at = 0; at < BLOCK_BYTES; at++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    block[at] = state;
  }
  for (let done = 0; done < bytes; done += BLOCK_BYTES) {
    block.writeUInt32LE(done);
    yield block.subarray(0, Math.min(BLOCK_BYTES, bytes - done));
  }
}

/** Sizes from 1 byte to 3 rings, in steps that miss no small one. */
function nextSize(size: number, ringBytes: number): number {
  if (size >= 3 * ringBytes) return 1;
  return size < 64 ? size + 1 : size + Math.ceil(size / 16);
}

/** Sends noise in writes of every size, and returns its sum. */
async function sendNoise(stream: VchanStream, { seed, bytes }: Exchange): Promise<string> {
  const hash = createHash('sha256');
  let size = 0;
  let sent = 0;
  let gathered = Buffer.alloc(0);
  const send = (chunk: Buffer) =>
    new Promise<void>((resolve, reject) => {
      stream.write(chunk, (error) => (error ? reject(error) : resolve()));
    });
  for (const block of noise(seed, bytes)) {
    hash.update(block);
    gathered = Buffer.concat([gathered, block]);
    for (;;) {
      const ring = stream.writeRingBytes;
      const next = sent < EVERY_SIZE_BYTES ? nextSize(size, ring) : 3 * ring;
      if (gathered.length < next) break;
      size = next;
      sent += size;
      await send(gathered.subarray(0, size));
      gathered = gathered.subarray(size);
    }
  }
  await send(gathered);
  return hash.digest('hex');
}

async function exchange(stream: VchanStream, wanted: Exchange): Promise<unknown> {
  const start = performance.now();
  const hash = createHash('sha256');
  let bytes = 0;
  const whole = new Promise<void>((resolve) => {
    stream.once('close', resolve);
    stream.on('data', (chunk: Buffer) => {
      hash.update(chunk);
      bytes += chunk.length;
      if (bytes >= wanted.bytes && wanted.leaves) resolve();
    });
  });
  const sent = await sendNoise(stream, wanted);
  await whole;
  const seconds = (performance.now() - start) / 1000;
  if (wanted.leaves) await stream.close();
  return { bytes, received: hash.digest('hex'), sent, seconds };
}

/** Sends for so long, without a look at what comes; MB/s until the peer had all. */
async function sendRate(stream: VchanStream, seconds: number): Promise<number> {
  const chunk = Buffer.alloc(RATE_CHUNK_BYTES, 0x5a);
  const start = performance.now();
  let bytes = 0;
  while (performance.now() - start < seconds * 1000) {
    await new Promise<void>((resolve) => stream.write(chunk, () => resolve()));
    bytes += chunk.length;
  }
  await stream.close();
  return bytes / (performance.now() - start) / 1000;
}

/** Takes what comes until the peer leaves; MB/s. */
async function takeRate(stream: VchanStream): Promise<number> {
  const start = performance.now();
  let bytes = 0;
  for await (const chunk of stream) bytes += chunk.length;
  return bytes / (performance.now() - start) / 1000;
}

/** What this process holds of the kernel, and what stands in XenStore. */
async function holdings(): Promise<unknown> {
  const count = (text: string, pattern: RegExp) => text.match(pattern)?.length ?? 0;
  const maps = readFileSync('/proc/self/maps', 'utf8');
  const path = `/local/domain/${xen.domid}/data/vchan`;
  return {
    descriptors: readdirSync('/proc/self/fd').length,
    mapped: count(maps, /gntdev/g),
    shared: count(maps, /gntalloc/g),
    ports: count(readFileSync('/proc/interrupts', 'utf8'), /evtchn:node/g),
    nodes: await xen.store.directory(path).catch(() => []),
  };
}

/** Opens and closes to ourselves, each with a word that must arrive, either side leaving first. */
async function opens(rounds: number, ringBytes: number): Promise<unknown> {
  const { domid } = xen;
  const sizes = { readRingBytes: ringBytes, writeRingBytes: ringBytes };
  const server = await VchanServer.listen(xen, { domid, port: 'opens', ...sizes });
  const start = performance.now();
  for (let number = 1; number <= rounds; number++) {
    const [accepted, client] = await Promise.all([
      server.accept(),
      connectVchan(xen, { domid, port: 'opens' }),
    ]);
    const text = Buffer.from(`round ${number}`);
    await client.send(text);
    if (!(await accepted.receive(text.length))?.equals(text)) throw new Error(`Lost: ${text}.`);
    const [first, second] = number % 2 === 0 ? [accepted, client] : [client, accepted];
    const closed = [first, second].map(
      (each) => new Promise((resolve) => each.once('close', resolve)),
    );
    first.destroy();
    second.resume();
    await Promise.all(closed);
  }
  await server.close();
  return { seconds: (performance.now() - start) / 1000 };
}

/** Serves one client after another, each of which sends a word and gets it back. */
async function echoes(server: VchanServer, rounds: number): Promise<number> {
  let echoed = 0;
  for (; echoed < rounds; echoed++) {
    const stream = await server.accept();
    const word = await stream.receive(1);
    if (word !== undefined) await stream.send(word);
    await stream.close();
  }
  await server.close();
  return echoed;
}

const background = new Map<string, Promise<unknown>>();

const questions: Record<string, (...parameters: never[]) => unknown> = {
  /** Resolves when the peer can come. */
  async listen(name: string, place: Place) {
    const server = await serve(place);
    const accept = async () => {
      try {
        return await server.accept();
      } finally {
        await server.close();
      }
    };
    keep(name, accept());
  },
  connect(name: string, { domid, path }: Place) {
    keep(name, connectVchan(xen, { domid, path }));
  },
  /** Null where the peer has not come yet. */
  async opened(name: string) {
    return await within(streamOf(name).then((stream) => stream.readRingBytes));
  },
  /** Begins with the first question; null as long as it is under way. */
  async exchange(name: string, wanted: Exchange) {
    const run = exchanges.get(name) ?? streamOf(name).then((stream) => exchange(stream, wanted));
    exchanges.set(name, run);
    return await within(run);
  },
  /** When the stream was over; null where it is not. What comes meanwhile is not looked at. */
  async gone(name: string) {
    (await streamOf(name)).resume();
    return await within(ends.get(name) ?? Promise.resolve(0));
  },
  async sendRate(name: string, seconds: number) {
    return await sendRate(await streamOf(name), seconds);
  },
  async takeRate(name: string) {
    return await takeRate(await streamOf(name));
  },
  holdings,
  opens,
  async startEchoes(name: string, rounds: number, place: Place) {
    background.set(name, echoes(await serve(place), rounds));
  },
  async echoed(name: string) {
    return await within(background.get(name) ?? Promise.resolve(0));
  },
};

async function within<T>(promise: Promise<T>): Promise<T | null> {
  const stop = new AbortController();
  const late = sleep(PATIENCE_MS, null, { signal: stop.signal }).catch(() => null);
  try {
    return await Promise.race([promise, late]);
  } finally {
    stop.abort();
  }
}

async function answer({ id, question, parameters }: Question): Promise<void> {
  let said: object;
  try {
    said = { id, value: (await questions[question]?.(...parameters)) ?? null };
  } catch (error) {
    said = { id, error: error instanceof Error ? `${error.stack}` : String(error) };
  }
  console.log(JSON.stringify(said));
}

for await (const line of createInterface({ input: process.stdin })) {
  void answer(JSON.parse(line) as Question);
}
// Peers that have not come are waited for no more; what is open the kernel ends with the process.
process.exit(0);

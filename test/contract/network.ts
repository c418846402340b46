/**
 * What every NIC must do, whatever it is made of. `nicContract` asks for the NETWORK interface and for
 * batches of whatever form, which the SDK's NIC has too; `networkContract` for what the daemon's own
 * know besides: what became of each frame of a batch, and offloads. Each test opens a NIC with a far
 * end of its own. All frames have the EtherType for local experiments
 * (IEEE 802), so that what a kernel says on its own is not taken for theirs.
 */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  CHECKSUM_BLANK,
  FRAME_BYTES_MIN,
  FrameBatch,
  GSO_SIZE_SHIFT,
  GSO_TYPE_SHIFT,
} from '../../src/device/frame-batch.js';
import {
  type FillFrame,
  type FrameListener,
  type FrameRequest,
  type ListenOptions,
  type Network,
  type NetworkStats,
  WriteOutcome,
} from '../../src/device/network.js';
import { GSO_TYPE_TCPV4, GSO_TYPE_TCPV6 } from '../../src/ring/netif-extra.js';
import type { LocalMemory } from '../../src/xen/local-memory.js';
import { seededRandom } from '../support/random.js';
import { blankTcpFrame, hasRightTcpChecksum } from '../support/tcp-frames.js';

/** The NETWORK interface. */
export interface Nic {
  readonly mac: string;
  readonly mtu: number;
  readonly stats: NetworkStats;
  resetStats(): void;
  write(frame: Uint8Array): Promise<void>;
  write(request: FrameRequest, fill: FillFrame): Promise<void>;
  writev(parts: readonly Uint8Array[]): Promise<void>;
  listen(onFrame: FrameListener, options?: ListenOptions): Promise<void>;
  disconnect(): Promise<void>;
}

/** The NIC's batches, in whatever form it has them. */
export interface BatchForm {
  /** Sends frames as one batch. Resolves with how many were taken, or rejects where none was. */
  send(frames: readonly Uint8Array[]): Promise<number>;
  /** Calls `onFrames` with each batch received from now on. Returns a function that ends it. */
  hear(onFrames: (frames: readonly Uint8Array[]) => void): () => void;
}

/** What is at the other end of the wire. */
export interface FarEnd {
  send(frame: Uint8Array): Promise<void>;
  /** Calls `onFrame` with every frame that arrives there from now on. */
  hear(onFrame: (frame: Uint8Array) => void): void;
}

export interface NicUnderTest {
  readonly nic: Nic;
  readonly batches: BatchForm;
  readonly far: FarEnd;
  /** The longest frame that can be sent. */
  readonly frameBytesMax: number;
  /** Gives back everything, and fails where something is left over. */
  close(): Promise<void>;
}

export interface NetworkUnderTest extends Omit<NicUnderTest, 'batches'> {
  readonly nic: Network;
  /** Where batches that are written lie. */
  readonly memory: LocalMemory;
}

export type DefineTest = (name: string, run: () => Promise<void>) => void;

const ETHERTYPE = 0x88b5;
/** How long something may take that happens on its own, in milliseconds. */
const PATIENCE_MS = 5_000;
/** How long is waited for something that must not happen, in milliseconds. */
const SILENCE_MS = 50;

export function networkContract(test: DefineTest, open: () => Promise<NetworkUnderTest>): void {
  nicContract(test, async () => {
    const tested = await open();
    return { ...tested, batches: batchForm(tested) };
  });
  metadata(defineWith(test, open));
}

export function nicContract(test: DefineTest, open: () => Promise<NicUnderTest>): void {
  const define = defineWith(test, open);
  identity(define);
  singleFrames(define);
  refusals(define);
  counters(define);
  filling(define);
  listening(define);
  batches(define);
  endings(define);
}

type Define<Tested> = (name: string, run: (tested: Tested) => Promise<void>) => void;

function defineWith<Tested extends { close(): Promise<void> }>(
  test: DefineTest,
  open: () => Promise<Tested>,
): Define<Tested> {
  return (name, run) =>
    test(name, async () => {
      const tested = await open();
      try {
        await run(tested);
      } finally {
        await tested.close();
      }
    });
}

function identity(define: Define<NicUnderTest>): void {
  define('has a MAC address of its own and an MTU', async ({ nic, frameBytesMax }) => {
    assert.match(nic.mac, /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/);
    // The lowest bit of the first byte is that of groups.
    assert.equal(Number.parseInt(nic.mac.slice(0, 2), 16) & 1, 0);
    assert.ok(nic.mtu >= 68 && nic.mtu + FRAME_BYTES_MIN <= frameBytesMax, `MTU ${nic.mtu}`);
  });
}

function singleFrames(define: Define<NicUnderTest>): void {
  define('sends frames of every length, whole and in order', async (tested) => {
    const frames = lengthsUpTo(tested.frameBytesMax).map(makeFrame);
    const arrived = hearFar(tested);
    for (const frame of frames) await tested.nic.write(frame);
    await expectFrames(arrived, frames);
  });

  define('receives frames of every length, whole and in order', async (tested) => {
    const frames = lengthsUpTo(tested.frameBytesMax).map(makeFrame);
    const arrived = hearNear(tested);
    for (const frame of frames) await tested.far.send(frame);
    await expectFrames(arrived, frames);
  });

  define('sends parts as one frame, also where one is empty', async (tested) => {
    const frame = makeFrame(1200, 7);
    const arrived = hearFar(tested);
    const cuts = [0, 6, 6, 14, 15, 700, 1200];
    const parts = cuts.map((cut, index) => frame.subarray(cuts[index - 1] ?? 0, cut));
    await tested.nic.writev(parts);
    await tested.nic.writev([frame]);
    await expectFrames(arrived, [frame, frame]);
  });

  define('gives the frame back to its writer when the write is done', async (tested) => {
    const [frame, second] = [makeFrame(300, 1), makeFrame(300, 2)];
    const arrived = hearFar(tested);
    const buffer = frame.slice();
    await tested.nic.write(buffer);
    buffer.set(second);
    await tested.nic.write(buffer);
    await expectFrames(arrived, [frame, second]);
  });

  define('keeps the order of writes that nobody waits for', async (tested) => {
    const frames = Array.from({ length: 60 }, (_, index) => makeFrame(60 + index * 20, index));
    const arrived = hearFar(tested);
    await Promise.all(frames.map((frame) => tested.nic.write(frame)));
    await expectFrames(arrived, frames);
  });

  define('carries frames both ways at a time', async (tested) => {
    const sent = Array.from({ length: 100 }, (_, index) => makeFrame(64 + index * 13, index));
    const received = Array.from({ length: 100 }, (_, index) =>
      makeFrame(1400 - index, index + 500),
    );
    const [far, near] = [hearFar(tested), hearNear(tested)];
    const send = async () => {
      for (const frame of sent) await tested.nic.write(frame);
    };
    const answer = async () => {
      for (const frame of received) await tested.far.send(frame);
    };
    await Promise.all([send(), answer()]);
    await expectFrames(far, sent);
    await expectFrames(near, received);
  });
}

function refusals(define: Define<NicUnderTest>): void {
  define('refuses frames too short and too long, and sends the next', async (tested) => {
    const { nic, frameBytesMax } = tested;
    const arrived = hearFar(tested);
    const tooShort = new Uint8Array(FRAME_BYTES_MIN - 1);
    const tooLong = new Uint8Array(frameBytesMax + 1);
    await rejectsWith('FRAME_TOO_SHORT', nic.write(tooShort));
    await rejectsWith('FRAME_TOO_SHORT', nic.write(new Uint8Array(0)));
    await rejectsWith('FRAME_TOO_SHORT', nic.writev([]));
    await rejectsWith('FRAME_TOO_LONG', nic.write(tooLong));
    await rejectsWith('FRAME_TOO_LONG', nic.writev([tooLong.subarray(1), new Uint8Array(1)]));
    const frame = makeFrame(frameBytesMax, 3);
    await nic.write(frame);
    await expectFrames(arrived, [frame]);
  });
}

function counters(define: Define<NicUnderTest>): void {
  define('counts frames and bytes both ways, and from zero again when told', async (tested) => {
    const { nic, far } = tested;
    const [here, there] = [hearNear(tested), hearFar(tested)];
    nic.resetStats();
    const before = nic.stats;
    for (let index = 0; index < 5; index += 1) await nic.write(makeFrame(100 + index, index));
    for (let index = 0; index < 3; index += 1) await far.send(makeFrame(200, index));
    await until('all have arrived', () => here.length === 3 && there.length === 5);
    // A kernel at the far end may have said something on its own.
    const { stats } = nic;
    assert.deepEqual([stats.txPackets, stats.txBytes], [5n, 510n]);
    assert.ok(stats.rxPackets >= 3n && stats.rxBytes >= 600n, `${stats.rxPackets} received`);
    assert.equal(before.txPackets, 0n, 'a snapshot does not change');
    nic.resetStats();
    assert.deepEqual([nic.stats.txPackets, nic.stats.txBytes], [0n, 0n]);
    await nic.write(makeFrame(77, 9));
    assert.deepEqual([nic.stats.txPackets, nic.stats.txBytes], [1n, 77n]);
  });
}

function endings(define: Define<NicUnderTest>): void {
  define('is given up once and for all', async (tested) => {
    const { nic } = tested;
    const arrived = hearFar(tested);
    const frame = makeFrame(90, 1);
    await nic.write(frame);
    await expectFrames(arrived, [frame]);
    await Promise.all([nic.disconnect(), nic.disconnect()]);
    await nic.disconnect();
    await rejectsWith('DISCONNECTED', nic.write(frame));
    await rejectsWith('DISCONNECTED', nic.writev([frame]));
    await sleep(SILENCE_MS);
    assert.equal(arrived.length, 1);
  });
}

function filling(define: Define<NicUnderTest>): void {
  define('sends what a function writes into zeroes of the size asked for', async (tested) => {
    const arrived = hearFar(tested);
    const frame = makeFrame(600, 2);
    const sizes: number[] = [];
    const wasZero: boolean[] = [];
    const fill = (buffer: Uint8Array) => {
      sizes.push(buffer.length);
      wasZero.push(buffer.every((byte) => byte === 0));
      buffer.set(frame);
      return frame.length;
    };
    // The second finds what the first left behind, if anything is left behind.
    await tested.nic.write({ size: 600 }, fill);
    await tested.nic.write({ size: 900 }, fill);
    await expectFrames(arrived, [frame, frame]);
    assert.deepEqual(sizes, [600, 900]);
    assert.deepEqual(wasZero, [true, true]);
  });

  define('refuses sizes and fillings that are no frame, and what throws', async (tested) => {
    const { nic, frameBytesMax } = tested;
    const arrived = hearFar(tested);
    const nothing = () => 0;
    await rejectsWith('FRAME_TOO_SHORT', nic.write({ size: 13 }, nothing));
    await rejectsWith('FRAME_TOO_SHORT', nic.write({ size: 100 }, nothing));
    await rejectsWith(
      'FRAME_TOO_SHORT',
      nic.write({ size: 100 }, () => Number.NaN),
    );
    await rejectsWith(
      'FRAME_TOO_LONG',
      nic.write({ size: 100 }, () => 101),
    );
    await rejectsWith(
      'FRAME_TOO_LONG',
      nic.write({ size: frameBytesMax + 1 }, ({ length }) => length),
    );
    const fault = new Error('the writer changed its mind');
    const failing = nic.write({ size: 100 }, () => {
      throw fault;
    });
    await assert.rejects(failing, fault);
    const frame = makeFrame(64, 1);
    await nic.write(frame);
    await expectFrames(arrived, [frame]);
  });
}

function listening(define: Define<NicUnderTest>): void {
  define('gives every listener a frame of its own', async (tested) => {
    const frame = makeFrame(500, 4);
    const first: Uint8Array[] = [];
    void tested.nic.listen((received) => {
      if (!isOurs(received)) return;
      first.push(received.slice());
      received.fill(0);
    });
    const second = hearNear(tested);
    await tested.far.send(frame);
    await expectFrames(second, [frame]);
    await expectFrames(first, [frame]);
  });

  define('a call of listen lasts until the NIC is given up', async ({ nic }) => {
    let ended = 0;
    const listening = [0, 1].map(async () => {
      await nic.listen(() => undefined);
      ended += 1;
    });
    await sleep(SILENCE_MS);
    assert.equal(ended, 0);
    await nic.disconnect();
    await Promise.all(listening);
    assert.equal(ended, 2);
    await rejectsWith(
      'DISCONNECTED',
      nic.listen(() => undefined),
    );
    await rejectsWith(
      'DISCONNECTED',
      nic.write({ size: 60 }, () => 60),
    );
  });

  define('a listener that throws is told so, and costs the others nothing', async (tested) => {
    const { nic, far } = tested;
    const fault = new Error('no such frame, please');
    let calls = 0;
    const throwing = nic.listen((frame) => {
      if (!isOurs(frame)) return;
      calls += 1;
      throw fault;
    });
    const rejecting = nic.listen(async (frame) => {
      await sleep(1);
      if (isOurs(frame)) throw fault;
    });
    const settled = Promise.allSettled([throwing, rejecting]);
    const arrived = hearNear(tested);
    const frames = [makeFrame(60, 1), makeFrame(60, 2)];
    await far.send(frames[0] as Uint8Array);
    for (const result of await settled) {
      assert.equal(result.status, 'rejected');
      assert.equal(result.reason, fault);
    }
    await far.send(frames[1] as Uint8Array);
    await expectFrames(arrived, frames);
    assert.equal(calls, 1);
  });

  define('a listener with room for no more hears no longer frames', async (tested) => {
    const { nic, far, frameBytesMax } = tested;
    const fitting: Uint8Array[] = [];
    const headerSize = 100 - nic.mtu;
    void nic.listen((frame) => isOurs(frame) && fitting.push(frame), { headerSize });
    const all = hearNear(tested);
    const frames = [100, 101, frameBytesMax, 14].map(makeFrame);
    for (const frame of frames) await far.send(frame);
    await expectFrames(all, frames);
    await expectFrames(fitting, [frames[0] as Uint8Array, frames[3] as Uint8Array]);
  });
}

function batches(define: Define<NicUnderTest>): void {
  define('sends batches, whole and in order', async (tested) => {
    const frames = [14, 60, 1514, 333, 4000].map(makeFrame);
    const arrived = hearFar(tested);
    assert.equal(await tested.batches.send(frames), frames.length);
    assert.equal(await tested.batches.send(frames), frames.length);
    await expectFrames(arrived, [...frames, ...frames]);
  });

  define('receives batches until the listener ends, and each time it begins', async (tested) => {
    const { batches: form, far } = tested;
    const arrived: Uint8Array[] = [];
    const onFrames = (frames: readonly Uint8Array[]) => {
      arrived.push(...frames.filter(isOurs));
    };
    const ends = [form.hear(onFrames), form.hear(onFrames)];
    const witness = hearNear(tested);
    const frames = [makeFrame(60, 1), makeFrame(61, 2), makeFrame(62, 3)];
    await far.send(frames[0] as Uint8Array);
    await until('it is here', () => witness.length === 1);
    ends[0]?.();
    ends[0]?.();
    await far.send(frames[1] as Uint8Array);
    await until('it is here', () => witness.length === 2);
    ends[1]?.();
    await far.send(frames[2] as Uint8Array);
    await until('it is here', () => witness.length === 3);
    await expectFrames(arrived, [frames[0], frames[0], frames[1]] as Uint8Array[]);
  });

  define('takes no batch after it was given up', async ({ batches: form, nic }) => {
    await nic.disconnect();
    const taken = await form.send([makeFrame(60, 1), makeFrame(60, 2)]).catch(codeOf);
    assert.ok(taken === 0 || taken === 'DISCONNECTED', `${taken}`);
  });
}

function metadata(define: Define<NetworkUnderTest>): void {
  define('sends a batch and tells what became of each frame', async (tested) => {
    const frames = [14, 60, 1514, 333].map(makeFrame);
    const arrived = hearFar(tested);
    const batch = stageBatch(tested.memory, frames);
    const outcomes = new Uint8Array(frames.length);
    assert.equal(tested.nic.writeBatch(batch.batch, outcomes), frames.length);
    assert.deepEqual(
      [...outcomes],
      frames.map(() => WriteOutcome.accepted),
    );
    assert.equal(tested.nic.writeBatch(batch.batch), frames.length);
    await expectFrames(arrived, [...frames, ...frames]);
    batch.free();
  });

  define('leaves nothing undone for a far end that knows of no offloads', async (tested) => {
    for (const version of [4, 6] as const) {
      const segmented = (version === 4 ? GSO_TYPE_TCPV4 : GSO_TYPE_TCPV6) << GSO_TYPE_SHIFT;
      const payload = makeFrame(5000, version);
      const frames = [payload.subarray(0, 700), payload].map((part) =>
        blankTcpFrame({ version, payload: part }),
      );
      const batch = stageBatch(tested.memory, frames, [
        CHECKSUM_BLANK,
        CHECKSUM_BLANK | segmented | (1000 << GSO_SIZE_SHIFT),
      ]);
      const arrived: Uint8Array[] = [];
      const headerBytes = (frames[0] as Uint8Array).length - 700;
      tested.far.hear((frame) => {
        if (!isOurs(frame) && frame.length > headerBytes + 600) arrived.push(frame);
      });
      assert.equal(tested.nic.writeBatch(batch.batch), 2);
      await until('all segments arrive', () => arrived.length >= 6);
      batch.free();
      assert.ok(arrived.every(hasRightTcpChecksum));
      const parts = arrived.map((frame) => frame.subarray(headerBytes));
      const lengths = parts.map(({ length }) => length);
      assert.deepEqual(lengths, [700, 1000, 1000, 1000, 1000, 1000]);
      assert.equal(Buffer.compare(Buffer.concat(parts.slice(1)), payload), 0);
    }
  });

  define(
    'tells that it takes no frame of a batch after it was given up',
    async ({ nic, memory }) => {
      await nic.disconnect();
      const batch = stageBatch(memory, [makeFrame(60, 1), makeFrame(60, 2)]);
      const outcomes = new Uint8Array(2);
      assert.equal(nic.writeBatch(batch.batch, outcomes), 0);
      assert.deepEqual([...outcomes], [WriteOutcome.notConnected, WriteOutcome.notConnected]);
      batch.free();
    },
  );
}

/** Every length that is the edge of something, as far as it can be sent. */
function lengthsUpTo(longest: number): number[] {
  const edges = [14, 15, 18, 59, 60, 61, 64, 1513, 1514, 1515, 4095, 4096, 4097, 9014, 40_000];
  return [...edges.filter((length) => length < longest), longest];
}

/** A frame to nobody in particular, with bytes that depend on its length and number. */
export function makeFrame(length: number, number: number): Uint8Array {
  const random = seededRandom(length * 1000 + number + 1);
  const frame = Uint8Array.from({ length }, () => random.u32() >>> 11);
  frame.set([0x02, 0, 0, 0, 0, 0xfe, 0x02, 0, 0, 0, 0, number & 0x7f]);
  frame[12] = ETHERTYPE >> 8;
  frame[13] = ETHERTYPE & 0xff;
  return frame;
}

function isOurs(frame: Uint8Array): boolean {
  return frame[12] === ETHERTYPE >> 8 && frame[13] === (ETHERTYPE & 0xff);
}

function hearNear({ nic }: Pick<NicUnderTest, 'nic'>): Uint8Array[] {
  const frames: Uint8Array[] = [];
  void nic.listen((frame) => {
    if (isOurs(frame)) frames.push(frame);
  });
  return frames;
}

function hearFar({ far }: Pick<NicUnderTest, 'far'>): Uint8Array[] {
  const frames: Uint8Array[] = [];
  far.hear((frame) => {
    if (isOurs(frame)) frames.push(frame);
  });
  return frames;
}

/** The batches of a `Network`. */
function batchForm({ memory, nic }: NetworkUnderTest): BatchForm {
  return {
    send: async (frames) => {
      const { batch, free } = stageBatch(memory, frames);
      const taken = nic.writeBatch(batch);
      free();
      return taken;
    },
    hear: (onFrames) =>
      nic.listenBatch((batch) => {
        const frames: Uint8Array[] = [];
        for (let index = 0; index < batch.count; index += 1) {
          const offset = batch.offset(index);
          frames.push(batch.bytes.slice(offset, offset + batch.length(index)));
        }
        onFrames(frames);
      }),
  };
}

function stageBatch(
  memory: LocalMemory,
  frames: readonly Uint8Array[],
  flags: readonly number[] = [],
) {
  const region = memory.allocate(frames.reduce((sum, { length }) => sum + length, 0));
  const batch = new FrameBatch(memory.bytes, frames.length);
  let { offset } = region;
  for (const [index, frame] of frames.entries()) {
    memory.bytes.set(frame, offset);
    batch.add(offset, frame.length, flags[index] ?? 0);
    offset += frame.length;
  }
  return { batch, free: () => region.free() };
}

/** Waits for as many frames as are expected, and a little longer, and compares them. */
async function expectFrames(arrived: readonly Uint8Array[], expected: readonly Uint8Array[]) {
  await until(
    () => `${expected.length} frames arrive; ${arrived.length} did`,
    () => arrived.length >= expected.length,
  );
  await sleep(2);
  assert.deepEqual(
    arrived.map(({ length }) => length),
    expected.map(({ length }) => length),
  );
  for (const [index, frame] of expected.entries()) {
    assert.equal(Buffer.compare(arrived[index] as Uint8Array, frame), 0, `frame ${index} differs`);
  }
}

async function until(what: string | (() => string), condition: () => boolean): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!condition()) {
    if (performance.now() > deadline) {
      assert.fail(`Not within ${PATIENCE_MS} ms: ${typeof what === 'string' ? what : what()}.`);
    }
    await sleep(2);
  }
}

function codeOf(error: unknown): unknown {
  return (error as { code?: unknown }).code;
}

async function rejectsWith(code: string, promise: Promise<unknown>): Promise<void> {
  await assert.rejects(promise, (error: unknown) => {
    assert.equal(codeOf(error), code);
    return true;
  });
}

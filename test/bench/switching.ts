/**
 * How fast frames go from one port to others in memory: each listener copies what it gets into a
 * ring of its own, as a guest's queue does. Four ways: the switch (every address known, a listener
 * for each) with frames that lie together, as netback's do that came together; with frames that lie
 * apart; the switch as a hub; and the plainest hub there is, which makes a promise and a fresh copy for
 * each listener and each frame.
 *
 * With several listeners the switch and the hubs are fed broadcast; with one, frames to its address.
 * Usage: switching switch|apart|hub|plain FRAME_BYTES LISTENERS SECONDS; prints { "rate": writes a
 * second }.
 */
import { FrameBatch, writeRunHeader } from '../../dist/device/frame-batch.js';
import { stretchEnd } from '../../dist/device/frame-stretch.js';
import { type NetworkStats, WriteOutcome } from '../../dist/device/network.js';
import { NetworkBase } from '../../dist/device/network-base.js';
import { Switch } from '../../dist/switch/switch.js';
import { LocalMemory } from '../../dist/xen/local-memory.js';

const BATCH_FRAMES = 64;
/** Large enough that what is copied does not stay in the fastest cache, as with real guests. */
const RING_BYTES = 256 * 1024;
const MEMORY_BYTES = 16 * 1024 * 1024;

const [mode, frameBytesText, listenersText, secondsText] = process.argv.slice(2);
const frameBytes = Number(frameBytesText);
const listeners = Number(listenersText);
const durationMs = Number(secondsText) * 1000;

/** A place that frames are copied to, over and over. */
class Ring {
  readonly offset: number;
  used = 0;

  constructor(offset: number) {
    this.offset = offset;
  }

  /** Room for `bytes`. */
  take(bytes: number): number {
    if (this.used + bytes > RING_BYTES) this.used = 0;
    const place = this.offset + this.used;
    this.used += bytes;
    return place;
  }
}

class RingNetwork extends NetworkBase {
  readonly mac = '02:00:00:00:00:01';
  readonly mtu = 1500;
  readonly stats: NetworkStats = { rxBytes: 0n, rxPackets: 0n, txBytes: 0n, txPackets: 0n };
  received = 0;
  readonly #memory: LocalMemory;
  readonly #ring: Ring;

  constructor(memory: LocalMemory) {
    super();
    this.#memory = memory;
    this.#ring = new Ring(memory.allocate(RING_BYTES).offset);
  }

  send(batch: FrameBatch): void {
    void this.deliver(batch);
  }

  writeBatch(batch: FrameBatch, outcomes?: Uint8Array): number {
    const { bytes } = this.#memory;
    for (let first = 0; first < batch.count; ) {
      const next = stretchEnd(batch, first, batch.count, RING_BYTES / 2);
      const start = batch.offset(first);
      const end = batch.offset(next - 1) + batch.length(next - 1);
      bytes.copyWithin(this.#ring.take(end - start), start, end);
      first = next;
    }
    outcomes?.fill(WriteOutcome.accepted, 0, batch.count);
    this.received += batch.count;
    return batch.count;
  }

  async writev(): Promise<void> {}
  async disconnect(): Promise<void> {}
  resetStats(): void {}
}

/** Processor time of this process: what else the machine does counts for nothing. */
function spentMs(): number {
  const { system, user } = process.cpuUsage();
  return (system + user) / 1000;
}

/** Calls `turn`, which writes so many frames, for as long as is wanted; frames a second after. */
async function measure(framesPerTurn: number, turn: () => Promise<void> | undefined) {
  const run = async (forMs: number) => {
    const startMs = spentMs();
    let frames = 0;
    let elapsedMs = 0;
    while (elapsedMs < forMs) {
      for (let repeat = 0; repeat < 50; repeat += 1) {
        const pending = turn();
        if (pending !== undefined) await pending;
        frames += framesPerTurn;
      }
      elapsedMs = spentMs() - startMs;
    }
    return (frames * 1000) / elapsedMs;
  };
  await run(durationMs / 4);
  return await run(durationMs);
}

function addressed(target: Uint8Array, offset: number, destination: number): void {
  const isToAll = listeners > 1;
  for (let byte = 0; byte < 6; byte += 1) target[offset + byte] = isToAll ? 0xff : 2;
  if (!isToAll) target[offset + 5] = destination;
  target.set([2, 2, 2, 2, 2, 0xaa, 0x88, 0xb5], offset + 6);
}

/** Bytes between the starts of frames that lie apart. */
const APART_BYTES = 2048;

/** Frames to a listener, or to all: a run, unless they are to lie apart. */
function batchOf(memory: LocalMemory): FrameBatch {
  const { bytes } = memory;
  const batch = new FrameBatch(bytes, BATCH_FRAMES);
  const isApart = mode === 'apart';
  let place = memory.allocate(BATCH_FRAMES * APART_BYTES).offset;
  for (let index = 0; index < BATCH_FRAMES; index += 1) {
    const start = isApart ? place : writeRunHeader(bytes, place, frameBytes);
    addressed(bytes, start, 0);
    batch.add(start, frameBytes, 0);
    place = isApart ? place + APART_BYTES : start + frameBytes;
  }
  batch.isRun = !isApart;
  return batch;
}

async function measureSwitch(hub: boolean): Promise<number> {
  const memory = new LocalMemory(new ArrayBuffer(MEMORY_BYTES), 0n);
  const device = new Switch(memory, { hub });
  const sender = new RingNetwork(memory);
  device.plug('sender', sender);
  const others = Array.from({ length: listeners }, () => new RingNetwork(memory));
  const frame = memory.allocate(frameBytes).offset;
  const hello = new FrameBatch(memory.bytes, 1);
  for (const [index, network] of others.entries()) {
    device.plug(`listener-${index}`, network);
    // The listener says who it is.
    addressed(memory.bytes, frame, index);
    memory.bytes.set([2, 2, 2, 2, 2, index], frame + 6);
    hello.clear();
    hello.add(frame, frameBytes, 0);
    network.send(hello);
  }
  const batch = batchOf(memory);
  for (const network of others) network.received = 0;
  let sent = 0;
  const rate = await measure(BATCH_FRAMES, () => {
    sender.send(batch);
    sent += BATCH_FRAMES;
    return undefined;
  });
  for (const { received } of others) if (received !== sent) throw new Error('Frames were lost.');
  device.close();
  return rate;
}

async function measurePlain(): Promise<number> {
  const memory = new Uint8Array(MEMORY_BYTES);
  const counts = new Array<number>(listeners).fill(0);
  const hub = Array.from({ length: listeners }, (_, index) => {
    const ring = new Ring(index * RING_BYTES);
    return async (frame: Uint8Array) => {
      memory.set(frame, ring.take(frame.length));
      counts[index] = (counts[index] ?? 0) + 1;
    };
  });
  const frame = new Uint8Array(frameBytes);
  addressed(frame, 0, 0);
  let sent = 0;
  const rate = await measure(BATCH_FRAMES, async () => {
    for (let index = 0; index < BATCH_FRAMES; index += 1) {
      for (const listener of hub) await listener(frame.slice());
      sent += 1;
    }
  });
  for (const count of counts) if (count !== sent) throw new Error('Frames were lost.');
  return rate;
}

const rate = mode === 'plain' ? await measurePlain() : await measureSwitch(mode === 'hub');
console.log(JSON.stringify({ rate }));

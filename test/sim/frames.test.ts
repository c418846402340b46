/**
 * Frames in great number through both halves on emulated Xen, compared byte for byte, with all ring
 * indices beginning shortly before they wrap at 2^32.
 *
 *     XENVIF_SOAK=1         ten million frames instead of two hundred thousand
 *     XENVIF_SOAK_FRAMES    any other number
 */
import { randomBytes } from 'node:crypto';
import { expect, test, vi } from 'vitest';
import { FrameBatch } from '../../src/device/frame-batch.js';
import type { Network } from '../../src/device/network.js';
import type { LocalMemory, LocalRegion } from '../../src/xen/local-memory.js';
import type { Page } from '../../src/xen/page.js';
import { HostileGuest } from '../hostile/guest.js';
import { RSP_PROD, type Words } from '../hostile/raw-ring.js';
import { MORE_DATA, txRequest } from '../hostile/slots.js';
import { Machine, until } from '../support/machine.js';
import { type SeededRandom, seededRandom } from '../support/random.js';

const FRAMES_SHORT = 200_000;
const FRAMES_LONG = 10_000_000;
const isLong = process.env['XENVIF_SOAK'] === '1';
const FRAMES = Number(process.env['XENVIF_SOAK_FRAMES'] ?? (isLong ? FRAMES_LONG : FRAMES_SHORT));
/** Of all frames, those that a raw guest sends in slots of its own choice. */
const FRAMES_RAW = Math.floor(FRAMES / 5);
const PATTERN_BYTES = 1 << 20;
const FRAME_MAX = 65535;
const BATCH = 32;
/** Under way at most: what neither a ring nor the queue behind it refuses. */
const SLOTS_UNDER_WAY = 180;
const BYTES_UNDER_WAY = 256 * 1024;
const PAGE = 4096;
/** Indices wrap after this many slots. */
const SLOTS_TO_WRAP = 10_000;
const START = 2 ** 32 - SLOTS_TO_WRAP;

/** Every ring of our netfront's, to see that it has wrapped. */
const { rings } = vi.hoisted(() => ({ rings: [] as { readonly reqProd: number }[] }));

/** Our netfront begins at 0; here its rings begin as after that many frames. */
vi.mock('../../src/ring/shared-ring.js', async (importOriginal) => {
  const original = await importOriginal<typeof import('../../src/ring/shared-ring.js')>();
  return {
    ...original,
    FrontRing: class extends original.FrontRing {
      constructor(page: Page, slotBytes: number) {
        super(page, slotBytes);
        this.reqProd = START;
        this.rspCons = START;
        this.pushRequests();
        page.storeIndex(4, START + 1);
        page.storeIndex(RSP_PROD, START);
        page.storeIndex(12, START + 1);
        rings.push(this);
      }
    },
  };
});

function lengthOf(random: SeededRandom): number {
  const kind = random.below(100);
  const most = kind < 80 ? 1514 : kind < 95 ? 4096 : kind < 99 ? 9014 : FRAME_MAX;
  return 14 + random.below(most - 13);
}

const slotsOf = (length: number) => Math.ceil(length / PAGE);

/** One direction: frames out of a pattern, each with its number, and the same made once more. */
class Flow {
  sent = 0;
  received = 0;
  #slots = 0;
  #bytes = 0;
  readonly #to: number;
  readonly #from: Network;
  readonly #memory: LocalMemory;
  readonly #region: LocalRegion;
  readonly #reference: Buffer;
  readonly #sending: SeededRandom;
  readonly #receiving: SeededRandom;
  readonly #batch: FrameBatch;
  #position = 0;
  #expectedPosition = 0;
  #next: number;

  constructor(count: number, seed: number, memory: LocalMemory, from: Network, to: Network) {
    this.#to = count;
    this.#from = from;
    this.#memory = memory;
    this.#region = memory.allocate(PATTERN_BYTES);
    this.#reference = randomBytes(PATTERN_BYTES);
    memory.bytes.set(this.#reference, this.#region.offset);
    this.#sending = seededRandom(seed);
    this.#receiving = seededRandom(seed);
    this.#next = lengthOf(this.#sending);
    this.#batch = new FrameBatch(memory.bytes, BATCH);
    to.listenBatch((batch) => this.#receive(batch));
  }

  get isDone(): boolean {
    return this.received === this.#to;
  }

  /** Sends as much as may be under way. */
  send(): void {
    const batch = this.#batch;
    batch.clear();
    while (this.sent < this.#to && batch.count < BATCH) {
      const length = this.#next;
      if (this.#slots + slotsOf(length) > SLOTS_UNDER_WAY) break;
      if (this.#bytes + length > BYTES_UNDER_WAY) break;
      const offset = this.#region.offset + this.#position;
      new DataView(this.#memory.bytes.buffer).setUint32(offset, this.sent);
      batch.add(offset, length, 0);
      this.#position = advance(this.#position, length);
      this.#slots += slotsOf(length);
      this.#bytes += length;
      this.sent += 1;
      this.#next = lengthOf(this.#sending);
      // What is sent lies behind what was sent before it in the same batch, never over it.
      if (this.#position === 0) break;
    }
    if (batch.count === 0) return;
    if (this.#from.writeBatch(batch) !== batch.count) throw new Error('A frame was refused.');
  }

  free(): void {
    this.#region.free();
  }

  #receive(batch: FrameBatch): void {
    for (let index = 0; index < batch.count; index += 1) {
      const length = lengthOf(this.#receiving);
      const start = this.#expectedPosition;
      this.#reference.writeUInt32BE(this.received, start);
      const offset = batch.offset(index);
      const isSame =
        batch.length(index) === length &&
        this.#reference.compare(batch.bytes, offset, offset + length, start, start + length) === 0;
      if (!isSame) throw new Error(`Frame ${this.received} of ${length} bytes is not as sent.`);
      this.#expectedPosition = advance(start, length);
      this.#slots -= slotsOf(length);
      this.#bytes -= length;
      this.received += 1;
    }
  }
}

/** Where the next frame lies; a frame never goes past the pattern's end. */
function advance(position: number, length: number): number {
  const next = position + length;
  return next + FRAME_MAX > PATTERN_BYTES ? 0 : next;
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

function print(what: string, frames: number, start: number): void {
  const seconds = (performance.now() - start) / 1000;
  const rate = Math.round(frames / seconds);
  process.stdout.write(`${what}: ${frames} frames in ${seconds.toFixed(1)} s, ${rate} a second\n`);
}

/** Fails when nothing arrives for ten seconds. */
async function runFlows(flows: readonly Flow[]): Promise<void> {
  let received = -1;
  let deadline = 0;
  while (!flows.every((flow) => flow.isDone)) {
    for (const flow of flows) flow.send();
    await turn();
    const now = flows.reduce((sum, flow) => sum + flow.received, 0);
    if (now !== received) deadline = performance.now() + 10_000;
    received = now;
    if (performance.now() > deadline) throw new Error(`Nothing arrives after ${now} frames.`);
  }
}

test('frames of every size through our netfront and our netback, both ways at once', async () => {
  const machine = await Machine.start();
  const guest = await machine.addGuest();
  const backend = machine.netback.get(guest.domain.domid, 0);
  if (backend === undefined) throw new Error('The guest has no vif.');
  await until('both are connected', () => backend.status.phase === 'connected');
  const start = performance.now();
  const count = Math.floor((FRAMES - FRAMES_RAW) / 2);
  const flows = [
    new Flow(count, 1, guest.xen.memory, guest.device, backend),
    new Flow(count, 2, machine.xen.memory, backend, guest.device),
  ];
  await runFlows(flows);
  print('netfront and netback', count * 2, start);
  expect(backend.metrics.tx.packets).toBe(count);
  expect(backend.metrics.rx.packets).toBe(count);
  expect(guest.device.metrics.rx.packets).toBe(count);
  expect(rings.map(({ reqProd }) => reqProd < START)).toEqual([true, true]);
  for (const flow of flows) flow.free();
  await machine.end();
});

/** A frame of the raw guest: which windows of its pages it is made of. */
interface Plan {
  readonly windows: readonly { slot: number; offset: number; size: number }[];
  readonly length: number;
}

/** A frame cut into slots at random, each slot's piece anywhere in its own page. */
function planFrame(random: SeededRandom, firstSlot: number): Plan {
  const count = random.below(3) > 0 ? 1 : 1 + random.below(19);
  const windows = Array.from({ length: count }, (_, index) => {
    const size = index === 0 ? 18 + random.below(1500) : random.below(once(random) ? PAGE : 200);
    const offset = random.below(PAGE + 1 - size);
    return { slot: (firstSlot + index) % 256, offset, size };
  });
  return { windows, length: windows.reduce((sum, { size }) => sum + size, 0) };
}

const once = (random: SeededRandom) => random.below(8) === 0;

test('frames in slots of every layout from a raw guest through our netback', async () => {
  const machine = await Machine.start();
  const domain = await machine.hypervisor.createDomain();
  const guest = new HostileGuest(domain, await domain.open({ localMemoryBytes: 65536 }));
  await machine.plug(domain.domid);
  const device = () => machine.netback.get(domain.domid, 0);
  await until('the backend waits', () => device()?.status.backendState === 2);
  await guest.shake({ start: START });
  await until('connected', () => device()?.status.phase === 'connected');
  const pages = Array.from({ length: 256 }, () => guest.page(randomBytes(PAGE)));
  const pageOf = (slot: number) => pages[slot] as (typeof pages)[number];
  const { queue } = guest;
  const random = seededRandom(3);
  const underWay: Plan[] = [];
  let sent = 0;
  let received = 0;
  let wrong: string | undefined;
  device()?.listenBatch((batch) => {
    for (let index = 0; index < batch.count; index += 1) {
      const plan = underWay[index] as Plan;
      const parts = plan.windows.map(({ slot, offset, size }) => {
        return pageOf(slot).page.bytes.subarray(offset, offset + size);
      });
      const start = batch.offset(index);
      const actual = batch.bytes.subarray(start, start + batch.length(index));
      if (Buffer.compare(actual, Buffer.concat(parts)) !== 0) wrong ??= `frame ${received}`;
      received += 1;
    }
    underWay.splice(0, batch.count);
  });
  const start = performance.now();
  let free = 256;
  while (received < FRAMES_RAW && wrong === undefined) {
    const slots: Words[] = [];
    while (sent < FRAMES_RAW && free >= 20) {
      const plan = planFrame(random, (queue.tx.reqProd + slots.length) % 256);
      const [head] = plan.windows;
      if (head === undefined) throw new Error('A frame has a head.');
      pageOf(head.slot).page.bytes.set(Buffer.from(`frame ${sent}`), head.offset);
      for (const [index, { slot, offset, size }] of plan.windows.entries()) {
        const flags = index + 1 < plan.windows.length ? MORE_DATA : 0;
        const own = index === 0 ? plan.length : size;
        slots.push(txRequest({ gref: pageOf(slot).ref, offset, flags, id: slot, size: own }));
      }
      free -= plan.windows.length;
      underWay.push(plan);
      sent += 1;
    }
    if (slots.length > 0) queue.send(slots);
    await turn();
    for (const { status } of queue.takeTx()) {
      if (status !== 0) wrong ??= `an answer of ${status}`;
      free += 1;
    }
  }
  expect(wrong).toBeUndefined();
  print('slots of every layout', FRAMES_RAW, start);
  await until('all is answered', () => {
    free += queue.takeTx().length;
    return free === 256;
  });
  expect(queue.tx.index(RSP_PROD)).toBeLessThan(START);
  await guest.setState('6');
  await until('the backend closes', () => device()?.status.backendState === 6);
  await guest.end();
  await machine.end();
});

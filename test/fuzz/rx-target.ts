/**
 * The RX ring as a target: a guest that posts good and bad buffers as it likes, and frames of every
 * kind for it, against model-rx.ts. After each step every buffer holds what the model wrote and not
 * a byte more, and every answer stands in the slot of its request.
 */
import { FrameBatch } from '../../src/device/frame-batch.js';
import { WriteOutcome } from '../../src/device/network.js';
import type { Page } from '../../src/xen/page.js';
import type { HostileQueue, RingKind } from '../hostile/guest.js';
import { PADDING, REQ_EVENT, RSP_EVENT, RSP_PROD, SLOTS } from '../hostile/raw-ring.js';
import { type Count, shorter, spin, type Target, turn } from './engine.js';
import { transportOf } from './model-packet.js';
import {
  type RxBuffer,
  type RxFeatures,
  type RxFrame,
  RxModel,
  type SendFate,
} from './model-rx.js';
import { composeFrame, type FrameSpec } from './packets.js';
import type { GrantKind } from './tx-target.js';
import { expectBytes, expectSame, PAGE, rewriteSlots, World } from './world.js';

/** A frame that the network has for the guest. */
export interface RxFrameSpec {
  readonly frame: FrameSpec;
  readonly blank: boolean;
  readonly validated: boolean;
  /** 0 for none; used only where the frame is a TCP segment longer than that. */
  readonly gsoSize: number;
}

export type RxStep =
  | {
      readonly op: 'post';
      /** Pages of the case by number; -1 for a reference of nothing. */
      readonly pages: readonly number[];
      readonly firstId: number;
      readonly notify: 'asked' | 'always' | 'late';
    }
  | { readonly op: 'write'; readonly frames: readonly RxFrameSpec[] }
  /** The producer is set `ahead` of where it may be at most. */
  | { readonly op: 'lie'; readonly ahead: number };

export interface RxCase {
  readonly start: number;
  readonly split: boolean;
  /** Slots are rewritten as soon as they were read. */
  readonly rewrites?: boolean;
  readonly features: RxFeatures;
  readonly pages: readonly GrantKind[];
  readonly steps: readonly RxStep[];
}

const RING = 256;
const STAGING = 640 * 1024;
/** So many bytes wait at most before a frame that is cut, so that its parts have room. */
const ROOM_FOR_SEGMENTS = 256 * 1024;

export function rxTarget(generate: Target<World, RxCase>['generate']): Target<World, RxCase> {
  return {
    name: 'rx-ring',
    outcomes: [
      ...['sent', 'too long', 'filtered', 'segmented', 'completed', 'queue full', 'bad buffer'],
      ...['K RING_OVERFLOW', 'waits', 'with GSO', 'notify asked', 'notify late'],
    ],
    casesForAll: 300,
    open: () => World.open(),
    close: (world, broken) => world.close(broken),
    generate,
    run: runRxCase,
    smaller: smallerRxCases,
  };
}

async function runRxCase(world: World, fuzzCase: RxCase, count: Count): Promise<void> {
  const { features, rewrites, split, start } = fuzzCase;
  const flag = (isSet: boolean) => (isSet ? '1' : undefined);
  const nodes = {
    'feature-sg': flag(features.scatterGather),
    'feature-gso-tcpv4': flag(features.gso4),
    'feature-gso-tcpv6': flag(features.gso6),
    'feature-no-csum-offload': flag(!features.checksum4),
    'feature-ipv6-csum-offload': flag(features.checksum6),
    'request-multicast-control': flag(features.multicastFilter),
  };
  const watch = (page: Page, kind: RingKind) => rewriteSlots(page, kind, 'rx');
  await world.connect({ start, split, nodes, ...(rewrites === true ? { watch } : {}) });
  const run = new RxRun(world, fuzzCase);
  try {
    for (const step of fuzzCase.steps) {
      if (await run.step(step, count)) break;
    }
    run.finish();
  } finally {
    run.free();
  }
  await world.disconnect();
  count('cases');
}

/** A frame that was written, and what the model makes of it. */
interface Written {
  readonly frame: RxFrame;
  readonly fate: SendFate;
  readonly frames: readonly RxFrame[];
}

class RxRun {
  readonly #world: World;
  readonly #queue: HostileQueue;
  readonly #model: RxModel;
  readonly #pages: readonly { page: Page; ref: number; grant: GrantKind; expected: Uint8Array }[];
  readonly #expectedRing: Uint8Array;
  readonly #staging;
  readonly #observed: Uint8Array[] = [];
  readonly #endObserver: () => void;
  /** The next answer. */
  #rspProd: number;
  #owed = false;
  #dropped = 0;

  constructor(world: World, { features, pages, start }: RxCase) {
    this.#world = world;
    this.#queue = world.guest.queue;
    this.#model = new RxModel(features);
    this.#pages = pages.map((grant, index) => makeBuffer(world, grant, index));
    for (const { grant, ref } of this.#pages) {
      if (grant === 'revoked') world.guest.domain.raw.revoke(ref);
    }
    this.#expectedRing = this.#queue.rx.page.bytes.slice();
    this.#staging = world.machine.xen.memory.allocate(STAGING);
    this.#rspProd = start >>> 0;
    this.#endObserver = world.device.observeBatch((batch) => {
      for (let index = 0; index < batch.count; index += 1) {
        const offset = batch.offset(index);
        this.#observed.push(batch.bytes.slice(offset, offset + batch.length(index)));
      }
    });
    world.guard('the TX ring', this.#queue.tx.page);
  }

  /** Does one step and compares. Returns whether the vif has stopped, as it had to. */
  async step(step: RxStep, count: Count): Promise<boolean> {
    switch (step.op) {
      case 'post':
        count(`notify ${step.notify}`);
        if (!this.#post(step)) return false;
        break;
      case 'write':
        this.#write(step.frames, count);
        break;
      case 'lie':
        await this.#lie(step.ahead, count);
        return true;
    }
    await this.#compare(count);
    return false;
  }

  /** Counters agree with the model. */
  finish(): void {
    const { device } = this.#world;
    const drops = this.#world.drops('rx');
    expectSame('frames lost to bad buffers', drops.get('BAD_GRANT') ?? 0, this.#model.lost);
    const all = [...drops.values()].reduce((sum, packets) => sum + packets, 0);
    expectSame('frames dropped', all, this.#model.lost + this.#dropped);
    expectSame('frames counted', device.metrics.rx.packets, this.#model.delivered.length);
    expectSame('frames observed', this.#observed.length, this.#model.delivered.length);
    for (const [index, { bytes }] of this.#model.delivered.entries()) {
      expectBytes(`observed frame ${index}`, this.#observed[index] ?? new Uint8Array(), bytes);
    }
  }

  free(): void {
    this.#endObserver();
    this.#staging.free();
  }

  /** Posts buffers, as many as fit. Returns whether the backend was told. */
  #post({ pages, firstId, notify }: RxStep & { op: 'post' }): boolean {
    const { rx, rxChannel } = this.#queue;
    const old = rx.reqProd;
    for (const [index, number] of pages.entries()) {
      if ((rx.reqProd - this.#rspProd) >>> 0 >= RING) break;
      const id = (firstId + index) & 0xffff;
      const chosen = this.#pages[number];
      const ref = chosen?.ref ?? 0xfffffff0;
      rx.put(rx.reqProd, [id, ref]);
      this.#expect32(rx.at(rx.reqProd), id);
      this.#expect32(rx.at(rx.reqProd) + 4, ref);
      rx.reqProd = (rx.reqProd + 1) >>> 0;
      this.#model.buffers.push(bufferOf(id, chosen));
    }
    rx.claim(rx.reqProd);
    this.#expect32(0, rx.reqProd);
    this.#owed ||= (rx.reqProd - rx.index(REQ_EVENT)) >>> 0 < (rx.reqProd - old) >>> 0;
    if (notify === 'late') return false;
    if (notify === 'asked' && !this.#owed) {
      if (this.#model.isReady) throw new Error('A frame could go, and no event was asked for.');
      return false;
    }
    this.#owed = false;
    rxChannel.notify();
    return true;
  }

  #write(specs: readonly RxFrameSpec[], count: Count): void {
    const { device, machine } = this.#world;
    const { bytes } = machine.xen.memory;
    const batch = new FrameBatch(bytes, Math.max(1, specs.length));
    const written: Written[] = [];
    let end = this.#staging.offset;
    for (const spec of specs) {
      const frame = frameOf(spec);
      const prepared = this.#model.prepare(frame);
      const isCut = prepared.fate === 'segmented';
      if (isCut && this.#model.queuedBytes > ROOM_FOR_SEGMENTS) continue;
      if (end + frame.bytes.length > this.#staging.offset + STAGING) break;
      // What is cut may not share a write with much else, for the same reason.
      if (isCut && written.length > 0) continue;
      bytes.set(frame.bytes, end);
      const { checksumBlank, validated, gsoType, gsoSize } = frame;
      const metadata = (checksumBlank ? 4 : 0) | (validated ? 8 : 0);
      batch.add(end, frame.bytes.length, metadata | (gsoType << 4) | (gsoSize << 16));
      written.push({ frame, ...prepared });
      end += frame.bytes.length;
      if (isCut) break;
    }
    // The backend looks at the ring first, then takes one frame after another.
    const outcomes = new Uint8Array(written.length);
    const isForRing = written.some(({ fate }) => fate !== 'filtered');
    if (isForRing) this.#pending.push(...this.#model.deliver());
    device.writeBatch(batch, outcomes);
    for (const [index, each] of written.entries()) this.#account(each, outcomes[index], count);
  }

  /** Answers that the model has given and that are not compared yet. */
  readonly #pending: Uint8Array[] = [];

  #account({ frame, fate, frames }: Written, outcome: number | undefined, count: Count): void {
    const model = this.#model;
    count(fate);
    if (frame.gsoType !== 0 && fate === 'sent') count('with GSO');
    if (fate === 'filtered' || fate === 'too long') {
      this.#dropped += 1;
      const expected = fate === 'filtered' ? WriteOutcome.accepted : WriteOutcome.tooLong;
      expectSame(`the outcome of a frame that is ${fate}`, outcome, expected);
      return;
    }
    if (fate === 'segmented') {
      const all = segmentCount(frame);
      let kept = 0;
      for (const part of frames) kept += this.#enqueueSegment(part, count) ? 1 : 0;
      this.#dropped += all - kept;
      expectSame('the outcome of a frame that is cut', outcome === 1, kept === all);
      return;
    }
    const [only] = frames;
    if (only === undefined) throw new Error('The model sends nothing, and does not say why.');
    const isReady = model.queue.length === 0 && model.canTake(only);
    const { mayRefuse, mustRefuse } = model.fullness(only);
    if (outcome === WriteOutcome.queueFull && mayRefuse && !isReady) {
      count('queue full');
      this.#dropped += 1;
      return;
    }
    if (mustRefuse && !isReady) throw new Error('The queue has grown past its bound.');
    expectSame('the outcome of a frame', outcome, WriteOutcome.accepted);
    this.#enqueue(only);
    if (!isReady) count('waits');
  }

  /** Segments are short and the queue has bytes enough for them; it may have too many frames. */
  #enqueueSegment(part: RxFrame, count: Count): boolean {
    const model = this.#model;
    const isReady = model.queue.length === 0 && model.canTake(part);
    if (!isReady && model.fullness(part).mustRefuse) {
      count('queue full');
      return false;
    }
    this.#enqueue(part);
    return true;
  }

  #enqueue(frame: RxFrame): void {
    this.#model.queue.push(frame);
    this.#pending.push(...this.#model.deliver());
  }

  /** The vif must stop as soon as it next needs a buffer. */
  async #lie(ahead: number, count: Count): Promise<void> {
    const { rx, rxChannel } = this.#queue;
    const claimed = (this.#rspProd + RING + 1 + (ahead % 0x7fffff00)) >>> 0;
    rx.claim(claimed);
    this.#expect32(0, claimed);
    rxChannel.notify();
    const world = this.#world;
    const frame = new Uint8Array(60);
    await world.device.write(frame).catch(() => undefined);
    await spin('the vif stops', () => world.killed !== undefined);
    expectSame('the reason', world.killed, 'RING_OVERFLOW');
    count('K RING_OVERFLOW');
    world.checkNothingHeld();
    this.#dropped += this.#model.queue.length;
    this.#model.queue.length = 0;
    this.#checkMemory();
  }

  async #compare(count: Count): Promise<void> {
    const world = this.#world;
    const { rx } = this.#queue;
    const events = this.#events;
    const lost = this.#model.lost;
    const answers = [...this.#pending.splice(0), ...this.#model.deliver()];
    if (this.#model.lost > lost) count('bad buffer');
    const expected = (this.#rspProd + answers.length) >>> 0;
    await spin(`${answers.length} buffers are answered`, () => {
      if (world.killed !== undefined) throw new Error(`The vif stopped for ${world.killed}.`);
      return rx.index(RSP_PROD) === expected;
    });
    await turn();
    for (const [index, answer] of answers.entries()) this.#expectAnswer(index, answer);
    this.#rspProd = expected;
    this.#checkMemory();
    if (answers.length > 0) {
      await spin('the event that was asked for', () => this.#events > events);
    }
    this.#queue.takeRx();
    this.#expect32(RSP_EVENT, rx.rspCons + 1);
    count('slots', answers.length);
  }

  get #events(): number {
    return this.#queue.txEvents + this.#queue.rxEvents;
  }

  #expectAnswer(index: number, answer: Uint8Array): void {
    const at = this.#queue.rx.at((this.#rspProd + index) >>> 0);
    this.#expectedRing.set(answer, at);
  }

  #checkMemory(): void {
    const { rx } = this.#queue;
    this.#expect32(RSP_PROD, this.#rspProd);
    // When the backend wants to hear again is its own affair.
    this.#expect32(REQ_EVENT, rx.index(REQ_EVENT));
    // The padding behind the indices is the backend's own: src/ring/answer-log.ts.
    for (let at = PADDING; at < SLOTS; at += 4) this.#expect32(at, rx.page.readU32(at));
    expectBytes('the RX ring', rx.page.bytes, this.#expectedRing);
    for (const [index, { page, expected }] of this.#pages.entries()) {
      expectBytes(`buffer ${index}`, page.bytes, expected);
    }
    this.#world.checkGuards();
  }

  #expect32(offset: number, value: number): void {
    new DataView(this.#expectedRing.buffer).setUint32(offset, value >>> 0, true);
  }
}

function makeBuffer(world: World, grant: GrantKind, seed: number) {
  const { guest } = world;
  const page = guest.domain.raw.allocatePage();
  for (let index = 0; index < PAGE; index += 1) page.bytes[index] = 0xa0 ^ (seed + index);
  const ref = guest.grant(page, grant === 'read' ? 'read' : 'write', grant === 'foreign' ? 7 : 0);
  if (ref % 4 === 0) world.guardMemory();
  return { page, ref, grant, expected: page.bytes.slice() };
}

function bufferOf(
  id: number,
  chosen: { grant: GrantKind; expected: Uint8Array } | undefined,
): RxBuffer {
  return { id, page: chosen?.grant === 'write' ? chosen.expected : undefined };
}

/** A frame with what may be said of it: flags that do not hold are left out. */
function frameOf({ frame, blank, validated, gsoSize }: RxFrameSpec): RxFrame {
  const bytes = composeFrame(frame);
  const transport = transportOf(bytes);
  const isCut = gsoSize > 0 && transport?.protocol === 6 && transport.payloadBytes > gsoSize;
  const gsoType = isCut ? (transport.version === 4 ? 1 : 2) : 0;
  const checksumBlank = isCut || (blank && transport !== undefined);
  return {
    bytes,
    checksumBlank,
    validated: checksumBlank || validated,
    gsoType,
    gsoSize: isCut ? gsoSize : 0,
  };
}

function segmentCount({ bytes, gsoSize }: RxFrame): number {
  return Math.ceil((transportOf(bytes)?.payloadBytes ?? 0) / gsoSize);
}

function* smallerRxCases(fuzzCase: RxCase): Iterable<RxCase> {
  for (const steps of shorter(fuzzCase.steps)) yield { ...fuzzCase, steps };
  for (const [index, step] of fuzzCase.steps.entries()) {
    const put = (smaller: RxStep) => ({ ...fuzzCase, steps: fuzzCase.steps.with(index, smaller) });
    if (step.op === 'post') {
      for (const pages of shorter(step.pages)) yield put({ ...step, pages });
    } else if (step.op === 'write') {
      for (const frames of shorter(step.frames)) yield put({ ...step, frames });
    }
  }
  if (fuzzCase.start !== 0) yield { ...fuzzCase, start: 0 };
  if (fuzzCase.split) yield { ...fuzzCase, split: false };
  if (fuzzCase.rewrites) yield { ...fuzzCase, rewrites: false };
}

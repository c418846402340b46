/**
 * The control ring as a target: requests, right and wrong, and frames in between that must go where
 * the last of them said, against model-control.ts.
 */
import type { Page } from '../../src/xen/page.js';
import type { RingKind } from '../hostile/guest.js';
import type { RawRing } from '../hostile/raw-ring.js';
import { REQ_EVENT, RSP_EVENT, RSP_PROD } from '../hostile/raw-ring.js';
import { type Count, shorter, spin, type Target, turn } from './engine.js';
import { ControlModel, type ToldHash } from './model-control.js';
import { composeFrame, type FrameSpec } from './packets.js';
import type { GrantKind } from './tx-target.js';
import { expectBytes, expectSame, PAGE, rewriteSlots, World } from './world.js';

/** A request; `page` puts the reference of a page of the case into the first word. */
export interface ControlRequestSpec {
  readonly id: number;
  readonly type: number;
  readonly page?: number;
  readonly data: readonly [number, number, number];
}

export type ControlStep =
  | {
      readonly op: 'ask';
      readonly requests: readonly ControlRequestSpec[];
      readonly notify: 'asked' | 'always' | 'late';
    }
  | { readonly op: 'frame'; readonly frame: FrameSpec }
  | { readonly op: 'lie'; readonly ahead: number };

/** A page: a key or a table, as 32-bit words. */
export interface ControlPageSpec {
  readonly grant: GrantKind;
  readonly words: readonly number[];
}

export interface ControlCase {
  readonly start: number;
  readonly queues: number;
  /** Slots are rewritten as soon as they were read. */
  readonly rewrites?: boolean;
  readonly pages: readonly ControlPageSpec[];
  readonly steps: readonly ControlStep[];
}

const RING = 128;
/** Buffers that each queue has at any time. */
const BUFFERS = 16;

export function controlTarget(
  generate: Target<World, ControlCase>['generate'],
): Target<World, ControlCase> {
  const answers = [1, 2, 3, 4, 5, 6, 7].map((type) => `type ${type} status 0`);
  return {
    name: 'control-ring',
    outcomes: [
      ...answers,
      ...['type 1 status 1', 'type 2 status 2', 'type 3 status 3', 'type 6 status 2'],
      ...['K RING_OVERFLOW', 'told a hash', 'told nothing', 'steered', 'free choice'],
    ],
    casesForAll: 300,
    open: () => World.open(),
    close: (world, broken) => world.close(broken),
    generate,
    run: runControlCase,
    smaller: smallerControlCases,
  };
}

async function runControlCase(world: World, fuzzCase: ControlCase, count: Count): Promise<void> {
  const { queues, rewrites, start, steps } = fuzzCase;
  const watch = (page: Page, kind: RingKind) => rewriteSlots(page, kind, 'control');
  await world.connect({ start, queues, control: true, ...(rewrites === true ? { watch } : {}) });
  const run = new ControlRun(world, fuzzCase);
  for (const step of steps) {
    if (await run.step(step, count)) break;
  }
  await world.disconnect();
  count('cases');
}

class ControlRun {
  readonly #world: World;
  readonly #ring: RawRing;
  readonly #model: ControlModel;
  readonly #pages: readonly { page: Page; ref: number; grant: GrantKind }[];
  readonly #expected: Uint8Array;
  readonly #buffer: { page: Page; ref: number };
  readonly #pattern: Uint8Array;
  /** Requests that were put and not answered. */
  #waiting: { id: number; type: number; data: readonly [number, number, number] }[] = [];
  #rspProd: number;
  #owed = false;

  constructor(world: World, { queues, pages, start }: ControlCase) {
    const { guest } = world;
    if (guest.control === undefined) throw new Error('The guest has no control ring.');
    this.#world = world;
    this.#ring = guest.control;
    this.#rspProd = start >>> 0;
    this.#expected = this.#ring.page.bytes.slice();
    this.#pages = pages.map((spec) => makePage(world, spec));
    this.#buffer = guest.page(new Uint8Array(PAGE).fill(0x5a));
    // Only now, for a reference that was given back is the first to be given out again.
    for (const { grant, ref } of this.#pages) {
      if (grant === 'revoked') guest.domain.raw.revoke(ref);
    }
    this.#model = new ControlModel(queues, (gref, length) => this.#read(gref, length));
    this.#pattern = this.#buffer.page.bytes.slice();
    for (const queue of guest.queues) {
      queue.post(Array.from({ length: BUFFERS }, () => this.#buffer.ref));
      world.guard('a TX ring', queue.tx.page);
    }
  }

  async step(step: ControlStep, count: Count): Promise<boolean> {
    switch (step.op) {
      case 'ask':
        await this.#ask(step, count);
        return false;
      case 'frame':
        await this.#frame(step.frame, count);
        return false;
      case 'lie':
        await this.#lie(step.ahead, count);
        return true;
    }
  }

  async #ask({ requests, notify }: ControlStep & { op: 'ask' }, count: Count): Promise<void> {
    const ring = this.#ring;
    const old = ring.reqProd;
    for (const { id, type, page, data } of requests) {
      if (this.#waiting.length >= RING) break;
      const [first, second, third] = data;
      const gref = page === undefined ? first : (this.#pages[page]?.ref ?? first);
      const words = [id | (type << 16), gref, second, third] as const;
      ring.put(ring.reqProd, words);
      for (const [index, word] of words.entries()) {
        this.#expect32(ring.at(ring.reqProd) + index * 4, word);
      }
      ring.reqProd = (ring.reqProd + 1) >>> 0;
      this.#waiting.push({ id, type, data: [gref, second, third] });
    }
    ring.claim(ring.reqProd);
    this.#expect32(0, ring.reqProd);
    this.#owed ||= (ring.reqProd - ring.index(REQ_EVENT)) >>> 0 < (ring.reqProd - old) >>> 0;
    if (notify === 'late') return;
    if (notify === 'always' || this.#owed) this.#world.guest.controlChannel?.notify();
    this.#owed = false;
    await this.#compare(count);
  }

  async #compare(count: Count): Promise<void> {
    const { guest } = this.#world;
    const ring = this.#ring;
    const events = guest.controlEvents;
    const expected = (this.#rspProd + this.#waiting.length) >>> 0;
    await spin(`${this.#waiting.length} control requests are answered`, () => {
      if (this.#world.killed !== undefined) throw new Error(`Stopped for ${this.#world.killed}.`);
      return ring.index(RSP_PROD) === expected;
    });
    await turn();
    for (const { id, type, data } of this.#waiting) {
      const answer = this.#model.answer(type, data);
      count(`type ${type > 10 ? 'unknown' : type} status ${answer.status}`);
      const at = ring.at(this.#rspProd);
      for (const [index, word] of [id | (type << 16), answer.status, answer.data, 0].entries()) {
        this.#expect32(at + index * 4, word);
      }
      this.#rspProd = (this.#rspProd + 1) >>> 0;
    }
    this.#checkRing();
    if (this.#waiting.length > 0) {
      await spin('the event that was asked for', () => guest.controlEvents > events);
    }
    this.#waiting = [];
    ring.take();
    this.#expect32(RSP_EVENT, ring.rspCons + 1);
  }

  /** A frame goes to the queue that the model says, and is told of as it says. */
  async #frame(spec: FrameSpec, count: Count): Promise<void> {
    const { device, guest } = this.#world;
    // Requests that the backend was not told of may be taken with the next that it is told of.
    if (this.#waiting.length > 0) return;
    const frame = composeFrame(spec);
    if (frame.length > PAGE) return;
    const steered = this.#model.steer(frame);
    await device.write(frame);
    const answered = guest.queues.findIndex(({ rx }) => rx.answered > 0);
    if (answered < 0) throw new Error('A frame is in no queue.');
    count(steered === undefined ? 'free choice' : 'steered');
    if (steered !== undefined) expectSame('the queue of a frame', answered, steered.queue);
    this.#expectReceived(answered, frame, steered?.told);
    count(steered?.told === undefined ? 'told nothing' : 'told a hash');
  }

  #expectReceived(index: number, frame: Uint8Array, told: ToldHash | undefined): void {
    const { guest } = this.#world;
    const queue = guest.queues[index];
    if (queue === undefined) throw new Error(`There is no queue ${index}.`);
    const words = queue.rx.take();
    expectSame('answers for a frame', words.length, told === undefined ? 1 : 2);
    expectSame('the status', (words[0]?.[1] ?? 0) >> 16, frame.length);
    expectSame('the flags', (words[0]?.[1] ?? 0) & 0xffff, told === undefined ? 0 : 8);
    if (told !== undefined) {
      const [head = 0, value = 0] = words[1] ?? [];
      // type 4, no more extras, the hash's type, the algorithm, and the value.
      expectSame(
        'the extra',
        [head >>> 0, value >>> 0],
        [(4 | (told.type << 16) | (1 << 24)) >>> 0, told.value],
      );
    }
    const { page, ref } = this.#buffer;
    const expected = this.#pattern.slice();
    expected.set(frame);
    expectBytes('the buffer', page.bytes, expected);
    page.bytes.set(this.#pattern);
    queue.post(words.map(() => ref));
  }

  async #lie(ahead: number, count: Count): Promise<void> {
    const world = this.#world;
    const claimed = (this.#rspProd + RING + 1 + (ahead % 0x7fffff00)) >>> 0;
    this.#ring.claim(claimed);
    world.guest.controlChannel?.notify();
    await spin('the vif stops', () => world.killed !== undefined);
    expectSame('the reason', world.killed, 'RING_OVERFLOW');
    expectSame('rsp_prod', this.#ring.index(RSP_PROD), this.#rspProd);
    world.checkNothingHeld();
    count('K RING_OVERFLOW');
  }

  #checkRing(): void {
    this.#expect32(RSP_PROD, this.#rspProd);
    this.#expect32(REQ_EVENT, this.#ring.index(REQ_EVENT));
    expectBytes('the control ring', this.#ring.page.bytes, this.#expected);
    this.#world.checkGuards();
  }

  #expect32(offset: number, value: number): void {
    new DataView(this.#expected.buffer).setUint32(offset, value >>> 0, true);
  }

  #read(gref: number, length: number): Uint8Array | undefined {
    const found = this.#pages.find(({ ref, grant }) => ref === gref && grant !== 'revoked');
    if (found === undefined || found.grant === 'foreign') return undefined;
    return found.page.bytes.slice(0, length);
  }
}

function makePage(world: World, { grant, words }: ControlPageSpec) {
  const { guest } = world;
  const page = guest.domain.raw.allocatePage();
  for (const [index, word] of words.entries()) page.writeU32(index * 4, word);
  const ref = guest.grant(page, grant === 'read' ? 'read' : 'write', grant === 'foreign' ? 7 : 0);
  world.guard('a page of the control ring', page);
  return { page, ref, grant };
}

function* smallerControlCases(fuzzCase: ControlCase): Iterable<ControlCase> {
  for (const steps of shorter(fuzzCase.steps)) yield { ...fuzzCase, steps };
  for (const [index, step] of fuzzCase.steps.entries()) {
    if (step.op !== 'ask') continue;
    for (const requests of shorter(step.requests)) {
      yield { ...fuzzCase, steps: fuzzCase.steps.with(index, { ...step, requests }) };
    }
  }
  if (fuzzCase.start !== 0) yield { ...fuzzCase, start: 0 };
  if (fuzzCase.rewrites) yield { ...fuzzCase, rewrites: false };
}

/**
 * Our netfront as a target: a backend that fills buffers and answers requests well and badly,
 * against model-netfront.ts. After each step every frame is as the model says, every buffer is
 * posted once, and what the backend can see of a page is the frame and nothing else.
 */
import { WriteOutcome } from '../../src/device/network.js';
import { txAnswer } from '../hostile/backend.js';
import type { Words } from '../hostile/raw-ring.js';
import { CSUM_BLANK, DATA_VALIDATED, EXTRA_INFO, MORE_DATA, NULL } from '../hostile/slots.js';
import { type Count, shorter, spin, type Target, turn } from './engine.js';
import { judgeRx, type RxSlot } from './model-netfront.js';
import { transportOf } from './model-packet.js';
import { NetfrontWorld } from './netfront-world.js';
import { composeFrame, type FrameSpec } from './packets.js';
import { expectBytes, expectSame, PAGE } from './world.js';

/** A response of the backend's, as words: `id` counts from the right one. */
export interface Response {
  readonly id: number;
  readonly offset: number;
  readonly flags: number;
  readonly status: number;
  /** The slot is an extra with these bytes instead. */
  readonly extra?: readonly number[];
  readonly fill: number;
}

export type NetfrontStep =
  | { readonly op: 'receive'; readonly responses: readonly Response[] }
  | { readonly op: 'send'; readonly frame: FrameSpec; readonly gsoSize: number }
  /** Answers `count` requests, beginning with the one at `from`; then what was never asked. */
  | {
      readonly op: 'answer';
      readonly count: number;
      readonly from: number;
      readonly status: number;
      readonly wrong: 'no' | 'twice' | 'unknown' | 'extra';
    }
  | { readonly op: 'lie'; readonly ring: 'tx' | 'rx'; readonly ahead: number };

export interface NetfrontCase {
  readonly gso: boolean;
  readonly split: boolean;
  readonly steps: readonly NetfrontStep[];
}

const RING = 256;
const TCP = 6;
/** What our netfront says that it takes, whatever the backend takes: TCPv4 and TCPv6. */
const ASKED_FOR: ReadonlySet<number> = new Set([1, 2]);

export function netfrontTarget(
  generate: Target<NetfrontWorld, NetfrontCase>['generate'],
): Target<NetfrontWorld, NetfrontCase> {
  const kills = [
    ...['RING_OVERFLOW', 'RESPONSE_ID_INVALID', 'RESPONSE_CROSSES_PAGE', 'CHAIN_TRUNCATED'],
    ...['EXTRA_MISSING', 'EXTRA_TYPE_INVALID', 'RESPONSE_UNEXPECTED'],
  ].map((reason) => `K ${reason}`);
  const drops = ['BACKEND_ERROR', 'TOO_MANY_SLOTS', 'TOO_LONG', 'TOO_SHORT', 'GSO_INVALID'];
  return {
    name: 'netfront',
    outcomes: [...kills, ...drops, 'EXTRA_UNEXPECTED', 'received', 'sent', 'sent with GSO'],
    casesForAll: 1000,
    open: () => NetfrontWorld.open(),
    close: (world, broken) => world.close(broken),
    generate,
    run: runNetfrontCase,
    smaller: smallerNetfrontCases,
  };
}

async function runNetfrontCase(
  world: NetfrontWorld,
  { gso, split, steps }: NetfrontCase,
  count: Count,
): Promise<void> {
  const flag = (isSet: boolean) => (isSet ? '1' : '0');
  await world.connect({
    'feature-gso-tcpv4': flag(gso),
    'feature-gso-tcpv6': flag(gso),
    'feature-ipv6-csum-offload': '1',
    'feature-split-event-channels': flag(split),
  });
  const run = new NetfrontRun(world, gso);
  for (const step of steps) {
    if (await run.step(step, count)) break;
  }
  run.finish();
  count('cases');
}

/** A request of the frontend's that is not answered yet. */
interface Outstanding {
  readonly id: number;
  /** An extra has no id of its own, and is answered NULL. */
  readonly isExtra: boolean;
  readonly isFirst: boolean;
}

class NetfrontRun {
  readonly #world: NetfrontWorld;
  readonly #gso: boolean;
  /** RX buffers that are posted, the next to answer first. */
  #posted: { index: number; gref: number }[] = [];
  readonly #grefs: ReadonlySet<number>;
  #outstanding: Outstanding[] = [];
  #txDrops = 0;
  readonly #rxDrops: ReadonlySet<string>[] = [];
  #received = 0;

  constructor(world: NetfrontWorld, gso: boolean) {
    this.#world = world;
    this.#gso = gso;
    this.#takeBuffers();
    this.#grefs = new Set(this.#posted.map(({ gref }) => gref));
    expectSame('buffers', this.#grefs.size, RING);
  }

  /** Does one step and compares. Returns whether the backend was cut off, as it had to be. */
  async step(step: NetfrontStep, count: Count): Promise<boolean> {
    switch (step.op) {
      case 'receive':
        return await this.#receive(step.responses, count);
      case 'send':
        this.#send(step, count);
        return false;
      case 'answer':
        return await this.#answer(step, count);
      case 'lie':
        return await this.#lie(step, count);
    }
  }

  /** Counters agree with the model. */
  finish(): void {
    const { device } = this.#world;
    expectSame('frames counted', device.metrics.rx.packets, this.#received);
    const sum = (drops: readonly { packets: number }[]) =>
      drops.reduce((total, { packets }) => total + packets, 0);
    expectSame('frames dropped in RX', sum(this.#world.drops('rx')), this.#rxDrops.length);
    expectSame('frames dropped in TX', sum(this.#world.drops('tx')), this.#txDrops);
    for (const { cause, packets } of this.#world.drops('rx')) {
      const possible = this.#rxDrops.filter((faults) => faults.has(cause)).length;
      if (packets > possible) throw new Error(`${packets} frames were dropped for ${cause}.`);
    }
  }

  async #receive(responses: readonly Response[], count: Count): Promise<boolean> {
    const { rx } = this.#world.rings;
    const slots: RxSlot[] = [];
    const words: Words[] = [];
    for (const response of responses) {
      const buffer = this.#posted.shift();
      if (buffer === undefined) break;
      const page = this.#world.fillPage(buffer.gref, (bytes) => bytes.fill(response.fill));
      const each = wordsOf(response, buffer.index);
      words.push(each);
      slots.push({ index: buffer.index, bytes: bytesOf(each), page });
    }
    const verdict = judgeRx(slots, ASKED_FOR);
    const before = this.#world.received.length;
    rx.push(words);
    this.#world.backend.notify();
    if (verdict.kill !== undefined) {
      // What came whole before it, in the same go, may or may not be handed on.
      await this.#expectKill(verdict.kill, count);
      const got = this.#world.received.length - before;
      if (got > verdict.frames.length) throw new Error('More frames than were sent.');
      this.#rxDrops.push(...verdict.dropped);
      this.#received += got;
      this.#compare(before, verdict.frames.slice(0, got));
      return true;
    }
    await spin('all frames are taken', () => this.#hasPosted(slots.length));
    this.#compare(before, verdict.frames);
    this.#received += verdict.frames.length;
    this.#rxDrops.push(...verdict.dropped);
    count('received', verdict.frames.length);
    for (const faults of verdict.dropped) for (const fault of faults) count(fault);
    this.#takeBuffers();
    const grefs = new Set(this.#posted.map(({ gref }) => gref));
    expectSame('buffers that are posted', grefs.size, RING);
    for (const gref of grefs) {
      if (!this.#grefs.has(gref)) throw new Error(`${gref} is none of the buffers.`);
    }
    return false;
  }

  #hasPosted(slots: number): boolean {
    if (this.#world.killed !== undefined) throw new Error(`Cut off for ${this.#world.killed}.`);
    return this.#world.rings.rx.pending === slots;
  }

  #compare(from: number, expected: ReturnType<typeof judgeRx>['frames']): void {
    const { received } = this.#world;
    expectSame('frames received', received.length - from, expected.length);
    for (const [index, { bytes, ...flags }] of expected.entries()) {
      const { bytes: actual, ...actualFlags } = received[from + index] as (typeof received)[0];
      expectBytes(`frame ${index}`, actual, bytes);
      expectSame(`what is known of frame ${index}`, actualFlags, flags);
    }
  }

  #takeBuffers(): void {
    const { rx } = this.#world.rings;
    const first = rx.reqCons;
    for (const [offset, [id = 0, gref = 0]] of rx.take().entries()) {
      const index = (first + offset) >>> 0;
      expectSame('the id of a buffer', id & 0xffff, index % 0x10000);
      this.#posted.push({ index, gref });
    }
  }

  #send({ frame: spec, gsoSize }: NetfrontStep & { op: 'send' }, count: Count): void {
    const frame = composeFrame(spec);
    const transport = transportOf(frame);
    const isGso =
      this.#gso && gsoSize > 0 && transport?.protocol === TCP && transport.payloadBytes > gsoSize;
    const slots = Math.ceil(frame.length / PAGE) + (isGso ? 1 : 0);
    if (slots > RING - this.#outstanding.length) return;
    const gsoType = isGso ? (transport.version === 4 ? 1 : 2) : 0;
    const flags = isGso ? 4 | 8 | (gsoType << 4) | (gsoSize << 16) : 0;
    expectSame('the outcome', this.#world.send(frame, flags), WriteOutcome.accepted);
    const requests = this.#world.rings.tx.take();
    expectSame('slots of a frame', requests.length, slots);
    this.#checkRequests(requests, frame, isGso ? { gsoType, gsoSize } : undefined);
    count(isGso ? 'sent with GSO' : 'sent');
  }

  /** The slots of one frame say where it is, and its pages hold nothing but it. */
  #checkRequests(
    requests: readonly (readonly number[])[],
    frame: Uint8Array,
    gso: { gsoType: number; gsoSize: number } | undefined,
  ): void {
    const rest = [...requests];
    const parts: Uint8Array[] = [];
    for (let part = 0; rest.length > 0; part += 1) {
      const [gref = 0, second = 0, third = 0] = rest.shift() ?? [];
      const [offset, flags, id, size] = [
        second & 0xffff,
        second >>> 16,
        third & 0xffff,
        third >>> 16,
      ];
      const isFirst = part === 0;
      this.#outstanding.push({ id, isExtra: false, isFirst });
      if (isFirst && gso !== undefined) {
        const [head = 0, tail = 0] = rest.shift() ?? [];
        expectSame(
          'the extra',
          [head & 0xffff, head >>> 16, tail & 0xff],
          [1, gso.gsoSize, gso.gsoType],
        );
        this.#outstanding.push({ id: -1, isExtra: true, isFirst: false });
      }
      const bytes = Math.min(PAGE - offset, frame.length - part * PAGE);
      const expected =
        (rest.length > 0 ? MORE_DATA : 0) |
        (isFirst && gso !== undefined ? EXTRA_INFO | CSUM_BLANK | DATA_VALIDATED : 0);
      expectSame('the flags of a slot', flags, expected);
      expectSame('the size in a slot', size, isFirst ? frame.length : bytes);
      const page = this.#world.readPage(gref);
      parts.push(page.slice(offset, offset + bytes));
      const others = [...page.slice(0, offset), ...page.slice(offset + bytes)];
      if (others.some((byte) => byte !== 0)) throw new Error('A page shows more than the frame.');
    }
    expectBytes('the frame on the ring', Buffer.concat(parts), frame);
  }

  async #answer(
    { count: wanted, from, status, wrong }: NetfrontStep & { op: 'answer' },
    count: Count,
  ): Promise<boolean> {
    const { backend, rings } = this.#world;
    const start = this.#outstanding.length === 0 ? 0 : from % this.#outstanding.length;
    const answered = this.#outstanding.splice(start, wanted);
    const words = answered.map(({ id, isExtra }) =>
      txAnswer(Math.max(0, id), isExtra ? NULL : status),
    );
    // More answers than requests would be an overflow, which is a step of its own.
    const kill = this.#outstanding.length > 0 ? this.#addWrong(words, answered, wrong) : undefined;
    rings.tx.push(words);
    backend.notify();
    if (status < 0) this.#txDrops += answered.filter(({ isFirst }) => isFirst).length;
    if (kill !== undefined) {
      await this.#expectKill(kill, count);
      return true;
    }
    await turn();
    await turn();
    expectSame('the backend is not cut off', this.#world.killed, undefined);
    return false;
  }

  /** Adds an answer that nothing asked for; returns why it must be the end. */
  #addWrong(
    words: Words[],
    answered: readonly Outstanding[],
    wrong: 'no' | 'twice' | 'unknown' | 'extra',
  ): string | undefined {
    const known = answered.find(({ isExtra }) => !isExtra);
    const extras = this.#outstanding.some(({ isExtra }) => isExtra);
    if (wrong === 'twice' && known !== undefined) words.push(txAnswer(known.id, 0));
    else if (wrong === 'unknown') words.push(txAnswer(300 + words.length, 0));
    else if (wrong === 'extra' && !extras) words.push(txAnswer(0, NULL));
    else return undefined;
    return wrong === 'extra' ? 'RESPONSE_UNEXPECTED' : 'RESPONSE_ID_INVALID';
  }

  async #lie({ ring, ahead }: NetfrontStep & { op: 'lie' }, count: Count): Promise<boolean> {
    const half = this.#world.rings[ring];
    half.claim((half.reqProd + 1 + (ahead % 0x7fffff00)) >>> 0);
    this.#world.backend.notify();
    await this.#expectKill('RING_OVERFLOW', count);
    return true;
  }

  async #expectKill(reason: string, count: Count): Promise<void> {
    await spin(`the backend is cut off for ${reason}`, () => this.#world.killed !== undefined);
    expectSame('the reason', this.#world.killed, reason);
    count(`K ${reason}`);
  }
}

function wordsOf({ id, offset, flags, status, extra }: Response, index: number): Words {
  if (extra !== undefined) {
    const byte = (at: number) => (extra[at] ?? 0) << ((at % 4) * 8);
    return [
      (byte(0) | byte(1) | byte(2) | byte(3)) >>> 0,
      (byte(4) | byte(5) | byte(6) | byte(7)) >>> 0,
    ];
  }
  const right = (index + id) & 0xffff;
  return [(right | (offset << 16)) >>> 0, ((flags & 0xffff) | ((status & 0xffff) << 16)) >>> 0];
}

function bytesOf(words: Words): Uint8Array {
  const bytes = new Uint8Array(words.length * 4);
  const view = new DataView(bytes.buffer);
  for (const [index, word] of words.entries()) view.setUint32(index * 4, word, true);
  return bytes;
}

function* smallerNetfrontCases(fuzzCase: NetfrontCase): Iterable<NetfrontCase> {
  for (const steps of shorter(fuzzCase.steps)) yield { ...fuzzCase, steps };
  for (const [index, step] of fuzzCase.steps.entries()) {
    if (step.op !== 'receive') continue;
    for (const responses of shorter(step.responses)) {
      yield { ...fuzzCase, steps: fuzzCase.steps.with(index, { ...step, responses }) };
    }
  }
  if (fuzzCase.split) yield { ...fuzzCase, split: false };
}

/**
 * The TX ring as a target: chains of slots that are mostly right, with a few things wrong, against
 * the model of model.ts. After each burst every slot that the model answers has been answered
 * exactly so, and no other; the frames are those the model sends; no byte outside has changed.
 */
import type { Page } from '../../src/xen/page.js';
import type { HostileQueue, RingKind } from '../hostile/guest.js';
import { PADDING, REQ_EVENT, RSP_EVENT, RSP_PROD, SLOTS, type Words } from '../hostile/raw-ring.js';
import { type Count, shorter, spin, type Target, turn } from './engine.js';
import { TxModel, type TxVerdict } from './model.js';
import { composeFrame, type FrameSpec } from './packets.js';
import { expectBytes, expectSame, PAGE, rewriteSlots, World } from './world.js';

/** How a page of the guest's is granted. */
export const GRANTS = ['write', 'read', 'foreign', 'revoked'] as const;
export type GrantKind = (typeof GRANTS)[number];

/** A slot; `page` names a page of the case, `gref` any reference. */
export type SlotSpec =
  | {
      readonly page?: number;
      readonly gref?: number;
      readonly offset: number;
      readonly flags: number;
      readonly id: number;
      readonly size: number;
    }
  | { readonly extra: number; readonly flags: number; readonly content: readonly number[] };

export interface TxBurst {
  readonly slots: readonly SlotSpec[];
  /** Added to the producer that would be right. */
  readonly ahead: number;
  /** `asked`: as ring.h has it; `always`; `late`: only with the next burst that notifies. */
  readonly notify: 'asked' | 'always' | 'late';
}

export interface TxCase {
  readonly start: number;
  readonly split: boolean;
  /** Slots are rewritten as soon as they were read. */
  readonly rewrites?: boolean;
  /** Every so many copies fail for a reason of Xen's own; 0 for none. */
  readonly copyFaults?: number;
  readonly pages: readonly TxPageSpec[];
  readonly bursts: readonly TxBurst[];
}

/** A page: the piece of a frame from `from` on, and a pattern behind it. */
export interface TxPageSpec {
  readonly grant: GrantKind;
  readonly frame: FrameSpec;
  readonly from: number;
}

interface GuestPage {
  readonly page: Page;
  readonly ref: number;
  readonly grant: GrantKind;
}

/** The target for cases of a generator. */
export function txTarget(
  name: string,
  outcomes: readonly string[],
  generate: Target<World, TxCase>['generate'],
): Target<World, TxCase> {
  return {
    name,
    outcomes,
    casesForAll: 400,
    open: () => World.open(),
    close: (world, broken) => world.close(broken),
    generate,
    run: runTxCase,
    smaller: smallerTxCases,
  };
}

async function runTxCase(world: World, fuzzCase: TxCase, count: Count): Promise<void> {
  const { rewrites, split, start } = fuzzCase;
  const watch = (page: Page, kind: RingKind) => rewriteSlots(page, kind, 'tx');
  await world.connect({ start, split, ...(rewrites === true ? { watch } : {}) });
  const run = new TxRun(world, fuzzCase);
  for (const burst of fuzzCase.bursts) {
    const kill = await run.burst(burst, count);
    if (kill !== undefined) {
      count(`K ${kill}`);
      break;
    }
  }
  await run.finish();
  await world.disconnect();
  count('cases');
}

class TxRun {
  readonly #world: World;
  readonly #queue: HostileQueue;
  readonly #pages: readonly GuestPage[];
  readonly #model: TxModel;
  readonly #rewrites: boolean;
  readonly #copyFaults: number;
  #copies = 0;
  /** The ring page as the backend must leave it. */
  readonly #expected: Uint8Array;
  /** Requests written and not answered yet, by index. */
  #from: number;
  #to: number;
  #frames = 0;
  /** An event that ring.h asks for was held back. */
  #owed = false;
  #refused = new Map<string, number>();

  constructor(world: World, { copyFaults = 0, pages, rewrites, start }: TxCase) {
    this.#world = world;
    this.#copyFaults = copyFaults;
    world.machine.hypervisor.failEvery(copyFaults === 0 ? {} : { grantCopy: copyFaults });
    this.#rewrites = rewrites === true;
    this.#queue = world.guest.queue;
    this.#pages = pages.map((spec) => makePage(world, spec));
    // Only now, for a reference that was given back is the first to be given out again.
    for (const { grant, ref } of this.#pages) {
      if (grant === 'revoked') world.guest.domain.raw.revoke(ref);
    }
    this.#model = new TxModel((gref, offset, length) => this.#read(gref, offset, length));
    this.#expected = this.#queue.tx.page.bytes.slice();
    this.#from = start >>> 0;
    this.#to = start >>> 0;
    world.guard('the RX ring', this.#queue.rx.page);
  }

  /** Sends a burst and compares. Returns why the vif must have stopped, if it must. */
  async burst({ slots, ahead, notify }: TxBurst, count: Count): Promise<string | undefined> {
    const { tx, txChannel } = this.#queue;
    for (const slot of slots) {
      this.#put(this.#to, slot);
      this.#to = (this.#to + 1) >>> 0;
    }
    this.#to = (this.#to + ahead) >>> 0;
    const old = tx.reqProd;
    tx.claim(this.#to);
    this.#expect32(0, this.#to);
    count(`notify ${notify}`);
    this.#owed ||= (this.#to - tx.index(REQ_EVENT)) >>> 0 < (this.#to - old) >>> 0;
    if (notify === 'late') return undefined;
    // A producer that is wrong gives an event by no rule: so shout.
    if (notify === 'always' || this.#owed || ahead !== 0) txChannel.notify();
    this.#owed = false;
    return await this.#compare(count);
  }

  /** What was put without an event is still judged, after one. */
  async finish(): Promise<void> {
    const world = this.#world;
    if (world.connected && this.#from !== this.#to) {
      this.#queue.txChannel.notify();
      await this.#compare(() => undefined);
    }
    world.machine.hypervisor.failEvery({});
    const drops = [...world.drops('tx').values()].reduce((sum, packets) => sum + packets, 0);
    const refused = [...this.#refused.values()].reduce((sum, packets) => sum + packets, 0);
    expectSame('packets that were dropped', drops, refused);
    if (world.connected) {
      expectSame('packets that were counted', world.device.metrics.tx.packets, this.#frames);
    }
  }

  async #compare(count: Count): Promise<string | undefined> {
    const world = this.#world;
    const { tx } = this.#queue;
    const events = this.#queue.txEvents;
    const claimed = (this.#to - this.#from) >>> 0;
    const waiting = Array.from({ length: Math.min(claimed, tx.slots) }, (_, index) => {
      const at = tx.at((this.#from + index) >>> 0);
      return tx.page.bytes.slice(at, at + 12);
    });
    const verdict = this.#model.judge(waiting, claimed, tx.slots);
    const answered = (this.#from + verdict.answers.length) >>> 0;
    const { kill } = verdict;
    await spin(`${verdict.answers.length} answers, and ${kill ?? 'no kill'}`, () => {
      if (world.killed !== kill) {
        if (world.killed !== undefined) throw new Error(`The vif stopped for ${world.killed}.`);
        return false;
      }
      return tx.index(RSP_PROD) === answered;
    });
    await turn();
    this.#tally(verdict, count);
    this.#checkRing(verdict, answered);
    this.#checkFrames(verdict);
    world.checkGuards();
    if (verdict.answers.length > 0) {
      await spin('the event that was asked for', () => this.#queue.txEvents > events);
    }
    this.#queue.takeTx();
    this.#expect32(RSP_EVENT, tx.rspCons + 1);
    this.#from = answered;
    if (kill !== undefined) {
      expectSame('the reason of the kill', world.killed, kill);
      world.checkNothingHeld();
      this.#from = this.#to;
    }
    return kill;
  }

  /** Each answer in its slot, all of the slot written; every other byte as it was. */
  #checkRing({ answers, kill }: TxVerdict, answered: number): void {
    const { tx } = this.#queue;
    const expected = new DataView(this.#expected.buffer);
    for (const [index, { id, status }] of answers.entries()) {
      const at = tx.at((this.#from + index) >>> 0);
      // An extra has no id; what stands in its answer's place means nothing.
      expected.setUint16(at, id ?? tx.page.readU16(at), true);
      expected.setInt16(at + 2, status, true);
      expected.setUint32(at + 4, 0, true);
      expected.setUint32(at + 8, 0, true);
    }
    // What was read of a packet that stopped the vif, the guest itself has rewritten.
    if (kill !== undefined && this.#rewrites) {
      this.#expected.set(tx.page.bytes.subarray(64), 64);
      for (const [index, { status }] of answers.entries()) {
        expected.setInt16(tx.at((this.#from + index) >>> 0) + 2, status, true);
      }
    }
    this.#expect32(RSP_PROD, answered);
    // When the backend wants to hear again is its own affair.
    this.#expect32(REQ_EVENT, tx.index(REQ_EVENT));
    // The padding behind the indices is the backend's own: src/ring/answer-log.ts.
    for (let at = PADDING; at < SLOTS; at += 4) this.#expect32(at, tx.page.readU32(at));
    if (kill === undefined && this.#rewrites) this.#expectOwnScribble(answered);
    expectBytes('the TX ring', tx.page.bytes, this.#expected);
  }

  /** What is read and not answered, for the ring is given up before, has been rewritten by the guest. */
  #expectOwnScribble(answered: number): void {
    const { tx } = this.#queue;
    for (let index = answered >>> 0; index !== this.#to; index = (index + 1) >>> 0) {
      const slot = 64 + (index % 256) * 12;
      for (let at = slot; at < slot + 12; at += 1) {
        if (tx.page.bytes[at] === 0xff) this.#expected[at] = 0xff;
      }
    }
  }

  #checkFrames({ frames }: TxVerdict): void {
    const { taken } = this.#world;
    expectSame('the number of frames', taken.length, frames.length);
    for (const [index, frame] of frames.entries()) {
      const { bytes, flags } = taken[index] as (typeof taken)[number];
      expectBytes(`frame ${index}`, bytes, frame.bytes);
      const actual = [
        flags & 3,
        (flags >> 2) & 1,
        (flags >> 3) & 1,
        (flags >> 4) & 3,
        flags >>> 16,
      ];
      const { checksumBlank, validated, gsoType, gsoSize } = frame;
      const expected = [1, Number(checksumBlank), Number(validated), gsoType, gsoSize];
      expectSame(`the flags of frame ${index}`, actual, expected);
    }
    this.#frames += frames.length;
    taken.length = 0;
  }

  #tally({ fates, frames, answers }: TxVerdict, count: Count): void {
    for (const fate of fates) {
      count(fate);
      if (fate === 'sent' || fate === 'multicast') continue;
      this.#refused.set(fate, (this.#refused.get(fate) ?? 0) + 1);
    }
    count('frames', frames.length);
    count('slots', answers.length);
    if (frames.some(({ gsoType }) => gsoType !== 0)) count('sent with GSO');
    if (frames.some(({ checksumBlank }) => checksumBlank)) count('sent with a blank checksum');
  }

  #put(index: number, slot: SlotSpec): void {
    const words = this.#words(slot);
    const { tx } = this.#queue;
    tx.put(index, words);
    for (const [position, word] of words.entries())
      this.#expect32(tx.at(index) + position * 4, word);
  }

  #words(slot: SlotSpec): Words {
    if ('extra' in slot) {
      const byte = (index: number) => slot.content[index] ?? 0;
      return [
        slot.extra | (slot.flags << 8) | (byte(0) << 16) | (byte(1) << 24),
        byte(2) | (byte(3) << 8) | (byte(4) << 16) | (byte(5) << 24),
        0,
      ];
    }
    const gref = slot.page === undefined ? (slot.gref ?? 0) : (this.#pages[slot.page]?.ref ?? 0);
    return [gref, slot.offset | (slot.flags << 16), slot.id | (slot.size << 16)];
  }

  #expect32(offset: number, value: number): void {
    new DataView(this.#expected.buffer).setUint32(offset, value >>> 0, true);
  }

  /** What the backend may read through a reference. */
  #read(gref: number, offset: number, length: number): Uint8Array | undefined {
    const found = this.#pages.find(({ ref }) => ref === gref);
    if (found === undefined || found.grant === 'foreign' || found.grant === 'revoked') {
      return undefined;
    }
    this.#copies += 1;
    if (this.#copyFaults > 0 && this.#copies % this.#copyFaults === 0) return undefined;
    return found.page.bytes.slice(offset, offset + length);
  }
}

function makePage(world: World, { grant, frame, from }: TxPageSpec): GuestPage {
  const { guest } = world;
  const page = guest.domain.raw.allocatePage();
  for (let index = 0; index < PAGE; index += 1) page.bytes[index] = (from + index * 13) >> 2;
  page.bytes.set(composeFrame(frame).subarray(from, from + PAGE));
  const ref = guest.grant(page, grant === 'read' ? 'read' : 'write', grant === 'foreign' ? 7 : 0);
  world.guard('a page that was sent from', page);
  if (ref % 4 === 0) world.guardMemory();
  return { page, ref, grant };
}

function* smallerTxCases(fuzzCase: TxCase): Iterable<TxCase> {
  for (const bursts of shorter(fuzzCase.bursts)) yield { ...fuzzCase, bursts };
  for (const [index, burst] of fuzzCase.bursts.entries()) {
    for (const slots of shorter(burst.slots)) {
      const bursts = fuzzCase.bursts.with(index, { ...burst, slots });
      yield { ...fuzzCase, bursts };
    }
  }
  if (fuzzCase.start !== 0) yield { ...fuzzCase, start: 0 };
  if (fuzzCase.split) yield { ...fuzzCase, split: false };
  if (fuzzCase.rewrites) yield { ...fuzzCase, rewrites: false };
  if (fuzzCase.copyFaults) yield { ...fuzzCase, copyFaults: 0 };
}

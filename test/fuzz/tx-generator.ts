/** Cases for the TX ring: packets as a guest sends them, and now and then something wrong. */
import type { SeededRandom } from '../support/random.js';
import { once, pick } from './engine.js';
import { transportOf } from './model-packet.js';
import { composeFrame, type FrameSpec, generateFrame } from './packets.js';
import type { GrantKind, SlotSpec, TxBurst, TxCase, TxPageSpec } from './tx-target.js';
import { PAGE } from './world.js';

const CSUM_BLANK = 1;
const DATA_VALIDATED = 2;
const MORE_DATA = 4;
const EXTRA_INFO = 8;
const RING = 256;

/** How a generator leans: out of how many packets or bursts one is so. */
export interface TxLeaning {
  /** Packets with extras. */
  readonly extras: number;
  /** Bursts with a mutation. */
  readonly mutations: number;
  /** Bursts whose producer lies. */
  readonly producers: number;
}

/** A frame and where its pieces lie. */
interface Source {
  readonly frame: FrameSpec;
  readonly length: number;
  readonly firstPage: number;
  /** There is a TCP segment or UDP datagram in it. */
  readonly hasTransport: boolean;
}

export function generateTxCase(random: SeededRandom, leaning: TxLeaning): TxCase {
  const pages: TxPageSpec[] = [];
  const sources = Array.from({ length: 2 + random.below(4) }, () => addSource(random, pages));
  const bursts: TxBurst[] = [];
  const count = 1 + random.below(30);
  let waiting = 0;
  if (once(random, leaning.extras * 8)) bursts.push(fillFilter(random));
  for (let index = 0; index < count; index += 1) {
    const burst = generateBurst(random, leaning, sources, RING - waiting);
    bursts.push(burst);
    waiting = burst.notify === 'late' ? waiting + burst.slots.length : 0;
  }
  const start = pick(random, [0, 0, 0xffffff80, 0xffffffff, 0x7fffff80, random.u32()]);
  const copyFaults = once(random, 6) ? 2 + random.below(40) : 0;
  return { start, split: once(random, 2), rewrites: once(random, 3), copyFaults, pages, bursts };
}

function addSource(random: SeededRandom, pages: TxPageSpec[]): Source {
  const lengthMax = pick(random, [60, 1514, 1514, 1514, 4096, 9014, 60_000]);
  const frame = generateFrame(random, lengthMax);
  const bytes = composeFrame(frame);
  const { length } = bytes;
  const firstPage = pages.length;
  for (let from = 0; from < length; from += PAGE) {
    const grant: GrantKind = once(random, 20)
      ? pick(random, ['foreign', 'revoked'])
      : pick(random, ['write', 'write', 'read']);
    pages.push({ grant, frame, from });
  }
  return { frame, length, firstPage, hasTransport: transportOf(bytes) !== undefined };
}

function generateBurst(
  random: SeededRandom,
  leaning: TxLeaning,
  sources: readonly Source[],
  room: number,
): TxBurst {
  const slots: SlotSpec[] = [];
  const packets = once(random, 12) ? 100 : 1 + random.below(8);
  for (let index = 0; index < packets; index += 1) {
    const packet = generatePacket(random, leaning, pick(random, sources));
    if (slots.length + packet.length > room) break;
    slots.push(...packet);
  }
  if (once(random, leaning.mutations)) {
    for (let times = 1 + random.below(2); times > 0; times -= 1) mutate(random, slots);
  }
  const lies = [-1, 1, -2, RING, 1000, 0x7fffffff, -0x80000000];
  const ahead = once(random, leaning.producers) ? pick(random, lies) : 0;
  const notify = pick(random, ['asked', 'asked', 'asked', 'always', 'late'] as const);
  return { slots, ahead, notify };
}

/** A packet: a head, extras, and its pieces in ring order. */
function generatePacket(random: SeededRandom, leaning: TxLeaning, source: Source): SlotSpec[] {
  if (once(random, leaning.extras * 3)) return multicastWish(random);
  const { frame, length, firstPage } = source;
  const cuts = cutsOf(random, length);
  const isTcp = source.hasTransport && frame.kind.startsWith('tcp');
  let flags = 0;
  if (once(random, source.hasTransport ? 2 : 20)) flags |= CSUM_BLANK;
  if (once(random, 4)) flags |= DATA_VALIDATED;
  const hasExtras = once(random, isTcp ? leaning.extras : leaning.extras * 10);
  const id = () => random.below(0x10000);
  const pieces: SlotSpec[] = [];
  for (const [index, start] of cuts.entries()) {
    const end = cuts[index + 1] ?? length;
    const more = index + 1 < cuts.length ? MORE_DATA : 0;
    const isHead = index === 0;
    pieces.push({
      page: firstPage + Math.floor(start / PAGE),
      offset: start % PAGE,
      flags: more | (isHead ? flags | (hasExtras ? EXTRA_INFO : 0) : 0),
      id: id(),
      // The first slot has the size of the whole packet, the others their own.
      size: isHead ? length : end - start,
    });
  }
  if (!hasExtras) return pieces;
  return [...pieces.slice(0, 1), ...generateExtras(random, frame), ...pieces.slice(1)];
}

/** Where the slots of a frame begin: at each page, and at some places between. */
function cutsOf(random: SeededRandom, length: number): number[] {
  const cuts = new Set([0]);
  for (let page = PAGE; page < length; page += PAGE) cuts.add(page);
  const more = once(random, 3) ? random.below(once(random, 20) ? 24 : 6) : 0;
  for (let index = 0; index < more; index += 1) {
    const cut = 14 + random.below(Math.max(1, length - 14));
    if (cut < length) cuts.add(cut);
  }
  return [...cuts].sort((a, b) => a - b);
}

function generateExtras(random: SeededRandom, frame: FrameSpec): SlotSpec[] {
  const count = once(random, 4) ? 2 + random.below(4) : 1;
  return Array.from({ length: count }, (_, index) => {
    const flags = index + 1 < count ? 1 : 0;
    if (once(random, 5)) return { extra: 4, flags, content: [1, 1, 9, 9, 9, 9] };
    const right = frame.kind.endsWith('6') ? 2 : 1;
    const type = once(random, 40) ? pick(random, [0, 1, 2, 3, 255]) : right;
    const size = once(random, 80) ? 0 : pick(random, [1, 100, 536, 1448, 9000, 65535]);
    return { extra: 1, flags, content: [size & 0xff, size >> 8, type, 0, 0, 0] };
  });
}

/** Nearly as many additions to the multicast filter as it takes, or a few more. */
function fillFilter(random: SeededRandom): TxBurst {
  const slots: SlotSpec[] = [];
  for (let address = 60 + random.below(8); address > 0; address -= 1) {
    const head = { gref: 0, offset: 0, flags: EXTRA_INFO, id: address, size: 0 };
    slots.push(head, { extra: 2, flags: 0, content: [1, 0, 0x5e, 0, 1, address] });
  }
  return { slots, ahead: 0, notify: 'asked' };
}

/** A request that carries nothing but an addition to the multicast filter, or a deletion. */
function multicastWish(random: SeededRandom): SlotSpec[] {
  const type = once(random, 5) ? 3 : 2;
  const content = [1, 0, 0x5e, 0, 0, random.below(80)];
  const both = once(random, 10);
  const wish = { extra: type, flags: both ? 1 : 0, content };
  const second = { extra: type === 2 ? 3 : 2, flags: 0, content };
  const flags = EXTRA_INFO | (once(random, 10) ? MORE_DATA : 0);
  const head = { gref: 0, offset: 0, flags, id: random.below(0x10000), size: 0 };
  return both ? [head, wish, second] : [head, wish];
}

const ODD_SIZES = [0, 1, 13, 14, 4095, 4096, 4097, 0x8000, 0xffff];
/** References below 8 are reserved, and none of a case's is so high as the others. */
const ODD_REFS = [0, 1, 7, 100_000, 0x7fffffff, 0xffffffff];

/** Changes one thing in place. */
function mutate(random: SeededRandom, slots: SlotSpec[]): void {
  if (slots.length === 0) return;
  const at = random.below(slots.length);
  const slot = slots[at] as SlotSpec;
  switch (random.below(9)) {
    case 0:
      slots.splice(at, 1);
      return;
    case 1:
      slots.splice(at, 0, slot);
      return;
    case 2:
      slots.splice(at, 0, { extra: random.below(7), flags: random.below(4), content: [1, 2, 3] });
      return;
    case 3:
      slots.splice(at + 1);
      return;
    case 4: {
      const empty = { gref: 0, offset: 0, flags: MORE_DATA, id: 1, size: 0 };
      slots.splice(at + 1, 0, ...Array.from({ length: 1 + random.below(24) }, () => empty));
      return;
    }
    default:
      slots[at] = mutateField(random, slot);
  }
}

function mutateField(random: SeededRandom, slot: SlotSpec): SlotSpec {
  if ('extra' in slot) {
    return once(random, 2)
      ? { ...slot, extra: pick(random, [0, 1, 2, 3, 4, 5, 200]) }
      : { ...slot, flags: slot.flags ^ (1 << random.below(3)) };
  }
  switch (random.below(5)) {
    case 0:
      return { ...slot, flags: slot.flags ^ (1 << random.below(5)) };
    case 1:
      return { ...slot, offset: pick(random, [...ODD_SIZES, slot.offset + 1]) & 0xffff };
    case 2:
      return { ...slot, size: pick(random, [...ODD_SIZES, slot.size + 1, slot.size - 1]) & 0xffff };
    case 3: {
      const { offset, flags, id, size } = slot;
      return { gref: pick(random, ODD_REFS), offset, flags, id, size };
    }
    default:
      return { ...slot, id: random.below(0x10000) };
  }
}

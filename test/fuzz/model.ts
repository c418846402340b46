/**
 * What a backend must make of a guest's TX ring, written straight from xen/io/netif.h, slowly and
 * simply, with nothing in common with src: the second opinion of the fuzzing. Where netif.h leaves
 * it open, Linux's netback decides (drivers/net/xen-netback/netback.c).
 */

import { transportOf } from './model-packet.js';

/** A slot of 12 bytes as a request, and as an extra. */
interface TxSlot {
  readonly gref: number;
  readonly offset: number;
  readonly flags: number;
  readonly id: number;
  readonly size: number;
  readonly extraType: number;
  readonly extraFlags: number;
  readonly gsoSize: number;
  readonly gsoType: number;
  /** The six bytes of a multicast address. */
  readonly address: string;
}

export interface ModelAnswer {
  /** The id to echo; undefined where an extra stood, which has none. */
  readonly id: number | undefined;
  readonly status: number;
}

export interface ModelFrame {
  readonly bytes: Uint8Array;
  readonly checksumBlank: boolean;
  readonly validated: boolean;
  readonly gsoType: number;
  readonly gsoSize: number;
}

/** What became of a packet: `sent`, or why it was not. */
export type PacketFate =
  | 'sent'
  | 'too short'
  | 'too many fragments'
  | 'fragments exceed total'
  | 'bad grant'
  | 'checksum nowhere'
  | 'multicast'
  | 'multicast list full';

export interface TxVerdict {
  readonly answers: readonly ModelAnswer[];
  readonly frames: readonly ModelFrame[];
  readonly fates: readonly PacketFate[];
  /** Why the vif must stop, after what stood before was answered. */
  readonly kill: string | undefined;
}

const PAGE = 4096;
const CSUM_BLANK = 1;
const DATA_VALIDATED = 2;
const MORE_DATA = 4;
const EXTRA_INFO = 8;
const MULTICAST_MAX = 64;
const OKAY = 0;
const ERROR = -1;
const DROPPED = -2;
const NULL = 1;

class Kill {
  readonly reason: string;
  constructor(reason: string) {
    this.reason = reason;
  }
}

function parseSlot(slot: Uint8Array): TxSlot {
  const view = new DataView(slot.buffer, slot.byteOffset, 12);
  return {
    gref: view.getUint32(0, true),
    offset: view.getUint16(4, true),
    flags: view.getUint16(6, true),
    id: view.getUint16(8, true),
    size: view.getUint16(10, true),
    extraType: view.getUint8(0),
    extraFlags: view.getUint8(1),
    gsoSize: view.getUint16(2, true),
    gsoType: view.getUint8(4),
    address: [...slot.subarray(2, 8)].join(':'),
  };
}

/** Reads through a grant; undefined where the grant does not allow it. */
export type ReadGrant = (gref: number, offset: number, length: number) => Uint8Array | undefined;

interface Packet {
  readonly slots: number;
  readonly answers: readonly ModelAnswer[];
  readonly fate: PacketFate;
  readonly frame: ModelFrame | undefined;
}

/** The TX side of a vif: what the guest may send, and the little that is remembered between. */
export class TxModel {
  /** Multicast addresses that the guest has asked for. */
  readonly multicast = new Set<string>();
  readonly #readGrant: ReadGrant;

  constructor(readGrant: ReadGrant) {
    this.#readGrant = readGrant;
  }

  /** Judges all slots that wait on the ring; `claimed` is how many the producer says there are. */
  judge(slots: readonly Uint8Array[], claimed: number, ringSize: number): TxVerdict {
    const answers: ModelAnswer[] = [];
    const frames: ModelFrame[] = [];
    const fates: PacketFate[] = [];
    if (claimed > ringSize) return { answers, frames, fates, kill: 'RING_OVERFLOW' };
    const parsed = slots.slice(0, claimed).map(parseSlot);
    let next = 0;
    while (next < parsed.length) {
      try {
        const packet = this.#packet(parsed.slice(next));
        next += packet.slots;
        answers.push(...packet.answers);
        fates.push(packet.fate);
        if (packet.frame !== undefined) frames.push(packet.frame);
      } catch (error) {
        if (!(error instanceof Kill)) throw error;
        return { answers, frames, fates, kill: error.reason };
      }
    }
    return { answers, frames, fates, kill: undefined };
  }

  /** The packet at the front of `slots`. */
  #packet(slots: readonly TxSlot[]): Packet {
    const head = slots[0] as TxSlot;
    const extras = extrasOf(head, slots);
    let gsoType = 0;
    let gsoSize = 0;
    for (const extra of extras) {
      if (extra.extraType !== 1) continue;
      gsoType = extra.gsoType;
      gsoSize = extra.gsoSize;
    }
    const added = extras.findLast(({ extraType }) => extraType === 2);
    const deleted = extras.findLast(({ extraType }) => extraType === 3);
    if (added !== undefined || deleted !== undefined)
      return this.#amend(head, extras, added, deleted);
    const hasGso = extras.some(({ extraType }) => extraType === 1);
    if (hasGso && (gsoSize === 0 || (gsoType !== 1 && gsoType !== 2)))
      throw new Kill('GSO_INVALID');

    const fragments = fragmentsOf(head, slots, 1 + extras.length);
    const count = 1 + extras.length + fragments.length;
    const answer = (status: number): ModelAnswer[] => [
      { id: head.id, status },
      ...extras.map(() => ({ id: undefined, status: NULL })),
      ...fragments.map(({ id }) => ({ id, status })),
    ];
    const refuse = (fate: PacketFate, status = ERROR): Packet => {
      return { slots: count, answers: answer(status), fate, frame: undefined };
    };

    const inFragments = fragments.reduce((sum, { size }) => sum + size, 0);
    const headBytes = head.size - inFragments;
    if (headBytes < 0) return refuse('fragments exceed total');
    if (fragments.length > 18) return refuse('too many fragments');
    if (headBytes < 14) return refuse('too short');
    if (head.offset + headBytes > PAGE) throw new Kill('HEAD_CROSSES_PAGE');

    const pieces = [{ ...head, size: headBytes }, ...fragments].filter(({ size }) => size > 0);
    // All are read, whatever becomes of the first: that is what a batch of copies does.
    const parts = pieces.map(({ gref, offset, size }) => this.#readGrant(gref, offset, size));
    const whole = parts.filter((part) => part !== undefined);
    if (whole.length < parts.length) return refuse('bad grant');
    const bytes = concat(whole);
    // What is to be cut into segments has no checksum that could be right.
    const checksumBlank = hasGso || (head.flags & CSUM_BLANK) !== 0;
    const validated = checksumBlank || (head.flags & DATA_VALIDATED) !== 0;
    const transport = transportOf(bytes);
    if (checksumBlank && transport === undefined) return refuse('checksum nowhere', DROPPED);
    if (hasGso && (transport?.protocol !== 6 || transport.version !== (gsoType === 1 ? 4 : 6))) {
      return refuse('checksum nowhere', DROPPED);
    }
    const isOneSegment = transport === undefined || transport.payloadBytes <= gsoSize;
    const gso = isOneSegment ? { gsoType: 0, gsoSize: 0 } : { gsoType, gsoSize };
    return {
      slots: count,
      answers: answer(OKAY),
      fate: 'sent',
      frame: { bytes, checksumBlank, validated, ...gso },
    };
  }

  /** A request that only carries a wish about the multicast filter; an addition comes first. */
  #amend(
    head: TxSlot,
    extras: readonly TxSlot[],
    added: TxSlot | undefined,
    deleted: TxSlot | undefined,
  ): Packet {
    let fate: PacketFate = 'multicast';
    if (added !== undefined) {
      const isNew = !this.multicast.has(added.address);
      if (isNew && this.multicast.size >= MULTICAST_MAX) fate = 'multicast list full';
      else this.multicast.add(added.address);
    } else if (deleted !== undefined) {
      this.multicast.delete(deleted.address);
    }
    const status = fate === 'multicast' ? OKAY : ERROR;
    const answers = [
      { id: head.id, status },
      ...extras.map(() => ({ id: undefined, status: NULL })),
    ];
    return { slots: answers.length, answers, fate, frame: undefined };
  }
}

/** The extras behind a head. */
function extrasOf(head: TxSlot, slots: readonly TxSlot[]): TxSlot[] {
  const extras: TxSlot[] = [];
  let more = (head.flags & EXTRA_INFO) !== 0;
  while (more) {
    const extra = slots[1 + extras.length];
    if (extra === undefined) throw new Kill('EXTRA_MISSING');
    if (extra.extraType === 0 || extra.extraType >= 5) throw new Kill('EXTRA_TYPE_INVALID');
    extras.push(extra);
    more = (extra.extraFlags & 1) !== 0;
  }
  return extras;
}

/** The slots that go on with a packet, from `first` on. */
function fragmentsOf(head: TxSlot, slots: readonly TxSlot[], first: number): TxSlot[] {
  const fragments: TxSlot[] = [];
  let more = (head.flags & MORE_DATA) !== 0;
  while (more) {
    const fragment = slots[first + fragments.length];
    if (fragment === undefined) throw new Kill('CHAIN_TRUNCATED');
    if (fragments.length === 20) throw new Kill('CHAIN_TOO_LONG');
    if (fragment.offset + fragment.size > PAGE) throw new Kill('FRAGMENT_CROSSES_PAGE');
    fragments.push(fragment);
    more = (fragment.flags & MORE_DATA) !== 0;
  }
  return fragments;
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let end = 0;
  for (const part of parts) {
    bytes.set(part, end);
    end += part.length;
  }
  return bytes;
}

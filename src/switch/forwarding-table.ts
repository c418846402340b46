/**
 * What a switch has learnt: which port a MAC address is behind, VLAN by VLAN (the filtering
 * database of IEEE 802.1Q, clause 8.8). Open addressing with linear probing in one typed array,
 * never more than half full; an entry that goes is closed up behind, so that there are no graves.
 *
 * Who fills it is a stranger. A port holds no more than its quota, and the table has room for
 * everybody's, so nobody's entries make way for another's. Where an address falls depends on a
 * secret, and a search is bounded: nobody makes others' searches long by choice of addresses.
 *
 * A slot is four words: VLAN and the address's first two bytes, its last four bytes, the owner, and
 * when it was seen last. An address is given as those two parts everywhere.
 */
import { randomBytes } from 'node:crypto';

/** No port is known for the address. */
export const NO_PORT = -1;

/** What became of an address that was seen. */
export const LearnOutcome = {
  /** It was known at this port. */
  known: 0,
  learnt: 1,
  /** It was known at another port, and is at this one now. */
  moved: 2,
  /** The port holds as many addresses as it may. */
  overQuota: 3,
  /** It belongs to another port, whatever is seen. */
  lockedElsewhere: 4,
  /** There are too many addresses near its place; bad luck, not malice. */
  crowded: 5,
} as const;
export type LearnOutcome = (typeof LearnOutcome)[keyof typeof LearnOutcome];

/** An entry as who lists the table gets it. */
export interface TableEntry {
  readonly vlan: number;
  readonly high: number;
  readonly low: number;
  readonly port: number;
  readonly seenTick: number;
  readonly locked: boolean;
}

const WORDS = 4;
const LOW = 1;
const OWNER = 2;
const SEEN = 3;

/** The owner word: 0 for an empty slot, else the port and one, and this bit for a locked entry. */
const LOCKED = 1 << 30;
const SLOTS_MIN = 256;
/** A table that is half full has no run this long but by design of whoever knows the secret. */
const PROBES_MAX = 128;

export class ForwardingTable {
  readonly #quota: number;
  readonly #ageingTicks: number;
  readonly #seed = randomBytes(4).readInt32LE();
  #slots: Int32Array;
  #mask: number;
  #count = 0;
  #cursor = 0;
  /** Entries that count against each port's quota. */
  #held = new Uint32Array(64);

  /** `ageingTicks` is how long an entry lives unseen, in ticks of the caller's clock. */
  constructor(quota: number, ageingTicks: number) {
    this.#quota = quota;
    this.#ageingTicks = ageingTicks;
    this.#slots = new Int32Array(SLOTS_MIN * WORDS);
    this.#mask = SLOTS_MIN - 1;
  }

  /** Entries, those included that are too old and not swept yet. */
  get size(): number {
    return this.#count;
  }

  get slotCount(): number {
    return this.#mask + 1;
  }

  /** Entries of a port that count against its quota. */
  held(port: number): number {
    return this.#held[port] ?? 0;
  }

  /** Makes room for `entries` at half load, and for counters of ports below `ports`. */
  reserve(entries: number, ports: number): void {
    if (ports > this.#held.length) {
      const held = new Uint32Array(Math.max(ports, this.#held.length * 2));
      held.set(this.#held);
      this.#held = held;
    }
    let slots = this.slotCount;
    while (slots < entries * 2) slots *= 2;
    if (slots > this.slotCount) this.#rebuild(slots);
  }

  /** The port of an address, or `NO_PORT`; what is too old is not known. */
  lookup(vlan: number, high: number, low: number, tick: number): number {
    const slot = this.#find((vlan << 16) | high, low);
    if (slot < 0) return NO_PORT;
    const owner = this.#slots[slot * WORDS + OWNER] as number;
    if (owner < LOCKED && this.#isOld(slot, tick)) return NO_PORT;
    return (owner & ~LOCKED) - 1;
  }

  /** Takes note that the address was seen at `port`. */
  learn(vlan: number, high: number, low: number, port: number, tick: number): LearnOutcome {
    const slots = this.#slots;
    const key = (vlan << 16) | high;
    const slot = this.#find(key, low);
    if (slot < 0) return this.#insert(key, low, port, tick);
    const place = slot * WORDS;
    const owner = slots[place + OWNER] as number;
    if ((owner & ~LOCKED) === port + 1) {
      slots[place + SEEN] = tick;
      return LearnOutcome.known;
    }
    if (owner >= LOCKED) return LearnOutcome.lockedElsewhere;
    if (this.held(port) >= this.#quota) return LearnOutcome.overQuota;
    this.#hold(owner - 1, -1);
    this.#hold(port, 1);
    slots[place + OWNER] = port + 1;
    slots[place + SEEN] = tick;
    return LearnOutcome.moved;
  }

  /**
   * Ties an address to a port until it is unlocked. It does not count against
   * the quota. False where it is another port's already, or where there is no place for it.
   */
  lock(vlan: number, high: number, low: number, port: number, tick: number): boolean {
    const key = (vlan << 16) | high;
    let slot = this.#find(key, low);
    if (slot < 0) slot = this.#place(key, low, tick);
    if (slot < 0) return false;
    const owner = this.#slots[slot * WORDS + OWNER] as number;
    if (owner >= LOCKED) return owner === ((port + 1) | LOCKED);
    if (owner !== 0) this.#hold(owner - 1, -1);
    this.#slots[slot * WORDS + OWNER] = (port + 1) | LOCKED;
    return true;
  }

  /** Forgets an address if it is tied to this port. */
  unlock(vlan: number, high: number, low: number, port: number): void {
    const slot = this.#find((vlan << 16) | high, low);
    if (slot < 0 || this.#slots[slot * WORDS + OWNER] !== ((port + 1) | LOCKED)) return;
    this.#remove(slot);
  }

  /** Forgets every locked entry. */
  unlockAll(): void {
    this.#removeWhere((place) => (this.#slots[place + OWNER] as number) >= LOCKED);
  }

  /** Forgets what was learnt (but no locked entry) at a port, in a VLAN, or both; or all of it. */
  flush(port?: number, vlan?: number): void {
    this.#removeWhere((place) => {
      const owner = this.#slots[place + OWNER] as number;
      if (owner >= LOCKED) return false;
      if (port !== undefined && owner !== port + 1) return false;
      return vlan === undefined || (this.#slots[place] as number) >>> 16 === vlan;
    });
  }

  /** Looks at the next `slots` slots and forgets what is too old in them. */
  sweep(slots: number, tick: number): void {
    const end = Math.min(slots, this.slotCount);
    for (let looked = 0; looked < end; looked += 1) {
      const slot = this.#cursor;
      const owner = this.#slots[slot * WORDS + OWNER] as number;
      // What closes up into the slot is looked at in the next round.
      if (owner !== 0 && owner < LOCKED && this.#isOld(slot, tick)) this.#remove(slot);
      else this.#cursor = (slot + 1) & this.#mask;
    }
  }

  /** Every entry that is not too old. Not for the frame path. */
  entries(tick: number): TableEntry[] {
    const entries: TableEntry[] = [];
    for (let slot = 0; slot <= this.#mask; slot += 1) {
      const place = slot * WORDS;
      const owner = this.#slots[place + OWNER] as number;
      if (owner === 0 || (owner < LOCKED && this.#isOld(slot, tick))) continue;
      const key = this.#slots[place] as number;
      entries.push({
        vlan: key >>> 16,
        high: key & 0xffff,
        low: (this.#slots[place + LOW] as number) >>> 0,
        port: (owner & ~LOCKED) - 1,
        seenTick: this.#slots[place + SEEN] as number,
        locked: owner >= LOCKED,
      });
    }
    return entries;
  }

  #isOld(slot: number, tick: number): boolean {
    return tick - (this.#slots[slot * WORDS + SEEN] as number) >= this.#ageingTicks;
  }

  #hold(port: number, change: number): void {
    this.#held[port] = this.held(port) + change;
  }

  /** Where the address belongs: every bit of it and of the secret counts (MurmurHash3's mixer). */
  #home(key: number, low: number): number {
    let hash = Math.imul(low ^ this.#seed, 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 15) ^ key, 0xc2b2ae35);
    hash = Math.imul(hash ^ (hash >>> 13) ^ this.#seed, 0x85ebca6b);
    return (hash ^ (hash >>> 16)) & this.#mask;
  }

  #find(key: number, low: number): number {
    const slots = this.#slots;
    const mask = this.#mask;
    let slot = this.#home(key, low);
    for (let probe = 0; probe < PROBES_MAX; probe += 1) {
      const place = slot * WORDS;
      if (slots[place + OWNER] === 0) return -1;
      if (slots[place] === key && slots[place + LOW] === (low | 0)) return slot;
      slot = (slot + 1) & mask;
    }
    return -1;
  }

  #insert(key: number, low: number, port: number, tick: number): LearnOutcome {
    if (this.held(port) >= this.#quota) return LearnOutcome.overQuota;
    const slot = this.#place(key, low, tick);
    if (slot < 0) return LearnOutcome.crowded;
    this.#slots[slot * WORDS + OWNER] = port + 1;
    this.#hold(port, 1);
    return LearnOutcome.learnt;
  }

  /** Takes a slot for an address that has none; the caller says whose it is. -1: there is none. */
  #place(key: number, low: number, tick: number): number {
    const slots = this.#slots;
    if (this.#count * 2 >= this.slotCount) return -1;
    let slot = this.#home(key, low);
    for (let probe = 0; probe < PROBES_MAX; probe += 1) {
      const place = slot * WORDS;
      if (slots[place + OWNER] === 0) {
        slots[place] = key;
        slots[place + LOW] = low;
        slots[place + SEEN] = tick;
        this.#count += 1;
        return slot;
      }
      slot = (slot + 1) & this.#mask;
    }
    return -1;
  }

  /** Empties a slot, and moves up those behind it that would not be found any more. */
  #remove(slot: number): void {
    const slots = this.#slots;
    const mask = this.#mask;
    const owner = slots[slot * WORDS + OWNER] as number;
    if (owner < LOCKED) this.#hold(owner - 1, -1);
    this.#count -= 1;
    let hole = slot;
    let next = (slot + 1) & mask;
    while (slots[next * WORDS + OWNER] !== 0) {
      const place = next * WORDS;
      const home = this.#home(slots[place] as number, slots[place + LOW] as number);
      if (((next - home) & mask) >= ((next - hole) & mask)) {
        slots.copyWithin(hole * WORDS, place, place + WORDS);
        hole = next;
      }
      next = (next + 1) & mask;
    }
    slots[hole * WORDS + OWNER] = 0;
  }

  #removeWhere(matches: (place: number) => boolean): void {
    for (let slot = 0; slot <= this.#mask; ) {
      const place = slot * WORDS;
      if (this.#slots[place + OWNER] !== 0 && matches(place)) this.#remove(slot);
      else slot += 1;
    }
  }

  #rebuild(slotCount: number): void {
    const old = this.#slots;
    this.#slots = new Int32Array(slotCount * WORDS);
    this.#mask = slotCount - 1;
    this.#count = 0;
    this.#cursor = 0;
    for (let place = 0; place < old.length; place += WORDS) {
      const owner = old[place + OWNER] as number;
      if (owner === 0) continue;
      const key = old[place] as number;
      const slot = this.#place(key, old[place + LOW] as number, old[place + SEEN] as number);
      if (slot >= 0) this.#slots[slot * WORDS + OWNER] = owner;
      else if (owner < LOCKED) this.#hold(owner - 1, -1);
    }
  }
}

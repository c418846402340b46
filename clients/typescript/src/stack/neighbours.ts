/**
 * Who is where on the wire: IPv4 addresses of neighbours, their MAC addresses, and the packets that
 * wait for one. States after RFC 4861's: incomplete (asked for), reachable (heard of lately), stale
 * (used, and asked about again), failed. One that nothing was sent to for long is forgotten.
 */
import type { Clock } from './clock.js';
import {
  NEIGHBOUR_AGE_MS,
  NEIGHBOUR_QUEUE_BYTES,
  NEIGHBOUR_QUEUE_PACKETS,
  NEIGHBOURS_MAX,
  NEIGHBOURS_PENDING_MAX,
} from './limits.js';
import { MAC_BYTES } from './wire/ethernet.js';

/** How long what was heard is believed without asking, in milliseconds. */
const REACHABLE_MS = 60_000;

/** A packet that waits, with an Ethernet header that lacks its destination. */
export interface WaitingFrame {
  readonly bytes: Uint8Array;
  readonly isBlank: boolean;
  readonly segmentBytes: number;
}

export class Neighbour {
  readonly address: number;
  readonly mac = new Uint8Array(MAC_BYTES);
  /** Whether `mac` may be sent to. */
  isKnown = false;
  /** When it was heard of last. */
  heardMs = 0;
  usedMs = 0;
  /** Requests sent since it was heard of. */
  attempts = 0;
  nextAttemptMs = Number.POSITIVE_INFINITY;
  /** False once the table has forgotten it: whoever holds it looks it up again. */
  isCurrent = true;
  readonly waiting: WaitingFrame[] = [];
  waitingBytes = 0;

  constructor(address: number) {
    this.address = address;
  }

  get isPending(): boolean {
    return this.nextAttemptMs !== Number.POSITIVE_INFINITY;
  }

  isStale(nowMs: number): boolean {
    return nowMs - this.heardMs > REACHABLE_MS;
  }

  /** False where no more may wait. */
  enqueue(frame: WaitingFrame): boolean {
    if (this.waiting.length >= NEIGHBOUR_QUEUE_PACKETS) return false;
    if (this.waitingBytes + frame.bytes.length > NEIGHBOUR_QUEUE_BYTES) return false;
    this.waiting.push(frame);
    this.waitingBytes += frame.bytes.length;
    return true;
  }

  takeWaiting(): WaitingFrame[] {
    this.waitingBytes = 0;
    return this.waiting.splice(0);
  }
}

export class NeighbourTable {
  readonly #clock: Clock;
  readonly #byAddress = new Map<number, Neighbour>();
  #sweptMs = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get size(): number {
    return this.#byAddress.size;
  }

  find(address: number): Neighbour | undefined {
    return this.#byAddress.get(address);
  }

  /** The neighbour at an address, made where it is not there. */
  ensure(address: number): Neighbour {
    const known = this.#byAddress.get(address);
    if (known !== undefined) return known;
    this.#forgetUnused();
    if (this.#byAddress.size >= NEIGHBOURS_MAX) this.#forgetLeastUsed();
    const neighbour = new Neighbour(address);
    neighbour.usedMs = this.#clock.nowMs();
    this.#byAddress.set(address, neighbour);
    return neighbour;
  }

  /** Whether one more may be asked for. */
  get mayAsk(): boolean {
    let pending = 0;
    for (const neighbour of this.#byAddress.values()) if (neighbour.isPending) pending += 1;
    return pending < NEIGHBOURS_PENDING_MAX;
  }

  learn(neighbour: Neighbour, mac: Uint8Array): void {
    neighbour.mac.set(mac);
    neighbour.isKnown = true;
    neighbour.heardMs = this.#clock.nowMs();
    neighbour.attempts = 0;
    neighbour.nextAttemptMs = Number.POSITIVE_INFINITY;
    this.#forgetUnused();
  }

  forget(neighbour: Neighbour): void {
    neighbour.isCurrent = false;
    neighbour.isKnown = false;
    neighbour.nextAttemptMs = Number.POSITIVE_INFINITY;
    neighbour.takeWaiting();
    this.#byAddress.delete(neighbour.address);
  }

  clear(): void {
    for (const neighbour of [...this.#byAddress.values()]) this.forget(neighbour);
  }

  *pending(): Iterable<Neighbour> {
    for (const neighbour of this.#byAddress.values()) if (neighbour.isPending) yield neighbour;
  }

  *[Symbol.iterator](): Iterator<Neighbour> {
    yield* this.#byAddress.values();
  }

  /** Looks through the table now and then, when something is learnt: it changes by nothing else. */
  #forgetUnused(): void {
    const nowMs = this.#clock.nowMs();
    if (nowMs - this.#sweptMs < NEIGHBOUR_AGE_MS / 10) return;
    this.#sweptMs = nowMs;
    for (const neighbour of [...this.#byAddress.values()]) {
      const isUsed = neighbour.isPending || nowMs - neighbour.usedMs < NEIGHBOUR_AGE_MS;
      if (!isUsed && neighbour.heardMs !== nowMs) this.forget(neighbour);
    }
  }

  #forgetLeastUsed(): void {
    let oldest: Neighbour | undefined;
    for (const neighbour of this.#byAddress.values()) {
      if (oldest === undefined || neighbour.usedMs < oldest.usedMs) oldest = neighbour;
    }
    if (oldest !== undefined) this.forget(oldest);
  }
}

/**
 * The shared ring of xen/io/ring.h, each half by itself: free-running 32-bit indices in the page's
 * first 16 bytes, slots from byte 64 on. The ring knows no frames; what a slot holds is for
 * netif-tx.ts and its siblings.
 *
 *   0 req_prod   4 req_event   8 rsp_prod   12 rsp_event   64 slots
 *
 * The invariant of both halves: an index of our own is never read back from the page, for the peer
 * can write there; an index of the peer's is read once and checked before it is used.
 */
import { ProtocolError } from '../errors.js';
import type { Page } from '../xen/page.js';
import { PAGE_SIZE } from '../xen/xen.js';

const REQ_PROD = 0;
const REQ_EVENT = 4;
const RSP_PROD = 8;
const RSP_EVENT = 12;
const SLOTS = 64;

/** How many slots a one-page ring holds: as many as fit, rounded down to a power of two. */
export function ringSize(slotBytes: number): number {
  return 2 ** Math.floor(Math.log2((PAGE_SIZE - SLOTS) / slotBytes));
}

/** The backend's half: consumes requests, produces responses, in ring order. */
export class BackRing {
  readonly page: Page;
  readonly size: number;
  readonly #slotBytes: number;
  /** The next request to take. */
  reqCons: number;
  /** The next response to write; published by `pushResponses`. */
  rspProd: number;

  /**
   * Attaches to a ring that a frontend made. It goes on where an earlier backend stopped: at
   * rspProd, for every request before it has been answered.
   */
  constructor(page: Page, slotBytes: number) {
    this.page = page;
    this.#slotBytes = slotBytes;
    this.size = ringSize(slotBytes);
    this.rspProd = page.loadIndex(RSP_PROD);
    this.reqCons = this.rspProd;
  }

  /** The offset in the page of the slot of a free-running index. */
  slot(index: number): number {
    return SLOTS + (index & (this.size - 1)) * this.#slotBytes;
  }

  /**
   * How many requests wait to be taken.
   * @throws ProtocolError RING_OVERFLOW when the frontend claims more than the ring can hold
   *   beside what we have not answered; an index that went backwards looks the same.
   */
  pendingRequests(): number {
    const reqProd = this.page.loadIndex(REQ_PROD);
    if ((reqProd - this.rspProd) >>> 0 > this.size) {
      throw new ProtocolError(
        'RING_OVERFLOW',
        `The frontend's req_prod ${reqProd} is not within ${this.size} of rsp_prod ${this.rspProd}.`,
      );
    }
    return (reqProd - this.reqCons) >>> 0;
  }

  /**
   * Copies the next `count` requests into `words`, each word read once. They stay on the ring until
   * `reqCons` passes them.
   */
  readRequests(words: Uint32Array, count: number): void {
    const slotWords = this.#slotBytes >>> 2;
    const first = Math.min(count, this.size - (this.reqCons & (this.size - 1)));
    this.page.readWords(this.slot(this.reqCons), words, 0, first * slotWords);
    const rest = (count - first) * slotWords;
    if (rest > 0) this.page.readWords(SLOTS, words, first * slotWords, rest);
  }

  /** Writes whole slots of responses; `pushResponses` publishes them. */
  writeResponses(words: Uint32Array, count: number): void {
    const slotWords = this.#slotBytes >>> 2;
    const first = Math.min(count, this.size - (this.rspProd & (this.size - 1)));
    this.page.writeWords(this.slot(this.rspProd), words, 0, first * slotWords);
    const rest = (count - first) * slotWords;
    if (rest > 0) this.page.writeWords(SLOTS, words, first * slotWords, rest);
    this.rspProd = (this.rspProd + count) >>> 0;
  }

  /** Publishes the responses written so far. Returns whether the frontend wants an event. */
  pushResponses(oldRspProd: number): boolean {
    this.page.storeIndex(RSP_PROD, this.rspProd);
    const rspEvent = this.page.loadIndex(RSP_EVENT);
    return (this.rspProd - rspEvent) >>> 0 < (this.rspProd - oldRspProd) >>> 0;
  }

  /**
   * Asks for an event once `count` more requests are there, and looks once more, for they may have
   * come before the wish was visible. Returns how many requests wait.
   */
  requestEvent(count: number): number {
    this.page.storeIndex(REQ_EVENT, (this.reqCons + count) >>> 0);
    return this.pendingRequests();
  }
}

/** The frontend's half: produces requests, consumes responses. */
export class FrontRing {
  readonly page: Page;
  readonly size: number;
  readonly #slotBytes: number;
  /** The next request to write; published by `pushRequests`. */
  reqProd: number;
  /** The next response to take. */
  rspCons: number;
  #published: number;

  /**
   * Initialises a fresh ring in a zeroed page (SHARED_RING_INIT). The indices begin at `start`,
   * which is 0 but where a test wants them to wrap.
   */
  constructor(page: Page, slotBytes: number, start = 0) {
    this.page = page;
    this.#slotBytes = slotBytes;
    this.size = ringSize(slotBytes);
    this.reqProd = start;
    this.rspCons = start;
    this.#published = start;
    page.storeIndex(REQ_PROD, start);
    page.storeIndex(RSP_PROD, start);
    page.storeIndex(REQ_EVENT, (start + 1) >>> 0);
    page.storeIndex(RSP_EVENT, (start + 1) >>> 0);
  }

  /** The offset in the page of the slot of a free-running index. */
  slot(index: number): number {
    return SLOTS + (index & (this.size - 1)) * this.#slotBytes;
  }

  /** How many requests can be written without overwriting an answer that was not taken. */
  freeRequests(): number {
    return this.size - ((this.reqProd - this.rspCons) >>> 0);
  }

  /** Publishes the requests written so far. Returns whether the backend wants an event. */
  pushRequests(): boolean {
    const old = this.#published;
    this.#published = this.reqProd;
    this.page.storeIndex(REQ_PROD, this.reqProd);
    const reqEvent = this.page.loadIndex(REQ_EVENT);
    return (this.reqProd - reqEvent) >>> 0 < (this.reqProd - old) >>> 0;
  }

  /**
   * How many responses wait to be taken.
   * @throws ProtocolError RING_OVERFLOW when the backend claims to have answered more than we asked.
   */
  pendingResponses(): number {
    const rspProd = this.page.loadIndex(RSP_PROD);
    const pending = (rspProd - this.rspCons) >>> 0;
    if (pending > (this.#published - this.rspCons) >>> 0) {
      throw new ProtocolError(
        'RING_OVERFLOW',
        `The backend's rsp_prod ${rspProd} is past our req_prod ${this.#published}.`,
      );
    }
    return pending;
  }

  /** Asks for an event at the next response, and looks once more. Returns how many wait. */
  requestEvent(): number {
    this.page.storeIndex(RSP_EVENT, (this.rspCons + 1) >>> 0);
    return this.pendingResponses();
  }
}

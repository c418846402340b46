/**
 * The TX ring of one queue, with its bounce pages: granted once, to be read only, and used again
 * and again, so that the backend never sees memory of ours that was not meant for it.
 *
 * What a backend can see in a page behind a frame's end is zero: the page is zeroed when it is
 * granted, and a frame shorter than the one before it is followed by as many zeros as the
 * difference, so that frames of like lengths cost nothing beside their copy.
 *
 * A request's id is the number of its page. Ids in flight are marked, and a backend that answers
 * one that is not in flight is cut off. A page that the backend still has mapped when it answers
 * is held back until it lets go.
 */
import { ProtocolError } from '../../errors.js';
import {
  EXTRA_TYPE_MCAST_ADD,
  EXTRA_TYPE_MCAST_DEL,
  writeGsoExtra,
  writeMulticastExtra,
} from '../../ring/netif-extra.js';
import {
  RSP_DROPPED,
  RSP_NULL,
  readTxResponseId,
  readTxResponseStatus,
  TX_CSUM_BLANK,
  TX_DATA_VALIDATED,
  TX_EXTRA_INFO,
  TX_MORE_DATA,
  TX_SLOT_BYTES,
  type TxRequest,
  writeTxRequest,
} from '../../ring/netif-tx.js';
import { FrontRing } from '../../ring/shared-ring.js';
import type { LocalMemory } from '../../xen/local-memory.js';
import type { Page } from '../../xen/page.js';
import { PAGE_SIZE, type SharedPages } from '../../xen/xen.js';
import { CHECKSUM_BLANK, DATA_VALIDATED, gsoSizeOf, gsoTypeOf } from '../frame-batch.js';
import type { QueueMetrics } from '../metrics.js';
import { HeldPages } from './held-pages.js';

/** What an id is in flight for. */
const FREE = 0;
const FIRST_SLOT = 1;
const FURTHER_SLOT = 2;
const MULTICAST = 3;

/** The size of a multicast request, which carries no frame. */
const NO_BYTES = 0;

export class TxRing {
  readonly ring: FrontRing;
  readonly #pages: SharedPages;
  readonly #memory: LocalMemory;
  readonly #metrics: QueueMetrics;
  /** Ids, and so pages, that are free to send with, the last one on top. */
  readonly #free: Uint16Array;
  #freeCount: number;
  readonly #roles: Uint8Array;
  /** How many bytes from its start each page may have that are not zero. */
  readonly #filled: Uint16Array;
  readonly #held: HeldPages;
  /** Extras on the ring: each is answered NULL, without an id. */
  #extras = 0;
  readonly #multicastAnswers = new Map<number, (status: number) => void>();
  readonly #request: TxRequest = { gref: 0, offset: 0, flags: 0, id: 0, size: 0 };

  /** `pages` must be as many as the ring has slots, and zero. */
  constructor(
    page: Page,
    pages: SharedPages,
    memory: LocalMemory,
    metrics: QueueMetrics,
    start: number,
  ) {
    this.ring = new FrontRing(page, TX_SLOT_BYTES, start);
    this.#pages = pages;
    this.#memory = memory;
    this.#metrics = metrics;
    this.#free = Uint16Array.from({ length: pages.pages.length }, (_, id) => id);
    this.#freeCount = this.#free.length;
    this.#roles = new Uint8Array(this.#free.length);
    this.#filled = new Uint16Array(this.#free.length);
    this.#held = new HeldPages(pages);
  }

  /** Pages that the backend answered and still has mapped. */
  get heldCount(): number {
    return this.#held.count;
  }

  /** Whether there is room for `slots` with data and `extras` beside them. */
  hasRoom(slots: number, extras: number): boolean {
    return slots <= this.#freeCount && slots + extras <= this.ring.freeRequests();
  }

  /**
   * Puts a frame of local memory on the ring; the caller made sure that there is room. With
   * `asGso`, the segmentation in `metadata` goes along as an extra behind the first slot.
   */
  send(offset: number, length: number, metadata: number, asGso: boolean): void {
    const slots = Math.ceil(length / PAGE_SIZE);
    for (let part = 0; part < slots; part += 1) {
      const bytes = Math.min(PAGE_SIZE, length - part * PAGE_SIZE);
      const id = this.#takeId(part === 0 ? FIRST_SLOT : FURTHER_SLOT);
      this.#fill(id, offset + part * PAGE_SIZE, bytes);
      let flags = part + 1 < slots ? TX_MORE_DATA : 0;
      if (part === 0) flags |= checksumFlags(metadata) | (asGso ? TX_EXTRA_INFO : 0);
      // The first slot carries the size of the whole frame, the others their own.
      this.#put(id, flags, part === 0 ? length : bytes);
      if (part !== 0 || !asGso) continue;
      const slot = this.#takeExtraSlot();
      writeGsoExtra(this.ring.page, slot, 0, gsoSizeOf(metadata), gsoTypeOf(metadata));
    }
    this.#metrics.tx.count(1, length);
  }

  /**
   * Asks the backend to let frames for a multicast address through, or no longer. `address` is the
   * address as two numbers; `onAnswer` gets the status of the answer.
   */
  sendMulticast(
    isAdded: boolean,
    addressHigh: number,
    addressLow: number,
    onAnswer: (status: number) => void,
  ): void {
    const id = this.#takeId(MULTICAST);
    this.#multicastAnswers.set(id, onAnswer);
    this.#put(id, TX_EXTRA_INFO, NO_BYTES);
    const type = isAdded ? EXTRA_TYPE_MCAST_ADD : EXTRA_TYPE_MCAST_DEL;
    writeMulticastExtra(this.ring.page, this.#takeExtraSlot(), type, addressHigh, addressLow);
  }

  /**
   * Takes back the pages of requests that were answered.
   * @throws ProtocolError RING_OVERFLOW, RESPONSE_ID_INVALID, RESPONSE_UNEXPECTED.
   */
  reclaim(): void {
    const pending = this.ring.pendingResponses();
    for (let index = 0; index < pending; index += 1) {
      const word = this.ring.page.readU32(this.ring.slot(this.ring.rspCons));
      this.ring.rspCons = (this.ring.rspCons + 1) >>> 0;
      const status = readTxResponseStatus(word);
      if (status === RSP_NULL) this.#takeExtraAnswer();
      else this.#takeAnswer(readTxResponseId(word), status);
    }
  }

  /** Takes back held pages that were let go of. */
  retryHeld(): void {
    for (let id = this.#held.takeReleased(); id >= 0; id = this.#held.takeReleased()) {
      this.#putBack(id);
    }
  }

  #takeId(role: number): number {
    this.#freeCount -= 1;
    const id = this.#free[this.#freeCount] as number;
    this.#roles[id] = role;
    return id;
  }

  #putBack(id: number): void {
    this.#free[this.#freeCount] = id;
    this.#freeCount += 1;
  }

  #fill(id: number, source: number, bytes: number): void {
    const page = this.#pages.pages[id] as Page;
    this.#memory.copyOut(source, page, 0, bytes);
    const filled = this.#filled[id] as number;
    if (filled > bytes) page.bytes.fill(0, bytes, filled);
    this.#filled[id] = bytes;
  }

  #put(id: number, flags: number, size: number): void {
    const request = this.#request;
    request.gref = this.#pages.refs[id] as number;
    request.flags = flags;
    request.id = id;
    request.size = size;
    writeTxRequest(this.ring.page, this.ring.slot(this.ring.reqProd), request);
    this.ring.reqProd = (this.ring.reqProd + 1) >>> 0;
  }

  #takeExtraSlot(): number {
    const slot = this.ring.slot(this.ring.reqProd);
    this.ring.reqProd = (this.ring.reqProd + 1) >>> 0;
    this.#extras += 1;
    return slot;
  }

  #takeExtraAnswer(): void {
    if (this.#extras === 0) {
      throw new ProtocolError('RESPONSE_UNEXPECTED', 'The backend answered an extra not sent.');
    }
    this.#extras -= 1;
  }

  #takeAnswer(id: number, status: number): void {
    const role = this.#roles[id] ?? FREE;
    if (role === FREE) {
      throw new ProtocolError('RESPONSE_ID_INVALID', `The backend answered request ${id}.`);
    }
    this.#roles[id] = FREE;
    if (role === MULTICAST) {
      this.#multicastAnswers.get(id)?.(status);
      this.#multicastAnswers.delete(id);
    } else if (role === FIRST_SLOT && status < 0) {
      const cause = status === RSP_DROPPED ? 'BACKEND_DROPPED' : 'BACKEND_ERROR';
      this.#metrics.tx.drop('tx-ring', cause);
    }
    if (!this.#held.holds(id)) this.#putBack(id);
  }
}

/** The checksum bits as a TX slot has them: the other way round than in RX. */
function checksumFlags(metadata: number): number {
  if ((metadata & CHECKSUM_BLANK) !== 0) return TX_CSUM_BLANK | TX_DATA_VALIDATED;
  return (metadata & DATA_VALIDATED) !== 0 ? TX_DATA_VALIDATED : 0;
}

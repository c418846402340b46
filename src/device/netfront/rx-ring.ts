/**
 * The RX ring of one queue, with its buffers: pages granted once and posted again and again. What
 * arrives is copied out before it is looked at, for the backend can write into a page at any time.
 *
 * A request's id is its place in the endless row of requests, so that it tells a buffer of this
 * round from the same of the last. A response sits in the slot of its request (netif.h), and an
 * extra, which has no id, costs the request in whose slot it sits.
 *
 * A packet ends in one of three ways: it is received; it is bad and is dropped and counted; or the
 * ring itself makes no sense, and a ProtocolError cuts the backend off.
 */
import { ProtocolError } from '../../errors.js';
import {
  EXTRA_FLAG_MORE,
  EXTRA_TYPE_GSO,
  EXTRA_TYPE_HASH,
  EXTRA_TYPE_MAX,
  type Extra,
  emptyExtra,
  GSO_TYPE_TCPV4,
  GSO_TYPE_TCPV6,
  readExtra,
} from '../../ring/netif-extra.js';
import {
  RX_CSUM_BLANK,
  RX_DATA_VALIDATED,
  RX_EXTRA_INFO,
  RX_MORE_DATA,
  RX_SLOT_BYTES,
  type RxResponse,
  readRxResponse,
  writeRxRequest,
} from '../../ring/netif-rx.js';
import { FrontRing } from '../../ring/shared-ring.js';
import type { LocalMemory, LocalRegion } from '../../xen/local-memory.js';
import type { Page } from '../../xen/page.js';
import { PAGE_SIZE, type SharedPages } from '../../xen/xen.js';
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  FRAME_BYTES_MAX,
  FRAME_BYTES_MIN,
  type FrameBatch,
  GSO_SIZE_SHIFT,
  GSO_TYPE_SHIFT,
} from '../frame-batch.js';
import type { QueueMetrics } from '../metrics.js';
import { HeldPages } from './held-pages.js';
import type { NetfrontSettings } from './options.js';

/** Slots with data that a packet may have: `XEN_NETIF_NR_SLOTS_MIN`. */
const SLOTS_MAX = 18;
/** Where frames begin in the staging region: aligned, for whoever computes over them. */
const ALIGNMENT = 16;

/** What frames are received into. It is used within one call, so one serves all queues. */
export interface RxScratch {
  readonly staging: LocalRegion;
  readonly batch: FrameBatch;
}

export class RxRing {
  readonly ring: FrontRing;
  readonly #pages: SharedPages;
  readonly #memory: LocalMemory;
  readonly #metrics: QueueMetrics;
  readonly #settings: NetfrontSettings;
  readonly #scratch: RxScratch;
  /** Which page was posted in each slot of the ring. */
  readonly #posted: Uint16Array;
  readonly #held: HeldPages;
  readonly #response: RxResponse = { id: 0, offset: 0, flags: 0, status: 0 };
  readonly #extra: Extra = emptyExtra();
  #staged = 0;
  /** What the extras of the packet at hand say. */
  #gsoFlags = 0;
  #extraFault: string | undefined;

  /** Posts every page of `pages`, which must be as many as the ring has slots. */
  constructor(
    page: Page,
    pages: SharedPages,
    memory: LocalMemory,
    metrics: QueueMetrics,
    settings: NetfrontSettings,
    scratch: RxScratch,
  ) {
    this.ring = new FrontRing(page, RX_SLOT_BYTES, settings.ringStart);
    this.#pages = pages;
    this.#memory = memory;
    this.#metrics = metrics;
    this.#settings = settings;
    this.#scratch = scratch;
    this.#posted = new Uint16Array(pages.pages.length);
    this.#held = new HeldPages(pages);
    for (let index = 0; index < pages.pages.length; index += 1) this.#post(index);
  }

  /** Pages that the backend filled and still has mapped. */
  get heldCount(): number {
    return this.#held.count;
  }

  /**
   * Copies what was received out of the shared pages into the batch and posts the pages again; the
   * caller publishes them. Returns how many responses were taken, 0 when there were none.
   * @throws ProtocolError RING_OVERFLOW, RESPONSE_ID_INVALID, RESPONSE_CROSSES_PAGE,
   *   CHAIN_TRUNCATED, EXTRA_MISSING, EXTRA_TYPE_INVALID.
   */
  receive(): number {
    const { batch, staging } = this.#scratch;
    const pending = this.ring.pendingResponses();
    let taken = 0;
    this.#staged = 0;
    batch.clear();
    while (
      taken < pending &&
      this.#staged + FRAME_BYTES_MAX <= staging.length &&
      batch.count < batch.capacity
    ) {
      taken += this.#takePacket(pending - taken);
    }
    return taken;
  }

  /** Posts held pages that were let go of. Returns whether there were any. */
  retryHeld(): boolean {
    const before = this.#held.count;
    for (let index = this.#held.takeReleased(); index >= 0; index = this.#held.takeReleased()) {
      this.#post(index);
    }
    return this.#held.count < before;
  }

  /** Takes the packet at the front; returns how many slots it had, extras included. */
  #takePacket(available: number): number {
    const response = this.#response;
    const start = this.#scratch.staging.offset + this.#staged;
    let slots = 0;
    let parts = 0;
    let length = 0;
    let flags = 0;
    let fault: string | undefined;
    let more = true;
    while (more) {
      if (slots >= available) {
        throw new ProtocolError('CHAIN_TRUNCATED', 'A frame goes on past the last response.');
      }
      const index = this.#takeResponse();
      slots += 1;
      parts += 1;
      more = (response.flags & RX_MORE_DATA) !== 0;
      const bytes = response.status;
      if (bytes < 0) fault ??= 'BACKEND_ERROR';
      else if (parts > SLOTS_MAX) fault ??= 'TOO_MANY_SLOTS';
      else if (length + bytes > FRAME_BYTES_MAX) fault ??= 'TOO_LONG';
      else {
        const page = this.#pages.pages[index] as Page;
        this.#memory.copyIn(start + length, page, response.offset, bytes);
        length += bytes;
      }
      this.#giveBack(index);
      if (parts > 1) continue;
      flags = checksumMetadata(response.flags);
      if ((response.flags & RX_EXTRA_INFO) === 0) continue;
      slots += this.#takeExtras(available - slots);
      flags |= this.#gsoFlags;
      fault ??= this.#extraFault;
    }
    if (length < FRAME_BYTES_MIN) fault ??= 'TOO_SHORT';
    if (fault === undefined) this.#keep(start, length, flags);
    else this.#metrics.rx.drop('rx-ring', fault);
    return slots;
  }

  #keep(start: number, length: number, flags: number): void {
    this.#scratch.batch.add(start, length, flags);
    this.#staged = (this.#staged + length + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
  }

  /** Reads the next response, once, and checks it; returns which page it is about. */
  #takeResponse(): number {
    const response = this.#response;
    const { ring } = this;
    readRxResponse(ring.page, ring.slot(ring.rspCons), response);
    if (response.id !== (ring.rspCons & 0xffff)) {
      throw new ProtocolError('RESPONSE_ID_INVALID', `The backend filled buffer ${response.id}.`);
    }
    if (response.status > 0 && response.offset + response.status > PAGE_SIZE) {
      throw new ProtocolError('RESPONSE_CROSSES_PAGE', 'A response does not lie in its page.');
    }
    return this.#consumeSlot();
  }

  /** Takes the extras behind a first slot; returns how many. The last of a type wins. */
  #takeExtras(available: number): number {
    const extra = this.#extra;
    let count = 0;
    this.#gsoFlags = 0;
    this.#extraFault = undefined;
    do {
      if (count >= available) {
        throw new ProtocolError('EXTRA_MISSING', 'An extra was announced and is not there.');
      }
      readExtra(this.ring.page, this.ring.slot(this.ring.rspCons), extra);
      if (extra.type === 0 || extra.type >= EXTRA_TYPE_MAX) {
        throw new ProtocolError('EXTRA_TYPE_INVALID', `An extra has the type ${extra.type}.`);
      }
      this.#giveBack(this.#consumeSlot());
      count += 1;
      if (extra.type === EXTRA_TYPE_GSO) this.#takeGso(extra.gsoSize, extra.gsoType);
      // A hash tells how the backend chose the queue, which makes no difference to us.
      else if (extra.type !== EXTRA_TYPE_HASH) this.#extraFault = 'EXTRA_UNEXPECTED';
    } while ((extra.flags & EXTRA_FLAG_MORE) !== 0);
    return count;
  }

  #takeGso(size: number, type: number): void {
    const isWanted =
      (type === GSO_TYPE_TCPV4 && this.#settings.gsoTcpv4) ||
      (type === GSO_TYPE_TCPV6 && this.#settings.gsoTcpv6);
    if (size === 0 || !isWanted) this.#extraFault = 'GSO_INVALID';
    else this.#gsoFlags = (type << GSO_TYPE_SHIFT) | (size << GSO_SIZE_SHIFT);
  }

  #consumeSlot(): number {
    const { ring } = this;
    const index = this.#posted[ring.rspCons & (ring.size - 1)] as number;
    ring.rspCons = (ring.rspCons + 1) >>> 0;
    return index;
  }

  #giveBack(index: number): void {
    if (!this.#held.holds(index)) this.#post(index);
  }

  #post(index: number): void {
    const { ring } = this;
    const { reqProd } = ring;
    writeRxRequest(
      ring.page,
      ring.slot(reqProd),
      reqProd & 0xffff,
      this.#pages.refs[index] as number,
    );
    this.#posted[reqProd & (ring.size - 1)] = index;
    ring.reqProd = (reqProd + 1) >>> 0;
  }
}

/** What the checksum bits of an RX slot say: they are the other way round than in TX. */
function checksumMetadata(rxFlags: number): number {
  if ((rxFlags & RX_CSUM_BLANK) !== 0) return CHECKSUM_BLANK | DATA_VALIDATED;
  return (rxFlags & RX_DATA_VALIDATED) !== 0 ? DATA_VALIDATED : 0;
}

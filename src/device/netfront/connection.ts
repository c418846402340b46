/**
 * A netfront's rings: pages granted once and used again and again as bounce buffers, so that the
 * backend never sees memory of ours that was not meant for it. A request's id is the number of its
 * page; ids in flight are counted, and a backend that answers one that is not is cut off.
 */
import { ProtocolError } from '../../errors.js';
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
import {
  readTxResponseId,
  TX_CSUM_BLANK,
  TX_DATA_VALIDATED,
  TX_MORE_DATA,
  TX_SLOT_BYTES,
  type TxRequest,
  writeTxRequest,
} from '../../ring/netif-tx.js';
import { FrontRing } from '../../ring/shared-ring.js';
import type { LocalRegion } from '../../xen/local-memory.js';
import { type EventChannel, PAGE_SIZE, type SharedPages, type Xen } from '../../xen/xen.js';
import { frameTimeNs } from '../clock.js';
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  FRAME_BYTES_MAX,
  FRAME_BYTES_MIN,
  FrameBatch,
} from '../frame-batch.js';
import type { QueueMetrics } from '../metrics.js';
import { type BatchListener, WriteOutcome } from '../network.js';
import type { BackendFeatures, RingKeys } from './handshake.js';

const STAGING_BYTES = 256 * 1024;
/** Responses that one turn takes before other devices get theirs. */
const RESPONSES_PER_TURN = 1024;

export interface NetfrontHooks {
  readonly received: BatchListener;
  /** There is room on the TX ring again. */
  readonly writable: () => void;
  readonly fault: (error: unknown) => void;
}

export class NetfrontConnection {
  readonly keys: RingKeys;
  readonly #xen: Xen;
  readonly #features: BackendFeatures;
  readonly #metrics: QueueMetrics;
  readonly #hooks: NetfrontHooks;
  readonly #shared: SharedPages[] = [];
  readonly #txPages: SharedPages;
  readonly #rxPages: SharedPages;
  readonly #tx: FrontRing;
  readonly #rx: FrontRing;
  readonly #txChannel: EventChannel;
  readonly #rxChannel: EventChannel;
  readonly #staging: LocalRegion;
  readonly #batch: FrameBatch;
  /** Ids, and so pages, that are free to send with. */
  readonly #txFree: Uint16Array;
  #txFreeCount: number;
  /** 1 for each id that the backend holds. */
  readonly #txBusy: Uint8Array;
  readonly #rxBusy: Uint8Array;
  readonly #request: TxRequest = { gref: 0, offset: 0, flags: 0, id: 0, size: 0 };
  readonly #response: RxResponse = { id: 0, offset: 0, flags: 0, status: 0 };
  #immediate: NodeJS.Immediate | undefined;
  #open = true;

  constructor(
    xen: Xen,
    backendDomid: number,
    features: BackendFeatures,
    metrics: QueueMetrics,
    hooks: NetfrontHooks,
  ) {
    this.#xen = xen;
    this.#features = features;
    this.#metrics = metrics;
    this.#hooks = hooks;
    const share = (count: number): SharedPages => {
      const pages = xen.grants.share(backendDomid, count, 'write');
      this.#shared.push(pages);
      return pages;
    };
    const rings = share(2);
    const [txPage, rxPage] = rings.pages;
    const [txRingRef, rxRingRef] = rings.refs;
    if (txPage === undefined || rxPage === undefined)
      throw new ProtocolError('NO_PAGES', 'No ring.');
    this.#tx = new FrontRing(txPage, TX_SLOT_BYTES);
    this.#rx = new FrontRing(rxPage, RX_SLOT_BYTES);
    this.#txPages = share(this.#tx.size);
    this.#rxPages = share(this.#rx.size);
    this.#txFree = Uint16Array.from({ length: this.#tx.size }, (_, id) => id);
    this.#txFreeCount = this.#tx.size;
    this.#txBusy = new Uint8Array(this.#tx.size);
    this.#rxBusy = new Uint8Array(this.#rx.size);
    this.#staging = xen.memory.allocate(STAGING_BYTES);
    this.#batch = new FrameBatch(xen.memory.bytes, this.#rx.size);
    this.#txChannel = xen.events.allocate(backendDomid, () => this.#onEvent());
    this.#rxChannel = features.splitEventChannels
      ? xen.events.allocate(backendDomid, () => this.#onEvent())
      : this.#txChannel;
    this.keys = {
      txRingRef: txRingRef as number,
      rxRingRef: rxRingRef as number,
      txPort: this.#txChannel.port,
      rxPort: this.#rxChannel.port,
    };
    for (let id = 0; id < this.#rx.size; id += 1) this.#post(id);
    this.#rx.pushRequests();
  }

  /** Tells the backend of the buffers posted before it was connected. */
  kick(): void {
    this.#rxChannel.notify();
  }

  /** Slots that a frame of `length` needs; 0 when the backend cannot take it. */
  #slotsFor(length: number): number {
    if (length < FRAME_BYTES_MIN || length > FRAME_BYTES_MAX) return 0;
    const slots = Math.ceil(length / PAGE_SIZE);
    return slots === 1 || this.#features.scatterGather ? slots : 0;
  }

  write(batch: FrameBatch, outcomes?: Uint8Array): number {
    this.#reclaim();
    let accepted = 0;
    for (let index = 0; index < batch.count; index += 1) {
      const length = batch.length(index);
      const slots = this.#slotsFor(length);
      let outcome: WriteOutcome = WriteOutcome.accepted;
      if (slots === 0) outcome = WriteOutcome.tooLong;
      else if (slots > this.#txFreeCount) outcome = WriteOutcome.queueFull;
      if (outcome === WriteOutcome.accepted) {
        this.#send(batch.offset(index), length, slots, batch.flag(index));
        accepted += 1;
      } else {
        this.#metrics.tx.drop(
          'tx-ring',
          outcome === WriteOutcome.tooLong ? 'TOO_LONG' : 'RING_FULL',
        );
      }
      if (outcomes !== undefined) outcomes[index] = outcome;
    }
    if (accepted > 0 && this.#tx.pushRequests()) this.#txChannel.notify();
    return accepted;
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    if (this.#immediate !== undefined) clearImmediate(this.#immediate);
    if (this.#rxChannel !== this.#txChannel) this.#rxChannel.close();
    this.#txChannel.close();
    this.#staging.free();
    for (const pages of this.#shared) pages.unshare();
  }

  #send(offset: number, length: number, slots: number, metadata: number): void {
    const request = this.#request;
    for (let part = 0; part < slots; part += 1) {
      this.#txFreeCount -= 1;
      const id = this.#txFree[this.#txFreeCount] as number;
      const bytes = Math.min(PAGE_SIZE, length - part * PAGE_SIZE);
      const page = this.#txPages.pages[id];
      if (page === undefined) throw new ProtocolError('NO_PAGES', `No page for request ${id}.`);
      this.#xen.memory.copyOut(offset + part * PAGE_SIZE, page, 0, bytes);
      request.gref = this.#txPages.refs[id] as number;
      request.flags = part + 1 < slots ? TX_MORE_DATA : 0;
      if (part === 0 && (metadata & CHECKSUM_BLANK) !== 0) request.flags |= TX_CSUM_BLANK;
      if (part === 0 && (metadata & DATA_VALIDATED) !== 0) request.flags |= TX_DATA_VALIDATED;
      request.id = id;
      // The first slot carries the size of the whole frame, the others their own.
      request.size = part === 0 ? length : bytes;
      writeTxRequest(this.#tx.page, this.#tx.slot(this.#tx.reqProd), request);
      this.#tx.reqProd = (this.#tx.reqProd + 1) >>> 0;
      this.#txBusy[id] = 1;
    }
    this.#metrics.tx.count(1, length);
  }

  /** Takes back the pages of requests that were answered. Returns whether there were any. */
  #reclaim(): boolean {
    const pending = this.#tx.pendingResponses();
    for (let index = 0; index < pending; index += 1) {
      const word = this.#tx.page.readU32(this.#tx.slot(this.#tx.rspCons));
      const id = readTxResponseId(word);
      if (id >= this.#tx.size || this.#txBusy[id] !== 1) {
        throw new ProtocolError('RESPONSE_ID_INVALID', `The backend answered request ${id}.`);
      }
      this.#txBusy[id] = 0;
      this.#txFree[this.#txFreeCount] = id;
      this.#txFreeCount += 1;
      this.#tx.rspCons = (this.#tx.rspCons + 1) >>> 0;
    }
    return pending > 0;
  }

  #post(id: number): void {
    writeRxRequest(
      this.#rx.page,
      this.#rx.slot(this.#rx.reqProd),
      id,
      this.#rxPages.refs[id] as number,
    );
    this.#rx.reqProd = (this.#rx.reqProd + 1) >>> 0;
    this.#rxBusy[id] = 1;
  }

  #onEvent(): void {
    if (this.#immediate === undefined) this.#turn();
  }

  #turn(): void {
    this.#immediate = undefined;
    if (!this.#open) return;
    try {
      let budget = RESPONSES_PER_TURN;
      let more = true;
      while (more && budget > 0 && this.#open) {
        if (this.#reclaim()) this.#hooks.writable();
        if (!this.#open) return;
        budget -= this.#receive();
        if (!this.#open) return;
        more = this.#tx.requestEvent() > 0 || this.#rx.requestEvent() > 0;
      }
      if (more) {
        this.#immediate = setImmediate(() => this.#turn());
        return;
      }
      this.#txChannel.unmask();
      if (this.#rxChannel !== this.#txChannel) this.#rxChannel.unmask();
    } catch (error) {
      this.#hooks.fault(error);
    }
  }

  /** Copies what was received out of the shared pages, posts them again, and hands it on. */
  #receive(): number {
    const pending = this.#rx.pendingResponses();
    let taken = 0;
    let staged = 0;
    this.#batch.clear();
    while (taken < pending && staged + FRAME_BYTES_MAX + PAGE_SIZE <= STAGING_BYTES) {
      const start = this.#staging.offset + staged;
      let length = 0;
      let flags = 0;
      let broken = false;
      let more = true;
      for (let part = 0; more; part += 1) {
        if (taken >= pending || length > FRAME_BYTES_MAX) {
          throw new ProtocolError('CHAIN_TRUNCATED', 'A frame goes on past the last response.');
        }
        const response = this.#takeResponse();
        taken += 1;
        more = (response.flags & RX_MORE_DATA) !== 0;
        if (part === 0) flags = metadataOf(response.flags);
        if (response.status < 0) broken = true;
        else {
          const page = this.#rxPages.pages[response.id];
          if (page === undefined || response.offset + response.status > PAGE_SIZE) {
            throw new ProtocolError(
              'RESPONSE_CROSSES_PAGE',
              'A response does not lie in its page.',
            );
          }
          this.#xen.memory.copyIn(start + length, page, response.offset, response.status);
          length += response.status;
        }
        this.#post(response.id);
      }
      if (broken || length < FRAME_BYTES_MIN || length > FRAME_BYTES_MAX) {
        this.#metrics.rx.drop('rx-ring', broken ? 'BACKEND_ERROR' : 'BAD_LENGTH');
        continue;
      }
      this.#batch.add(start, length, flags);
      staged += length;
    }
    if (taken === 0) return 0;
    if (this.#rx.pushRequests()) this.#rxChannel.notify();
    if (this.#batch.count > 0) {
      this.#metrics.rx.count(this.#batch.count, this.#batch.totalBytes);
      this.#batch.timeNs = frameTimeNs();
      this.#hooks.received(this.#batch);
    }
    return taken;
  }

  #takeResponse(): RxResponse {
    const response = this.#response;
    readRxResponse(this.#rx.page, this.#rx.slot(this.#rx.rspCons), response);
    this.#rx.rspCons = (this.#rx.rspCons + 1) >>> 0;
    if (response.id >= this.#rx.size || this.#rxBusy[response.id] !== 1) {
      throw new ProtocolError('RESPONSE_ID_INVALID', `The backend filled buffer ${response.id}.`);
    }
    if ((response.flags & RX_EXTRA_INFO) !== 0) {
      throw new ProtocolError('EXTRA_UNEXPECTED', 'The backend sent an extra nobody asked for.');
    }
    this.#rxBusy[response.id] = 0;
    return response;
  }
}

function metadataOf(rxFlags: number): number {
  let flags = 0;
  if ((rxFlags & RX_CSUM_BLANK) !== 0) flags |= CHECKSUM_BLANK;
  if ((rxFlags & RX_DATA_VALIDATED) !== 0) flags |= DATA_VALIDATED;
  return flags;
}

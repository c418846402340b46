/**
 * The TX ring of one queue: takes what the guest sends. A whole batch of requests is parsed, copied
 * by one call, handed on, and only then answered, in ring order: a daemon that dies in between
 * leaves requests that the next one takes again, and never loses a frame that was acknowledged.
 *
 * Whatever a guest writes ends in one of three ways (xen/io/netif.h; Linux's netback judges alike):
 * the frame goes on and its slots are answered OKAY; the packet is bad and its slots are answered
 * ERROR; or the ring itself makes no sense, and a ProtocolError stops the device.
 */
import { GrantError, ProtocolError } from '../../errors.js';
import {
  EXTRA_FLAG_MORE,
  EXTRA_TYPE_GSO,
  EXTRA_TYPE_MAX,
  EXTRA_TYPE_MCAST_ADD,
  EXTRA_TYPE_MCAST_DEL,
  type Extra,
  emptyExtra,
  GSO_TYPE_TCPV4,
  GSO_TYPE_TCPV6,
  readExtra,
} from '../../ring/netif-extra.js';
import {
  RSP_ERROR,
  RSP_NULL,
  RSP_OKAY,
  readTxRequest,
  TX_CSUM_BLANK,
  TX_DATA_VALIDATED,
  TX_EXTRA_INFO,
  TX_MORE_DATA,
  TX_SLOT_BYTES,
  type TxRequest,
  writeTxResponse,
} from '../../ring/netif-tx.js';
import { BackRing } from '../../ring/shared-ring.js';
import { CopyBatch, GNTST_OKAY } from '../../xen/copy-batch.js';
import type { LocalMemory, LocalRegion } from '../../xen/local-memory.js';
import type { Page } from '../../xen/page.js';
import { type Grants, PAGE_SIZE } from '../../xen/xen.js';
import { frameTimeNs } from '../clock.js';
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  DIRECTION_FROM_GUEST,
  FRAME_BYTES_MAX,
  FRAME_BYTES_MIN,
  FrameBatch,
  GSO_SIZE_SHIFT,
  GSO_TYPE_SHIFT,
} from '../frame-batch.js';
import type { QueueMetrics } from '../metrics.js';
import type { BatchListener } from '../network.js';

/** Fragments behind the head that a packet may have: `XEN_NETIF_NR_SLOTS_MIN`. */
const FRAGMENTS_MAX = 18;
/** Fragments that are an honest mistake of a guest; one more and the chain is an attack. */
const FRAGMENTS_TOLERATED = 20;
/** Slots of the ring, and so the most that one batch can take. */
const SLOTS_MAX = 256;
/** Staging for one batch: room for 64 frames of 1514 bytes beside one of the longest. */
const STAGING_BYTES = 256 * 1024;

/** Slot answers that are not known before the copy has run. */
const DATA_SLOT = 0;
const EXTRA_SLOT = 1;

/**
 * What a batch is parsed into. It is used within one call of `TxQueue.consume`, so one serves every
 * queue of the daemon.
 */
export class TxScratch {
  readonly copies: CopyBatch;
  readonly batch: FrameBatch;
  readonly staging: LocalRegion;
  readonly slotIds = new Uint16Array(SLOTS_MAX);
  readonly slotKinds = new Uint8Array(SLOTS_MAX);
  readonly packetSlots = new Uint16Array(SLOTS_MAX);
  readonly packetFirstSegment = new Uint16Array(SLOTS_MAX);
  readonly packetSegments = new Uint16Array(SLOTS_MAX);
  readonly packetOffset = new Uint32Array(SLOTS_MAX);
  readonly packetLength = new Uint32Array(SLOTS_MAX);
  readonly packetFlags = new Uint32Array(SLOTS_MAX);
  readonly packetFault: (string | undefined)[] = new Array(SLOTS_MAX);
  readonly head: TxRequest = { gref: 0, offset: 0, flags: 0, id: 0, size: 0 };
  readonly fragment: TxRequest = { gref: 0, offset: 0, flags: 0, id: 0, size: 0 };
  readonly extra: Extra = emptyExtra();
  readonly fragmentRefs = new Uint32Array(FRAGMENTS_TOLERATED);
  readonly fragmentOffsets = new Uint16Array(FRAGMENTS_TOLERATED);
  readonly fragmentSizes = new Uint16Array(FRAGMENTS_TOLERATED);

  constructor(memory: LocalMemory) {
    this.copies = new CopyBatch(memory, SLOTS_MAX);
    this.batch = new FrameBatch(memory.bytes, SLOTS_MAX);
    this.staging = memory.allocate(STAGING_BYTES);
  }

  free(): void {
    this.staging.free();
  }
}

export class TxQueue {
  readonly ring: BackRing;
  readonly #grants: Grants;
  readonly #domid: number;
  readonly #scratch: TxScratch;
  readonly #metrics: QueueMetrics;
  readonly #deliver: BatchListener;
  #slots = 0;
  #packets = 0;
  #stagingUsed = 0;

  constructor(
    page: Page,
    grants: Grants,
    domid: number,
    scratch: TxScratch,
    metrics: QueueMetrics,
    deliver: BatchListener,
  ) {
    this.ring = new BackRing(page, TX_SLOT_BYTES);
    this.#grants = grants;
    this.#domid = domid;
    this.#scratch = scratch;
    this.#metrics = metrics;
    this.#deliver = deliver;
  }

  /**
   * Takes, hands on and answers one batch. Returns how many slots were answered; `notify` is
   * called where the guest wants to hear of it.
   * @throws ProtocolError when the ring makes no sense. What came before the fault is answered.
   */
  consume(notify: () => void): number {
    const pending = this.ring.pendingRequests();
    if (pending === 0) return 0;
    const fault = this.#parse(pending);
    this.#copy();
    this.#handOn();
    this.#answer(notify);
    if (fault !== undefined) throw fault;
    return this.#slots;
  }

  #parse(pending: number): ProtocolError | undefined {
    const { copies, staging } = this.#scratch;
    copies.clear();
    this.#slots = 0;
    this.#packets = 0;
    this.#stagingUsed = 0;
    try {
      while (
        this.#slots < pending &&
        this.#stagingUsed + FRAME_BYTES_MAX <= staging.length &&
        copies.free > FRAGMENTS_MAX
      ) {
        const slots = this.#parsePacket(pending - this.#slots);
        this.#scratch.packetSlots[this.#packets] = slots;
        this.#packets += 1;
        this.#slots += slots;
      }
      return undefined;
    } catch (error) {
      if (error instanceof ProtocolError) return error;
      throw error;
    }
  }

  /** Parses the packet at the front; returns how many slots it has, extras included. */
  #parsePacket(available: number): number {
    const scratch = this.#scratch;
    const { head, fragment } = scratch;
    const first = this.#slots;
    readTxRequest(this.ring.page, this.ring.slot(this.ring.reqCons + first), head);
    scratch.slotIds[first] = head.id;
    scratch.slotKinds[first] = DATA_SLOT;
    let slots = 1;
    let fault: string | undefined;
    let flags = DIRECTION_FROM_GUEST;
    if ((head.flags & TX_CSUM_BLANK) !== 0) flags |= CHECKSUM_BLANK | DATA_VALIDATED;
    if ((head.flags & TX_DATA_VALIDATED) !== 0) flags |= DATA_VALIDATED;
    if ((head.flags & TX_EXTRA_INFO) !== 0) {
      slots += this.#parseExtras(first + 1, available - 1);
      flags |= this.#gsoFlags;
      if (this.#hasMulticast) fault = 'MULTICAST_UNSUPPORTED';
    }

    let headBytes = head.size;
    let fragments = 0;
    let more = (head.flags & TX_MORE_DATA) !== 0;
    while (more) {
      if (slots >= available) {
        throw new ProtocolError('CHAIN_TRUNCATED', 'A packet goes on past the last request.');
      }
      if (fragments >= FRAGMENTS_TOLERATED) {
        throw new ProtocolError('CHAIN_TOO_LONG', `A packet has over ${fragments} fragments.`);
      }
      readTxRequest(this.ring.page, this.ring.slot(this.ring.reqCons + first + slots), fragment);
      if (fragment.offset + fragment.size > PAGE_SIZE) {
        throw new ProtocolError('FRAGMENT_CROSSES_PAGE', 'A fragment does not lie in its page.');
      }
      scratch.slotIds[first + slots] = fragment.id;
      scratch.slotKinds[first + slots] = DATA_SLOT;
      scratch.fragmentRefs[fragments] = fragment.gref;
      scratch.fragmentOffsets[fragments] = fragment.offset;
      scratch.fragmentSizes[fragments] = fragment.size;
      if (fragment.size > headBytes) fault ??= 'FRAGMENTS_EXCEED_TOTAL';
      else headBytes -= fragment.size;
      slots += 1;
      fragments += 1;
      more = (fragment.flags & TX_MORE_DATA) !== 0;
    }
    if (fragments > FRAGMENTS_MAX) fault ??= 'TOO_MANY_FRAGMENTS';
    if (headBytes < FRAME_BYTES_MIN) fault ??= 'TOO_SHORT';
    if (fault === undefined && head.offset + headBytes > PAGE_SIZE) {
      throw new ProtocolError('HEAD_CROSSES_PAGE', 'A first slot does not lie in its page.');
    }

    const packet = this.#packets;
    scratch.packetFault[packet] = fault;
    scratch.packetFlags[packet] = flags;
    scratch.packetFirstSegment[packet] = scratch.copies.count;
    scratch.packetSegments[packet] = 0;
    if (fault === undefined) this.#addSegments(packet, headBytes, fragments);
    return slots;
  }

  #gsoFlags = 0;
  #hasMulticast = false;

  /** Parses the extras behind a head; returns how many there are. The last of a type wins. */
  #parseExtras(first: number, available: number): number {
    const { extra, slotIds, slotKinds } = this.#scratch;
    let count = 0;
    let gsoSize = 0;
    let gsoType = 0;
    let hasGso = false;
    this.#hasMulticast = false;
    do {
      if (count >= available) {
        throw new ProtocolError('EXTRA_MISSING', 'An extra was announced and is not there.');
      }
      readExtra(this.ring.page, this.ring.slot(this.ring.reqCons + first + count), extra);
      if (extra.type === 0 || extra.type >= EXTRA_TYPE_MAX) {
        throw new ProtocolError('EXTRA_TYPE_INVALID', `An extra has the type ${extra.type}.`);
      }
      if (extra.type === EXTRA_TYPE_GSO) {
        hasGso = true;
        gsoSize = extra.gsoSize;
        gsoType = extra.gsoType;
      }
      if (extra.type === EXTRA_TYPE_MCAST_ADD || extra.type === EXTRA_TYPE_MCAST_DEL) {
        this.#hasMulticast = true;
      }
      slotIds[first + count] = 0;
      slotKinds[first + count] = EXTRA_SLOT;
      count += 1;
    } while ((extra.flags & EXTRA_FLAG_MORE) !== 0);
    if (hasGso && (gsoSize === 0 || (gsoType !== GSO_TYPE_TCPV4 && gsoType !== GSO_TYPE_TCPV6))) {
      throw new ProtocolError('GSO_INVALID', `GSO of type ${gsoType} and size ${gsoSize}.`);
    }
    this.#gsoFlags = hasGso ? (gsoType << GSO_TYPE_SHIFT) | (gsoSize << GSO_SIZE_SHIFT) : 0;
    return count;
  }

  /** Adds the copies that put a packet together in the staging region, in one piece. */
  #addSegments(packet: number, headBytes: number, fragments: number): void {
    const scratch = this.#scratch;
    const { copies, head } = scratch;
    const start = scratch.staging.offset + this.#stagingUsed;
    let target = start + headBytes;
    copies.fromGrant(this.#domid, head.gref, head.offset, start, headBytes);
    for (let index = 0; index < fragments; index += 1) {
      const size = scratch.fragmentSizes[index] as number;
      if (size === 0) continue;
      const ref = scratch.fragmentRefs[index] as number;
      copies.fromGrant(this.#domid, ref, scratch.fragmentOffsets[index] as number, target, size);
      target += size;
    }
    scratch.packetSegments[packet] = copies.count - (scratch.packetFirstSegment[packet] as number);
    scratch.packetOffset[packet] = start;
    scratch.packetLength[packet] = target - start;
    this.#stagingUsed += target - start;
  }

  #copy(): void {
    const { copies, packetFault } = this.#scratch;
    if (copies.count === 0) return;
    try {
      this.#grants.copy(copies);
    } catch (error) {
      if (!(error instanceof GrantError)) throw error;
      packetFault.fill('COPY_FAILED', 0, this.#packets);
    }
  }

  /** Gathers the frames that arrived whole, and hands them on as one batch. */
  #handOn(): void {
    const scratch = this.#scratch;
    const { batch, copies } = scratch;
    batch.clear();
    for (let packet = 0; packet < this.#packets; packet += 1) {
      let fault = scratch.packetFault[packet];
      const firstSegment = scratch.packetFirstSegment[packet] as number;
      const end = firstSegment + (scratch.packetSegments[packet] as number);
      for (let segment = firstSegment; fault === undefined && segment < end; segment += 1) {
        if (copies.status(segment) !== GNTST_OKAY) fault = 'BAD_GRANT';
      }
      scratch.packetFault[packet] = fault;
      if (fault !== undefined) {
        this.#metrics.tx.drop('tx-ring', fault);
        continue;
      }
      batch.add(
        scratch.packetOffset[packet] as number,
        scratch.packetLength[packet] as number,
        scratch.packetFlags[packet] as number,
      );
    }
    if (batch.count === 0) return;
    this.#metrics.tx.count(batch.count, batch.totalBytes);
    batch.timeNs = frameTimeNs();
    this.#deliver(batch);
  }

  #answer(notify: () => void): void {
    const { ring } = this;
    const scratch = this.#scratch;
    const oldRspProd = ring.rspProd;
    let slot = 0;
    for (let packet = 0; packet < this.#packets; packet += 1) {
      const status = scratch.packetFault[packet] === undefined ? RSP_OKAY : RSP_ERROR;
      const end = slot + (scratch.packetSlots[packet] as number);
      for (; slot < end; slot += 1) {
        const answer = scratch.slotKinds[slot] === EXTRA_SLOT ? RSP_NULL : status;
        writeTxResponse(
          ring.page,
          ring.slot(ring.rspProd),
          scratch.slotIds[slot] as number,
          answer,
        );
        ring.rspProd = (ring.rspProd + 1) >>> 0;
      }
    }
    ring.reqCons = (ring.reqCons + this.#slots) >>> 0;
    if (slot > 0 && ring.pushResponses(oldRspProd)) notify();
  }
}

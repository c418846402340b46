/**
 * The TX ring of one queue: takes what the guest sends. A whole batch of requests is parsed, copied
 * by one call, handed on, and only then answered, in ring order: a daemon that dies in between
 * leaves requests that the next one takes again, and never loses a frame that was acknowledged.
 *
 * A frame for another guest is copied twice, into memory of ours and out of it. From page to page it
 * would be once, but what was judged would lie where the sender can change it: its headers would have to
 * be copied and delivered by themselves, three segments a frame in place of two, and a segment costs Xen
 * more than the bytes of an Ethernet frame. And whoever else looks at the frame needs it here anyway.
 */
import { PROTOCOL_TCP } from '@xenvif/client/wire';
import { GrantError } from '../../errors.js';
import { AnswerLog } from '../../ring/answer-log.js';
import { GSO_TYPE_TCPV4 } from '../../ring/netif-extra.js';
import {
  RSP_DROPPED,
  RSP_ERROR,
  RSP_NULL,
  RSP_OKAY,
  TX_SLOT_BYTES,
  writeTxResponse,
} from '../../ring/netif-tx.js';
import { BackRing } from '../../ring/shared-ring.js';
import { PacketLayout, parseTransport } from '../../wire/packet-layout.js';
import { GNTST_OKAY } from '../../xen/copy-batch.js';
import type { Page } from '../../xen/page.js';
import type { Grants } from '../../xen/xen.js';
import { frameTimeNs } from '../clock.js';
import { CHECKSUM_BLANK, GSO_MASK, gsoSizeOf, gsoTypeOf } from '../frame-batch.js';
import type { QueueMetrics } from '../metrics.js';
import type { BatchListener } from '../network.js';
import { RunFiller } from '../run-filler.js';
import type { RunStorage } from '../run-storage.js';
import { finishTxAnswers } from './answer-recovery.js';
import { EXTRA_SLOT, NO_FRAME, TxParser, type TxParserOptions } from './tx-parser.js';
import { areFlagsTrue, parsePlain } from './tx-plain.js';
import type { TxScratch } from './tx-scratch.js';

/** What a queue shares with the others of its vif. */
export interface TxOptions extends TxParserOptions {
  readonly deliver: BatchListener;
  /** A daemon before us served the ring. */
  readonly adopted: boolean;
  /** Whether frames are to be thrown away, for the link is down. */
  readonly isDown: () => boolean;
}

/** Frames are copied straight into storage where they have this many bytes... */
const STORED_FRAME_BYTES_MIN = 512;
/** ... and it has room for so many. */
const STORED_BYTES_MIN = 8 * 1024;

export class TxQueue {
  readonly ring: BackRing;
  readonly #grants: Grants;
  readonly #options: TxOptions;
  readonly #scratch: TxScratch;
  readonly #metrics: QueueMetrics;
  readonly #parser: TxParser;
  readonly #log: AnswerLog;
  readonly #layout = new PacketLayout();
  readonly #filler: RunFiller;

  constructor(
    page: Page,
    grants: Grants,
    scratch: TxScratch,
    metrics: QueueMetrics,
    options: TxOptions,
  ) {
    this.ring = new BackRing(page, TX_SLOT_BYTES);
    this.#log = new AnswerLog(page);
    if (options.adopted) finishTxAnswers(this.ring, this.#log);
    else this.#log.reset(this.ring.rspProd);
    this.#grants = grants;
    this.#scratch = scratch;
    this.#filler = new RunFiller(scratch.runs);
    this.#metrics = metrics;
    this.#options = options;
    this.#parser = new TxParser(scratch, options);
  }

  /** How long the rate limit holds back what is on the ring, in milliseconds; 0 when it does not. */
  get throttledMs(): number {
    const { throttledBytes } = this.#parser;
    if (throttledBytes === 0) return 0;
    return this.#options.bucket()?.waitMs(throttledBytes, performance.now()) ?? 0;
  }

  /**
   * Takes, hands on and answers what is on the ring, each slot read once, in as few batches as it
   * goes into. Returns how many slots were answered; `notify` is called where the guest wants to hear
   * of it.
   * @throws ProtocolError when the ring makes no sense. What came before the fault is answered.
   */
  consume(notify: () => void): number {
    const { ring } = this;
    const pending = ring.pendingRequests();
    this.#parser.throttledBytes = 0;
    if (pending === 0) return 0;
    ring.readRequests(this.#scratch.requests, pending);
    let taken = 0;
    while (taken < pending) {
      const slots =
        this.#consumePlain(taken, pending, notify) || this.#consumeAny(taken, pending, notify);
      if (slots === 0) break;
      taken += slots;
    }
    return taken;
  }

  /** Takes a batch of requests from number `first` on, whatever they are; 0: the rate holds them. */
  #consumeAny(first: number, pending: number, notify: () => void): number {
    const fault = this.#parser.parse(first, pending);
    this.#copy();
    this.#handOn();
    this.#answer(notify);
    if (fault !== undefined) throw fault;
    return this.#parser.slots;
  }

  /** Takes a batch that is plain; 0 where it is not. */
  #consumePlain(first: number, pending: number, notify: () => void): number {
    const { bucket, isDown } = this.#options;
    if (isDown() || bucket() !== undefined) return 0;
    const size = (this.#scratch.requests[first * 3 + 2] as number) >>> 16;
    // Short frames go where others have just been: each would touch memory that is cold for itself.
    const storage =
      size < STORED_FRAME_BYTES_MIN ? undefined : this.#filler.begin(STORED_BYTES_MIN);
    try {
      return this.#consumeInto(storage, first, pending, notify);
    } finally {
      this.#filler.end(this.#scratch.batch);
    }
  }

  /**
   * Takes a plain batch, into `storage` where there is one, and hands it on at once where all copies
   * went well and the flags are true; 0 where it is not plain.
   */
  #consumeInto(
    storage: RunStorage | undefined,
    first: number,
    pending: number,
    notify: () => void,
  ): number {
    const { deliver, domid } = this.#options;
    const scratch = this.#scratch;
    const count = parsePlain(scratch, domid, first, pending, storage);
    if (count === 0) return 0;
    this.#copyPlain();
    const { batch, copies } = scratch;
    if (!copies.allOkay || !areFlagsTrue(batch)) {
      this.#parser.takePlain(first, count);
      this.#handOn();
      this.#answer(notify);
      return count;
    }
    this.#metrics.tx.count(count, batch.totalBytes);
    batch.timeNs = frameTimeNs();
    batch.settler = this.#filler;
    deliver(batch);
    const { ring } = this;
    const oldRspProd = ring.rspProd;
    const end = (oldRspProd + count) >>> 0;
    this.#log.begin(end, end);
    // Whole slots at once are written in no order: the ids stay until every answer is there.
    ring.writeResponses(scratch.tailedAnswers, count);
    this.#log.reached(oldRspProd);
    ring.rspProd = oldRspProd;
    ring.writeResponses(scratch.answers, count);
    ring.reqCons = (ring.reqCons + count) >>> 0;
    if (ring.pushResponses(oldRspProd)) notify();
    return count;
  }

  /** Copies a plain batch; where the call fails, every copy has a status that is not OKAY. */
  #copyPlain(): void {
    try {
      this.#grants.copy(this.#scratch.copies);
    } catch (error) {
      if (!(error instanceof GrantError)) throw error;
      this.#scratch.copies.fail();
    }
  }

  #copy(): void {
    const { copies, packetFault } = this.#scratch;
    if (copies.count === 0) return;
    try {
      this.#grants.copy(copies);
    } catch (error) {
      if (!(error instanceof GrantError)) throw error;
      for (let packet = 0; packet < this.#parser.packets; packet += 1) {
        packetFault[packet] ??= 'COPY_FAILED';
      }
    }
  }

  /** Gathers the frames that arrived whole, and hands them on as one batch. */
  #handOn(): void {
    const scratch = this.#scratch;
    const { batch } = scratch;
    batch.clear();
    const isDown = this.#options.isDown();
    for (let packet = 0; packet < this.#parser.packets; packet += 1) {
      scratch.packetStatus[packet] = RSP_OKAY;
      const fault = scratch.packetFault[packet] ?? this.#copyFault(packet);
      if (fault === NO_FRAME) continue;
      if (fault !== undefined) {
        this.#drop(packet, fault, RSP_ERROR);
      } else if (isDown) {
        this.#drop(packet, 'CARRIER_DOWN', RSP_OKAY);
      } else if (!this.#metadataHolds(packet)) {
        this.#drop(packet, 'CHECKSUM_OFFSET_INVALID', RSP_DROPPED);
      } else {
        batch.add(
          scratch.packetOffset[packet] as number,
          scratch.packetLength[packet] as number,
          scratch.packetFlags[packet] as number,
        );
      }
    }
    if (batch.count === 0) return;
    this.#metrics.tx.count(batch.count, batch.totalBytes);
    batch.timeNs = frameTimeNs();
    this.#options.deliver(batch);
  }

  #copyFault(packet: number): string | undefined {
    const { copies, packetFirstSegment, packetSegments } = this.#scratch;
    const first = packetFirstSegment[packet] as number;
    const end = first + (packetSegments[packet] as number);
    for (let segment = first; segment < end; segment += 1) {
      if (copies.status(segment) !== GNTST_OKAY) return 'BAD_GRANT';
    }
    return undefined;
  }

  #drop(packet: number, cause: string, status: number): void {
    this.#metrics.tx.drop('tx-ring', cause);
    this.#scratch.packetStatus[packet] = status;
  }

  /**
   * Whether the frame is what its flags say, so that whoever receives it can rely on them: a blank
   * checksum needs a place to be filled in, and segmentation a TCP segment of the version named. A
   * frame that is one segment already is no longer marked as one to be cut.
   */
  #metadataHolds(packet: number): boolean {
    const scratch = this.#scratch;
    const flags = scratch.packetFlags[packet] as number;
    if ((flags & CHECKSUM_BLANK) === 0) return true;
    const layout = this.#layout;
    const start = scratch.packetOffset[packet] as number;
    const length = scratch.packetLength[packet] as number;
    if (!parseTransport(scratch.batch.bytes, start, length, layout)) return false;
    const gsoType = gsoTypeOf(flags);
    if (gsoType === 0) return true;
    if (layout.protocol !== PROTOCOL_TCP) return false;
    if (layout.ipVersion !== (gsoType === GSO_TYPE_TCPV4 ? 4 : 6)) return false;
    if (layout.packetEnd - layout.payloadOffset <= gsoSizeOf(flags)) {
      scratch.packetFlags[packet] = flags & ~GSO_MASK;
    }
    return true;
  }

  /** Answers from the last slot to the first: answer-recovery.ts says why. */
  #answer(notify: () => void): void {
    const { ring } = this;
    const scratch = this.#scratch;
    const { slots } = this.#parser;
    if (slots === 0) return;
    const first = ring.rspProd;
    const end = (first + slots) >>> 0;
    this.#log.begin(end, end);
    let slot = slots;
    for (let packet = this.#parser.packets - 1; packet >= 0; packet -= 1) {
      const status = scratch.packetStatus[packet] as number;
      const start = slot - (scratch.packetSlots[packet] as number);
      while (slot > start) {
        slot -= 1;
        const index = (first + slot) >>> 0;
        const answer = scratch.slotKinds[slot] === EXTRA_SLOT ? RSP_NULL : status;
        this.#log.reached(index);
        writeTxResponse(ring.page, ring.slot(index), scratch.slotIds[slot] as number, answer);
      }
    }
    ring.rspProd = end;
    ring.reqCons = end;
    if (ring.pushResponses(first)) notify();
  }
}

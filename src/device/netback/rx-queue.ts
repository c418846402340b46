/**
 * The RX ring of one queue: gives the guest its frames. Frames go straight from where they lie in
 * local memory into the buffers that the guest posted, a whole batch by one copy call. What finds no
 * buffer waits in a queue that is bounded in bytes, and is dropped and counted beyond that.
 */
import { GrantError } from '../../errors.js';
import {
  RX_CSUM_BLANK,
  RX_DATA_VALIDATED,
  RX_MORE_DATA,
  RX_SLOT_BYTES,
  readRxRequestGref,
  readRxRequestId,
  writeRxResponse,
} from '../../ring/netif-rx.js';
import { RSP_ERROR } from '../../ring/netif-tx.js';
import { BackRing } from '../../ring/shared-ring.js';
import { CopyBatch, GNTST_OKAY } from '../../xen/copy-batch.js';
import type { LocalMemory } from '../../xen/local-memory.js';
import type { Page } from '../../xen/page.js';
import { type Grants, PAGE_SIZE } from '../../xen/xen.js';
import { frameTimeNs } from '../clock.js';
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  DIRECTION_TO_GUEST,
  FRAME_BYTES_MAX,
  FrameBatch,
  METADATA_MASK,
} from '../frame-batch.js';
import { FrameQueue } from '../frame-queue.js';
import type { QueueMetrics } from '../metrics.js';
import { type BatchListener, WriteOutcome } from '../network.js';

const SLOTS_MAX = 256;
/** Frames that wait for a guest that posts no buffers: as many bytes as Linux's netback keeps. */
const QUEUE_BYTES = 512 * 1024;
const QUEUE_FRAMES = 1024;

/** What one call works with; used within the call, so one serves every queue of the daemon. */
export class RxScratch {
  readonly copies: CopyBatch;
  readonly sent: FrameBatch;
  readonly slotIds = new Uint16Array(SLOTS_MAX);
  readonly slotLengths = new Uint16Array(SLOTS_MAX);
  readonly slotFlags = new Uint16Array(SLOTS_MAX);
  readonly frameSlots = new Uint16Array(SLOTS_MAX);
  readonly frameOffsets = new Uint32Array(SLOTS_MAX);
  readonly frameLengths = new Uint32Array(SLOTS_MAX);
  readonly frameFlags = new Uint32Array(SLOTS_MAX);

  constructor(memory: LocalMemory) {
    this.copies = new CopyBatch(memory, SLOTS_MAX);
    this.sent = new FrameBatch(memory.bytes, SLOTS_MAX);
  }
}

export interface RxOptions {
  /** The guest takes frames that span several slots. */
  readonly scatterGather: boolean;
  readonly domid: number;
  readonly notify: () => void;
  /** Gets the frames that are in the guest's hands; undefined while nobody looks. */
  readonly observer: () => BatchListener | undefined;
}

export class RxQueue {
  readonly ring: BackRing;
  readonly #grants: Grants;
  readonly #scratch: RxScratch;
  readonly #metrics: QueueMetrics;
  readonly #options: RxOptions;
  readonly #queue: FrameQueue;
  #slots = 0;
  #frames = 0;
  #available = 0;

  constructor(
    page: Page,
    grants: Grants,
    memory: LocalMemory,
    scratch: RxScratch,
    metrics: QueueMetrics,
    options: RxOptions,
  ) {
    this.ring = new BackRing(page, RX_SLOT_BYTES);
    this.#grants = grants;
    this.#scratch = scratch;
    this.#metrics = metrics;
    this.#options = options;
    this.#queue = new FrameQueue(memory, QUEUE_BYTES, QUEUE_FRAMES);
  }

  /** Bytes that wait for buffers. */
  get queuedBytes(): number {
    return this.#queue.bytes;
  }

  /**
   * Sends every frame of `batch`, or queues it; returns how many were accepted.
   * @throws ProtocolError when the ring makes no sense.
   */
  write(batch: FrameBatch, outcomes?: Uint8Array): number {
    let accepted = 0;
    if (this.#queue.count > 0) this.flush();
    this.#begin();
    for (let index = 0; index < batch.count; index += 1) {
      const offset = batch.offset(index);
      const length = batch.length(index);
      const flags = batch.flag(index);
      let outcome: WriteOutcome = WriteOutcome.accepted;
      if (this.#slotsFor(length) === 0) {
        this.#metrics.rx.drop('rx-queue', 'TOO_LONG');
        outcome = WriteOutcome.tooLong;
      } else if (this.#queue.count > 0 || !this.#place(offset, length, flags)) {
        if (!this.#queue.push(offset, length, flags)) {
          this.#metrics.rx.drop('rx-queue', 'RX_QUEUE_FULL');
          outcome = WriteOutcome.queueFull;
        }
      }
      if (outcome === WriteOutcome.accepted) accepted += 1;
      if (outcomes !== undefined) outcomes[index] = outcome;
    }
    this.#commit();
    this.#awaitBuffers();
    return accepted;
  }

  /** Sends what waits, as far as the guest has posted buffers. */
  flush(): void {
    if (this.#queue.count === 0) return;
    this.#sendQueued();
    this.#awaitBuffers();
  }

  /** Gives the queue's memory back and counts what was still in it. */
  close(): void {
    const dropped = this.#queue.clear();
    if (dropped > 0) this.#metrics.rx.drop('rx-queue', 'DISCONNECTED', dropped);
  }

  #sendQueued(): void {
    this.#begin();
    const queue = this.#queue;
    while (queue.count > 0 && this.#place(queue.offset, queue.length, queue.flags)) queue.shift();
    this.#commit();
    if (queue.count === 0) queue.clear();
  }

  /** Asks for an event when there are enough buffers for the frame that waits longest. */
  #awaitBuffers(): void {
    while (this.#queue.count > 0) {
      const needed = this.#slotsFor(this.#queue.length);
      if (this.ring.requestEvent(needed) < needed) return;
      this.#sendQueued();
    }
  }

  /** Slots that a frame needs; 0 when the guest cannot take it. */
  #slotsFor(length: number): number {
    if (length > FRAME_BYTES_MAX) return 0;
    const slots = Math.ceil(length / PAGE_SIZE);
    return slots === 1 || this.#options.scatterGather ? slots : 0;
  }

  #begin(): void {
    this.#scratch.copies.clear();
    this.#slots = 0;
    this.#frames = 0;
    this.#available = this.ring.pendingRequests();
  }

  /** Takes buffers for a frame and adds its copies; false when there are not enough buffers. */
  #place(offset: number, length: number, flags: number): boolean {
    const needed = this.#slotsFor(length);
    if (this.#available < needed) return false;
    const scratch = this.#scratch;
    const { ring } = this;
    for (let part = 0; part < needed; part += 1) {
      const slot = ring.slot(ring.reqCons + this.#slots);
      const id = readRxRequestId(ring.page, slot);
      const gref = readRxRequestGref(ring.page, slot);
      const bytes = Math.min(PAGE_SIZE, length - part * PAGE_SIZE);
      scratch.copies.toGrant(this.#options.domid, gref, 0, offset + part * PAGE_SIZE, bytes);
      scratch.slotIds[this.#slots] = id;
      scratch.slotLengths[this.#slots] = bytes;
      scratch.slotFlags[this.#slots] =
        (part === 0 ? checksumFlags(flags) : 0) | (part + 1 < needed ? RX_MORE_DATA : 0);
      this.#slots += 1;
    }
    scratch.frameSlots[this.#frames] = needed;
    scratch.frameOffsets[this.#frames] = offset;
    scratch.frameLengths[this.#frames] = length;
    scratch.frameFlags[this.#frames] = flags;
    this.#frames += 1;
    this.#available -= needed;
    return true;
  }

  /** Runs the copies, answers every slot taken, and tells who looks. */
  #commit(): void {
    if (this.#slots === 0) return;
    const scratch = this.#scratch;
    let failed = false;
    try {
      this.#grants.copy(scratch.copies);
    } catch (error) {
      if (!(error instanceof GrantError)) throw error;
      failed = true;
    }
    const { ring } = this;
    const oldRspProd = ring.rspProd;
    const { sent } = scratch;
    sent.clear();
    let slot = 0;
    for (let frame = 0; frame < this.#frames; frame += 1) {
      const end = slot + (scratch.frameSlots[frame] as number);
      let whole = !failed;
      for (; slot < end; slot += 1) {
        const okay = !failed && scratch.copies.status(slot) === GNTST_OKAY;
        whole = whole && okay;
        writeRxResponse(
          ring.page,
          ring.slot(ring.rspProd),
          scratch.slotIds[slot] as number,
          0,
          scratch.slotFlags[slot] as number,
          okay ? (scratch.slotLengths[slot] as number) : RSP_ERROR,
        );
        ring.rspProd = (ring.rspProd + 1) >>> 0;
      }
      if (!whole) {
        this.#metrics.rx.drop('rx-ring', 'BAD_GRANT');
        continue;
      }
      const flags = (scratch.frameFlags[frame] as number) & METADATA_MASK;
      sent.add(
        scratch.frameOffsets[frame] as number,
        scratch.frameLengths[frame] as number,
        flags | DIRECTION_TO_GUEST,
      );
    }
    ring.reqCons = (ring.reqCons + this.#slots) >>> 0;
    this.#metrics.rx.count(sent.count, sent.totalBytes);
    const observer = this.#options.observer();
    if (observer !== undefined && sent.count > 0) {
      sent.timeNs = frameTimeNs();
      observer(sent);
    }
    if (ring.pushResponses(oldRspProd)) this.#options.notify();
  }
}

/** The checksum bits as an RX slot has them: the other way round than in TX. */
function checksumFlags(flags: number): number {
  let result = 0;
  if ((flags & CHECKSUM_BLANK) !== 0) result |= RX_CSUM_BLANK | RX_DATA_VALIDATED;
  if ((flags & DATA_VALIDATED) !== 0) result |= RX_DATA_VALIDATED;
  return result;
}

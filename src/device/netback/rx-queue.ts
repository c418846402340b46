/**
 * The RX ring of one queue: gives the guest its frames. Frames go straight from where they lie in
 * local memory into the buffers that the guest posted, a whole batch by one copy call. What finds no
 * buffer waits in a queue that is bounded in bytes and in time; beyond that it is dropped and counted.
 *
 * A guest that promises to tell of new buffers (feature-rx-notify) is waited for, up to the drain
 * time; one that has posted none for the stall time is stalled, and gets nothing until it posts
 * again. A guest that does not promise is asked, every few milliseconds, while something waits.
 */
import { GrantError } from '../../errors.js';
import { HASH_ALGORITHM_TOEPLITZ } from '../../ring/netif-ctrl.js';
import { EXTRA_FLAG_MORE, writeGsoExtra, writeHashExtra } from '../../ring/netif-extra.js';
import {
  RX_CSUM_BLANK,
  RX_DATA_VALIDATED,
  RX_EXTRA_INFO,
  RX_MORE_DATA,
  RX_SLOT_BYTES,
  readRxRequestGref,
  readRxRequestId,
  writeRxResponse,
} from '../../ring/netif-rx.js';
import { RSP_ERROR } from '../../ring/netif-tx.js';
import { BackRing } from '../../ring/shared-ring.js';
import type { NetifHash } from '../../wire/toeplitz.js';
import { GNTST_OKAY } from '../../xen/copy-batch.js';
import type { LocalMemory } from '../../xen/local-memory.js';
import type { Page } from '../../xen/page.js';
import { type Grants, PAGE_SIZE } from '../../xen/xen.js';
import { frameTimeNs } from '../clock.js';
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  DIRECTION_TO_GUEST,
  FRAME_BYTES_MAX,
  gsoSizeOf,
  gsoTypeOf,
  METADATA_MASK,
} from '../frame-batch.js';
import { FrameQueue } from '../frame-queue.js';
import type { QueueMetrics } from '../metrics.js';
import { type BatchListener, WriteOutcome } from '../network.js';
import type { RxScratch } from './rx-scratch.js';

/** Frames that wait for a guest that posts no buffers: as many bytes as Linux's netback keeps. */
const QUEUE_BYTES = 512 * 1024;
const QUEUE_FRAMES = 1024;

/** `RxScratch.slotKinds`. */
const DATA_SLOT = 0;
const GSO_SLOT = 1;
const HASH_SLOT = 2;

/** How long frames wait for buffers, in milliseconds. */
export interface RxPatience {
  /** A frame that has waited so long is dropped. */
  readonly drainMs: number;
  /** A guest that has posted too little for so long is stalled; Infinity: never. */
  readonly stallMs: number;
  /** How often the ring is looked at while frames wait, for the guest may not tell. */
  readonly pollMs: number;
}

/** A guest that tells of its buffers, with the times of Linux's netback. */
export const PATIENCE_WITH_NOTIFY: RxPatience = { drainMs: 10_000, stallMs: 60_000, pollMs: 1000 };
/** A guest that does not: frames wait no longer than it takes to see that it has stopped. */
export const PATIENCE_WITHOUT_NOTIFY: RxPatience = {
  drainMs: 30,
  stallMs: Number.POSITIVE_INFINITY,
  pollMs: 5,
};

export interface RxOptions {
  /** The guest takes frames that span several slots. */
  readonly scatterGather: boolean;
  readonly domid: number;
  readonly patience: RxPatience;
  readonly notify: () => void;
  /** Gets the frames that are in the guest's hands; undefined while nobody looks. */
  readonly observer: () => BatchListener | undefined;
  /** Work that nobody called for went wrong. */
  readonly fault: (error: unknown) => void;
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
  #begun = false;
  #timer: NodeJS.Timeout | undefined;
  /** When the guest last took a frame, or posted enough for one. */
  #progressMs = performance.now();
  /** How many slots the frame needs for which the guest has too few; 0 while it is not stalled. */
  #stalledSlots = 0;

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

  /** The guest has posted no buffers for so long that it gets nothing until it does. */
  get stalled(): boolean {
    return this.#stalledSlots > 0;
  }

  /**
   * Sends a frame, or queues it. What it says holds once `commit` has run; until then the frame must
   * stay where it lies. `hash` is what the guest is told of the frame's flow; type 0 for nothing.
   * @throws ProtocolError when the ring makes no sense.
   */
  send(offset: number, length: number, flags: number, hash: NetifHash): WriteOutcome {
    if (!this.#begun) this.#begin();
    const needed = this.#slotsFor(length, flags, hash.type);
    if (needed === 0) {
      this.#metrics.rx.drop('rx-queue', 'TOO_LONG');
      return WriteOutcome.tooLong;
    }
    if (this.#stalledSlots > 0) {
      this.#metrics.rx.drop('rx-queue', 'RX_STALLED');
      return WriteOutcome.queueFull;
    }
    if (this.#queue.count === 0 && this.#available >= needed) {
      this.#place(offset, length, flags, hash);
      return WriteOutcome.accepted;
    }
    // What the guest is told of a flow is a convenience: a frame that has to wait goes without.
    if (this.#queue.push(offset, length, flags, performance.now())) return WriteOutcome.accepted;
    this.#metrics.rx.drop('rx-queue', 'RX_QUEUE_FULL');
    return WriteOutcome.queueFull;
  }

  /** Carries out what `send` took. */
  commit(): void {
    if (!this.#begun) return;
    this.#begun = false;
    this.#commitSlots();
    this.#awaitBuffers();
  }

  /** Sends what waits, as far as the guest has posted buffers. Returns whether anything went. */
  flush(): boolean {
    if (this.#stalledSlots > 0) this.#endStall();
    if (this.#queue.count === 0) return false;
    const sent = this.#sendQueued();
    this.#awaitBuffers();
    return sent;
  }

  /** Gives the queue's memory back and counts what was still in it. */
  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#dropQueued('DISCONNECTED');
  }

  #begin(): void {
    this.#begun = true;
    if (this.#queue.count > 0 || this.#stalledSlots > 0) this.flush();
    this.#beginSlots();
  }

  #beginSlots(): void {
    this.#scratch.copies.clear();
    this.#slots = 0;
    this.#frames = 0;
    this.#available = this.ring.pendingRequests();
  }

  #sendQueued(): boolean {
    this.#beginSlots();
    const queue = this.#queue;
    while (queue.count > 0) {
      if (this.#available < this.#slotsFor(queue.length, queue.flags, 0)) break;
      this.#place(queue.offset, queue.length, queue.flags, NO_HASH);
      queue.shift();
    }
    const sent = this.#slots > 0;
    this.#commitSlots();
    if (queue.count === 0) queue.clear();
    return sent;
  }

  /** Asks for an event when there are enough buffers for the frame that waits longest. */
  #awaitBuffers(): void {
    while (this.#queue.count > 0) {
      const needed = this.#slotsFor(this.#queue.length, this.#queue.flags, 0);
      if (this.ring.requestEvent(needed) < needed) break;
      this.#sendQueued();
    }
    this.#watchTime();
  }

  /** While something waits, or the guest is stalled, time has to be looked at. */
  #watchTime(): void {
    if (this.#queue.count === 0 && this.#stalledSlots === 0) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
    } else {
      this.#timer ??= setTimeout(() => this.#onTime(), this.#options.patience.pollMs);
    }
  }

  #onTime(): void {
    this.#timer = undefined;
    try {
      this.flush();
      this.#dropExpired(performance.now());
      this.#watchTime();
    } catch (error) {
      this.#options.fault(error);
    }
  }

  #dropExpired(nowMs: number): void {
    const { drainMs, stallMs } = this.#options.patience;
    const queue = this.#queue;
    if (queue.count === 0) return;
    if (nowMs - this.#progressMs >= stallMs) {
      this.#stalledSlots = this.#slotsFor(queue.length, queue.flags, 0);
    }
    let expired = 0;
    while (queue.count > 0 && nowMs - queue.timeMs >= drainMs) {
      queue.shift();
      expired += 1;
    }
    if (expired > 0) this.#metrics.rx.drop('rx-queue', 'RX_EXPIRED', expired);
    if (this.#stalledSlots > 0) this.#dropQueued('RX_STALLED');
    if (queue.count === 0) queue.clear();
  }

  /** A stalled guest that has posted enough for the frame that it stalled at is one no longer. */
  #endStall(): void {
    if (this.ring.requestEvent(this.#stalledSlots) < this.#stalledSlots) return;
    this.#stalledSlots = 0;
    this.#progressMs = performance.now();
  }

  #dropQueued(cause: string): void {
    const dropped = this.#queue.clear();
    if (dropped > 0) this.#metrics.rx.drop('rx-queue', cause, dropped);
  }

  /** Slots that a frame needs, extras included; 0 when the guest cannot take it. */
  #slotsFor(length: number, flags: number, hashType: number): number {
    if (length > FRAME_BYTES_MAX) return 0;
    const slots = Math.ceil(length / PAGE_SIZE);
    if (slots > 1 && !this.#options.scatterGather) return 0;
    return slots + (gsoTypeOf(flags) === 0 ? 0 : 1) + (hashType === 0 ? 0 : 1);
  }

  /** Takes buffers for a frame and adds its copies; the caller has seen that there are enough. */
  #place(offset: number, length: number, flags: number, hash: NetifHash): void {
    const scratch = this.#scratch;
    const first = this.#slots;
    const hasExtra = gsoTypeOf(flags) !== 0 || hash.type !== 0;
    for (let done = 0; done < length; done += PAGE_SIZE) {
      const bytes = Math.min(PAGE_SIZE, length - done);
      const slot = this.#takeSlot(DATA_SLOT);
      const gref = readRxRequestGref(this.ring.page, this.ring.slot(this.ring.reqCons + slot));
      scratch.slotSegments[slot] = scratch.copies.toGrant(
        this.#options.domid,
        gref,
        0,
        offset + done,
        bytes,
      );
      scratch.slotLengths[slot] = bytes;
      scratch.slotFlags[slot] =
        (done === 0 ? checksumFlags(flags) | (hasExtra ? RX_EXTRA_INFO : 0) : 0) |
        (done + bytes < length ? RX_MORE_DATA : 0);
      if (done > 0) continue;
      if (gsoTypeOf(flags) !== 0) this.#takeSlot(GSO_SLOT);
      if (hash.type !== 0) this.#takeSlot(HASH_SLOT);
    }
    const frame = this.#frames;
    scratch.frameSlots[frame] = this.#slots - first;
    scratch.frameOffsets[frame] = offset;
    scratch.frameLengths[frame] = length;
    scratch.frameFlags[frame] = flags;
    scratch.frameHashTypes[frame] = hash.type;
    scratch.frameHashes[frame] = hash.hash;
    this.#frames += 1;
    this.#available -= this.#slots - first;
  }

  /** Takes the next buffer, for a piece of a frame or for an extra that is written in its place. */
  #takeSlot(kind: number): number {
    const slot = this.#slots;
    const { ring } = this;
    this.#scratch.slotIds[slot] = readRxRequestId(ring.page, ring.slot(ring.reqCons + slot));
    this.#scratch.slotKinds[slot] = kind;
    this.#slots = slot + 1;
    return slot;
  }

  /** Runs the copies, answers every slot taken, and tells who looks. */
  #commitSlots(): void {
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
      for (; slot < end; slot += 1) whole = this.#answer(slot, frame, failed) && whole;
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
    this.#slots = 0;
    this.#progressMs = performance.now();
    this.#metrics.rx.count(sent.count, sent.totalBytes);
    const observer = this.#options.observer();
    if (observer !== undefined && sent.count > 0) {
      sent.timeNs = frameTimeNs();
      observer(sent);
    }
    if (ring.pushResponses(oldRspProd)) this.#options.notify();
  }

  /** Writes the next response; false when the copy into its buffer failed. */
  #answer(slot: number, frame: number, failed: boolean): boolean {
    const scratch = this.#scratch;
    const { ring } = this;
    const place = ring.slot(ring.rspProd);
    ring.rspProd = (ring.rspProd + 1) >>> 0;
    const kind = scratch.slotKinds[slot];
    const hashType = scratch.frameHashTypes[frame] as number;
    if (kind === GSO_SLOT) {
      const flags = scratch.frameFlags[frame] as number;
      const more = hashType === 0 ? 0 : EXTRA_FLAG_MORE;
      writeGsoExtra(ring.page, place, more, gsoSizeOf(flags), gsoTypeOf(flags));
      return true;
    }
    if (kind === HASH_SLOT) {
      const hash = scratch.frameHashes[frame] as number;
      const type = Math.log2(hashType);
      writeHashExtra(ring.page, place, 0, type, HASH_ALGORITHM_TOEPLITZ, hash);
      return true;
    }
    const segment = scratch.slotSegments[slot] as number;
    const okay = !failed && scratch.copies.status(segment) === GNTST_OKAY;
    writeRxResponse(
      ring.page,
      place,
      scratch.slotIds[slot] as number,
      0,
      scratch.slotFlags[slot] as number,
      okay ? (scratch.slotLengths[slot] as number) : RSP_ERROR,
    );
    return okay;
  }
}

/** The hash of a frame of which nothing is told. */
export const NO_HASH: NetifHash = { hash: 0, type: 0 };

/** The checksum bits as an RX slot has them: the other way round than in TX. */
function checksumFlags(flags: number): number {
  let result = 0;
  if ((flags & CHECKSUM_BLANK) !== 0) result |= RX_CSUM_BLANK | RX_DATA_VALIDATED;
  if ((flags & DATA_VALIDATED) !== 0) result |= RX_DATA_VALIDATED;
  return result;
}

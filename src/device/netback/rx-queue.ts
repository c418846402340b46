/**
 * The RX ring of one queue: gives the guest its frames. Frames go straight from where they lie in
 * local memory into the buffers that the guest posted, a whole batch by one copy call. What finds no
 * buffer waits in a queue that is bounded in bytes and in time; beyond that it is dropped and counted.
 *
 * A guest that promises to tell of new buffers (feature-rx-notify) is waited for, up to the drain
 * time; one that has posted none for the stall time is stalled, and gets nothing until it posts
 * again. A guest that does not promise is asked, every few milliseconds, while something waits.
 */
import type { BackRing } from '../../ring/shared-ring.js';
import type { NetifHash } from '../../wire/toeplitz.js';
import type { LocalMemory } from '../../xen/local-memory.js';
import type { Page } from '../../xen/page.js';
import type { Grants } from '../../xen/xen.js';
import type { FrameBatch } from '../frame-batch.js';
import { FrameQueue } from '../frame-queue.js';
import type { QueueMetrics } from '../metrics.js';
import { WriteOutcome } from '../network.js';
import { NO_HASH, RxFiller, type RxFillerOptions } from './rx-filler.js';
import type { RxScratch } from './rx-scratch.js';

/** Frames that wait for a guest that posts no buffers: as many bytes as Linux's netback keeps. */
const QUEUE_BYTES = 512 * 1024;
const QUEUE_FRAMES = 1024;

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

export interface RxOptions extends RxFillerOptions {
  readonly patience: RxPatience;
  /** Work that nobody called for went wrong. */
  readonly fault: (error: unknown) => void;
}

export class RxQueue {
  readonly #filler: RxFiller;
  readonly #metrics: QueueMetrics;
  readonly #options: RxOptions;
  readonly #queue: FrameQueue;
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
    this.#filler = new RxFiller(page, grants, scratch, metrics, options);
    this.#metrics = metrics;
    this.#options = options;
    this.#queue = new FrameQueue(memory, QUEUE_BYTES, QUEUE_FRAMES);
  }

  get ring(): BackRing {
    return this.#filler.ring;
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
    const needed = this.#filler.slotsFor(length, flags, hash.type);
    if (needed === 0) {
      this.#metrics.rx.drop('rx-queue', 'TOO_LONG');
      return WriteOutcome.tooLong;
    }
    if (this.#stalledSlots > 0) {
      this.#metrics.rx.drop('rx-queue', 'RX_STALLED');
      return WriteOutcome.queueFull;
    }
    if (this.#queue.count === 0 && this.#filler.available >= needed) {
      this.#filler.place(offset, length, flags, hash);
      return WriteOutcome.accepted;
    }
    // What the guest is told of a flow is a convenience: a frame that has to wait goes without.
    if (this.#queue.push(offset, length, flags, performance.now())) return WriteOutcome.accepted;
    this.#metrics.rx.drop('rx-queue', 'RX_QUEUE_FULL');
    return WriteOutcome.queueFull;
  }

  /**
   * Sends all of a batch at once for which nothing has to be done but to copy it. False, and nothing has
   * happened, where that cannot be. Not between `send` and `commit`.
   * @throws ProtocolError when the ring makes no sense.
   */
  sendPlain(batch: FrameBatch): boolean {
    if (this.#queue.count > 0 || this.#stalledSlots > 0) return false;
    if (!this.#filler.sendPlain(batch)) return false;
    this.#progressMs = performance.now();
    return true;
  }

  /** Buffers that frames can be put into now; 0 while others wait for some. */
  get room(): number {
    return this.#queue.count > 0 || this.#stalledSlots > 0 ? 0 : this.ring.pendingRequests();
  }

  /** Has the guest tell of the next buffer that it posts. Returns whether there is one already. */
  awaitRoom(): boolean {
    if (this.#queue.count > 0 || this.#stalledSlots > 0) return false;
    return this.ring.requestEvent(1) > 0;
  }

  /** Carries out what `send` took. */
  commit(): void {
    if (!this.#begun) return;
    this.#begun = false;
    this.#commitFilled();
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
    this.#filler.begin();
  }

  #commitFilled(): boolean {
    const filled = this.#filler.commit();
    if (filled) this.#progressMs = performance.now();
    return filled;
  }

  #sendQueued(): boolean {
    this.#filler.begin();
    const queue = this.#queue;
    while (queue.count > 0) {
      if (this.#filler.available < this.#filler.slotsFor(queue.length, queue.flags, 0)) break;
      this.#filler.place(queue.offset, queue.length, queue.flags, NO_HASH);
      queue.shift();
    }
    const sent = this.#commitFilled();
    if (queue.count === 0) queue.clear();
    return sent;
  }

  /** Asks for an event when there are enough buffers for the frame that waits longest. */
  #awaitBuffers(): void {
    while (this.#queue.count > 0) {
      const needed = this.#filler.slotsFor(this.#queue.length, this.#queue.flags, 0);
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
      this.#stalledSlots = this.#filler.slotsFor(queue.length, queue.flags, 0);
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
}

/**
 * One queue of a connection: its two rings, its event channels, and the turns in which they are
 * worked on. A queue is made whole or not at all.
 */

import { RX_SLOT_BYTES } from '../../ring/netif-rx.js';
import { TX_SLOT_BYTES } from '../../ring/netif-tx.js';
import { ringSize } from '../../ring/shared-ring.js';
import type { Page } from '../../xen/page.js';
import type { SharedPages, Xen } from '../../xen/xen.js';
import { frameTimeNs } from '../clock.js';
import { FrameQueue } from '../frame-queue.js';
import type { QueueMetrics } from '../metrics.js';
import type { BatchListener } from '../network.js';
import { PatientChannel } from '../patient-channel.js';
import type { NetfrontFeatures, QueueKeys } from './handshake.js';
import type { NetfrontSettings } from './options.js';
import { RxRing, type RxScratch } from './rx-ring.js';
import { TxRing } from './tx-ring.js';

/** Responses that one turn takes before other devices get theirs. */
const RESPONSES_PER_TURN = 1024;
/** What may wait for room on the TX ring: as much as a netback keeps for a guest. */
const WAITING_BYTES = 512 * 1024;
const WAITING_FRAMES = 1024;
/** How often pages that the backend has not let go of are looked at again. */
const HELD_RETRY_MS = 50;

/** What all queues of a connection have in common. */
export interface QueueContext {
  readonly xen: Xen;
  readonly backendDomid: number;
  readonly features: NetfrontFeatures;
  readonly settings: NetfrontSettings;
  readonly rxScratch: RxScratch;
  readonly received: BatchListener;
  /** There may be room on this queue's TX ring again: sends what waits for it. */
  readonly drain: (queue: FrontQueue) => void;
  /** There may be room on a TX ring again. */
  readonly writable: () => void;
  /** The rings make no sense, or Xen failed us: the connection must be closed. */
  readonly fault: (error: unknown) => void;
}

export class FrontQueue {
  readonly keys: QueueKeys;
  readonly tx: TxRing;
  /** Frames of batches that found no room on the TX ring, in their order. */
  readonly waiting: FrameQueue;
  readonly metrics: QueueMetrics;
  readonly #context: QueueContext;
  readonly #rx: RxRing;
  readonly #shared: SharedPages[] = [];
  readonly #txChannel: PatientChannel;
  /** The same channel as TX unless the backend lets us split them. */
  readonly #rxChannel: PatientChannel;
  #immediate: NodeJS.Immediate | undefined;
  #heldTimer: NodeJS.Timeout | undefined;
  /** How many responses of both rings were taken when the last turn ended. */
  #responses = 0;
  #open = true;

  /** @throws GrantError, EventChannelError; nothing is left behind then. */
  constructor(context: QueueContext, metrics: QueueMetrics) {
    const { xen, backendDomid, settings } = context;
    this.#context = context;
    this.metrics = metrics;
    const channels: PatientChannel[] = [];
    const allocate = (): PatientChannel => {
      const channel = new PatientChannel(xen.events.allocate(backendDomid, () => this.#onEvent()));
      channels.push(channel);
      return channel;
    };
    try {
      const rings = this.#share(2, 'write');
      const [txPage, rxPage] = rings.pages as readonly [Page, Page];
      const [txRingRef, rxRingRef] = rings.refs as readonly [number, number];
      const txPages = this.#share(ringSize(TX_SLOT_BYTES), 'read');
      const rxPages = this.#share(ringSize(RX_SLOT_BYTES), 'write');
      const { memory } = xen;
      this.waiting = new FrameQueue(memory, WAITING_BYTES, WAITING_FRAMES);
      this.tx = new TxRing(txPage, txPages, memory, metrics, settings.ringStart);
      this.#rx = new RxRing(rxPage, rxPages, memory, metrics, settings, context.rxScratch);
      this.#txChannel = allocate();
      this.#rxChannel = context.features.splitEventChannels ? allocate() : this.#txChannel;
      const { port: txPort } = this.#txChannel;
      this.keys = { txRingRef, rxRingRef, txPort, rxPort: this.#rxChannel.port };
    } catch (error) {
      for (const channel of channels) channel.close();
      for (const pages of this.#shared) pages.unshare();
      throw error;
    }
    this.#rx.ring.pushRequests();
  }

  /** Tells the backend of the buffers posted before it was connected. */
  kick(): void {
    this.#notify(this.#rxChannel);
  }

  /** Publishes the frames that were put on the TX ring. */
  push(): void {
    if (this.tx.ring.pushRequests()) this.#notify(this.#txChannel);
  }

  /** Ends the queue and returns its pages, which the backend may still have mapped. */
  close(): readonly SharedPages[] {
    if (!this.#open) return [];
    this.#open = false;
    if (this.#immediate !== undefined) clearImmediate(this.#immediate);
    clearTimeout(this.#heldTimer);
    const dropped = this.waiting.clear();
    if (dropped > 0) this.metrics.tx.drop('tx-queue', 'DISCONNECTED', dropped);
    if (this.#rxChannel !== this.#txChannel) this.#rxChannel.close();
    this.#txChannel.close();
    return this.#shared;
  }

  #share(count: number, access: 'read' | 'write'): SharedPages {
    const pages = this.#context.xen.grants.share(this.#context.backendDomid, count, access);
    this.#shared.push(pages);
    return pages;
  }

  #notify(channel: PatientChannel): void {
    this.metrics.eventsSent += 1;
    channel.notify();
  }

  #onEvent(): void {
    this.metrics.eventsReceived += 1;
    if (this.#immediate === undefined) this.#turn();
  }

  /**
   * One queue's turn. The channels stay masked while there is work, and are unmasked when both
   * rings are empty after the backend was told to shout again.
   */
  #turn(): void {
    this.#immediate = undefined;
    try {
      let budget = RESPONSES_PER_TURN;
      let more = true;
      while (more && this.#open) {
        if (budget <= 0) {
          this.#immediate = setImmediate(() => this.#turn());
          return;
        }
        this.tx.reclaim();
        this.#retryHeld();
        if (this.waiting.count > 0) this.#context.drain(this);
        // Also when nothing was reclaimed here: a write that found no room may have done that before.
        this.#context.writable();
        if (this.#open) budget -= 1 + this.#receive();
        if (this.#open) more = this.tx.ring.requestEvent() > 0 || this.#rx.ring.requestEvent() > 0;
      }
      if (!this.#open) return;
      this.#awaitHeld();
      const worked = this.#hasWorked();
      this.#txChannel.unmask(worked);
      if (this.#rxChannel !== this.#txChannel) this.#rxChannel.unmask(worked);
    } catch (error) {
      this.#context.fault(error);
    }
  }

  /** Whether responses were taken since the last time, in a turn or before a write. */
  #hasWorked(): boolean {
    const responses = (this.tx.ring.rspCons + this.#rx.ring.rspCons) >>> 0;
    const worked = responses !== this.#responses;
    this.#responses = responses;
    return worked;
  }

  /** Takes what was received and hands it on; returns how many responses that were. */
  #receive(): number {
    const taken = this.#rx.receive();
    if (taken === 0) return 0;
    if (this.#rx.ring.pushRequests()) this.#notify(this.#rxChannel);
    const { batch } = this.#context.rxScratch;
    if (batch.count > 0) {
      this.metrics.rx.count(batch.count, batch.totalBytes);
      batch.timeNs = frameTimeNs();
      this.#context.received(batch);
    }
    return taken;
  }

  /** Looks at held pages again, now and, as long as there are any, every so often. */
  #retryHeld(): void {
    if (this.tx.heldCount === 0 && this.#rx.heldCount === 0) return;
    this.tx.retryHeld();
    if (this.#rx.retryHeld() && this.#rx.ring.pushRequests()) this.#notify(this.#rxChannel);
  }

  /** A backend that lets go of a page tells nobody, so there may be no event to look again at. */
  #awaitHeld(): void {
    if (this.#heldTimer !== undefined || !this.#open) return;
    if (this.tx.heldCount === 0 && this.#rx.heldCount === 0) return;
    this.#heldTimer = setTimeout(() => {
      this.#heldTimer = undefined;
      if (this.#immediate === undefined) this.#turn();
    }, HELD_RETRY_MS);
    this.#heldTimer.unref();
  }
}

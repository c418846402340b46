/**
 * A netback that is connected: its mapped rings, its event channels and the turns in which they
 * are worked on. A connection is made whole or not at all, and `close` gives everything back.
 */
import type { Logger } from 'pino';
import type { BackRing } from '../../ring/shared-ring.js';
import type { EventChannel, MappedPage, Xen } from '../../xen/xen.js';
import type { FrameBatch } from '../frame-batch.js';
import type { QueueMetrics } from '../metrics.js';
import type { BatchListener } from '../network.js';
import type { FrontendParameters } from './handshake.js';
import { RxQueue, type RxScratch } from './rx-queue.js';
import { TxQueue, type TxScratch } from './tx-queue.js';

/** Batches that one device may take before every other gets its turn. */
const BATCHES_PER_TURN = 4;

/** What all connections of a daemon share. */
export interface NetbackContext {
  readonly xen: Xen;
  readonly tx: TxScratch;
  readonly rx: RxScratch;
  readonly logger: Logger;
  /**
   * False while the vifs that are there at the start are taken up: what a guest sent before then
   * may be for a guest that is not connected yet, and waits on its ring so that it is not lost.
   */
  running: boolean;
}

export interface ConnectionHooks {
  readonly fromGuest: BatchListener;
  readonly toGuest: () => BatchListener | undefined;
  /** The rings make no sense, or Xen failed us: the connection must be closed. */
  readonly fault: (error: unknown) => void;
}

export class Connection {
  readonly parameters: FrontendParameters;
  readonly #context: NetbackContext;
  readonly #metrics: QueueMetrics;
  readonly #hooks: ConnectionHooks;
  readonly #tx: TxQueue;
  readonly #rx: RxQueue;
  readonly #pages: MappedPage[];
  readonly #txChannel: EventChannel;
  /** The same channel as TX unless the frontend has split them. */
  readonly #rxChannel: EventChannel;
  readonly #notifyTx: () => void;
  #immediate: NodeJS.Immediate | undefined;
  #open = true;

  /** @throws GrantError, EventChannelError, ProtocolError; nothing is left behind then. */
  constructor(
    context: NetbackContext,
    domid: number,
    parameters: FrontendParameters,
    metrics: QueueMetrics,
    hooks: ConnectionHooks,
  ) {
    const { xen } = context;
    this.parameters = parameters;
    this.#context = context;
    this.#metrics = metrics;
    this.#hooks = hooks;
    const undo: (() => void)[] = [];
    try {
      const txPage = xen.grants.map(domid, parameters.txRingRef, 'write');
      undo.push(() => txPage.unmap());
      const rxPage = xen.grants.map(domid, parameters.rxRingRef, 'write');
      undo.push(() => rxPage.unmap());
      this.#pages = [txPage, rxPage];
      this.#tx = new TxQueue(txPage.page, xen.grants, domid, context.tx, metrics, hooks.fromGuest);
      this.#rx = new RxQueue(rxPage.page, xen.grants, xen.memory, context.rx, metrics, {
        scatterGather: parameters.features.scatterGather,
        domid,
        notify: () => this.#notify(this.#rxChannel),
        observer: hooks.toGuest,
      });
      this.#tx.ring.pendingRequests();
      this.#rx.ring.pendingRequests();
      this.#txChannel = xen.events.bind(domid, parameters.txPort, () => this.#onTxEvent());
      undo.push(() => this.#txChannel.close());
      this.#rxChannel =
        parameters.rxPort === parameters.txPort
          ? this.#txChannel
          : xen.events.bind(domid, parameters.rxPort, () => this.#onRxEvent());
    } catch (error) {
      for (const step of undo.reverse()) step();
      throw error;
    }
    this.#notifyTx = () => this.#notify(this.#txChannel);
  }

  /** Requests on the TX ring that wait to be taken. */
  get txPending(): number {
    return this.#pending(this.#tx.ring);
  }

  /** Buffers on the RX ring that wait to be filled. */
  get rxPosted(): number {
    return this.#pending(this.#rx.ring);
  }

  get rxQueuedBytes(): number {
    return this.#rx.queuedBytes;
  }

  /** Sends frames to the guest; see `Network.writeBatch`. */
  write(batch: FrameBatch, outcomes?: Uint8Array): number {
    try {
      return this.#rx.write(batch, outcomes);
    } catch (error) {
      this.#hooks.fault(error);
      return 0;
    }
  }

  /**
   * Looks at both rings without waiting for an event: after a start there may be work that a
   * daemon before us was told of.
   */
  kick(): void {
    this.#immediate ??= setImmediate(() => {
      this.#turn();
      this.#flushQueue();
    });
  }

  /**
   * Wakes the guest on rings that a daemon before us served: it may have died after it answered
   * and before it said so.
   */
  wakeGuest(): void {
    this.#notify(this.#txChannel);
    if (this.#rxChannel !== this.#txChannel) this.#notify(this.#rxChannel);
  }

  /** Answers what the guest has put on the ring so far: what comes before an orderly handover. */
  drain(): void {
    try {
      while (this.#open && this.#tx.consume(this.#notifyTx) > 0);
      if (this.#open) this.#rx.flush();
    } catch (error) {
      this.#hooks.fault(error);
    }
  }

  /** Gives mappings and ports back. What waits for the guest is dropped and counted. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    if (this.#immediate !== undefined) clearImmediate(this.#immediate);
    this.#rx.close();
    if (this.#rxChannel !== this.#txChannel) this.#rxChannel.close();
    this.#txChannel.close();
    for (const page of this.#pages) page.unmap();
  }

  #pending(ring: BackRing): number {
    try {
      return this.#open ? ring.pendingRequests() : 0;
    } catch (error) {
      this.#hooks.fault(error);
      return 0;
    }
  }

  #notify(channel: EventChannel): void {
    this.#metrics.eventsSent += 1;
    channel.notify();
  }

  #onTxEvent(): void {
    this.#metrics.eventsReceived += 1;
    if (this.#immediate === undefined) this.#turn();
  }

  #onRxEvent(): void {
    this.#metrics.eventsReceived += 1;
    this.#flushQueue();
  }

  /** Sends what waits for the guest, now that it may have posted buffers. */
  #flushQueue(): void {
    if (!this.#open || !this.#context.running) return;
    try {
      this.#rx.flush();
      if (this.#open) this.#rxChannel.unmask();
    } catch (error) {
      this.#hooks.fault(error);
    }
  }

  /**
   * One device's turn. The channel stays masked while there is work, so that a guest that shouts
   * is heard once; it is unmasked when the ring is empty after the guest was told to shout again.
   */
  #turn(): void {
    this.#immediate = undefined;
    if (!this.#open || !this.#context.running) return;
    try {
      if (this.#rxChannel === this.#txChannel) this.#rx.flush();
      for (let batch = 0; batch < BATCHES_PER_TURN; batch += 1) {
        if (this.#tx.consume(this.#notifyTx) > 0) continue;
        if (!this.#open) return;
        if (this.#tx.ring.requestEvent(1) === 0) {
          this.#txChannel.unmask();
          return;
        }
      }
      this.kick();
    } catch (error) {
      this.#hooks.fault(error);
    }
  }
}

/**
 * One queue of a connected vif: its two mapped rings, its event channels and the turns in which they
 * are worked on. A queue is made whole or not at all, and `close` gives everything back.
 */
import type { BackRing } from '../../ring/shared-ring.js';
import type { MappedPage } from '../../xen/xen.js';
import type { QueueMetrics } from '../metrics.js';
import type { BatchListener } from '../network.js';
import { PatientChannel } from '../patient-channel.js';
import type { NetbackContext } from './context.js';
import type { QueueParameters } from './handshake.js';
import { type RxPatience, RxQueue } from './rx-queue.js';
import type { TxOptions } from './tx-queue.js';
import { TxQueue } from './tx-queue.js';

/** Batches that one queue may take, if there is time, before every other gets its turn. */
const BATCHES_PER_TURN = 4;
/** Batches that an orderly end takes: more than a ring holds, and no more than a guest can refill. */
const BATCHES_AT_END = 16;

export interface QueueOptions extends TxOptions {
  readonly scatterGather: boolean;
  readonly patience: RxPatience;
  readonly toGuest: () => BatchListener | undefined;
  /** Called when there may be buffers for more frames to the guest; returns whether any came. */
  readonly onRoom: () => boolean;
  /** The rings make no sense, or Xen failed us: the connection must be closed. */
  readonly fault: (error: unknown) => void;
}

export class Queue {
  readonly rx: RxQueue;
  readonly #context: NetbackContext;
  readonly #metrics: QueueMetrics;
  readonly #fault: (error: unknown) => void;
  readonly #onRoom: () => boolean;
  readonly #tx: TxQueue;
  readonly #pages: MappedPage[];
  readonly #txChannel: PatientChannel;
  /** The same channel as TX unless the frontend has split them. */
  readonly #rxChannel: PatientChannel;
  readonly #notifyTx: () => void;
  readonly #onTurn: () => void;
  readonly #onBuffersTurn: () => void;
  /** A turn that will be taken: others need not be asked for. */
  #isTurnDue = false;
  #areBuffersDue = false;
  #throttle: NodeJS.Timeout | undefined;
  #open = true;

  /** @throws GrantError, EventChannelError, ProtocolError; nothing is left behind then. */
  constructor(
    context: NetbackContext,
    index: number,
    parameters: QueueParameters,
    metrics: QueueMetrics,
    options: QueueOptions,
  ) {
    const { xen } = context;
    const { adopted, domid, fault, patience, scatterGather } = options;
    this.#context = context;
    this.#metrics = metrics;
    this.#fault = fault;
    this.#onRoom = options.onRoom;
    const undo: (() => void)[] = [];
    try {
      const txPage = xen.grants.map(domid, parameters.txRingRef, 'write');
      undo.push(() => txPage.unmap());
      const rxPage = xen.grants.map(domid, parameters.rxRingRef, 'write');
      undo.push(() => rxPage.unmap());
      this.#pages = [txPage, rxPage];
      this.#tx = new TxQueue(txPage.page, xen.grants, context.tx, metrics, options);
      this.rx = new RxQueue(rxPage.page, xen.grants, xen.memory, context.rx(index), metrics, {
        domid,
        adopted,
        scatterGather,
        patience,
        notify: () => this.#notify(this.#rxChannel),
        observer: options.toGuest,
        fault,
      });
      this.#tx.ring.pendingRequests();
      this.rx.ring.pendingRequests();
      this.#txChannel = new PatientChannel(
        xen.events.bind(domid, parameters.txPort, () => this.#onTxEvent()),
      );
      undo.push(() => this.#txChannel.close());
      this.#rxChannel =
        parameters.rxPort === parameters.txPort
          ? this.#txChannel
          : new PatientChannel(xen.events.bind(domid, parameters.rxPort, () => this.#onRxEvent()));
    } catch (error) {
      for (const step of undo.reverse()) step();
      throw error;
    }
    this.#notifyTx = () => this.#notify(this.#txChannel);
    this.#onTurn = () => this.#turn();
    this.#onBuffersTurn = () => this.#onBuffers();
  }

  /** Requests on the TX ring that wait to be taken. */
  get txPending(): number {
    return this.#pending(this.#tx.ring);
  }

  /** Buffers on the RX ring that wait to be filled. */
  get rxPosted(): number {
    return this.#pending(this.rx.ring);
  }

  /** The rate limit holds back what is on the TX ring. */
  get throttled(): boolean {
    return this.#throttle !== undefined;
  }

  /**
   * Looks at both rings without waiting for an event: after a start there may be work that a
   * daemon before us was told of.
   */
  kick(): void {
    this.#goOn();
    if (this.#areBuffersDue) return;
    this.#areBuffersDue = true;
    this.#context.turns.takeLater(this.#onBuffersTurn);
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
      let batches = 0;
      while (this.#open && batches < BATCHES_AT_END && this.#tx.consume(this.#notifyTx) > 0) {
        batches += 1;
      }
      if (this.#open) this.rx.flush();
    } catch (error) {
      this.#fault(error);
    }
  }

  /** Sends what waits for the guest, as far as it has posted buffers. */
  flush(): void {
    try {
      if (this.#open) this.rx.flush();
    } catch (error) {
      this.#fault(error);
    }
  }

  /** Gives mappings and ports back. What waits for the guest is dropped and counted. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    clearTimeout(this.#throttle);
    this.rx.close();
    if (this.#rxChannel !== this.#txChannel) this.#rxChannel.close();
    this.#txChannel.close();
    for (const page of this.#pages) page.unmap();
  }

  #pending(ring: BackRing): number {
    try {
      return this.#open ? ring.pendingRequests() : 0;
    } catch (error) {
      this.#fault(error);
      return 0;
    }
  }

  #notify(channel: PatientChannel): void {
    this.#metrics.eventsSent += 1;
    channel.notify();
  }

  #onTxEvent(): void {
    this.#metrics.eventsReceived += 1;
    this.#askForTurn();
  }

  #onRxEvent(): void {
    this.#metrics.eventsReceived += 1;
    if (this.#areBuffersDue) return;
    this.#areBuffersDue = true;
    this.#context.turns.take(this.#onBuffersTurn);
  }

  #askForTurn(): void {
    if (this.#isTurnDue) return;
    this.#isTurnDue = true;
    this.#context.turns.take(this.#onTurn);
  }

  /** Has the next turn taken when all others had theirs. */
  #goOn(): void {
    if (this.#isTurnDue) return;
    this.#isTurnDue = true;
    this.#context.turns.takeLater(this.#onTurn);
  }

  /** Sends what waits for the guest, now that it may have posted buffers. */
  #onBuffers(): void {
    this.#areBuffersDue = false;
    if (!this.#open || !this.#context.running) return;
    try {
      const flushed = this.rx.flush();
      const worked = this.#onRoom() || flushed;
      if (this.#open && this.#rxChannel !== this.#txChannel) this.#rxChannel.unmask(worked);
    } catch (error) {
      this.#fault(error);
    }
  }

  /**
   * One queue's turn. The channel stays masked while there is work, so that a guest that shouts
   * is heard once; it is unmasked when the ring is empty after the guest was told to shout again.
   */
  #turn(): void {
    this.#isTurnDue = false;
    if (!this.#open || !this.#context.running) return;
    try {
      let worked = false;
      if (this.#rxChannel === this.#txChannel) {
        const flushed = this.rx.flush();
        worked = this.#onRoom() || flushed;
        if (!this.#open) return;
      }
      for (let batch = 0; batch < BATCHES_PER_TURN; batch += 1) {
        if (this.#tx.consume(this.#notifyTx) > 0) {
          worked = true;
          if (this.#context.turns.isTime) continue;
          break;
        }
        if (!this.#open) return;
        if (this.#waitForRate(worked)) return;
        if (this.#tx.ring.requestEvent(1) === 0) {
          this.#txChannel.unmask(worked);
          return;
        }
      }
      this.#goOn();
    } catch (error) {
      this.#fault(error);
    }
  }

  /** Has the next turn taken when the rate limit allows it; false when nothing is held back. */
  #waitForRate(worked: boolean): boolean {
    clearTimeout(this.#throttle);
    this.#throttle = undefined;
    const waitMs = this.#tx.throttledMs;
    if (waitMs === 0) return false;
    this.#throttle = setTimeout(() => {
      this.#throttle = undefined;
      this.#askForTurn();
    }, Math.ceil(waitMs));
    // Nobody needs to tell us of what is held back; but of new RX buffers, on the same channel.
    if (this.#rxChannel === this.#txChannel) this.#txChannel.unmask(worked);
    return true;
  }
}

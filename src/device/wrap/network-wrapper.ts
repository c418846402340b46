/**
 * A NIC around a NIC: it passes for the one that it wraps, and has a say in every frame. It is to
 * be disconnected itself, not the NIC behind its back. A writer to it does not wait for listeners
 * of a Vnetif: that patience ends at the wrapper.
 */
import { frameTimeNs } from '../clock.js';
import { FrameBatch } from '../frame-batch.js';
import type { Network, NetworkStats } from '../network.js';
import { NetworkBase, type PatientListener } from '../network-base.js';
import { checkFrameLength, joinParts } from '../single-frame.js';

/** Which way a frame goes, as the NIC that is wrapped sees it. */
export type FrameDirection = 'sent' | 'received';

export abstract class NetworkWrapper extends NetworkBase {
  protected readonly inner: Network;
  #isListening = false;

  constructor(inner: Network) {
    super();
    this.inner = inner;
  }

  get mac(): string {
    return this.inner.mac;
  }

  get mtu(): number {
    return this.inner.mtu;
  }

  get stats(): NetworkStats {
    return this.inner.stats;
  }

  resetStats(): void {
    this.inner.resetStats();
  }

  async disconnect(): Promise<void> {
    await this.inner.disconnect();
    this.endListening();
  }

  /** The NIC that is wrapped is listened to when somebody listens here, and only then. */
  protected override addListener(listener: PatientListener): () => void {
    const end = super.addListener(listener);
    if (!this.#isListening) {
      this.#isListening = true;
      this.inner.listenBatch((batch) => this.received(batch));
    }
    return end;
  }

  /** Called with every batch that comes; whoever listens is to be given it by `deliver`. */
  protected abstract received(batch: FrameBatch): void;
}

/** A wrapper that looks at frames and lets them pass as they are. */
export abstract class NetworkObserver extends NetworkWrapper {
  /**
   * Called with every batch, which passes at `batch.timeNs`: with one that was received before its
   * listeners are, with one to send before it is sent, whatever will become of it.
   */
  protected abstract observe(batch: FrameBatch, direction: FrameDirection): void;

  async writev(parts: readonly Uint8Array[]): Promise<void> {
    this.checkNotGivenUp();
    const frame = joinParts(parts);
    checkFrameLength(frame.length);
    const batch = new FrameBatch(frame, 1);
    batch.add(0, frame.length, 0);
    this.#observeSent(batch);
    await this.inner.write(frame);
  }

  writeBatch(batch: FrameBatch, outcomes?: Uint8Array): number {
    this.#observeSent(batch);
    return this.inner.writeBatch(batch, outcomes);
  }

  protected received(batch: FrameBatch): void {
    this.observe(batch, 'received');
    void this.deliver(batch);
  }

  #observeSent(batch: FrameBatch): void {
    // The batch may be another NIC's, whose time it is to stay for who gets it next.
    const { timeNs } = batch;
    batch.timeNs = frameTimeNs();
    this.observe(batch, 'sent');
    batch.timeNs = timeNs;
  }
}

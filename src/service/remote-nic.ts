/**
 * A client of ours as a NIC: what the switch sends to its port goes into the client's stream, and
 * what the client sends comes out here. The NIC outlives a stream that broke, for a while, so that a
 * client that comes back finds its port, its address and its place in the switch as they were.
 */

import type { FrameBatch } from '../device/frame-batch.js';
import { DeviceMetrics, type QueueMetrics, statsOf } from '../device/metrics.js';
import { type NetworkStats, WriteOutcome } from '../device/network.js';
import { NetworkBase } from '../device/network-base.js';
import { UnimplementedError } from '../errors.js';

/** What takes the frames for a client while it is there. */
export type ClientSink = (batch: FrameBatch) => void;

export class RemoteNic extends NetworkBase {
  readonly mac: string;
  readonly mtu: number;
  readonly metrics = new DeviceMetrics();
  readonly #counters: QueueMetrics = this.metrics.queue(0);
  #sink: ClientSink | undefined;

  constructor(mac: string, mtu: number) {
    super();
    this.mac = mac;
    this.mtu = mtu;
  }

  get stats(): NetworkStats {
    return statsOf(this.metrics);
  }

  resetStats(): void {
    this.metrics.reset();
  }

  /** Whether a client is there. */
  get connected(): boolean {
    return this.#sink !== undefined;
  }

  /** A client is there, or, with undefined, is gone: then frames for it are dropped and counted. */
  connect(sink: ClientSink | undefined): void {
    this.#sink = sink;
  }

  /** Takes frames that the client sent. */
  receive(batch: FrameBatch): void {
    this.#counters.rx.count(batch.count, batch.totalBytes);
    void this.deliver(batch);
  }

  writeBatch(batch: FrameBatch, outcomes?: Uint8Array): number {
    if (this.#sink === undefined) {
      this.#counters.tx.drop('tx-queue', 'NOT_CONNECTED', batch.count);
      outcomes?.fill(WriteOutcome.notConnected, 0, batch.count);
      return 0;
    }
    this.#counters.tx.count(batch.count, batch.totalBytes);
    this.#sink(batch);
    outcomes?.fill(WriteOutcome.accepted, 0, batch.count);
    return batch.count;
  }

  /** Frames come to a client from its switch, a batch at a time, and in no other way. */
  async writev(): Promise<void> {
    throw new UnimplementedError('A client gets its frames in batches.');
  }

  async disconnect(): Promise<void> {
    this.#sink = undefined;
    this.endListening();
  }
}

/**
 * What a device counts, queue by queue. Counters are plain numbers, exact to 2^53, because one is
 * touched for every batch and a bigint would allocate each time. Directions are the frontend's.
 */

import type { NetworkStats } from './network.js';

/** Where a frame was dropped. */
export type DropStage = 'tx-ring' | 'tx-queue' | 'switch' | 'rx-queue' | 'rx-ring';

/** Counters of one direction as they are kept over a restart. */
export interface KeptFrameCounters {
  readonly packets: number;
  readonly bytes: number;
  readonly drops: readonly {
    readonly stage: DropStage;
    readonly cause: string;
    readonly packets: number;
  }[];
}

/** Those of a queue. */
export interface KeptQueue {
  readonly tx: KeptFrameCounters;
  readonly rx: KeptFrameCounters;
  readonly eventsReceived: number;
  readonly eventsSent: number;
}

/** Those of a port of a switch. */
export interface KeptPort {
  readonly tx: KeptFrameCounters;
  readonly rx: KeptFrameCounters;
  readonly learnt: number;
  readonly moved: number;
  readonly notLearnt: number;
}

/** Those of a device. */
export interface KeptMetrics {
  readonly sinceMs: number;
  readonly unconnected: KeptQueue;
  readonly queues: readonly KeptQueue[];
}

export class FrameCounters {
  packets = 0;
  bytes = 0;
  /** Drops by `stage cause`; few keys, made at the first drop of a kind. */
  readonly drops = new Map<string, { stage: DropStage; cause: string; packets: number }>();

  count(packets: number, bytes: number): void {
    this.packets += packets;
    this.bytes += bytes;
  }

  drop(stage: DropStage, cause: string, packets = 1): void {
    const key = `${stage} ${cause}`;
    const counter = this.drops.get(key);
    if (counter === undefined) this.drops.set(key, { stage, cause, packets });
    else counter.packets += packets;
  }

  add(other: FrameCounters): void {
    this.count(other.packets, other.bytes);
    for (const { stage, cause, packets } of other.drops.values()) this.drop(stage, cause, packets);
  }

  keep(): KeptFrameCounters {
    const { packets, bytes, drops } = this;
    return { packets, bytes, drops: [...drops.values()] };
  }

  /** Goes on from what was kept. */
  addKept({ packets, bytes, drops }: KeptFrameCounters): void {
    this.count(packets, bytes);
    for (const { stage, cause, packets: dropped } of drops) this.drop(stage, cause, dropped);
  }

  reset(): void {
    this.packets = 0;
    this.bytes = 0;
    this.drops.clear();
  }
}

/** What one queue counts. */
export class QueueMetrics {
  readonly tx = new FrameCounters();
  readonly rx = new FrameCounters();
  eventsReceived = 0;
  eventsSent = 0;

  keep(): KeptQueue {
    const { eventsReceived, eventsSent } = this;
    return { tx: this.tx.keep(), rx: this.rx.keep(), eventsReceived, eventsSent };
  }

  addKept(kept: KeptQueue): void {
    this.tx.addKept(kept.tx);
    this.rx.addKept(kept.rx);
    this.eventsReceived += kept.eventsReceived;
    this.eventsSent += kept.eventsSent;
  }

  reset(): void {
    this.tx.reset();
    this.rx.reset();
    this.eventsReceived = 0;
    this.eventsSent = 0;
  }
}

/** A device's counters: they outlive its connections, and the sums are made when asked for. */
export class DeviceMetrics {
  /** Frames that never came to a queue, for there was none. */
  readonly unconnected = new QueueMetrics();
  /** When the counters were last zero, in milliseconds since 1970. */
  sinceMs = Date.now();
  readonly #queues: QueueMetrics[] = [];

  /** Every queue that there ever was. */
  get queues(): readonly QueueMetrics[] {
    return this.#queues;
  }

  get tx(): FrameCounters {
    return this.#sum(({ tx }) => tx);
  }

  get rx(): FrameCounters {
    return this.#sum(({ rx }) => rx);
  }

  get eventsReceived(): number {
    return this.#queues.reduce((sum, queue) => sum + queue.eventsReceived, 0);
  }

  get eventsSent(): number {
    return this.#queues.reduce((sum, queue) => sum + queue.eventsSent, 0);
  }

  /** The counters of queue `index`, made when it is first asked for. */
  queue(index: number): QueueMetrics {
    while (this.#queues.length <= index) this.#queues.push(new QueueMetrics());
    return this.#queues[index] as QueueMetrics;
  }

  /** What the next daemon goes on from. */
  keep(): KeptMetrics {
    const { sinceMs, unconnected } = this;
    return { sinceMs, unconnected: unconnected.keep(), queues: this.#queues.map((q) => q.keep()) };
  }

  /** Goes on from what another daemon kept. */
  addKept(kept: KeptMetrics): void {
    this.sinceMs = kept.sinceMs;
    this.unconnected.addKept(kept.unconnected);
    for (const [index, queue] of kept.queues.entries()) this.queue(index).addKept(queue);
  }

  reset(): void {
    this.unconnected.reset();
    for (const queue of this.#queues) queue.reset();
    this.sinceMs = Date.now();
  }

  #sum(counters: (queue: QueueMetrics) => FrameCounters): FrameCounters {
    const sum = new FrameCounters();
    sum.add(counters(this.unconnected));
    for (const queue of this.#queues) sum.add(counters(queue));
    return sum;
  }
}

/** Counters as the NETWORK interface shows them: `rx` is what the NIC received, `tx` what it sent. */
export function statsOf({ rx, tx }: Pick<QueueMetrics, 'rx' | 'tx'>): NetworkStats {
  return {
    rxBytes: BigInt(rx.bytes),
    rxPackets: BigInt(rx.packets),
    txBytes: BigInt(tx.bytes),
    txPackets: BigInt(tx.packets),
  };
}

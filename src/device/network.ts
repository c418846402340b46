/**
 * The second seam: a NIC, whatever it is made of. The first half is Mirage's NETWORK module in
 * TypeScript; the second its batch form, which is what the daemon itself moves frames with.
 */
import type { FrameBatch } from './frame-batch.js';

/** Frames and bytes by direction, as the NETWORK interface counts them. */
export interface NetworkStats {
  readonly rxBytes: bigint;
  readonly rxPackets: bigint;
  readonly txBytes: bigint;
  readonly txPackets: bigint;
}

/** What became of a frame that was written. */
export const WriteOutcome = {
  /** In the peer's ring, or waiting for room in it. */
  accepted: 1,
  /** Longer than the peer takes. */
  tooLong: 2,
  /** The queue for the peer is full. */
  queueFull: 3,
  /** There is no peer now. */
  notConnected: 4,
} as const;
export type WriteOutcome = (typeof WriteOutcome)[keyof typeof WriteOutcome];

/** Takes frames that a NIC received. The batch is the caller's again when the call returns. */
export type BatchListener = (batch: FrameBatch) => void;

export interface Network {
  /** The NIC's own address, as six hex pairs with colons. */
  readonly mac: string;
  /** The largest Ethernet payload in bytes, without the header of 14. */
  readonly mtu: number;
  readonly stats: NetworkStats;
  /** Sets `stats` to zero and touches nothing else. */
  resetStats(): void;

  /**
   * Sends one frame, header included.
   * @throws DisconnectedError after `disconnect`; InvalidArgumentError for a frame too short or long.
   */
  write(frame: Uint8Array): Promise<void>;
  /** Sends the parts as one frame. */
  writev(parts: readonly Uint8Array[]): Promise<void>;
  /** Calls `onFrame` with a copy of every frame received from now on. */
  listen(onFrame: (frame: Uint8Array) => void): void;
  /** Gives the NIC up. Never fails; a second call does nothing. */
  disconnect(): Promise<void>;

  /**
   * Sends all frames of `batch` and returns how many were accepted. Where `outcomes` is given, it
   * receives a `WriteOutcome` for each frame.
   */
  writeBatch(batch: FrameBatch, outcomes?: Uint8Array): number;
  /** Calls `onBatch` with every batch received from now on. Returns a function that ends it. */
  listenBatch(onBatch: BatchListener): () => void;
}

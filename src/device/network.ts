/**
 * The second seam: a NIC, whatever it is made of. The first half is Mirage's NETWORK module in
 * TypeScript, which is the SDK's too; the second its batch form, which is what the daemon itself
 * moves frames with.
 *
 * NETWORK's errors are three: `Disconnected` is DisconnectedError, `Invalid_length` is
 * InvalidArgumentError with the code FRAME_TOO_SHORT or FRAME_TOO_LONG, and `Unimplemented` is
 * UnimplementedError. Its `connect` differs with what a NIC is made of, and so belongs to each.
 */
import type { MirageNetwork } from '@xenvif/client';
import type { FrameBatch } from './frame-batch.js';

export type {
  FillFrame,
  FrameListener,
  FrameRequest,
  ListenOptions,
  NicStats as NetworkStats,
} from '@xenvif/client';

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

export interface Network extends MirageNetwork {
  /**
   * Sends all frames of `batch` and returns how many were accepted. Where `outcomes` is given, it
   * receives a `WriteOutcome` for each frame.
   */
  writeBatch(batch: FrameBatch, outcomes?: Uint8Array): number;
  /** Calls `onBatch` with every batch received from now on. Returns a function that ends it. */
  listenBatch(onBatch: BatchListener): () => void;
}

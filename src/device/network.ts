/**
 * The second seam: a NIC, whatever it is made of. The first half is Mirage's NETWORK module in
 * TypeScript; the second its batch form, which is what the daemon itself moves frames with.
 *
 * NETWORK's errors are three: `Disconnected` is DisconnectedError, `Invalid_length` is
 * InvalidArgumentError with the code FRAME_TOO_SHORT or FRAME_TOO_LONG, and `Unimplemented` is
 * UnimplementedError. Its `connect` differs with what a NIC is made of, and so belongs to each.
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

/** How large a buffer `write` shall make for a frame, in bytes. */
export interface FrameRequest {
  readonly size: number;
}

/** Writes a frame from the start of `buffer` and returns its length. The buffer is lent. */
export type FillFrame = (buffer: Uint8Array) => number;

/** Takes a frame that a NIC received; what it returns is waited for where it is a promise. */
export type FrameListener = (frame: Uint8Array) => unknown;

export interface ListenOptions {
  /**
   * Bytes in front of the payload. Only frames of at most so many and the MTU are listened to, for a
   * listener that has no room for more. Default: frames of all lengths.
   */
  readonly headerSize?: number;
}

export interface Network {
  /** The NIC's own address, as six hex pairs with colons. */
  readonly mac: string;
  /** The largest Ethernet payload in bytes, without the header of 14. */
  readonly mtu: number;
  readonly stats: NetworkStats;
  /** Sets `stats` to zero and touches nothing else. */
  resetStats(): void;

  /**
   * Sends one frame, header included, or `buffer[0 .. fill(buffer))` of a zeroed buffer of exactly
   * `size` bytes. The frame is the caller's again when the promise settles.
   * @throws DisconnectedError after `disconnect`; InvalidArgumentError FRAME_TOO_SHORT,
   *   FRAME_TOO_LONG; what `fill` throws.
   */
  write(frame: Uint8Array): Promise<void>;
  write(request: FrameRequest, fill: FillFrame): Promise<void>;
  /** Sends the parts as one frame. Otherwise as `write`. */
  writev(parts: readonly Uint8Array[]): Promise<void>;
  /**
   * Calls `onFrame` with a copy of every frame received from now on; the copy is the callee's. Frames
   * are as they look on a wire: checksums are in place, and segmentation is done. Resolves when
   * the NIC is disconnected.
   *
   * Where `onFrame` throws, or a promise of its rejects, it is called no more and `listen` rejects
   * with that error; the NIC and all other listeners go on.
   * @throws DisconnectedError after `disconnect`.
   */
  listen(onFrame: FrameListener, options?: ListenOptions): Promise<void>;
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

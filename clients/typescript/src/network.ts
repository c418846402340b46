/**
 * The NETWORK interface of Mirage in TypeScript, as a program without privileges has it: what a `Nic`
 * is, and what a network stack needs. Its errors are three: `Disconnected` is the code DISCONNECTED (or
 * what ended the NIC), `Invalid_length` FRAME_TOO_SHORT and FRAME_TOO_LONG, `Unimplemented` the gRPC
 * status UNIMPLEMENTED.
 */
import { checkFrameLength, FRAME_BYTES_MIN } from './batch-encoder.js';
import { invalidArgument } from './errors.js';
import type { FrameBatchView } from './frame-batch-view.js';

/** Frames and bytes: rx is what came from the guest or the switch, tx what was sent there. */
export interface NicStats {
  readonly rxPackets: bigint;
  readonly rxBytes: bigint;
  readonly txPackets: bigint;
  readonly txBytes: bigint;
}

/** How large a buffer `write` shall make for a frame, in bytes. */
export interface FrameRequest {
  readonly size: number;
}

/** Writes a frame from the start of `buffer` and returns its length. The buffer is lent. */
export type FillFrame = (buffer: Uint8Array) => number;

/** Takes a frame that a NIC received; what it returns is waited for where it is a promise. */
export type FrameListener = (frame: Uint8Array) => unknown;

/** Takes frames that a NIC received, to be walked by offsets. */
export type BatchListener = (batch: FrameBatchView) => void;

export interface ListenOptions {
  /**
   * Bytes in front of the payload. Only frames of at most so many and the MTU are listened to, for a
   * listener that has no room for more. Default: frames of all lengths.
   */
  readonly headerSize?: number | undefined;
}

/** Mirage's half, which every NIC has; how frames travel in batches differs with where it is. */
export interface MirageNetwork {
  /** The NIC's own address, as six hex pairs with colons. */
  readonly mac: string;
  /** The largest Ethernet payload in bytes, without the header of 14. */
  readonly mtu: number;
  readonly stats: NicStats;
  /** Sets `stats` to zero and touches nothing else. */
  resetStats(): void;

  /**
   * Sends one frame, header included, or `buffer[0 .. fill(buffer))` of a zeroed buffer of exactly
   * `size` bytes. The frame is the caller's again when the promise settles. Rejects as Disconnected or
   * Invalid_length, and with what `fill` throws.
   */
  write(frame: Uint8Array): Promise<void>;
  write(request: FrameRequest, fill: FillFrame): Promise<void>;
  /** Sends the parts as one frame. Otherwise as `write`. */
  writev(parts: readonly Uint8Array[]): Promise<void>;
  /**
   * Calls `onFrame` with a copy of every frame received from now on; the copy is the callee's. Frames
   * are as they look on a wire: checksums are in place, and segmentation is done. Resolves when
   * the NIC is given up.
   *
   * Where `onFrame` throws, or a promise of its rejects, it is called no more and `listen` rejects
   * with that error; the NIC and all other listeners go on.
   */
  listen(onFrame: FrameListener, options?: ListenOptions): Promise<void>;
  /** Gives the NIC up. Never fails; a second call does nothing. */
  disconnect(): Promise<void>;
}

export interface NicListenOptions extends ListenOptions {
  /** Ends the listening, and nothing else, when it is aborted: the promise resolves. */
  readonly signal?: AbortSignal | undefined;
}

export interface Network extends MirageNetwork {
  listen(onFrame: FrameListener, options?: NicListenOptions): Promise<void>;
  /** Sends frames in order. */
  writeBatch(frames: readonly Uint8Array[]): Promise<void>;
  /** Calls `onBatch` with every batch received from now on. Returns a function that ends it. */
  listenBatch(onBatch: BatchListener): () => void;
}

/**
 * What `fill` makes of a zeroed buffer of exactly `size` bytes.
 * @throws XenvifClientError FRAME_TOO_SHORT, FRAME_TOO_LONG for `size`, and for what `fill` returns when
 *   that is no length in the buffer.
 */
export function fillFrame(size: number, fill: FillFrame): Uint8Array {
  checkFrameLength(size);
  const buffer = new Uint8Array(size);
  const length = fill(buffer);
  if (Number.isInteger(length) && length >= FRAME_BYTES_MIN && length <= size) {
    return buffer.subarray(0, length);
  }
  const code = length > size ? 'FRAME_TOO_LONG' : 'FRAME_TOO_SHORT';
  const message = `The frame was to have ${FRAME_BYTES_MIN} to ${size} bytes, not ${length}.`;
  throw invalidArgument(code, 'fill', message);
}

/**
 * Who listens to a NIC. Each listener of frames gets a copy of its own where there is another that
 * could see what it does to the frame; what fails in one ends that one and costs the others nothing.
 */
import { FRAME_BYTES_MAX } from './batch-encoder.js';
import { Deferred } from './deferred.js';
import type { FrameBatchView } from './frame-batch-view.js';
import type { BatchListener, FrameListener, NicListenOptions } from './network.js';

/** A call of `listen` that goes on. */
interface Listening {
  readonly onFrame: FrameListener;
  readonly bytesMax: () => number;
  readonly end: Deferred<void>;
}

export class NicListeners {
  readonly #frames = new Set<Listening>();
  readonly #batches = new Set<BatchListener>();

  get count(): number {
    return this.#frames.size + this.#batches.size;
  }

  /** As `Nic.listen`; `mtu` is asked for at each frame. */
  async listen(
    onFrame: FrameListener,
    { headerSize, signal }: NicListenOptions,
    mtu: () => number,
  ): Promise<void> {
    if (signal?.aborted) return;
    const bytesMax = headerSize === undefined ? () => FRAME_BYTES_MAX : () => headerSize + mtu();
    const listening = { onFrame, bytesMax, end: new Deferred<void>() };
    const stop = (): void => {
      this.#frames.delete(listening);
      listening.end.resolve();
    };
    signal?.addEventListener('abort', stop, { once: true });
    this.#frames.add(listening);
    try {
      await listening.end.promise;
    } finally {
      signal?.removeEventListener('abort', stop);
    }
  }

  listenBatch(onBatch: BatchListener): () => void {
    const listener: BatchListener = (batch) => onBatch(batch);
    this.#batches.add(listener);
    return () => this.#batches.delete(listener);
  }

  /**
   * Gives everybody what came. What it returns resolves, and never rejects, when the promises that
   * listeners returned have settled; undefined where there are none. What a listener of batches throws
   * is thrown where nobody can catch it, as by any callback.
   */
  deliver(batch: FrameBatchView): Promise<unknown> | undefined {
    const calls: Promise<unknown>[] = [];
    for (const listening of this.#frames) this.#giveFrames(listening, batch, calls);
    for (const onBatch of this.#batches) {
      try {
        onBatch(batch);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
    return calls.length === 0 ? undefined : Promise.all(calls);
  }

  /** Nobody hears anything any more; calls of `listen` resolve. */
  end(): void {
    for (const { end } of this.#frames) end.resolve();
    this.#frames.clear();
    this.#batches.clear();
  }

  #giveFrames(listening: Listening, batch: FrameBatchView, calls: Promise<unknown>[]): void {
    const { bytesMax, onFrame } = listening;
    const isShared = this.count > 1;
    const longest = bytesMax();
    for (let index = 0; index < batch.count; index += 1) {
      if (!this.#frames.has(listening)) return;
      if (batch.length(index) > longest) continue;
      const frame = batch.frame(index);
      try {
        const result = onFrame(isShared ? Uint8Array.from(frame) : frame);
        if (!(result instanceof Promise)) continue;
        calls.push(result.catch((error: unknown) => this.#fail(listening, error)));
      } catch (error) {
        this.#fail(listening, error);
      }
    }
  }

  #fail(listening: Listening, error: unknown): void {
    this.#frames.delete(listening);
    listening.end.reject(error instanceof Error ? error : new Error(String(error)));
  }
}

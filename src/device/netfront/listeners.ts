/**
 * Who gets the frames that a frontend receives. Frames that come before the first listener are kept
 * for it, within bounds, because a device is connected before its owner hears of it. Later, while
 * nobody listens, frames are nobody's and are gone.
 *
 * A listener that throws loses nothing for the others, and stops no device: it is logged and
 * counted.
 */
import type { Logger } from 'pino';
import { GrantError } from '../../errors.js';
import type { LocalMemory } from '../../xen/local-memory.js';
import { frameTimeNs } from '../clock.js';
import { FrameBatch } from '../frame-batch.js';
import { FrameQueue } from '../frame-queue.js';
import type { FrameCounters } from '../metrics.js';
import type { BatchListener } from '../network.js';

const EARLY_BYTES = 128 * 1024;
const EARLY_FRAMES = 256;

export class Listeners {
  readonly #logger: Logger;
  readonly #drops: () => FrameCounters;
  readonly #listeners = new Set<BatchListener>();
  #bytes: Uint8Array;
  /** What came before the first listener; undefined once there was one. */
  #early: FrameQueue | undefined;
  #faults = 0;

  /** `drops` gives the counters for early frames beyond the bound. */
  constructor(memory: LocalMemory, logger: Logger, drops: () => FrameCounters) {
    this.#logger = logger;
    this.#drops = drops;
    this.#bytes = memory.bytes;
    this.#early = new FrameQueue(memory, EARLY_BYTES, EARLY_FRAMES);
  }

  /** How often a listener threw. */
  get faults(): number {
    return this.#faults;
  }

  /** Adds a listener; the first gets what came early, soon. Returns a function that takes it away. */
  add(listener: BatchListener): () => void {
    this.#listeners.add(listener);
    if (this.#early !== undefined) queueMicrotask(() => this.#handOverEarly());
    return () => this.#listeners.delete(listener);
  }

  deliver(batch: FrameBatch): void {
    if (this.#early !== undefined) {
      if (this.#listeners.size === 0) {
        this.#keep(batch, this.#early);
        return;
      }
      this.#handOverEarly();
    }
    for (const listener of this.#listeners) {
      try {
        listener(batch);
      } catch (error) {
        this.reportFault(error);
      }
    }
  }

  /** Counts an error of a listener and logs it: the 1st, 2nd, 4th, 8th and so on. */
  reportFault(error: unknown): void {
    this.#faults += 1;
    const isPowerOfTwo = (this.#faults & (this.#faults - 1)) === 0;
    if (!isPowerOfTwo) return;
    this.#logger.error({ error, count: this.#faults }, 'a listener of a frontend threw');
  }

  /** Drops what waits for the first listener, and keeps what comes next in `memory`. */
  moveTo(memory: LocalMemory): void {
    this.#bytes = memory.bytes;
    if (this.#early === undefined) return;
    this.#dropEarly(this.#early);
    this.#early = new FrameQueue(memory, EARLY_BYTES, EARLY_FRAMES);
  }

  /** Gives memory back. Frames that still wait are dropped and counted. */
  close(): void {
    if (this.#early !== undefined) this.#dropEarly(this.#early);
  }

  #keep(batch: FrameBatch, early: FrameQueue): void {
    for (let index = 0; index < batch.count; index += 1) {
      let isKept = false;
      try {
        isKept = early.push(batch.offset(index), batch.length(index), batch.flag(index), 0);
      } catch (error) {
        if (!(error instanceof GrantError)) throw error;
      }
      if (!isKept) this.#drops().drop('rx-queue', 'NO_LISTENER');
    }
  }

  #handOverEarly(): void {
    const early = this.#early;
    if (early === undefined || this.#listeners.size === 0) return;
    this.#early = undefined;
    if (early.count > 0) {
      const batch = new FrameBatch(this.#bytes, early.count);
      for (; early.count > 0; early.shift()) batch.add(early.offset, early.length, early.flags);
      batch.timeNs = frameTimeNs();
      this.deliver(batch);
    }
    early.clear();
  }

  #dropEarly(early: FrameQueue): void {
    const dropped = early.clear();
    if (dropped > 0) this.#drops().drop('rx-queue', 'NO_LISTENER', dropped);
  }
}

/**
 * Frames that were written to a hub and not yet handed to its readers, first in, first out, each
 * with the node it came from. Bounded; frames are counted, so that one can be waited for.
 */
import type { LocalMemory } from '../../xen/local-memory.js';
import { BatchCopy } from '../batch-copy.js';
import type { FrameBatch } from '../frame-batch.js';
import { FrameQueue } from '../frame-queue.js';

export class Backlog {
  readonly #memory: LocalMemory;
  readonly #queue: FrameQueue;
  readonly #sources: Int32Array;
  /** Where a frame of another memory passes on its way in. */
  #detour: BatchCopy | undefined;
  /** Where the oldest frames are when they are taken out. */
  #run: BatchCopy | undefined;
  #head = 0;
  #pushed = 0;

  constructor(memory: LocalMemory, bytes: number, frames: number) {
    this.#memory = memory;
    this.#queue = new FrameQueue(memory, bytes, frames);
    this.#sources = new Int32Array(frames);
  }

  get count(): number {
    return this.#queue.count;
  }

  /** How many frames ever came in: the number of the next one. */
  get pushed(): number {
    return this.#pushed;
  }

  /** The number of the oldest frame that waits; `pushed` when none does. */
  get oldest(): number {
    return this.#pushed - this.#queue.count;
  }

  /** Takes frame `index` of a batch in; false, and nothing changed, when there is no room. */
  push(source: number, batch: FrameBatch, index: number): boolean {
    let offset = batch.offset(index);
    const length = batch.length(index);
    if (batch.bytes.buffer !== this.#memory.bytes.buffer) {
      // The queue copies within its memory: a frame from elsewhere comes by a detour.
      this.#detour ??= new BatchCopy(this.#memory);
      this.#detour.fill(batch, index, index + 1);
      offset = this.#detour.batch.offset(0);
    }
    const slot = (this.#head + this.#queue.count) % this.#sources.length;
    if (!this.#queue.push(offset, length, batch.flag(index), 0)) return false;
    this.#sources[slot] = source;
    this.#pushed += 1;
    return true;
  }

  /** The node that the oldest frame came from. */
  get source(): number {
    return this.#sources[this.#head] as number;
  }

  /** Takes the oldest frames out, as far as they are from one node. They are there until the next call. */
  shiftRun(): FrameBatch {
    const queue = this.#queue;
    const { source } = this;
    this.#run ??= new BatchCopy(this.#memory);
    this.#run.clear();
    while (queue.count > 0 && this.source === source) {
      if (!this.#run.add(this.#memory.bytes, queue.offset, queue.length, queue.flags)) break;
      queue.shift();
      this.#head = (this.#head + 1) % this.#sources.length;
    }
    return this.#run.batch;
  }

  /** Forgets all frames and gives the memory back. */
  clear(): void {
    this.#queue.clear();
    this.#head = 0;
    this.#detour?.free();
    this.#run?.free();
    this.#detour = undefined;
    this.#run = undefined;
  }
}

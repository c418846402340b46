/**
 * One queue's way into storage: its runs go one behind the other for as long as somebody holds those
 * before. What it fills is held by itself while the batch is handed on, for the listeners to hold in turn.
 */
import type { FrameBatch, RunSettler } from './frame-batch.js';
import type { RunPool, RunStorage } from './run-storage.js';

export class RunFiller implements RunSettler {
  readonly #pool: RunPool;
  /** Where the run before this one went. */
  #last: RunStorage | undefined;
  /** Where this batch goes, between `begin` or `settle` and `end`. */
  #open: RunStorage | undefined;

  constructor(pool: RunPool) {
    this.#pool = pool;
  }

  /** Storage with room for `bytes` of a run, ours until `end`; undefined where memory is short. */
  begin(bytes: number): RunStorage | undefined {
    this.#open = this.#pool.next(this, this.#last, bytes);
    return this.#open;
  }

  /** Copies a run into storage, behind the one before. */
  settle(batch: FrameBatch): void {
    const length = batch.runBytes;
    const storage = this.begin(length);
    if (storage === undefined) return;
    const start = batch.runStart(0);
    batch.bytes.copyWithin(storage.end, start, start + length);
    batch.storage = storage;
    batch.storageStart = storage.end;
  }

  /** The batch has been handed on: says how far its storage is filled, if it has any. */
  end(batch: FrameBatch): void {
    const storage = this.#open;
    if (storage === undefined) return;
    this.#open = undefined;
    this.#last = storage;
    const isIn = batch.storage === storage;
    this.#pool.filled(this, storage, isIn ? batch.storageStart + batch.runBytes : storage.end);
  }
}

/**
 * Memory with frames that whoever sends them on may hold for as long as that takes: ten clients that get
 * the same frames hold the same bytes. A queue whose frames are held goes on in the same storage, so that
 * runs which are short become long ones; where nobody holds anything, all queues use one storage again
 * and again, which stays in the cache. In front of the frames there is room for what the first holder
 * has to send before them.
 */
import { GrantError } from '../errors.js';
import type { LocalMemory, LocalRegion } from '../xen/local-memory.js';
import { PAGE_SIZE } from '../xen/xen.js';
import type { RunFiller } from './run-filler.js';

/** Frames with their tags and lengths: as much as a message has, of the shortest frames even. */
const RUN_BYTES = 68 * 1024;
/** Room in front of the frames. */
export const RUN_HEAD_BYTES = 2 * PAGE_SIZE;
/** How many storages there always are: what is on its way to a client that keeps up, and some. */
const KEPT = 20;

/** Told when nobody holds a storage any more. */
type OnFree = (storage: RunStorage) => void;

export class RunStorage {
  readonly region: LocalRegion;
  /** Where the next run goes. */
  end: number;
  /** Who goes on to fill it; nobody else may. */
  filler: RunFiller | undefined;
  readonly #onFree: OnFree;
  #holders = 0;
  #isHeadTaken = false;

  constructor(region: LocalRegion, onFree: OnFree) {
    this.region = region;
    this.end = this.start;
    this.#onFree = onFree;
  }

  /** Where the first run begins. */
  get start(): number {
    return this.region.offset + RUN_HEAD_BYTES;
  }

  /** Where the last run ends, at most. */
  get limit(): number {
    return this.region.offset + this.region.length;
  }

  get isHeld(): boolean {
    return this.#holders > 0;
  }

  /** Keeps what is in it as it is until `release`. */
  hold(): void {
    this.#holders += 1;
  }

  release(): void {
    this.#holders -= 1;
    if (this.#holders > 0) return;
    this.#isHeadTaken = false;
    this.end = this.start;
    this.filler = undefined;
    this.#onFree(this);
  }

  /** Whether the room in front is the caller's; only the first holder has it. */
  takeHead(): boolean {
    const isFirst = !this.#isHeadTaken;
    this.#isHeadTaken = true;
    return isFirst;
  }
}

export class RunPool {
  readonly #memory: LocalMemory;
  readonly #spare: RunStorage[] = [];
  readonly #takeBack: OnFree = (storage) => this.#keep(storage);
  #current: RunStorage | undefined;
  /** How many there are, the current one and those that are held included. */
  #count = 0;
  #isOpen = true;

  /** @throws GrantError where there is no memory for those that are kept. */
  constructor(memory: LocalMemory) {
    this.#memory = memory;
    for (let kept = 0; kept < KEPT; kept += 1) this.#spare.push(this.#make());
    this.#current = this.#spare.pop();
  }

  /**
   * Storage with room for `bytes` of a run of `filler`, which filled `last` before; undefined where
   * memory is short. It is held for the filler until that says `filled`.
   */
  next(filler: RunFiller, last: RunStorage | undefined, bytes: number): RunStorage | undefined {
    const storage =
      last?.filler === filler && last.limit - last.end >= bytes ? last : this.#unheld();
    storage?.hold();
    return storage;
  }

  /** What is in `storage` ends at `end`: where somebody holds it, `filler` goes on behind it. */
  filled(filler: RunFiller, storage: RunStorage, end: number): void {
    storage.filler = filler;
    storage.end = end;
    storage.release();
  }

  /** Gives all memory back, that of what is held when it is released. */
  free(): void {
    this.#isOpen = false;
    if (this.#current?.isHeld === false) this.#current.region.free();
    this.#current = undefined;
    for (const storage of this.#spare) storage.region.free();
    this.#spare.length = 0;
  }

  #unheld(): RunStorage | undefined {
    const current = this.#current;
    if (current?.isHeld === false) return current;
    this.#current = this.#spare.pop() ?? this.#makeIfPossible();
    return this.#current;
  }

  #make(): RunStorage {
    const region = this.#memory.allocate(RUN_HEAD_BYTES + RUN_BYTES);
    this.#count += 1;
    return new RunStorage(region, this.#takeBack);
  }

  #makeIfPossible(): RunStorage | undefined {
    try {
      return this.#make();
    } catch (error) {
      // Slow clients can hold all memory there is. Frames then go another way, and cost a copy more.
      if (error instanceof GrantError) return undefined;
      throw error;
    }
  }

  #keep(storage: RunStorage): void {
    if (storage === this.#current) return;
    if (this.#isOpen && this.#count <= KEPT) {
      this.#spare.push(storage);
      return;
    }
    storage.region.free();
    this.#count -= 1;
  }
}

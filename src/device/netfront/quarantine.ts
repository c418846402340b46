/**
 * Pages of connections that ended while the backend had some of them mapped. They are neither
 * freed nor used again before it lets go, which is looked for every so often, because nobody tells.
 * A backend that never lets go must not take all our memory, so there is a bound, and beyond it no
 * new connection is begun.
 *
 * Where nothing can tell whether a page is mapped, as with Linux' gntalloc, the kernel does the
 * same by itself: nothing comes here, for `unshare` is safe.
 */
import { GrantError } from '../../errors.js';
import type { SharedPages } from '../../xen/xen.js';

/** Four connections of one queue: a backend may be slow, but not without end. */
const PAGES_MAX = 2048;
const RETRY_MS = 50;

export class Quarantine {
  readonly #onRoom: () => void;
  readonly #kept = new Set<SharedPages>();
  #timer: NodeJS.Timeout | undefined;
  #waiting: (() => void)[] = [];

  /** `onRoom` is called when there is room again after there was none. */
  constructor(onRoom: () => void) {
    this.#onRoom = onRoom;
  }

  /** How many pages wait. */
  get pages(): number {
    let count = 0;
    for (const each of this.#kept) count += each.pages.length;
    return count;
  }

  get isFull(): boolean {
    return this.pages >= PAGES_MAX;
  }

  /** Frees what the backend does not have mapped, and keeps the rest until it lets go. */
  take(all: readonly SharedPages[]): void {
    for (const shared of all) {
      if (this.#free(shared)) continue;
      // What was in the pages is no business of whoever still looks at them.
      for (const page of shared.pages) page.bytes.fill(0);
      this.#kept.add(shared);
    }
    this.#await();
  }

  /** Resolves when nothing is kept any more, after `timeoutMs` at the latest. */
  async empty(timeoutMs: number): Promise<void> {
    this.#retry();
    if (this.#kept.size === 0) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#waiting.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #free(shared: SharedPages): boolean {
    for (let index = 0; index < shared.pages.length; index += 1) {
      if (shared.inUse(index) === true) return false;
    }
    try {
      shared.unshare();
      return true;
    } catch (error) {
      // Mapped after all, in the moment since we looked; else Xen was closed, and the pages with it.
      return !(error instanceof GrantError);
    }
  }

  #retry(): void {
    const wasFull = this.isFull;
    for (const shared of this.#kept) if (this.#free(shared)) this.#kept.delete(shared);
    if (wasFull && !this.isFull) this.#onRoom();
    if (this.#kept.size > 0) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resume of waiting) resume();
  }

  #await(): void {
    if (this.#kept.size === 0 || this.#timer !== undefined) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#retry();
      this.#await();
    }, RETRY_MS);
    this.#timer.unref();
  }
}

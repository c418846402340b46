/**
 * The watches of one frontend: on its own directory, and on two nodes of its backend's. Either can
 * be moved to another place, and after `close` none is left, not even one that was still being made.
 */
import type { Store, StoreWatch } from '../../xen/xen.js';

export class Watches {
  readonly #onChange: () => void;
  #own: StoreWatch[] = [];
  #backend: StoreWatch[] = [];
  #isClosed = false;

  constructor(onChange: () => void) {
    this.#onChange = onChange;
  }

  async watchOwn(store: Store, base: string): Promise<void> {
    await end(this.#own.splice(0));
    await this.#add(this.#own, store, base);
  }

  async watchBackend(store: Store, backend: string): Promise<void> {
    await end(this.#backend.splice(0));
    await this.#add(this.#backend, store, `${backend}/state`);
    await this.#add(this.#backend, store, `${backend}/carrier`);
  }

  /** Ends all watches; new ones may follow. */
  async clear(): Promise<void> {
    await end([...this.#own.splice(0), ...this.#backend.splice(0)]);
  }

  /** Ends all watches for good. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.clear();
  }

  async #add(watches: StoreWatch[], store: Store, path: string): Promise<void> {
    const watch = await store.watch(path, this.#onChange);
    watches.push(watch);
    if (this.#isClosed) await this.clear();
  }
}

async function end(watches: readonly StoreWatch[]): Promise<void> {
  await Promise.all(watches.map((watch) => watch.unwatch().catch(() => undefined)));
}

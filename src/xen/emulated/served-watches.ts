/**
 * The watches of one connection to the emulated XenStore, found by the paths that they are of: a daemon
 * has some for every vif, and each change asks which of them hear of it.
 */
import { StoreError } from '../../errors.js';
import { parentPath } from '../xenstore/path.js';
import type { StoreChange } from './store-tree.js';

/** A watch as it was asked for, and the absolute path it means. */
export interface ServedWatch {
  readonly asked: string;
  readonly path: string;
  readonly token: string;
}

/** A watch, and how many there ever were before it. */
interface NumberedWatch {
  readonly watch: ServedWatch;
  readonly number: number;
}

export class ServedWatches {
  readonly #byPath = new Map<string, NumberedWatch[]>();
  #made = 0;
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /** All of them, in the order in which they were made. */
  get all(): ServedWatch[] {
    return inOrder([...this.#byPath.values()].flat());
  }

  /** @throws StoreError EEXIST for the same path and token twice. */
  add(watch: ServedWatch): void {
    const { path, token } = watch;
    const same = this.#byPath.get(path) ?? [];
    if (same.some((other) => other.watch.token === token)) {
      throw new StoreError('EEXIST', `there is such a watch of ${path} already`);
    }
    same.push({ watch, number: this.#made });
    this.#byPath.set(path, same);
    this.#made += 1;
    this.#count += 1;
  }

  /** @throws StoreError ENOENT when there is no such watch. */
  remove(path: string, token: string): void {
    const same = this.#byPath.get(path) ?? [];
    const index = same.findIndex(({ watch }) => watch.token === token);
    if (index < 0) throw new StoreError('ENOENT', `there is no such watch of ${path}`);
    same.splice(index, 1);
    if (same.length === 0) this.#byPath.delete(path);
    this.#count -= 1;
  }

  clear(): void {
    this.#byPath.clear();
    this.#count = 0;
  }

  /** Those that hear of a change, in the order in which they were made. */
  hearing({ heardBy, path }: StoreChange): ServedWatch[] {
    const found: NumberedWatch[] = [];
    for (let at = path; ; at = parentPath(at)) {
      const here = this.#byPath.get(at);
      if (here !== undefined) found.push(...here);
      if (heardBy === 'path only' || at === '/') return inOrder(found);
    }
  }
}

function inOrder(watches: NumberedWatch[]): ServedWatch[] {
  return watches.sort((a, b) => a.number - b.number).map(({ watch }) => watch);
}

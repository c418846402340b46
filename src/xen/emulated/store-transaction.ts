/**
 * A transaction of the emulated XenStore: a snapshot to work on, the nodes that were looked at, and
 * the changes made. It commits when no node it looked at was changed by others since it began; this
 * is the strict rule of the C xenstored, in which a blind write counts as a look.
 */
import { StoreError } from '../../errors.js';
import { parentPath } from '../xenstore/path.js';
import type { StoreChange, StoreTree } from './store-tree.js';

/** A change that can be made again, on another tree. */
export type StoreMutation = (tree: StoreTree) => readonly StoreChange[];

export class StoreTransaction {
  readonly id: number;
  /** What the requests of this transaction see. */
  readonly tree: StoreTree;
  readonly #base: StoreTree;
  readonly #seen = new Set<string>();
  readonly #mutations: StoreMutation[] = [];

  constructor(id: number, canonical: StoreTree) {
    this.id = id;
    this.#base = canonical.snapshot();
    this.tree = canonical.snapshot();
  }

  /** How many nodes and changes the transaction has to remember. */
  get size(): number {
    return this.#seen.size + this.#mutations.length;
  }

  /** Remembers that the node was looked at. One that is missing counts with its nearest parent. */
  see(path: string): void {
    this.#seen.add(path);
    for (let at = path; this.#base.find(at) === undefined; ) {
      at = parentPath(at);
      this.#seen.add(at);
    }
  }

  /** Makes a change in the transaction's own tree, to be made again in the common one. */
  mutate(mutation: StoreMutation): void {
    mutation(this.tree);
    this.#mutations.push(mutation);
  }

  /**
   * Brings the changes into the common tree, all or none.
   * @returns the changes, for the watches.
   * @throws StoreError EAGAIN when somebody else changed what this transaction looked at.
   */
  commit(canonical: StoreTree): StoreChange[] {
    for (const path of this.#seen) {
      if (this.#base.find(path)?.generation !== canonical.find(path)?.generation) {
        throw new StoreError('EAGAIN', `${path} was changed by somebody else`);
      }
    }
    const result = canonical.snapshot();
    const changes = this.#mutations.flatMap((mutation) => [...mutation(result)]);
    // What was made and removed again in between was never there for anybody else.
    const seenByOthers = changes.filter(
      ({ path }) => canonical.find(path) !== undefined || result.find(path) !== undefined,
    );
    canonical.replaceWith(result);
    return distinct(seenByOthers);
  }
}

/** A node that was changed more than once in a transaction is one event to its watchers. */
function distinct(changes: readonly StoreChange[]): StoreChange[] {
  const byPath = new Map<string, StoreChange>();
  for (const change of changes) {
    const earlier = byPath.get(change.path);
    byPath.set(change.path, {
      path: change.path,
      heardBy: earlier?.heardBy === 'path and above' ? earlier.heardBy : change.heardBy,
      permissions: [...(earlier?.permissions ?? []), ...change.permissions],
    });
  }
  return [...byPath.values()];
}

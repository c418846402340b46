/**
 * The nodes of the emulated XenStore. A node never changes: every change makes new nodes along its
 * path, so that a snapshot for a transaction is one reference. Rules of access, inheritance and
 * quota are those of xenstored, and every refusal is the StoreError it would answer.
 */
import { StoreError } from '../../errors.js';
import type { StoreAccess, StorePermissions } from '../xen.js';
import { parentPath, quotePath } from '../xenstore/path.js';

/** Who asks. Domain 0 is privileged: to it everything is open and no quota applies. */
export interface StoreCaller {
  readonly domid: number;
  /** A domain on whose behalf the caller may act (XS_SET_TARGET), as a device model does. */
  readonly target?: number;
}

export interface StoreNode {
  readonly value: Buffer;
  readonly permissions: StorePermissions;
  readonly children: ReadonlyMap<string, StoreNode>;
  /** Anew with every change of the value, the permissions or the list of children. */
  readonly generation: number;
}

/** Something that watches may have to hear of. */
export interface StoreChange {
  readonly path: string;
  /** Watches of this path and above, or (a node removed along with its parent) of this path only. */
  readonly heardBy: 'path and above' | 'path only';
  /** A domain hears of the change when one of these lets it read. */
  readonly permissions: readonly StorePermissions[];
}

/** What a domain other than 0 may use up. */
export interface StoreTreeLimits {
  readonly nodesPerDomainMax: number;
  readonly valueBytesMax: number;
  readonly permissionsPerNodeMax: number;
  /** The name of the error for too many nodes: oxenstored says EQUOTA, the C xenstored ENOSPC. */
  readonly quotaErrno: 'EQUOTA' | 'ENOSPC';
}

export function isPrivileged(caller: StoreCaller): boolean {
  return caller.domid === 0;
}

/** Whether `permissions` let `caller` do what `access` names. */
export function mayAccess(
  caller: StoreCaller,
  permissions: StorePermissions,
  access: 'read' | 'write' | 'own',
): boolean {
  const isCaller = (domid: number) => domid === caller.domid || domid === caller.target;
  if (isPrivileged(caller) || isCaller(permissions.owner)) {
    return true;
  }
  const listed = permissions.domains?.find(({ domid }) => isCaller(domid));
  const granted: StoreAccess = listed?.access ?? permissions.others;
  switch (access) {
    case 'read':
      return granted === 'r' || granted === 'b';
    case 'write':
      return granted === 'w' || granted === 'b';
    case 'own':
      return false;
  }
}

/** Counts the changes of a store and of all its snapshots, so that no generation comes twice. */
interface GenerationCounter {
  last: number;
}

export class StoreTree {
  readonly #limits: StoreTreeLimits;
  readonly #generations: GenerationCounter;
  readonly #owned: Map<number, number>;
  #root: StoreNode;

  constructor(limits: StoreTreeLimits, from?: StoreTree) {
    this.#limits = limits;
    if (from === undefined) {
      this.#generations = { last: 0 };
      // The root is the first node of domain 0.
      this.#owned = new Map([[0, 1]]);
      this.#root = {
        value: Buffer.alloc(0),
        permissions: { owner: 0, others: 'n' },
        children: new Map(),
        generation: 0,
      };
    } else {
      this.#generations = from.#generations;
      this.#owned = new Map(from.#owned);
      this.#root = from.#root;
    }
  }

  /** A tree of its own that starts out as this one is now. */
  snapshot(): StoreTree {
    return new StoreTree(this.#limits, this);
  }

  /** Becomes what `other` is. */
  replaceWith(other: StoreTree): void {
    this.#root = other.#root;
    this.#owned.clear();
    for (const [domid, count] of other.#owned) {
      this.#owned.set(domid, count);
    }
  }

  /** How many nodes a domain owns. */
  ownedCount(domid: number): number {
    return this.#owned.get(domid) ?? 0;
  }

  find(path: string): StoreNode | undefined {
    let node: StoreNode | undefined = this.#root;
    for (const name of namesOf(path)) {
      node = node.children.get(name);
      if (node === undefined) {
        return undefined;
      }
    }
    return node;
  }

  /** @throws StoreError ENOENT, or EACCES also when the caller may not know that it is missing. */
  get(caller: StoreCaller, path: string, access: 'read' | 'write' | 'own'): StoreNode {
    const node = this.find(path);
    if (node === undefined) {
      throw this.#missing(caller, path, access);
    }
    if (!mayAccess(caller, node.permissions, access)) {
      throw denied(caller, path, access);
    }
    return node;
  }

  write(caller: StoreCaller, path: string, value: Buffer): StoreChange {
    if (!isPrivileged(caller) && value.length > this.#limits.valueBytesMax) {
      throw new StoreError('E2BIG', `a value of ${value.length} bytes is too long`);
    }
    const found = this.#findToChange(caller, path);
    const node = found ?? this.#createOrNothing(caller, path);
    this.#put(path, { ...node, value, generation: this.#nextGeneration() });
    return this.#changed(path, node.permissions);
  }

  /** Undefined when the node was there already, which is no change. */
  mkdir(caller: StoreCaller, path: string): StoreChange | undefined {
    if (this.#findToChange(caller, path) !== undefined) {
      return undefined;
    }
    return this.#changed(path, this.#createOrNothing(caller, path).permissions);
  }

  /** Removes a node with all below it; removing what is not there is fine while its parent is. */
  remove(caller: StoreCaller, path: string): StoreChange[] {
    const node = this.#findToChange(caller, path);
    if (path === '/') {
      throw new StoreError('EINVAL', 'the root cannot be removed');
    }
    const above = parentPath(path);
    const parent = this.find(above);
    if (parent === undefined) {
      throw new StoreError('ENOENT', `${quotePath(above)} does not exist`);
    }
    return node === undefined ? [] : this.#cut(path, node, parent);
  }

  setPermissions(caller: StoreCaller, path: string, permissions: StorePermissions): StoreChange {
    const entries = 1 + (permissions.domains?.length ?? 0);
    if (!isPrivileged(caller) && entries > this.#limits.permissionsPerNodeMax) {
      throw new StoreError('ENOSPC', `${entries} permissions are too many`);
    }
    const node = this.get(caller, path, 'own');
    if (!isPrivileged(caller) && permissions.owner !== node.permissions.owner) {
      throw new StoreError('EPERM', 'only domain 0 may give a node to another domain');
    }
    this.#count(node.permissions.owner, -1);
    this.#count(permissions.owner, 1);
    this.#put(path, { ...node, permissions, generation: this.#nextGeneration() });
    return this.#changed(path, permissions, node.permissions);
  }

  /**
   * Forgets a domain that is gone: the nodes it owned go, with all below them, and it is taken off
   * every list of permissions, so that a later domain of the same number inherits nothing.
   */
  forget(domid: number): StoreChange[] {
    const changes: StoreChange[] = [];
    const visit = (path: string, node: StoreNode) => {
      const { owner, others, domains } = node.permissions;
      if (domains?.some((entry) => entry.domid === domid)) {
        const rest = domains.filter((entry) => entry.domid !== domid);
        const permissions =
          rest.length === 0 ? { owner, others } : { owner, others, domains: rest };
        this.#put(path, { ...node, permissions, generation: this.#nextGeneration() });
      }
      for (const [name, child] of node.children) {
        const below = join(path, name);
        const parent = this.find(path);
        if (child.permissions.owner === domid && parent !== undefined) {
          changes.push(...this.#cut(below, child, parent));
        } else {
          visit(below, child);
        }
      }
    };
    visit('/', this.#root);
    return changes;
  }

  /**
   * The node when it exists and may be changed; undefined when it is missing and may be made. Most
   * changes make a node: no error is built for them only to be looked at.
   */
  #findToChange(caller: StoreCaller, path: string): StoreNode | undefined {
    const node = this.find(path);
    const { permissions } = node ?? this.#nearestAbove(path);
    if (!mayAccess(caller, permissions, 'write')) {
      throw denied(caller, path, 'write');
    }
    return node;
  }

  /** Makes a node, or leaves no part of it when the quota ends midway. */
  #createOrNothing(caller: StoreCaller, path: string): StoreNode {
    if (isPrivileged(caller)) {
      return this.#create(caller, path);
    }
    const before = this.snapshot();
    try {
      return this.#create(caller, path);
    } catch (error) {
      this.replaceWith(before);
      throw error;
    }
  }

  /** Makes a node and what is missing above it, each with the permissions of its parent. */
  #create(caller: StoreCaller, path: string): StoreNode {
    const names = namesOf(path);
    let parentOf = '/';
    let parent = this.#root;
    for (const name of names) {
      const here = join(parentOf, name);
      let node = parent.children.get(name);
      if (node === undefined) {
        node = this.#newChild(caller, parent.permissions);
        const children = new Map(parent.children).set(name, node);
        this.#put(parentOf, { ...parent, children, generation: this.#nextGeneration() });
      }
      parentOf = here;
      parent = node;
    }
    return parent;
  }

  #newChild(caller: StoreCaller, inherited: StorePermissions): StoreNode {
    // A guest owns what it makes, wherever it was let in; what domain 0 makes stays the parent's.
    const permissions = isPrivileged(caller) ? inherited : { ...inherited, owner: caller.domid };
    const quota = this.#limits.nodesPerDomainMax;
    if (!isPrivileged(caller) && this.ownedCount(caller.domid) >= quota) {
      const message = `domain ${caller.domid} owns ${quota} nodes already`;
      throw new StoreError(this.#limits.quotaErrno, message);
    }
    this.#count(permissions.owner, 1);
    const generation = this.#nextGeneration();
    return { value: Buffer.alloc(0), permissions, children: new Map(), generation };
  }

  #cut(path: string, node: StoreNode, parent: StoreNode): StoreChange[] {
    const changes: StoreChange[] = [];
    const visit = (at: string, removed: StoreNode, above: StoreNode) => {
      for (const [name, child] of removed.children) {
        visit(join(at, name), child, removed);
      }
      this.#count(removed.permissions.owner, -1);
      const heardBy = at === path ? 'path and above' : 'path only';
      changes.push({ path: at, heardBy, permissions: [removed.permissions, above.permissions] });
    };
    visit(path, node, parent);
    const children = new Map(parent.children);
    children.delete(path.slice(path.lastIndexOf('/') + 1));
    this.#put(parentPath(path), { ...parent, children, generation: this.#nextGeneration() });
    return changes;
  }

  /** Puts a node in its place and copies what is above it; those above keep their generations. */
  #put(path: string, node: StoreNode): void {
    const names = namesOf(path);
    const place = (at: StoreNode, depth: number): StoreNode => {
      const name = names[depth];
      if (name === undefined) {
        return node;
      }
      const child = at.children.get(name);
      const isLast = depth === names.length - 1;
      if (child === undefined && !isLast) {
        throw new Error(`the parent of ${quotePath(path)} is missing`);
      }
      const placed = child === undefined ? node : place(child, depth + 1);
      return { ...at, children: new Map(at.children).set(name, placed) };
    };
    this.#root = place(this.#root, 0);
  }

  #changed(path: string, ...permissions: StorePermissions[]): StoreChange {
    const above = this.find(parentPath(path));
    const readable = above === undefined ? permissions : [...permissions, above.permissions];
    return { path, heardBy: 'path and above', permissions: readable };
  }

  /** The refusal for a missing node: only who may use the nearest node above learns the truth. */
  #missing(caller: StoreCaller, path: string, access: 'read' | 'write' | 'own'): StoreError {
    const { permissions } = this.#nearestAbove(path);
    return mayAccess(caller, permissions, access)
      ? new StoreError('ENOENT', `${quotePath(path)} does not exist`)
      : denied(caller, path, access);
  }

  /** The nearest node above a path that is there. */
  #nearestAbove(path: string): StoreNode {
    let above = parentPath(path);
    let node = this.find(above);
    while (node === undefined) {
      above = parentPath(above);
      node = this.find(above);
    }
    return node;
  }

  #count(domid: number, change: 1 | -1): void {
    const count = this.ownedCount(domid) + change;
    if (count === 0) {
      this.#owned.delete(domid);
    } else {
      this.#owned.set(domid, count);
    }
  }

  #nextGeneration(): number {
    this.#generations.last += 1;
    return this.#generations.last;
  }
}

function denied(caller: StoreCaller, path: string, access: string): StoreError {
  return new StoreError('EACCES', `domain ${caller.domid} may not ${access} ${quotePath(path)}`);
}

function namesOf(path: string): string[] {
  return path === '/' ? [] : path.slice(1).split('/');
}

function join(path: string, name: string): string {
  return path === '/' ? `/${name}` : `${path}/${name}`;
}

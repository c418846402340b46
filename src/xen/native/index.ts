/** Xen as it is: the kernel's devices by Xen's own libraries, and xenstored by its protocol. */
import type { LocalMemory } from '../local-memory.js';
import type { Store, Xen } from '../xen.js';
import { StoreClient, type StoreLogger } from '../xenstore/client.js';
import { type Arena, openArena } from './arena.js';
import { NativeEvents } from './evtchn.js';
import { NativeGrants } from './gnttab.js';
import { connectXenstored } from './store.js';

export interface NativeXenOptions {
  /** The memory that grant copies reach, in bytes; real memory is used only where it is touched. */
  readonly localMemoryBytes?: number;
  readonly logger?: StoreLogger;
}

const LOCAL_MEMORY_BYTES_DEFAULT = 64 * 1024 * 1024;

/**
 * Opens Xen for the domain that this process runs in.
 * @throws UnavailableError XEN_UNAVAILABLE, naming the library or the device that is missing;
 *   XENSTORE_UNAVAILABLE when xenstored cannot be reached.
 */
export async function openNativeXen(options: NativeXenOptions = {}): Promise<Xen> {
  const grants = new NativeGrants();
  let events: NativeEvents | undefined;
  let store: Store | undefined;
  try {
    events = new NativeEvents();
    const { logger } = options;
    store = await StoreClient.open({ connect: connectXenstored, ...(logger && { logger }) });
    const domid = await ownDomid(store);
    const arena = openArena(options.localMemoryBytes ?? LOCAL_MEMORY_BYTES_DEFAULT);
    return new NativeXen({ domid, arena, grants, events, store, logger });
  } catch (error) {
    await store?.close();
    events?.close();
    grants.close();
    throw error;
  }
}

/** xenstored takes a relative path as one in the asker's directory. Domain 0 may have none yet. */
async function ownDomid(store: Store): Promise<number> {
  return Number((await store.readIfExists('domid')) ?? 0);
}

interface NativeParts {
  readonly domid: number;
  readonly arena: Arena;
  readonly grants: NativeGrants;
  readonly events: NativeEvents;
  readonly store: Store;
  readonly logger: StoreLogger | undefined;
}

class NativeXen implements Xen {
  readonly kind = 'native';
  readonly domid: number;
  readonly memory: LocalMemory;
  readonly grants: NativeGrants;
  readonly events: NativeEvents;
  readonly store: Store;
  readonly #arena: Arena;
  readonly #logger: StoreLogger | undefined;
  #closed = false;

  constructor(parts: NativeParts) {
    this.domid = parts.domid;
    this.memory = parts.arena.memory;
    this.grants = parts.grants;
    this.events = parts.events;
    this.store = parts.store;
    this.#arena = parts.arena;
    this.#logger = parts.logger;
  }

  /** Gives everything back, and warns of what should have been given back before. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const left = {
      grants: this.grants.liveCount,
      eventChannels: this.events.liveCount,
      localMemoryBytes: this.memory.allocatedBytes,
    };
    if (Object.values(left).some((count) => count > 0)) {
      this.#logger?.warn(left, 'Xen was closed while devices still held parts of it');
    }
    this.events.close();
    this.grants.close();
    this.#arena.release();
    await this.store.close();
  }
}

/**
 * The seam between xenvif and Xen: three nouns, `grants`, `events` and `store`, and the local
 * memory that grant copies reach. Above this file nothing knows whether Xen is real (`NativeXen`)
 * or emulated (`EmulatedXen`).
 */
import type { CopyBatch } from './copy-batch.js';
import type { LocalMemory } from './local-memory.js';
import type { Page } from './page.js';

/** The size of a page of every Xen guest that speaks netif: `XEN_PAGE_SIZE`, in bytes. */
export const PAGE_SIZE = 4096;

/** Xen as one domain sees it. */
export interface Xen {
  readonly kind: 'native' | 'emulated';
  /** Our own domain. */
  readonly domid: number;
  /** The memory of ours that grant copies read and write. */
  readonly memory: LocalMemory;
  readonly grants: Grants;
  readonly events: Events;
  readonly store: Store;
  /** Gives everything back. Throws `MisuseError` (emulated) if a device left something behind. */
  close(): Promise<void>;
}

/** Grant tables: other domains' pages that we may touch, and ours that they may (grant_table.h). */
export interface Grants {
  /**
   * Maps the page that `domid` granted as `ref`; with `notice`, for which the access must be
   * 'write', the peer is told when the mapping ends.
   * @throws GrantError when the grant does not exist, or does not allow it.
   */
  map(domid: number, ref: number, access: 'read' | 'write', notice?: EndNotice): MappedPage;

  /**
   * Runs every segment of `batch` in one call; afterwards each segment has its status
   * (GNTST_okay is 0, every failure negative). A failed segment does not stop the others.
   * @throws GrantError only when the call as a whole could not be made.
   */
  copy(batch: CopyBatch): void;

  /**
   * Allocates zeroed pages and grants each to `domid`; with `notice`, which goes with one page only,
   * the peer is told when the share ends.
   * @throws GrantError when no memory or no grant reference is left.
   */
  share(domid: number, count: number, access: 'read' | 'write', notice?: EndNotice): SharedPages;
}

/**
 * What becomes of a page when we end its mapping or share, or when our process dies and the kernel
 * ends it (IOCTL_GNTDEV_SET_UNMAP_NOTIFY, gntdev.h and gntalloc.h): a byte of it is cleared, and then
 * an event is sent. Where a whole domain is destroyed nobody is left to do either.
 */
export interface EndNotice {
  /** Which byte of the page becomes 0. */
  readonly byteOffset: number;
  /** Over which the event goes. It must be closed after the mapping or share ended, not before. */
  readonly channel: EventChannel;
}

/** A page of another domain, mapped into ours. */
export interface MappedPage {
  readonly page: Page;
  /** Takes the mapping away; the page must not be touched afterwards. */
  unmap(): void;
}

/** Pages of ours that another domain may touch. */
export interface SharedPages {
  readonly refs: readonly number[];
  readonly pages: readonly Page[];
  /**
   * Whether the peer still has the page behind `refs[index]` mapped; undefined where nothing can
   * tell, as with Linux' gntalloc, which keeps an unshared page until its peer lets go of it.
   */
  inUse(index: number): boolean | undefined;
  /**
   * Ends the grants and frees the pages.
   * @throws GrantError while the peer is known to map one of them; nothing is freed then.
   */
  unshare(): void;
  /**
   * As `unshare`, but never refuses: we are done with the pages at once, and one that the peer still
   * maps is kept for it until it lets go, as gntalloc keeps it.
   */
  release(): void;
}

/** Event channels (event_channel.h). */
export interface Events {
  /**
   * Binds the unbound port that `domid` allocated for us (EVTCHNOP_bind_interdomain).
   * The new channel is pending at once, as Xen makes it, so that nothing sent before is lost.
   * @throws EventChannelError when the port is not there, or is another domain's.
   */
  bind(domid: number, remotePort: number, onEvent: () => void): EventChannel;

  /** Allocates a port that `domid` may bind (EVTCHNOP_alloc_unbound). */
  allocate(domid: number, onEvent: () => void): EventChannel;
}

/**
 * Our end of an event channel. When an event arrives the port is masked and `onEvent` runs once;
 * no further event is delivered until `unmask`, and one that came meanwhile is delivered then.
 */
export interface EventChannel {
  /** Our own port. */
  readonly port: number;
  /** Wakes the peer. Cheap, never blocks, coalesced by Xen. */
  notify(): void;
  /** Lets the next event in. Idempotent. */
  unmask(): void;
  /** Closes our end; the peer's port becomes unbound. `onEvent` never runs again. */
  close(): void;
}

/** One access right in XenStore (xs_lib.h): none, read, write, both. */
export type StoreAccess = 'n' | 'r' | 'w' | 'b';

/** The permissions of a node: its owner, what everybody else may do, and exceptions by domain. */
export interface StorePermissions {
  readonly owner: number;
  /** What a domain that is not listed may do. */
  readonly others: StoreAccess;
  readonly domains?: readonly { readonly domid: number; readonly access: StoreAccess }[];
}

/** What can be asked of XenStore, inside a transaction and outside. Errors are `StoreError`s. */
export interface StoreOperations {
  /** The value as UTF-8. @throws StoreError ENOENT, EACCES, EINVAL (a malformed path). */
  read(path: string): Promise<string>;
  /** As `read`, but undefined when the node does not exist. */
  readIfExists(path: string): Promise<string | undefined>;
  /** The value as it is, for values that may be no text. */
  readBytes(path: string): Promise<Buffer>;
  /** Writes, and makes missing parents. @throws StoreError E2BIG when the value is too long. */
  write(path: string, value: string | Uint8Array): Promise<void>;
  mkdir(path: string): Promise<void>;
  /** Removes the node and all below. Removing what is not there is no error, as in xenstored. */
  rm(path: string): Promise<void>;
  /** The names of the children, also when they need more than one payload. */
  directory(path: string): Promise<string[]>;
  getPermissions(path: string): Promise<StorePermissions>;
  setPermissions(path: string, permissions: StorePermissions): Promise<void>;
}

/** A watch: `onChange` runs once at once, and then for each change at or below the path. */
export interface StoreWatch {
  readonly path: string;
  /** Ends the watch. `onChange` never runs again once this was called. */
  unwatch(): Promise<void>;
}

/** XenStore as our domain sees it (xenstore.txt, xs_wire.h). */
export interface Store extends StoreOperations {
  /**
   * Runs `body` in a transaction and commits it. On EAGAIN (somebody else changed what was read)
   * the body runs again, a bounded number of times.
   * @throws StoreError EAGAIN when the retries are used up; whatever `body` throws, after an abort.
   */
  transaction<T>(body: (transaction: StoreOperations) => Promise<T>): Promise<T>;

  /**
   * Watches `path`. `onChange` gets the path that changed, which may lie below `path`. Watches
   * survive a reconnect: each fires once when it is restored, for changes may have been missed.
   */
  watch(path: string, onChange: (path: string) => void): Promise<StoreWatch>;

  /** The absolute path of a domain's directory (XS_GET_DOMAIN_PATH). */
  domainPath(domid: number): Promise<string>;

  /** Whether xenstored knows the domain (XS_IS_DOMAIN_INTRODUCED). */
  isDomainIntroduced(domid: number): Promise<boolean>;

  /** Whether the connection to xenstored stands at this moment. */
  readonly connected: boolean;

  /** Called on every loss and return of the connection. Returns a function that ends it. */
  onConnection(listener: (connected: boolean) => void): () => void;

  close(): Promise<void>;
}

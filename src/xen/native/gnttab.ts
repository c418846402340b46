/**
 * Grants on real Xen, by libxengnttab: /dev/xen/gntdev for other domains' pages, and, opened when
 * it is first needed, /dev/xen/gntalloc for our own (xengnttab.h).
 *
 * A view does not own its memory. A page is invalidated before its memory is unmapped, and nobody
 * may keep `page.bytes` beyond that: a touch of a kept view kills the process.
 */
import koffi from 'koffi';
import { GrantError, MisuseError } from '../../errors.js';
import type { CopyBatch } from '../copy-batch.js';
import { Page } from '../page.js';
import {
  type EndNotice,
  type Grants,
  type MappedPage,
  PAGE_SIZE,
  type SharedPages,
} from '../xen.js';
import {
  deviceUnavailable,
  lastErrno,
  loadXenLibrary,
  type Pointer,
  quietLibraryLogger,
} from './library.js';

const PROT_READ = 1;
const PROT_READ_WRITE = 3;

interface GrantLibrary {
  readonly logger: Pointer | null;
  openMap(logger: Pointer | null, flags: number): Pointer | null;
  closeMap(handle: Pointer): number;
  map(handle: Pointer, domid: number, ref: number, protection: number): Pointer | null;
  mapWithNotice(
    handle: Pointer,
    domid: number,
    ref: number,
    protection: number,
    byteOffset: number,
    port: number,
  ): Pointer | null;
  unmap(handle: Pointer, address: Pointer, count: number): number;
  copy(handle: Pointer, count: number, segments: Uint8Array): number;
  openShare(logger: Pointer | null, flags: number): Pointer | null;
  closeShare(handle: Pointer): number;
  share(
    handle: Pointer,
    domid: number,
    count: number,
    refs: Uint32Array,
    writable: number,
  ): Pointer | null;
  shareWithNotice(
    handle: Pointer,
    domid: number,
    ref: Uint32Array,
    writable: number,
    byteOffset: number,
    port: number,
  ): Pointer | null;
  unshare(handle: Pointer, address: Pointer, count: number): number;
}

function loadGrantLibrary(): GrantLibrary {
  const library = loadXenLibrary('libxengnttab.so.1', 'libxengnttab1');
  return {
    logger: quietLibraryLogger(),
    openMap: library.func('void *xengnttab_open(void *logger, unsigned int flags)'),
    closeMap: library.func('int xengnttab_close(void *handle)'),
    map: library.func(
      'void *xengnttab_map_grant_ref(void *handle, uint32_t domid, uint32_t ref, int protection)',
    ),
    mapWithNotice: library.func(
      'void *xengnttab_map_grant_ref_notify(void *handle, uint32_t domid, uint32_t ref, int protection, uint32_t offset, uint32_t port)',
    ),
    unmap: library.func('int xengnttab_unmap(void *handle, void *address, uint32_t count)'),
    copy: library.func('int xengnttab_grant_copy(void *handle, uint32_t count, void *segments)'),
    openShare: library.func('void *xengntshr_open(void *logger, unsigned int flags)'),
    closeShare: library.func('int xengntshr_close(void *handle)'),
    share: library.func(
      'void *xengntshr_share_pages(void *handle, uint32_t domid, int count, void *refs, int writable)',
    ),
    shareWithNotice: library.func(
      'void *xengntshr_share_page_notify(void *handle, uint32_t domid, void *ref, int writable, uint32_t offset, uint32_t port)',
    ),
    unshare: library.func('int xengntshr_unshare(void *handle, void *address, uint32_t count)'),
  };
}

export class NativeGrants implements Grants {
  readonly #library: GrantLibrary;
  readonly #mapHandle: Pointer;
  #shareHandle: Pointer | undefined;
  readonly #live = new Set<MappedPage | SharedPages>();
  #closed = false;

  /** @throws UnavailableError when the library or /dev/xen/gntdev is missing. */
  constructor() {
    this.#library = loadGrantLibrary();
    const handle = this.#library.openMap(this.#library.logger, 0);
    if (handle === null) throw deviceUnavailable('/dev/xen/gntdev', 'xen-gntdev', lastErrno());
    this.#mapHandle = handle;
  }

  /** How many mappings and shares there are. */
  get liveCount(): number {
    return this.#live.size;
  }

  map(domid: number, ref: number, access: 'read' | 'write', notice?: EndNotice): MappedPage {
    this.#checkOpen();
    const protection = access === 'read' ? PROT_READ : PROT_READ_WRITE;
    const handle = this.#mapHandle;
    const address =
      notice === undefined
        ? this.#library.map(handle, domid, ref, protection)
        : this.#library.mapWithNotice(handle, domid, ref, protection, ...placeOf(notice));
    if (address === null) throw grantError(`Grant ${ref} of domain ${domid} cannot be mapped`);
    const page = new Page(koffi.view(address, PAGE_SIZE), 0, access);
    const mapping: MappedPage = {
      page,
      unmap: () => {
        if (!this.#live.delete(mapping)) {
          throw new MisuseError(`Grant ${ref} of domain ${domid} was unmapped already.`);
        }
        page.invalidate();
        if (this.#library.unmap(this.#mapHandle, address, 1) !== 0) {
          throw grantError(`Grant ${ref} of domain ${domid} cannot be unmapped`);
        }
      },
    };
    this.#live.add(mapping);
    return mapping;
  }

  copy(batch: CopyBatch): void {
    this.#checkOpen();
    // The driver takes any number of segments and hands them to Xen in small batches of its own.
    if (batch.count === 0) return;
    if (this.#library.copy(this.#mapHandle, batch.count, batch.segments) !== 0) {
      throw grantError(`A grant copy of ${batch.count} segments failed`);
    }
  }

  share(domid: number, count: number, access: 'read' | 'write', notice?: EndNotice): SharedPages {
    this.#checkOpen();
    if (notice !== undefined && count !== 1) {
      throw new MisuseError('A share with a notice is of one page.');
    }
    const handle = this.#openShareHandle();
    const refs = new Uint32Array(count);
    const writable = access === 'write' ? 1 : 0;
    const address =
      notice === undefined
        ? this.#library.share(handle, domid, count, refs, writable)
        : this.#library.shareWithNotice(handle, domid, refs, writable, ...placeOf(notice));
    if (address === null) throw grantError(`${count} pages cannot be shared with domain ${domid}`);
    const pages = Array.from(
      refs,
      (_, index) => new Page(koffi.view(address + BigInt(index * PAGE_SIZE), PAGE_SIZE)),
    );
    const shared: SharedPages = {
      refs: [...refs],
      pages,
      // gntalloc never tells. It keeps an unshared page until the peer lets go, so that
      // `unshare` is safe at any time.
      inUse: () => undefined,
      unshare: () => {
        if (!this.#live.delete(shared)) {
          throw new MisuseError(`The pages for domain ${domid} were unshared already.`);
        }
        for (const page of pages) page.invalidate();
        if (this.#library.unshare(handle, address, count) !== 0) {
          throw grantError(`${count} pages for domain ${domid} cannot be unshared`);
        }
      },
      release: () => shared.unshare(),
    };
    this.#live.add(shared);
    return shared;
  }

  /** Gives back what was left and closes the devices. */
  close(): void {
    if (this.#closed) return;
    for (const each of [...this.#live]) {
      if ('unmap' in each) each.unmap();
      else each.unshare();
    }
    this.#closed = true;
    this.#library.closeMap(this.#mapHandle);
    if (this.#shareHandle !== undefined) this.#library.closeShare(this.#shareHandle);
  }

  #openShareHandle(): Pointer {
    if (this.#shareHandle === undefined) {
      const handle = this.#library.openShare(this.#library.logger, 0);
      if (handle === null) {
        throw deviceUnavailable('/dev/xen/gntalloc', 'xen-gntalloc', lastErrno());
      }
      this.#shareHandle = handle;
    }
    return this.#shareHandle;
  }

  #checkOpen(): void {
    if (this.#closed) throw new MisuseError('Grants were used after close.');
  }
}

/** A notice as the library's calls take it. */
function placeOf({ byteOffset, channel }: EndNotice): [byteOffset: number, port: number] {
  return [byteOffset, channel.port];
}

/** Must be called right after the call that failed, while errno is still that call's. */
function grantError(what: string): GrantError {
  const errno = lastErrno();
  return new GrantError(`${what}: ${errno}.`, { errno });
}

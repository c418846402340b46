/**
 * A process of an emulated domain whose every effect on the world outside it is counted: each store
 * into a shared page, each copy, event, mapping and request to XenStore. It can be told to die before
 * any of them, as SIGKILL may have it: from then on nothing of it reaches Xen, though its code, which
 * shares one real process with the test, runs on.
 */
import type { EmulatedXen } from '../../src/xen/emulated/index.js';
import { Page } from '../../src/xen/page.js';
import type {
  EventChannel,
  Events,
  Grants,
  MappedPage,
  Store,
  StoreOperations,
  Xen,
} from '../../src/xen/xen.js';
import { PAGE_SIZE } from '../../src/xen/xen.js';

export class SteppedXen implements Xen {
  readonly kind = 'emulated';
  readonly domid: number;
  readonly memory: Xen['memory'];
  readonly grants: Grants;
  readonly events: Events;
  readonly store: Store;
  /** Effects so far. */
  steps = 0;
  /** What the step was that it died before. */
  lastStep: string | undefined;
  readonly #inner: EmulatedXen;
  readonly #pages = new Set<SteppedPage>();
  readonly #onKilled: () => void;
  #killAt = Number.POSITIVE_INFINITY;
  #end: Promise<void> | undefined;

  /** `onKilled` runs at the instant of its death. */
  constructor(inner: EmulatedXen, onKilled: () => void = () => undefined) {
    this.#inner = inner;
    this.#onKilled = onKilled;
    this.domid = inner.domid;
    this.memory = inner.memory;
    this.grants = this.#stepGrants();
    this.events = this.#stepEvents();
    this.store = this.#stepStore();
  }

  get isKilled(): boolean {
    return this.#end !== undefined;
  }

  /** Dies before the `count`th effect from now on. */
  killBefore(count: number): void {
    this.steps = 0;
    this.#killAt = count;
  }

  readonly step = (what: string): void => {
    if (this.isKilled) return;
    this.steps += 1;
    if (this.steps < this.#killAt) return;
    this.lastStep = what;
    void this.kill();
  };

  /** Dies now. */
  async kill(): Promise<void> {
    if (this.#end === undefined) {
      this.#end = this.#inner.kill();
      for (const page of this.#pages) page.invalidate(new ArrayBuffer(PAGE_SIZE));
      this.#onKilled();
    }
    await this.#end;
  }

  async close(): Promise<void> {
    await this.#inner.close();
  }

  #stepGrants(): Grants {
    const { grants } = this.#inner;
    return {
      map: (domid, ref, access) => {
        this.step('map');
        return this.#stepMapping(grants.map(domid, ref, access));
      },
      copy: (batch) => {
        this.step('copy');
        grants.copy(batch);
      },
      share: (domid, count, access) => {
        this.step('share');
        return grants.share(domid, count, access);
      },
    };
  }

  #stepMapping(mapping: MappedPage): MappedPage {
    const { buffer, byteOffset } = mapping.page.bytes;
    const page = new SteppedPage(buffer, byteOffset, this.step);
    this.#pages.add(page);
    return {
      page,
      unmap: () => {
        this.step('unmap');
        this.#pages.delete(page);
        mapping.unmap();
        page.invalidate(this.isKilled ? new ArrayBuffer(PAGE_SIZE) : undefined);
      },
    };
  }

  #stepEvents(): Events {
    const { events } = this.#inner;
    const stepped = (channel: EventChannel): EventChannel => ({
      port: channel.port,
      notify: () => {
        this.step('notify');
        channel.notify();
      },
      unmask: () => {
        this.step('unmask');
        channel.unmask();
      },
      close: () => {
        this.step('close');
        channel.close();
      },
    });
    return {
      bind: (domid, port, onEvent) => {
        this.step('bind');
        return stepped(events.bind(domid, port, onEvent));
      },
      allocate: (domid, onEvent) => {
        this.step('allocate');
        return stepped(events.allocate(domid, onEvent));
      },
    };
  }

  #stepStore(): Store {
    const { store } = this.#inner;
    const operations = (inner: StoreOperations): StoreOperations => ({
      read: (path) => inner.read(path),
      readIfExists: (path) => inner.readIfExists(path),
      readBytes: (path) => inner.readBytes(path),
      directory: (path) => inner.directory(path),
      getPermissions: (path) => inner.getPermissions(path),
      write: (path, value) => {
        this.step(`write ${path}`);
        return inner.write(path, value);
      },
      mkdir: (path) => {
        this.step(`mkdir ${path}`);
        return inner.mkdir(path);
      },
      rm: (path) => {
        this.step(`rm ${path}`);
        return inner.rm(path);
      },
      setPermissions: (path, permissions) => {
        this.step(`setPermissions ${path}`);
        return inner.setPermissions(path, permissions);
      },
    });
    return {
      ...operations(store),
      transaction: (body) =>
        store.transaction(async (transaction) => {
          const result = await body(operations(transaction));
          this.step('commit');
          return result;
        }),
      watch: (path, onChange) => {
        this.step(`watch ${path}`);
        return store.watch(path, onChange);
      },
      domainPath: (domid) => store.domainPath(domid),
      isDomainIntroduced: (domid) => store.isDomainIntroduced(domid),
      get connected() {
        return store.connected;
      },
      onConnection: (listener) => store.onConnection(listener),
      close: () => store.close(),
    };
  }
}

/** A page whose every store is a step. */
class SteppedPage extends Page {
  readonly #step: (what: string) => void;

  constructor(memory: ArrayBufferLike, byteOffset: number, step: (what: string) => void) {
    super(memory, byteOffset);
    this.#step = step;
  }

  override storeIndex(offset: number, value: number): void {
    this.#step(`index ${offset}`);
    super.storeIndex(offset, value);
  }

  override writeU32(offset: number, value: number): void {
    this.#step(`u32 ${offset}`);
    super.writeU32(offset, value);
  }

  /** Many words at once are written in no order that can be relied on: here from the end. */
  override writeWords(offset: number, source: Uint32Array, start: number, count: number): void {
    for (let word = count - 1; word >= 0; word -= 1) {
      this.writeU32(offset + word * 4, source[start + word] as number);
    }
  }

  override writeU16(offset: number, value: number): void {
    this.#step(`u16 ${offset}`);
    super.writeU16(offset, value);
  }

  override writeU8(offset: number, value: number): void {
    this.#step(`u8 ${offset}`);
    super.writeU8(offset, value);
  }
}

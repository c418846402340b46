/** A `Store` that remembers which watches were not ended, for the leak check of its process. */
import type { Store, StoreWatch } from '../xen.js';

export interface TrackedStore {
  readonly store: Store;
  /** The watches that were not ended, for people to read. */
  leftovers(): string[];
}

export function trackWatches(client: Store): TrackedStore {
  const live = new Set<StoreWatch>();
  const watch = async (path: string, onChange: (path: string) => void): Promise<StoreWatch> => {
    const inner = await client.watch(path, onChange);
    const outer: StoreWatch = {
      path,
      unwatch: () => {
        live.delete(outer);
        return inner.unwatch();
      },
    };
    live.add(outer);
    return outer;
  };
  const store: Store = {
    read: (path) => client.read(path),
    readIfExists: (path) => client.readIfExists(path),
    readBytes: (path) => client.readBytes(path),
    write: (path, value) => client.write(path, value),
    mkdir: (path) => client.mkdir(path),
    rm: (path) => client.rm(path),
    directory: (path) => client.directory(path),
    getPermissions: (path) => client.getPermissions(path),
    setPermissions: (path, permissions) => client.setPermissions(path, permissions),
    transaction: (body) => client.transaction(body),
    watch,
    domainPath: (domid) => client.domainPath(domid),
    isDomainIntroduced: (domid) => client.isDomainIntroduced(domid),
    get connected() {
      return client.connected;
    },
    onConnection: (listener) => client.onConnection(listener),
    close: () => client.close(),
  };
  return { store, leftovers: () => [...live].map(({ path }) => `watches ${path}`) };
}

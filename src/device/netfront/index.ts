/**
 * All the vifs of this domain, seen from its own side: what the toolstack plugs in below
 * `device/vif` comes up by itself, as in a guest's kernel.
 */
import type { Logger } from 'pino';
import type { StoreWatch, Xen } from '../../xen/xen.js';
import { NetfrontDevice } from './device.js';

export class Netfront {
  readonly #xen: Xen;
  readonly #logger: Logger;
  readonly #onDevice: (device: NetfrontDevice) => void;
  readonly #devices = new Map<number, NetfrontDevice>();
  readonly #root: string;
  #watch: StoreWatch | undefined;
  #scanning: Promise<void> = Promise.resolve();
  #scanQueued = false;
  #stopped = false;

  /** Calls `onDevice` for each vif that is there and each that comes. */
  constructor(xen: Xen, logger: Logger, onDevice: (device: NetfrontDevice) => void) {
    this.#xen = xen;
    this.#logger = logger;
    this.#onDevice = onDevice;
    this.#root = `/local/domain/${xen.domid}/device/vif`;
  }

  async start(): Promise<void> {
    this.#stopped = false;
    this.#watch = await this.#xen.store.watch(this.#root, () => this.#scan());
    await this.#scanning;
  }

  get(handle: number): NetfrontDevice | undefined {
    return this.#devices.get(handle);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#watch?.unwatch().catch(() => undefined);
    await this.#scanning;
    await Promise.all([...this.#devices.values()].map((device) => device.disconnect()));
    this.#devices.clear();
  }

  #scan(): void {
    if (this.#scanQueued) return;
    this.#scanQueued = true;
    this.#scanning = this.#scanning.then(async () => {
      this.#scanQueued = false;
      await this.#scanOnce().catch((error: unknown) => {
        this.#logger.warn({ error }, 'a guest could not list its vifs');
      });
    });
  }

  async #scanOnce(): Promise<void> {
    const names = await this.#xen.store.directory(this.#root).catch(() => []);
    const present = new Set(names.map(Number));
    for (const [handle, device] of this.#devices) {
      if (present.has(handle)) continue;
      this.#devices.delete(handle);
      await device.disconnect();
    }
    for (const handle of present) {
      if (this.#devices.has(handle) || this.#stopped) continue;
      const backend = await this.#xen.store.readIfExists(`${this.#root}/${handle}/backend`);
      if (backend === undefined) continue;
      const device = await NetfrontDevice.open(this.#xen, handle, this.#logger);
      this.#devices.set(handle, device);
      this.#onDevice(device);
    }
  }
}

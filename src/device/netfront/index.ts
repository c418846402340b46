/**
 * All the vifs of this domain, seen from its own side: what the toolstack plugs in below
 * `device/vif` comes up by itself, as in a guest's kernel.
 */
import type { Logger } from 'pino';
import { StoreError } from '../../errors.js';
import type { StoreWatch, Xen } from '../../xen/xen.js';
import { CoalescedTask } from '../coalesced-task.js';
import { NetfrontDevice } from './device.js';
import type { NetfrontOptions } from './options.js';

export class Netfront {
  readonly #logger: Logger;
  readonly #onDevice: (device: NetfrontDevice) => void;
  readonly #options: NetfrontOptions;
  readonly #devices = new Map<number, NetfrontDevice>();
  #xen: Xen;
  #watch: StoreWatch | undefined;
  #scanning: CoalescedTask;
  /** The start, stop or resume that was asked for last: each waits for the one before. */
  #last: Promise<void> = Promise.resolve();

  /** Calls `onDevice` for each vif that is there and each that comes. */
  constructor(
    xen: Xen,
    logger: Logger,
    onDevice: (device: NetfrontDevice) => void,
    options: NetfrontOptions = {},
  ) {
    this.#xen = xen;
    this.#logger = logger;
    this.#onDevice = onDevice;
    this.#options = options;
    this.#scanning = this.#newScanning();
  }

  /** Finds the vifs that are there, and follows changes. A second call does nothing. */
  start(): Promise<void> {
    return this.#inTurn(() => this.#begin());
  }

  get(handle: number): NetfrontDevice | undefined {
    return this.#devices.get(handle);
  }

  /** Gives every vif up, in order. */
  stop(): Promise<void> {
    return this.#inTurn(async () => {
      await this.#endScanning();
      const devices = [...this.#devices.values()];
      this.#devices.clear();
      await Promise.all(devices.map((device) => device.disconnect()));
    });
  }

  /**
   * Begins a new life of all vifs after a suspend, on `xen`; see `NetfrontDevice.resume`. Vifs that
   * the new life does not have are given up.
   */
  resume(xen: Xen = this.#xen): Promise<void> {
    return this.#inTurn(async () => {
      await this.#endScanning();
      this.#xen = xen;
      const devices = [...this.#devices.values()];
      await Promise.all(devices.map((device) => device.resume(xen).catch(() => undefined)));
      await this.#begin();
    });
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    const done = this.#last.then(work);
    this.#last = done.catch(() => undefined);
    return done;
  }

  async #begin(): Promise<void> {
    if (this.#watch !== undefined) return;
    this.#scanning = this.#newScanning();
    await this.#watchRoot();
    this.#scanning.request();
    await this.#scanning.settled();
  }

  async #endScanning(): Promise<void> {
    this.#scanning.stop();
    await this.#unwatchRoot();
    await this.#scanning.settled();
  }

  get #root(): string {
    return `/local/domain/${this.#xen.domid}/device/vif`;
  }

  #newScanning(): CoalescedTask {
    return new CoalescedTask(
      () => this.#scan(),
      (error) => this.#logger.warn({ error }, 'a guest could not list its vifs'),
    );
  }

  async #watchRoot(): Promise<void> {
    const scanning = this.#scanning;
    this.#watch = await this.#xen.store.watch(this.#root, () => scanning.request());
  }

  async #unwatchRoot(): Promise<void> {
    const watch = this.#watch;
    this.#watch = undefined;
    await watch?.unwatch().catch(() => undefined);
  }

  async #scan(): Promise<void> {
    const names = await this.#listed();
    const present = new Set(names.filter((name) => /^(0|[1-9][0-9]{0,4})$/.test(name)).map(Number));
    for (const [handle, device] of this.#devices) {
      if (present.has(handle)) continue;
      this.#devices.delete(handle);
      await device.disconnect();
    }
    for (const handle of present) {
      if (!this.#devices.has(handle)) await this.#open(handle);
    }
  }

  /** The names below `device/vif`; none where there is no such directory. @throws StoreError. */
  async #listed(): Promise<string[]> {
    try {
      return await this.#xen.store.directory(this.#root);
    } catch (error) {
      // A store that is away says nothing of what is there.
      if (error instanceof StoreError && error.errno === 'ENOENT') return [];
      throw error;
    }
  }

  /** One vif that cannot be opened takes no other down; its next change has it tried again. */
  async #open(handle: number): Promise<void> {
    const { store } = this.#xen;
    const backend = await store.readIfExists(`${this.#root}/${handle}/backend`);
    if (backend === undefined) return;
    try {
      const device = await NetfrontDevice.open(this.#xen, handle, this.#logger, this.#options);
      this.#devices.set(handle, device);
      this.#onDevice(device);
    } catch (error) {
      this.#logger.warn({ vif: handle, error }, 'a guest could not open a vif');
    }
  }
}

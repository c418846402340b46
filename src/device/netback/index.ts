/**
 * All the vifs that this domain is the backend of. The directory `backend/vif` in XenStore is the
 * truth: what appears there is served, what vanishes is given up, whoever wrote it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { StoreError } from '../../errors.js';
import type { StoreWatch, Xen } from '../../xen/xen.js';
import { XenbusState } from '../../xen/xenbus.js';
import { CoalescedTask } from '../coalesced-task.js';
import type { KeptCounters } from '../kept-counters.js';
import { NetbackContext } from './context.js';
import { NetbackDevice } from './device.js';

export type VifEvent = 'updated' | 'deleted';
export type VifListener = (event: VifEvent, device: NetbackDevice) => void;

/** Where nobody configures it. */
const QUEUES_MAX_DEFAULT = 8;
/**
 * How long an orderly end waits for guests to post buffers for the frames that wait for them: most do at
 * once, and some never.
 */
const LAST_FRAMES_MS = 300;
const LAST_FRAMES_POLL_MS = 5;

export interface NetbackOptions {
  /** How many queues a guest may have for one vif. */
  readonly queuesMax?: number;
  /** Where counters are kept over a restart, loaded already; undefined: nowhere. */
  readonly counters?: KeptCounters | undefined;
}

/** Nodes of a vif's directory whose change makes a difference to us. */
const RELEVANT = new Set([
  '',
  'state',
  'online',
  'frontend',
  'mtu',
  'rate',
  'carrier',
  'bridge',
  'xenvif/policy',
  'vlan',
  'ip',
]);

export class Netback {
  readonly #context: NetbackContext;
  readonly #devices = new Map<string, NetbackDevice>();
  readonly #listeners = new Set<VifListener>();
  readonly #root: string;
  readonly #logger: Logger;
  readonly #counters: KeptCounters | undefined;
  #watch: StoreWatch | undefined;
  readonly #scanning = new CoalescedTask(
    () => this.#scanOnce(),
    (error) => this.#logger.warn({ error }, 'could not list the vifs in XenStore'),
  );
  readonly #arriving = new CoalescedTask(
    () => this.#takeUpArrivals(),
    (error) => {
      this.#logger.warn({ error }, 'could not take up new vifs');
      this.#scanning.request();
    },
  );
  /** Vifs whose directories changed and that are not served: `<domid>/<handle>`. */
  readonly #arrivals = new Set<string>();
  #stopped = false;

  constructor(xen: Xen, logger: Logger, options: NetbackOptions = {}) {
    const { counters, queuesMax = QUEUES_MAX_DEFAULT } = options;
    this.#logger = logger;
    this.#counters = counters;
    this.#context = new NetbackContext(xen, logger, queuesMax);
    this.#root = `/local/domain/${xen.domid}/backend/vif`;
  }

  /** Finds the vifs that are there, takes over those that are connected, and follows changes. */
  async start(): Promise<void> {
    await this.#makeRoot();
    this.#watch = await this.#context.xen.store.watch(this.#root, (path) => this.#onChange(path));
    this.#scanning.request();
    await this.#scanning.settled();
    const devices = this.list();
    await Promise.all(devices.map((device) => device.settled()));
    this.#counters?.start(() => [...this.#devices.values()]);
    this.#context.running = true;
    for (const device of devices) device.connection?.kick();
  }

  /** The vifs in the order of domid and handle. */
  list(): NetbackDevice[] {
    return [...this.#devices.values()].sort((a, b) => a.domid - b.domid || a.handle - b.handle);
  }

  get(domid: number, handle: number): NetbackDevice | undefined {
    return this.#devices.get(`${domid}/${handle}`);
  }

  /** Tells of every vif that is new, changes or goes. Returns a function that ends it. */
  onVif(listener: VifListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Stops. Connected guests stay connected for the next daemon to take over, unless
   * `closeDevices` is set: then each is closed in order, within `closeTimeoutMs`.
   */
  async stop(options: { closeDevices: boolean; closeTimeoutMs: number }): Promise<void> {
    const devices = this.list();
    if (options.closeDevices) {
      await Promise.all(
        devices.map((device) => this.#closeAndWait(device, options.closeTimeoutMs)),
      );
    }
    this.#stopped = true;
    this.#scanning.stop();
    this.#arriving.stop();
    // All are drained before the first is let go: what one guest sent may be for another.
    for (const device of devices) device.connection?.drain();
    this.#context.running = false;
    await this.#sendLastFrames(devices);
    await this.#watch?.unwatch().catch(() => undefined);
    await this.#scanning.settled();
    await this.#arriving.settled();
    // One that was taken up while the watch was being ended has to be let go, too.
    await Promise.all(this.list().map((device) => device.release()));
    await this.#counters?.stop();
    this.#devices.clear();
    this.#context.free();
  }

  /** Sets a vif's counters to zero, for the daemons after this one, too. */
  resetStats(device: NetbackDevice): void {
    device.resetStats();
    this.#counters?.write();
  }

  /** Tells listeners of a change that is not in XenStore's states, such as new labels. */
  touch(device: NetbackDevice): void {
    this.#emit('updated', device);
  }

  /** What was taken from one guest waits for the buffers of another: the next daemon would not have it. */
  async #sendLastFrames(devices: readonly NetbackDevice[]): Promise<void> {
    const untilMs = performance.now() + LAST_FRAMES_MS;
    for (;;) {
      for (const device of devices) device.connection?.flush();
      const isDone = devices.every((device) => (device.connection?.waitingBytes ?? 0) === 0);
      if (isDone || performance.now() >= untilMs) return;
      await sleep(LAST_FRAMES_POLL_MS);
    }
  }

  #onChange(path: string): void {
    const rest = path.slice(this.#root.length + 1);
    const [domid = '', handle = '', ...node] = rest.split('/');
    const device = this.#devices.get(`${domid}/${handle}`);
    if (device !== undefined) {
      if (RELEVANT.has(node.join('/'))) device.look();
    } else if (isId(domid) && isId(handle)) {
      // Which one is new is known: with a thousand vifs, a look at all of them for each costs dearly.
      this.#arrivals.add(`${domid}/${handle}`);
      this.#arriving.request();
    } else if (isId(domid)) {
      this.#lookAtDomain(Number(domid));
    } else {
      this.#scanning.request();
    }
  }

  /** All of a guest's vifs may have gone at once. New ones are told of one by one. */
  #lookAtDomain(domid: number): void {
    for (const device of this.#devices.values()) if (device.domid === domid) device.look();
  }

  /** Takes up the vifs whose directories have appeared. */
  async #takeUpArrivals(): Promise<void> {
    const arrivals = [...this.#arrivals];
    this.#arrivals.clear();
    for (const key of arrivals) {
      const [domid, handle] = key.split('/');
      await this.#adopt(Number(domid), Number(handle));
    }
  }

  async #scanOnce(): Promise<void> {
    const { store } = this.#context.xen;
    // A store that came back may have lost vifs while we could not see it.
    for (const device of this.#devices.values()) device.look();
    for (const domid of await store.directory(this.#root).catch(noneIfMissing)) {
      if (!isId(domid)) continue;
      for (const handle of await this.#handles(domid)) {
        if (isId(handle)) await this.#adopt(Number(domid), Number(handle));
      }
    }
  }

  /** A driver domain may not make the directory: the toolstack does, with the first vif. */
  async #makeRoot(): Promise<void> {
    try {
      await this.#context.xen.store.mkdir(this.#root);
    } catch (error) {
      if (!(error instanceof StoreError && error.errno === 'EACCES')) throw error;
    }
  }

  async #handles(domid: string): Promise<string[]> {
    const { store } = this.#context.xen;
    const path = `${this.#root}/${domid}`;
    return await store.directory(path).catch(() => []);
  }

  async #adopt(domid: number, handle: number): Promise<void> {
    const key = `${domid}/${handle}`;
    if (this.#devices.has(key) || this.#stopped) return;
    const device: NetbackDevice = new NetbackDevice(
      this.#context,
      domid,
      handle,
      () => this.#emit('updated', device),
      () => {
        this.#devices.delete(key);
        this.#emit('deleted', device);
        // It may have been made anew before we saw that the old one was gone.
        this.#arrivals.add(key);
        this.#arriving.request();
      },
    );
    const { store } = this.#context.xen;
    if ((await store.readIfExists(`${device.paths.backend}/state`)) === undefined) return;
    if (this.#devices.has(key) || this.#stopped) return;
    this.#devices.set(key, device);
    try {
      await device.identify();
      this.#counters?.restore(device);
      await device.start();
    } catch (error) {
      this.#devices.delete(key);
      this.#logger.warn({ vif: device.name, error }, 'could not take up a vif');
    }
  }

  async #closeAndWait(device: NetbackDevice, timeoutMs: number): Promise<void> {
    if (device.status.backendState === XenbusState.closed) return;
    const closed = new Promise<void>((resolve) => {
      const timer = setTimeout(done, timeoutMs);
      const end = this.onVif(() => {
        if (device.status.backendState === XenbusState.closed) done();
      });
      function done(): void {
        clearTimeout(timer);
        end();
        resolve();
      }
    });
    await device.close();
    await closed;
  }

  #emit(event: VifEvent, device: NetbackDevice): void {
    for (const listener of this.#listeners) listener(event, device);
  }
}

function noneIfMissing(error: unknown): string[] {
  if (error instanceof StoreError && error.errno === 'ENOENT') return [];
  throw error;
}

function isId(name: string): boolean {
  return /^(0|[1-9][0-9]{0,4})$/.test(name);
}

/**
 * One vif as its frontend sees it: follows the backend's state, sets rings up when the backend
 * offers to, and is a Network whose far end is whatever the backend is joined to.
 */
import type { Logger } from 'pino';
import { DisconnectedError, InvalidArgumentError } from '../../errors.js';
import type { StoreWatch, Xen } from '../../xen/xen.js';
import { XenbusState } from '../../xen/xenbus.js';
import { CoalescedTask } from '../coalesced-task.js';
import type { FrameBatch } from '../frame-batch.js';
import { DeviceMetrics } from '../metrics.js';
import { type BatchListener, type Network, type NetworkStats, WriteOutcome } from '../network.js';
import { copyFrames, stageFrame } from '../single-frame.js';
import { NetfrontConnection } from './connection.js';
import {
  announce,
  type NetfrontConfiguration,
  readBackendFeatures,
  readBackendState,
  readConfiguration,
} from './handshake.js';

/** How long a backend may take to close. */
const CLOSE_TIMEOUT_MS = 5000;

export class NetfrontDevice implements Network {
  readonly handle: number;
  readonly metrics = new DeviceMetrics();
  readonly #xen: Xen;
  readonly #logger: Logger;
  readonly #base: string;
  readonly #configuration: NetfrontConfiguration;
  readonly #listeners = new Set<BatchListener>();
  #connection: NetfrontConnection | undefined;
  #watch: StoreWatch | undefined;
  readonly #looking = new CoalescedTask(
    () => this.#step(),
    (error) =>
      this.#logger.warn({ vif: this.handle, error }, 'a frontend could not follow its backend'),
  );
  #stopped = false;
  /** The backend is Connected too: what is sent arrives. */
  #usable = false;
  #waiting: (() => void)[] = [];

  private constructor(
    xen: Xen,
    handle: number,
    base: string,
    configuration: NetfrontConfiguration,
    logger: Logger,
  ) {
    this.#xen = xen;
    this.handle = handle;
    this.#base = base;
    this.#configuration = configuration;
    this.#logger = logger;
  }

  /** Takes up interface `handle` of our domain and begins the handshake. */
  static async open(xen: Xen, handle: number, logger: Logger): Promise<NetfrontDevice> {
    const base = `/local/domain/${xen.domid}/device/vif/${handle}`;
    const configuration = await readConfiguration(xen.store, base);
    const device = new NetfrontDevice(xen, handle, base, configuration, logger);
    device.#watch = await xen.store.watch(`${configuration.backend}/state`, () =>
      device.#looking.request(),
    );
    return device;
  }

  get mac(): string {
    return this.#configuration.mac;
  }

  get mtu(): number {
    return this.#configuration.mtu;
  }

  get connected(): boolean {
    return this.#usable;
  }

  get stats(): NetworkStats {
    const { rx, tx } = this.metrics;
    return {
      rxBytes: BigInt(rx.bytes),
      rxPackets: BigInt(rx.packets),
      txBytes: BigInt(tx.bytes),
      txPackets: BigInt(tx.packets),
    };
  }

  resetStats(): void {
    this.metrics.reset();
  }

  async write(frame: Uint8Array): Promise<void> {
    await this.writev([frame]);
  }

  /** Waits for the backend and for room on the ring; then the frame is on the ring. */
  async writev(parts: readonly Uint8Array[]): Promise<void> {
    const staged = stageFrame(this.#xen.memory, parts);
    try {
      const outcomes = new Uint8Array(1);
      while (this.writeBatch(staged.batch, outcomes) === 0) {
        if (this.#stopped) throw new DisconnectedError(`vif ${this.handle} was disconnected.`);
        if (outcomes[0] === WriteOutcome.tooLong) {
          const text = 'The backend takes no such frame.';
          throw new InvalidArgumentError('FRAME_TOO_LONG', 'frame', text);
        }
        await new Promise<void>((resolve) => this.#waiting.push(resolve));
      }
    } finally {
      staged.free();
    }
  }

  writeBatch(batch: FrameBatch, outcomes?: Uint8Array): number {
    if (this.#connection === undefined || !this.#usable) {
      outcomes?.fill(WriteOutcome.notConnected, 0, batch.count);
      return 0;
    }
    try {
      return this.#connection.write(batch, outcomes);
    } catch (error) {
      this.#fault(error);
      return 0;
    }
  }

  listen(onFrame: (frame: Uint8Array) => void): void {
    this.listenBatch((batch) => copyFrames(batch, onFrame));
  }

  listenBatch(onBatch: BatchListener): () => void {
    this.#listeners.add(onBatch);
    return () => this.#listeners.delete(onBatch);
  }

  /** Closes in order: Closing, and Closed once nothing is shared any more. */
  async disconnect(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#looking.stop();
    await this.#watch?.unwatch().catch(() => undefined);
    await this.#looking.settled();
    await this.#setState(XenbusState.closing).catch(() => undefined);
    await this.#untilBackendLetsGo().catch(() => undefined);
    this.#disconnectRings();
    await this.#setState(XenbusState.closed).catch(() => undefined);
  }

  /** Starts the handshake anew, as a driver that is loaded again does. */
  async reconnect(): Promise<void> {
    await this.#setState(XenbusState.initialising);
    this.#looking.request();
  }

  async #step(): Promise<void> {
    const { store } = this.#xen;
    const backend = await readBackendState(store, this.#configuration.backend);
    const own = await readBackendState(store, this.#base);
    if (backend === XenbusState.initWait && own === XenbusState.initialising) {
      await this.#connectRings();
    } else if (backend === XenbusState.connected && this.#connection !== undefined) {
      if (this.#usable) return;
      this.#usable = true;
      this.#connection.kick();
      this.#wake();
    } else if (backend === XenbusState.closing) {
      await this.#setState(XenbusState.closed);
      this.#usable = false;
      this.#disconnectRings();
    } else if (backend === XenbusState.closed || backend === XenbusState.unknown) {
      this.#usable = false;
      this.#disconnectRings();
    }
  }

  async #connectRings(): Promise<void> {
    const { store } = this.#xen;
    this.#disconnectRings();
    const features = await readBackendFeatures(store, this.#configuration.backend);
    const connection = new NetfrontConnection(
      this.#xen,
      this.#configuration.backendDomid,
      features,
      this.metrics.queue(0),
      {
        received: (batch) => {
          for (const listener of this.#listeners) listener(batch);
        },
        writable: () => this.#wake(),
        fault: (error) => this.#fault(error),
      },
    );
    this.#connection = connection;
    await announce(store, this.#base, connection.keys);
  }

  #disconnectRings(): void {
    this.#usable = false;
    const connection = this.#connection;
    this.#connection = undefined;
    connection?.close();
    this.#wake();
  }

  #fault(error: unknown): void {
    this.#logger.error({ vif: this.handle, error }, 'a frontend cut its backend off');
    this.#usable = false;
    void this.#setState(XenbusState.closing).catch(() => undefined);
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resume of waiting) resume();
  }

  /** Writes our state, unless the toolstack has removed the vif: writing would bring it back. */
  async #setState(state: XenbusState): Promise<void> {
    await this.#xen.store.transaction(async (transaction) => {
      if ((await transaction.readIfExists(`${this.#base}/state`)) === undefined) return;
      await transaction.write(`${this.#base}/state`, String(state));
    });
  }

  /**
   * Waits until the backend is Closing at least, for it may have our pages mapped before that. A
   * backend that takes longer than the limit is not waited for.
   */
  async #untilBackendLetsGo(): Promise<void> {
    const { store } = this.#xen;
    let done: () => void = () => undefined;
    const letGo = new Promise<void>((resolve) => {
      done = resolve;
    });
    const timer = setTimeout(done, CLOSE_TIMEOUT_MS);
    const check = async () => {
      const state = await readBackendState(store, this.#configuration.backend);
      const hasLetGo = state === XenbusState.unknown || state >= XenbusState.closing;
      if (hasLetGo) done();
    };
    const watch = await store.watch(`${this.#configuration.backend}/state`, () => {
      check().catch(done);
    });
    await letGo;
    clearTimeout(timer);
    await watch.unwatch().catch(() => undefined);
  }
}

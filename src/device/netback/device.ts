/**
 * One vif as its backend sees it: a Network whose far end is the guest. Its life in XenStore is
 * lifecycle.ts's, its rings are connection.ts's; here both meet, with who listens and what counts.
 */
import { randomUUID } from 'node:crypto';
import { DisconnectedError } from '../../errors.js';
import { CoalescedTask } from '../coalesced-task.js';
import type { FrameBatch } from '../frame-batch.js';
import { DeviceMetrics, statsOf } from '../metrics.js';
import { type BatchListener, type NetworkStats, WriteOutcome } from '../network.js';
import { NetworkBase } from '../network-base.js';
import { writeStaged } from '../single-frame.js';
import { RateBucket } from '../token-bucket.js';
import { Connection } from './connection.js';
import type { NetbackContext } from './context.js';
import { type GuestWishes, keepWishes } from './guest-wishes.js';
import {
  type FrontendParameters,
  type NetbackFeatures,
  type VifConfiguration,
  type VifPaths,
  vifPaths,
} from './handshake.js';
import { VifLifecycle } from './lifecycle.js';
import { changeVif, type VifChanges } from './toolstack.js';
import { parseLabels, type VifStatus } from './vif-status.js';

/** The MAC address of every backend: what Linux's netback has, lower than no bridge's own. */
export const BACKEND_MAC = 'fe:ff:ff:ff:ff:ff';

export class NetbackDevice extends NetworkBase {
  readonly domid: number;
  readonly handle: number;
  readonly paths: VifPaths;
  readonly metrics = new DeviceMetrics();
  /** Names this vif for ever; kept in XenStore, so that a restart of ours does not change it. */
  uid = '';
  labels: Readonly<Record<string, string>> = {};
  /** The request that it was made for, as toolstack.ts wrote it; undefined where it says none. */
  request: string | undefined;

  readonly #context: NetbackContext;
  readonly #lifecycle: VifLifecycle;
  readonly #observers = new Set<BatchListener>();
  readonly #observe: BatchListener = (batch) => {
    for (const observer of this.#observers) {
      try {
        observer(batch);
      } catch (error) {
        this.listenerFailed(error);
      }
    }
  };
  readonly #keepingWishes = new CoalescedTask(
    () => this.#keepWishes(false),
    (error) => this.#context.logger.warn({ vif: this.name, error }, 'could not keep a wish'),
  );
  #connection: Connection | undefined;
  /** Of the connection that there is, or was last. */
  #parameters: FrontendParameters | undefined;
  /** XenStore has wishes of this connection. Most guests have none, and need no look. */
  #areWishesKept = false;
  #bucket: RateBucket | undefined;
  #isGivenUp = false;

  constructor(
    context: NetbackContext,
    domid: number,
    handle: number,
    onChange: () => void,
    onRemoved: () => void,
  ) {
    super();
    this.#context = context;
    this.domid = domid;
    this.handle = handle;
    this.paths = vifPaths(context.xen.domid, domid, handle);
    this.#lifecycle = new VifLifecycle(context, this.name, this.paths, {
      connect: (parameters, adopted, wishes) => this.#connect(parameters, adopted, wishes),
      disconnect: () => this.#disconnect(),
      isConnected: () => this.#connection !== undefined,
      configured: (configuration) => this.#limitRate(configuration.rate),
      filterMulticast: (enabled) => this.#connection?.filterMulticast(enabled),
      changed: onChange,
      removed: () => {
        this.endListening();
        onRemoved();
      },
    });
  }

  get name(): string {
    return `vifs/${this.domid}.${this.handle}`;
  }

  get mac(): string {
    return BACKEND_MAC;
  }

  get mtu(): number {
    return this.configuration.mtu;
  }

  /** What the toolstack wants, as far as it can be meant. */
  get configuration(): VifConfiguration {
    return this.#lifecycle.configuration;
  }

  get status(): VifStatus {
    return this.#lifecycle.status;
  }

  /** As the NETWORK interface counts: what the guest transmits is what this NIC receives. */
  get stats(): NetworkStats {
    const { rx, tx } = this.metrics;
    return statsOf({ rx: tx, tx: rx });
  }

  /** What was agreed on; undefined while not connected. */
  get features(): NetbackFeatures | undefined {
    return this.#connection?.features;
  }

  get connection(): Connection | undefined {
    return this.#connection;
  }

  resetStats(): void {
    this.metrics.reset();
  }

  /** Reads who this vif is. */
  async identify(): Promise<void> {
    const { store } = this.#context.xen;
    const base = `${this.paths.backend}/xenvif`;
    this.labels = parseLabels(await store.readIfExists(`${base}/labels`));
    this.request = await store.readIfExists(`${base}/request`);
    const uid = await store.readIfExists(`${base}/uid`);
    this.uid = uid ?? randomUUID();
    if (uid !== undefined) return;
    await store.transaction(async (transaction) => {
      if ((await transaction.readIfExists(`${this.paths.backend}/state`)) === undefined) return;
      await transaction.write(`${base}/uid`, this.uid);
    });
  }

  /** Begins to follow the states; `identify` comes before it. */
  async start(): Promise<void> {
    await this.#lifecycle.start();
  }

  /** Has the states looked at, now or as soon as the look under way is done. */
  look(): void {
    this.#lifecycle.look();
  }

  /** Resolves when the look that is under way, if one is, is done. */
  async settled(): Promise<void> {
    await this.#lifecycle.settled();
  }

  /**
   * Stops following and gives everything back. The states in XenStore stay as they are, so that
   * a guest that is connected stays so, and the next daemon goes on where this one ended.
   */
  async release(): Promise<void> {
    this.#keepingWishes.stop();
    await this.#keepingWishes.settled();
    await this.#keepWishes(true).catch((error: unknown) => {
      this.#context.logger.warn({ vif: this.name, error }, 'could not keep what the guest wishes');
    });
    await this.#lifecycle.release();
    this.endListening();
  }

  /** Asks the guest to close by going through Closing, as an orderly end does. */
  async close(): Promise<void> {
    this.#connection?.drain();
    await this.#lifecycle.close();
  }

  /** As `close`, and nothing of the guest is heard any more, also where it connects again. */
  async disconnect(): Promise<void> {
    if (this.#isGivenUp) return;
    this.#isGivenUp = true;
    this.#connection?.drain();
    this.endListening();
    await this.#lifecycle.close().catch((error: unknown) => {
      this.#context.logger.warn({ vif: this.name, error }, 'could not close a vif in XenStore');
    });
  }

  async writev(parts: readonly Uint8Array[]): Promise<void> {
    this.checkNotGivenUp();
    if (this.#connection === undefined) throw new DisconnectedError(`${this.name} has no guest.`);
    writeStaged(this, this.#context.xen.memory, parts);
  }

  writeBatch(batch: FrameBatch, outcomes?: Uint8Array): number {
    if (this.#connection !== undefined) return this.#connection.write(batch, outcomes);
    this.metrics.unconnected.rx.drop('rx-queue', 'NOT_CONNECTED', batch.count);
    outcomes?.fill(WriteOutcome.notConnected, 0, batch.count);
    return 0;
  }

  /**
   * How many frames of a page at most can be written now that need not wait for the guest. Without a
   * guest there is no limit: nothing waits.
   */
  get room(): number {
    return this.#connection?.room ?? Number.POSITIVE_INFINITY;
  }

  /**
   * Calls `onRoom` once, when there is room. A guest that tells of nothing, or is gone, never brings that
   * about. Returns a function that ends the wait.
   */
  awaitRoom(onRoom: () => void): () => void {
    return this.#connection?.awaitRoom(onRoom) ?? (() => undefined);
  }

  /** As `listenBatch`, but with the frames of both directions, as they pass. */
  observeBatch(onBatch: BatchListener): () => void {
    this.#observers.add(onBatch);
    return () => this.#observers.delete(onBatch);
  }

  /** Changes what is wanted of the vif; resolves when it is in force. False when the vif is gone. */
  async change(changes: VifChanges): Promise<boolean> {
    if (!(await changeVif(this.#context.xen.store, this.paths, changes))) return false;
    if (changes.labels !== undefined) this.labels = changes.labels;
    this.look();
    await this.settled();
    return true;
  }

  #connect(
    parameters: FrontendParameters,
    adopted: boolean,
    wishes: GuestWishes | undefined,
  ): void {
    const connection = new Connection(this.#context, {
      domid: this.domid,
      parameters,
      adopted,
      wishes,
      metrics: this.metrics,
      hooks: {
        fromGuest: (batch) => this.#fromGuest(batch),
        toGuest: () => (this.#observers.size > 0 ? this.#observe : undefined),
        bucket: () => this.#bucket,
        isDown: () => !this.configuration.carrier,
        wished: () => this.#keepingWishes.request(),
        fault: (error) => this.#lifecycle.fail(error),
      },
    });
    this.#connection = connection;
    this.#parameters = parameters;
    this.#areWishesKept = wishes?.hash !== undefined;
    if (adopted) connection.wakeGuest();
    connection.kick();
  }

  /** `isLast`: nothing that the guest asks for from now on is taken before the next daemon does. */
  async #keepWishes(isLast: boolean): Promise<void> {
    const connection = this.#connection;
    if (connection === undefined || this.#parameters === undefined) return;
    const { hashWish: hash, multicastWish } = connection;
    const multicast = isLast && multicastWish !== undefined ? [...multicastWish] : undefined;
    const wishes = { hash, multicast };
    const isEmpty = hash === undefined && multicast === undefined;
    if (isEmpty && !this.#areWishesKept) return;
    this.#areWishesKept = !isEmpty;
    await keepWishes(this.#context.xen.store, this.paths, this.#parameters, wishes);
  }

  #disconnect(): void {
    this.#connection?.close();
    this.#connection = undefined;
  }

  #fromGuest(batch: FrameBatch): void {
    if (this.#observers.size > 0) this.#observe(batch);
    void this.deliver(batch);
  }

  /** Whose frames they are has done nothing wrong: the guest's vif goes on. */
  protected override listenerFailed(error: unknown): void {
    this.#context.logger.error({ vif: this.name, error }, 'a listener failed');
  }

  /** A bucket that is as wanted stays, with what is in it. */
  #limitRate(rate: VifConfiguration['rate']): void {
    const old = this.#bucket?.limit;
    const isSame =
      old?.bytesPerInterval === rate?.bytesPerInterval && old?.intervalUs === rate?.intervalUs;
    if (isSame) return;
    this.#bucket = rate === undefined ? undefined : new RateBucket(rate, performance.now());
    this.#connection?.kick();
  }
}

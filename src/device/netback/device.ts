/**
 * One vif as its backend sees it: follows both states in XenStore, connects and disconnects, and
 * is a Network whose far end is the guest. Every change of XenStore only says "look again"; one
 * look at a time is taken, and what to do is decided by xenbus.ts.
 */
import { randomUUID } from 'node:crypto';
import { DisconnectedError, ProtocolError, XenvifError } from '../../errors.js';
import type { StoreWatch } from '../../xen/xen.js';
import { nextBackendState, XenbusState, xenbusStateName } from '../../xen/xenbus.js';
import { CoalescedTask } from '../coalesced-task.js';
import type { FrameBatch } from '../frame-batch.js';
import { DeviceMetrics } from '../metrics.js';
import { type BatchListener, type Network, type NetworkStats, WriteOutcome } from '../network.js';
import { copyFrames, stageFrame } from '../single-frame.js';
import { TokenBucket } from '../token-bucket.js';
import { Connection } from './connection.js';
import type { NetbackContext } from './context.js';
import {
  advertise,
  checkFrontendLink,
  type NetbackFeatures,
  readConfiguration,
  readFrontend,
  readMulticastRequest,
  readStates,
  type VifConfiguration,
  type VifPaths,
  vifPaths,
  writeError,
  writeState,
} from './handshake.js';
import { describe, parseLabels, type VifFault, type VifStatus } from './vif-status.js';

/** The MAC address of every backend: what Linux's netback has, lower than no bridge's own. */
export const BACKEND_MAC = 'fe:ff:ff:ff:ff:ff';

/** How often XenStore is asked again after a refusal, and after how long at first: 12 s in all. */
const LOOK_RETRIES_MAX = 8;
const LOOK_RETRY_MS = 50;

export class NetbackDevice implements Network {
  readonly domid: number;
  readonly handle: number;
  readonly paths: VifPaths;
  readonly metrics = new DeviceMetrics();
  /** Names this vif for ever; kept in XenStore, so that a restart of ours does not change it. */
  uid = '';
  labels: Readonly<Record<string, string>> = {};
  configuration: VifConfiguration = {
    mac: '',
    mtu: 1500,
    bridge: '',
    rate: undefined,
    carrier: true,
  };
  status: VifStatus = {
    phase: 'connecting',
    reason: 'WAITING_FOR_FRONTEND',
    message: 'Waiting for the guest.',
    sinceMs: Date.now(),
    backendState: XenbusState.unknown,
    frontendState: XenbusState.unknown,
    connects: 0,
  };

  readonly #context: NetbackContext;
  readonly #onChange: () => void;
  readonly #onRemoved: () => void;
  readonly #listeners = new Set<BatchListener>();
  readonly #observers = new Set<BatchListener>();
  readonly #observe: BatchListener = (batch) => {
    for (const observer of this.#observers) observer(batch);
  };
  #connection: Connection | undefined;
  #watch: StoreWatch | undefined;
  #multicastWatch: StoreWatch | undefined;
  #bucket: TokenBucket | undefined;
  readonly #looking = new CoalescedTask(
    async () => {
      this.#refusal = undefined;
      await this.#step();
      this.#failedLooks = 0;
    },
    (error) => this.#onLookFailed(error),
  );
  #failedLooks = 0;
  /** XenStore has refused what we need more often than we ask. */
  #refusal: VifFault | undefined;
  #retry: NodeJS.Timeout | undefined;
  readonly #samplingMulticast = new CoalescedTask(
    async () => {
      const { store } = this.#context.xen;
      const enabled = await readMulticastRequest(store, this.paths.frontend);
      this.#connection?.filterMulticast(enabled);
    },
    (error) =>
      this.#context.logger.warn({ vif: this.name, error }, 'could not follow multicast control'),
  );
  #stopped = false;
  /** Why the device was stopped; it stays so until the frontend starts anew. */
  #fault: VifFault | undefined;
  /** What is wrong with the toolstack's nodes. */
  #complaint: VifFault | undefined;

  constructor(
    context: NetbackContext,
    domid: number,
    handle: number,
    onChange: () => void,
    onRemoved: () => void,
  ) {
    this.#context = context;
    this.domid = domid;
    this.handle = handle;
    this.paths = vifPaths(context.xen.domid, domid, handle);
    this.#onChange = onChange;
    this.#onRemoved = onRemoved;
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

  /** As the NETWORK interface counts: what the guest transmits is what this NIC receives. */
  get stats(): NetworkStats {
    const { rx, tx } = this.metrics;
    return {
      rxBytes: BigInt(tx.bytes),
      rxPackets: BigInt(tx.packets),
      txBytes: BigInt(rx.bytes),
      txPackets: BigInt(rx.packets),
    };
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

  /** Reads who this vif is and begins to follow its states. */
  async start(): Promise<void> {
    const { store } = this.#context.xen;
    await this.#readIdentity();
    this.#watch = await store.watch(`${this.paths.frontend}/state`, () => this.look());
    this.look();
  }

  /** Has the states looked at, now or as soon as the look under way is done. */
  look(): void {
    this.#looking.request();
  }

  /** Resolves when the look that is under way, if one is, is done. */
  async settled(): Promise<void> {
    await this.#looking.settled();
  }

  /**
   * Stops following and gives everything back. The states in XenStore stay as they are, so that
   * a guest that is connected stays so, and the next daemon goes on where this one ended.
   */
  async release(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#retry);
    this.#looking.stop();
    this.#disconnectRings();
    await this.#looking.settled();
    await this.#watch?.unwatch().catch(() => undefined);
  }

  /** Asks the guest to close by going through Closing, as an orderly end does. */
  async close(): Promise<void> {
    this.#connection?.drain();
    this.#disconnectRings();
    await writeState(this.#context.xen.store, this.paths, XenbusState.closing);
    this.look();
  }

  async disconnect(): Promise<void> {
    await this.close();
  }

  async write(frame: Uint8Array): Promise<void> {
    await this.writev([frame]);
  }

  async writev(parts: readonly Uint8Array[]): Promise<void> {
    const staged = stageFrame(this.#context.xen.memory, parts);
    const isConnected = this.#connection !== undefined;
    if (isConnected) this.writeBatch(staged.batch);
    staged.free();
    if (!isConnected) throw new DisconnectedError(`${this.name} has no guest.`);
  }

  writeBatch(batch: FrameBatch, outcomes?: Uint8Array): number {
    if (this.#connection !== undefined) return this.#connection.write(batch, outcomes);
    this.metrics.unconnected.rx.drop('rx-queue', 'NOT_CONNECTED', batch.count);
    outcomes?.fill(WriteOutcome.notConnected, 0, batch.count);
    return 0;
  }

  listen(onFrame: (frame: Uint8Array) => void): void {
    this.listenBatch((batch) => copyFrames(batch, onFrame));
  }

  listenBatch(onBatch: BatchListener): () => void {
    this.#listeners.add(onBatch);
    return () => this.#listeners.delete(onBatch);
  }

  /** As `listenBatch`, but with the frames of both directions, as they pass. */
  observeBatch(onBatch: BatchListener): () => void {
    this.#observers.add(onBatch);
    return () => this.#observers.delete(onBatch);
  }

  /** Says whether the link is up: to the guest, which sees it as its carrier, and to all frames. */
  async setCarrier(isUp: boolean): Promise<void> {
    await this.#context.xen.store.write(`${this.paths.backend}/carrier`, isUp ? '1' : '0');
  }

  async setLabels(labels: Readonly<Record<string, string>>): Promise<void> {
    await this.#context.xen.store.write(
      `${this.paths.backend}/xenvif/labels`,
      JSON.stringify(labels),
    );
    this.labels = labels;
  }

  async #readIdentity(): Promise<void> {
    const { store } = this.#context.xen;
    const base = `${this.paths.backend}/xenvif`;
    await this.#readConfiguration();
    this.labels = parseLabels(await store.readIfExists(`${base}/labels`));
    const uid = await store.readIfExists(`${base}/uid`);
    this.uid = uid ?? randomUUID();
    if (uid !== undefined) return;
    await store.transaction(async (transaction) => {
      if ((await transaction.readIfExists(`${this.paths.backend}/state`)) === undefined) return;
      await transaction.write(`${base}/uid`, this.uid);
    });
  }

  /**
   * XenStore refused, or is away. When it returns every watch fires, and that looks again; a refusal
   * of its own may pass, so it is asked some more times, at growing distances.
   */
  #onLookFailed(error: unknown): void {
    this.#context.logger.warn({ vif: this.name, error }, 'could not follow the state of a vif');
    if (this.#stopped) return;
    if (this.#failedLooks >= LOOK_RETRIES_MAX) {
      const code = error instanceof XenvifError ? error.code : 'INTERNAL';
      this.#refusal = { code, message: 'XenStore refuses what the vif needs.' };
      this.#setStatus(this.status.backendState, this.status.frontendState, true);
      return;
    }
    const delayMs = LOOK_RETRY_MS * 2 ** this.#failedLooks;
    this.#failedLooks += 1;
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.look(), delayMs);
  }

  async #step(): Promise<void> {
    const { store } = this.#context.xen;
    const view = await readStates(store, this.paths);
    if (this.#stopped) return;
    if (view === undefined) {
      await this.#remove();
      return;
    }
    const next = nextBackendState(view);
    if (view.own !== XenbusState.connected) this.#disconnectRings();
    const isConfigured = await this.#readConfiguration();
    if (next === XenbusState.connected && this.#connection === undefined) {
      if (!(await this.#connectRings(view.own === XenbusState.connected))) return;
    }
    if (next === XenbusState.initWait && view.own !== next) {
      this.#fault = undefined;
      if (isConfigured) await this.#offer();
    } else if (next !== view.own) {
      if (next === XenbusState.closing || next === XenbusState.closed) this.#disconnectRings();
      await writeState(store, this.paths, next);
      this.look();
    } else if (next === XenbusState.closed && !view.online && this.#context.xen.domid !== 0) {
      // In a driver domain nobody else removes the directory, and libxl waits for it to vanish.
      await store.rm(this.paths.backend);
      this.look();
    }
    this.#setStatus(isConfigured ? next : view.own, view.frontend, view.online);
  }

  /** Says what we can do, and waits for the frontend's answer. */
  async #offer(): Promise<void> {
    const { queuesMax, xen } = this.#context;
    await advertise(xen.store, this.paths, queuesMax, this.configuration.carrier);
    this.look();
  }

  /**
   * Reads what the toolstack wrote, and has it apply at once where it can. Returns false when it
   * cannot be meant: what was in force stays so, and the device's error node says why.
   */
  async #readConfiguration(): Promise<boolean> {
    const { store } = this.#context.xen;
    try {
      this.configuration = await readConfiguration(store, this.paths);
      if (this.#complaint !== undefined) await writeError(store, this.paths, undefined);
      this.#complaint = undefined;
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      const { code, message } = error;
      if (this.#complaint?.code !== code) {
        this.#context.logger.error({ vif: this.name, reason: code }, message);
        await writeError(store, this.paths, `${code}: ${message}`);
      }
      this.#complaint = { code, message };
      return false;
    }
    const { rate } = this.configuration;
    const old = this.#bucket?.limit;
    const isSame =
      old?.bytesPerInterval === rate?.bytesPerInterval && old?.intervalUs === rate?.intervalUs;
    if (!isSame) {
      this.#bucket = rate === undefined ? undefined : new TokenBucket(rate, performance.now());
      this.#connection?.kick();
    }
    return true;
  }

  /** Connects to the rings; on a fault of the frontend the device goes to Closing. */
  async #connectRings(adopted: boolean): Promise<boolean> {
    const { store } = this.#context.xen;
    try {
      await checkFrontendLink(store, this.paths);
      const parameters = await store.transaction((transaction) =>
        readFrontend(transaction, this.paths.frontend, this.#context.queuesMax),
      );
      if (this.#stopped) return false;
      const connection = new Connection(this.#context, {
        domid: this.domid,
        parameters,
        adopted,
        metrics: this.metrics,
        hooks: {
          fromGuest: (batch) => this.#fromGuest(batch),
          toGuest: () => (this.#observers.size > 0 ? this.#observe : undefined),
          bucket: () => this.#bucket,
          isDown: () => !this.configuration.carrier,
          fault: (error) => this.#stop(error),
        },
      });
      this.#connection = connection;
      this.status = { ...this.status, connects: this.status.connects + 1 };
      this.#context.logger.info({ vif: this.name, adopted, ...parameters }, 'connected');
      if (adopted) connection.wakeGuest();
      connection.kick();
      await this.#watchMulticast(connection);
      return true;
    } catch (error) {
      if (!(error instanceof XenvifError) || error.code.startsWith('XENSTORE_')) throw error;
      this.#stop(error);
      return false;
    }
  }

  /** Multicast filtering is the one wish of a frontend that may change while it is connected. */
  async #watchMulticast(connection: Connection): Promise<void> {
    const path = `${this.paths.frontend}/request-multicast-control`;
    const watch = await this.#context.xen.store.watch(path, () =>
      this.#samplingMulticast.request(),
    );
    if (this.#connection === connection) this.#multicastWatch = watch;
    else await watch.unwatch();
  }

  #fromGuest(batch: FrameBatch): void {
    if (this.#observers.size > 0) this.#observe(batch);
    for (const listener of this.#listeners) listener(batch);
  }

  #disconnectRings(): void {
    this.#connection?.close();
    this.#connection = undefined;
    // A watch that xenstored has lost with its connection is gone, which is what we want.
    void this.#multicastWatch?.unwatch().catch(() => undefined);
    this.#multicastWatch = undefined;
  }

  /** Stops the device for a fault. Only a frontend that starts anew gets it back. */
  #stop(error: unknown): void {
    this.#disconnectRings();
    const known = error instanceof XenvifError;
    this.#fault = {
      code: known ? error.code : 'INTERNAL',
      message: known ? error.message : 'The device stopped for an internal error.',
    };
    this.#context.logger.error(
      { vif: this.name, reason: this.#fault.code, error },
      'stopped a vif',
    );
    void this.#reportFault(this.#fault);
  }

  async #reportFault({ code, message }: VifFault): Promise<void> {
    const { store } = this.#context.xen;
    try {
      await writeError(store, this.paths, `${code}: ${message}`);
      await writeState(store, this.paths, XenbusState.closing);
    } catch (error) {
      this.#context.logger.warn({ vif: this.name, error }, 'could not report a stopped vif');
    }
    this.look();
  }

  async #remove(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#retry);
    this.#looking.stop();
    this.#disconnectRings();
    this.#setStatus(XenbusState.unknown, XenbusState.unknown, false);
    this.#onRemoved();
    await this.#watch?.unwatch();
  }

  #setStatus(own: XenbusState, frontend: XenbusState, online: boolean): void {
    const [phase, reason, message] = describe(
      own,
      frontend,
      online,
      this.#fault ?? this.#refusal,
      this.#complaint,
    );
    const old = this.status;
    const changed =
      old.phase !== phase ||
      old.reason !== reason ||
      old.backendState !== own ||
      old.frontendState !== frontend;
    if (!changed) return;
    const sinceMs = old.phase === phase && old.reason === reason ? old.sinceMs : Date.now();
    const { connects } = old;
    this.status = {
      phase,
      reason,
      message,
      sinceMs,
      backendState: own,
      frontendState: frontend,
      connects,
    };
    this.#context.logger.debug(
      {
        vif: this.name,
        backend: xenbusStateName(own),
        frontend: xenbusStateName(frontend),
        reason,
      },
      'state',
    );
    this.#onChange();
  }
}

/**
 * One vif as its frontend sees it: follows the backend's state, sets rings up when the backend
 * offers to, and is a Network whose far end is whatever the backend is joined to.
 *
 * Every change of XenStore only says "look again"; one look at a time is taken, and which state
 * comes next is decided by xenbus.ts. A write waits for the backend to be connected, also while
 * the device reconnects, and fails only when the device is given up. A backend that breaks the
 * protocol is cut off: the device closes and stays closed until `reconnect`, `resume`, another
 * backend in its place, or a toolstack that sets it to Initialising.
 */
import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import { DisconnectedError, XenvifError } from '../../errors.js';
import type { StoreWatch, Xen } from '../../xen/xen.js';
import {
  type FrontendWish,
  nextFrontendState,
  XenbusState,
  xenbusStateName,
} from '../../xen/xenbus.js';
import { CoalescedTask } from '../coalesced-task.js';
import type { FrameBatch } from '../frame-batch.js';
import { DeviceMetrics } from '../metrics.js';
import { type BatchListener, type Network, type NetworkStats, WriteOutcome } from '../network.js';
import { stageFrame } from '../single-frame.js';
import { NetfrontConnection } from './connection.js';
import type { ControlRing } from './control-ring.js';
import {
  announce,
  type BackendLink,
  changeState,
  type NetfrontFeatures,
  readBackend,
  readFeatures,
  readIdentity,
  readOwn,
} from './handshake.js';
import { Listeners } from './listeners.js';
import { MulticastAddresses } from './multicast.js';
import { type NetfrontOptions, type NetfrontSettings, withDefaults } from './options.js';
import { frameTooLong, PendingWrites } from './pending-writes.js';
import { type FrameListener, PlainFrames } from './plain-frames.js';
import { Quarantine } from './quarantine.js';

/** How long after a failure of ours, or of XenStore, the states are looked at again. */
const RETRY_MS = 1000;

/** What cut a backend off. */
export interface NetfrontFault {
  readonly code: string;
  readonly message: string;
}

export class NetfrontDevice implements Network {
  readonly handle: number;
  readonly metrics = new DeviceMetrics();
  readonly #settings: NetfrontSettings;
  readonly #logger: Logger;
  readonly #listeners: Listeners;
  readonly #multicast = new MulticastAddresses();
  readonly #pending = new PendingWrites((frame) => this.#trySend(frame));
  readonly #quarantine = new Quarantine(() => this.look());
  readonly #looking = new CoalescedTask(
    () => this.#step(),
    (error) => this.#onStepFailed(error),
  );
  #xen: Xen;
  #base: string;
  #mac = '';
  #mtu = 1500;
  #carrier = true;
  #link: BackendLink | undefined;
  #wish: FrontendWish = 'reopen';
  #fault: NetfrontFault | undefined;
  #connection: NetfrontConnection | undefined;
  /** The backend is Connected too: what is sent arrives. */
  #usable = false;
  /** On our own directory, and on nodes of the backend's. */
  #ownWatch: StoreWatch | undefined;
  #backendWatches: StoreWatch[] = [];
  #retryTimer: NodeJS.Timeout | undefined;
  /** When a backend that does not let go is not waited for any longer. */
  #closingUntilMs: number | undefined;
  #skipClosing = false;
  /** Resumes that were asked for and not yet made. */
  #resumes: { readonly xen: Xen; readonly done: () => void }[] = [];
  #ending: Promise<void> | undefined;
  #onClosed: () => void = () => undefined;

  private constructor(xen: Xen, handle: number, settings: NetfrontSettings, logger: Logger) {
    this.#xen = xen;
    this.handle = handle;
    this.#base = basePath(xen, handle);
    this.#settings = settings;
    this.#logger = logger;
    this.#listeners = new Listeners(xen.memory, logger, () => this.metrics.unconnected.rx);
  }

  /**
   * Takes up interface `handle` of our domain and begins the handshake. What an earlier user of
   * the interface left in XenStore is closed first.
   */
  static async open(
    xen: Xen,
    handle: number,
    logger: Logger,
    options: NetfrontOptions = {},
  ): Promise<NetfrontDevice> {
    const device = new NetfrontDevice(xen, handle, withDefaults(options), logger);
    await device.#readIdentity();
    await device.#watchOwn();
    return device;
  }

  get mac(): string {
    return this.#mac;
  }

  get mtu(): number {
    return this.#mtu;
  }

  get connected(): boolean {
    return this.#usable;
  }

  /** Whether the backend says that its link is up. */
  get carrier(): boolean {
    return this.#carrier;
  }

  /** What was agreed on; undefined while there are no rings. */
  get features(): NetfrontFeatures | undefined {
    return this.#connection?.features;
  }

  /** Why the backend was cut off; undefined when it was not. */
  get fault(): NetfrontFault | undefined {
    return this.#fault;
  }

  /** How often a listener threw. */
  get listenerFaults(): number {
    return this.#listeners.faults;
  }

  /** Frames whose writers wait. */
  get pendingWrites(): number {
    return this.#pending.count;
  }

  /** Pages of former connections that a backend has not let go of. */
  get quarantinedPages(): number {
    return this.#quarantine.pages;
  }

  /** The control ring, while connected to a backend that has one and where options ask for it. */
  get control(): ControlRing | undefined {
    return this.#usable ? this.#connection?.control : undefined;
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

  /**
   * Waits for the backend and for room on the ring; then the frame is on the ring.
   * @throws DisconnectedError, InvalidArgumentError; ResourceExhaustedError when too many wait.
   */
  async writev(parts: readonly Uint8Array[]): Promise<void> {
    this.#checkNotGivenUp();
    const staged = stageFrame(this.#xen.memory, parts);
    try {
      const outcome =
        this.#pending.count > 0 ? WriteOutcome.queueFull : this.#tryWrite(staged.batch);
      if (outcome === WriteOutcome.accepted) return;
      if (outcome === WriteOutcome.tooLong) throw frameTooLong();
    } finally {
      staged.free();
    }
    await this.#pending.add(Uint8Array.from(Buffer.concat(parts)));
  }

  writeBatch(batch: FrameBatch, outcomes?: Uint8Array): number {
    if (this.#connection === undefined || !this.#usable) {
      this.metrics.unconnected.tx.drop('tx-queue', 'NOT_CONNECTED', batch.count);
      outcomes?.fill(WriteOutcome.notConnected, 0, batch.count);
      return 0;
    }
    try {
      return this.#connection.write(batch, outcomes);
    } catch (error) {
      this.#cutOff(error);
      outcomes?.fill(WriteOutcome.notConnected, 0, batch.count);
      return 0;
    }
  }

  /** As Network says; frames are whole for who knows of no offloads. `onFrame` may be async. */
  listen(onFrame: FrameListener): void {
    const plain = new PlainFrames(onFrame, (error) => this.#listeners.reportFault(error));
    this.listenBatch((batch) => plain.deliver(batch));
  }

  /** As Network says; frames that came before the first listener are given to it, soon. */
  listenBatch(onBatch: BatchListener): () => void {
    return this.#listeners.add(onBatch);
  }

  /**
   * Asks for frames to a multicast address, or no longer for them. Returns whether the backend took
   * it; one that does not filter, or is not connected yet, does.
   * @throws InvalidArgumentError MAC_INVALID.
   */
  async setMulticast(address: string, isWanted: boolean): Promise<boolean> {
    const connection = this.#usable ? this.#connection : undefined;
    return await this.#multicast.change(address, isWanted, connection);
  }

  /** Has the states looked at, now or as soon as the look under way is done. */
  look(): void {
    this.#looking.request();
  }

  /**
   * Starts anew, as a driver that is loaded again does: closes, and connects when the backend lets
   * it. Returns when the first step is done.
   */
  async reconnect(): Promise<void> {
    this.#checkNotGivenUp();
    this.#fault = undefined;
    this.#wish = 'reopen';
    this.look();
    await this.#looking.settled();
  }

  /**
   * Begins a new life after a suspend: our domain's number, the backend, and all that was granted
   * and bound before may be gone. Everything is torn down and built anew on `xen`. Counters,
   * listeners and writes that wait stay.
   */
  async resume(xen: Xen = this.#xen): Promise<void> {
    this.#checkNotGivenUp();
    const done = new Promise<void>((resolve) => {
      this.#resumes.push({ xen, done: resolve });
    });
    this.look();
    await done;
  }

  /**
   * Closes in order: Closing, and Closed once the backend let go or the limit for that passed. With
   * `skipClosing`, goes straight to Closed, as some guests do.
   */
  disconnect(options: { skipClosing?: boolean } = {}): Promise<void> {
    this.#ending ??= this.#end(options.skipClosing === true);
    return this.#ending;
  }

  async #end(skipClosing: boolean): Promise<void> {
    this.#skipClosing = skipClosing;
    this.#wish = 'closed';
    this.#usable = false;
    this.#pending.rejectAll(new DisconnectedError(`vif ${this.handle} was disconnected.`));
    const { closeTimeoutMs } = this.#settings;
    await new Promise<void>((resolve) => {
      // XenStore may be away: after twice the limit the rings go without its knowing.
      const timer = setTimeout(resolve, 2 * closeTimeoutMs);
      this.#onClosed = () => {
        clearTimeout(timer);
        resolve();
      };
      this.look();
    });
    this.#looking.stop();
    clearTimeout(this.#retryTimer);
    this.#disconnectRings();
    this.#listeners.close();
    for (const { done } of this.#resumes.splice(0)) done();
    await this.#unwatchAll();
    await this.#quarantine.empty(closeTimeoutMs);
  }

  async #step(): Promise<void> {
    await this.#moveOn();
    const { store } = this.#xen;
    const base = this.#base;
    const { state: own, link } = await readOwn(store, base);
    await this.#followLink(link);
    // Who sets us to Initialising, or removes our directory, has our rings forgotten.
    if (own === XenbusState.initialising || own === XenbusState.unknown) this.#disconnectRings();
    if (own === XenbusState.initialising) this.#beginAnew();
    const backend = await this.#readBackend();
    const view = { own, ...backend, wish: this.#wish, rings: this.#rings() };
    const isCut = this.#skipClosing && own !== XenbusState.unknown;
    const next = isCut ? XenbusState.closed : nextFrontendState(view);
    if (next === XenbusState.closing) this.#limitClosing();
    if (own === XenbusState.initialising && next === XenbusState.connected) {
      await this.#connectRings();
    } else if (next !== own) {
      await this.#changeState(own, next);
    } else if (own === XenbusState.connected && backend.backend === XenbusState.connected) {
      this.#establish();
    }
    const isOver = next === XenbusState.closed || own === XenbusState.unknown;
    if (isOver && this.#wish === 'closed') {
      this.#disconnectRings();
      this.#onClosed();
    }
  }

  async #changeState(own: XenbusState, next: XenbusState): Promise<void> {
    if (next !== XenbusState.closing) this.#disconnectRings();
    // Where we start anew, a backend that was given up counts as gone until we have.
    if (next === XenbusState.closed && this.#wish !== 'reopen') this.#closingUntilMs = undefined;
    await changeState(this.#xen.store, this.#base, own, next);
    this.#logger.debug({ vif: this.handle, state: xenbusStateName(next) }, 'frontend state');
    this.look();
  }

  /** Until the backend lets go the rings stay, but nothing is sent, and not for ever. */
  #limitClosing(): void {
    this.#usable = false;
    this.#closingUntilMs ??= performance.now() + this.#settings.closeTimeoutMs;
    this.#lookIn(Math.max(0, this.#closingUntilMs - performance.now()) + 1);
  }

  /** We are Initialising, by our own doing or another's: what was before is over. */
  #beginAnew(): void {
    this.#closingUntilMs = undefined;
    if (this.#ending !== undefined) return;
    this.#fault = undefined;
    this.#wish = 'open';
  }

  #rings(): 'none' | 'announced' | 'established' {
    if (this.#connection === undefined) return 'none';
    return this.#usable ? 'established' : 'announced';
  }

  /** What the backend's directory says; one that takes too long to let go counts as gone. */
  async #readBackend() {
    const { unknown } = XenbusState;
    if (this.#link === undefined) return { backend: unknown, online: true };
    const { state, online, carrier } = await readBackend(this.#xen.store, this.#link.backend);
    if (carrier !== this.#carrier) {
      this.#carrier = carrier;
      this.#logger.info({ vif: this.handle, carrier }, 'the link of a frontend changed');
    }
    const isOverdue = performance.now() >= (this.#closingUntilMs ?? Number.POSITIVE_INFINITY);
    return { backend: isOverdue ? unknown : state, online };
  }

  async #connectRings(): Promise<void> {
    const link = this.#link;
    if (link === undefined) return;
    if (this.#quarantine.isFull) {
      this.#logger.warn({ vif: this.handle }, 'a backend holds too many pages to connect to it');
      return;
    }
    const { store } = this.#xen;
    const settings = this.#settings;
    await this.#readIdentity();
    const features = await readFeatures(store, link.backend, settings);
    // From here to the announcement nobody else runs: a fault before it finds the connection.
    const connection = new NetfrontConnection(this.#xen, link, features, settings, this.metrics, {
      received: (batch) => this.#listeners.deliver(batch),
      writable: () => this.#onWritable(),
      fault: (error) => this.#cutOff(error),
    });
    this.#connection = connection;
    let isAnnounced = false;
    try {
      isAnnounced = await announce(store, this.#base, connection.keys, features, settings);
    } finally {
      if (!isAnnounced) this.#disconnectRings();
    }
    this.look();
  }

  #establish(): void {
    if (this.#usable || this.#connection === undefined) return;
    this.#usable = true;
    this.#logger.debug({ vif: this.handle, ...this.#connection.features }, 'frontend connected');
    this.#connection.kick();
    this.#multicast.tellAll(this.#connection);
    this.#pending.flush();
  }

  #disconnectRings(): void {
    this.#usable = false;
    const connection = this.#connection;
    if (connection === undefined) return;
    this.#connection = undefined;
    this.#multicast.disconnected();
    this.#quarantine.take(connection.close());
  }

  /** Ends the connection at once; the state follows. */
  #cutOff(error: unknown): void {
    if (this.#connection === undefined) return;
    this.#disconnectRings();
    const isKnown = error instanceof XenvifError;
    this.#fault = {
      code: isKnown ? error.code : 'INTERNAL',
      message: isKnown ? error.message : 'The device stopped for an internal error.',
    };
    this.#wish = 'closed';
    const { code } = this.#fault;
    this.#logger.error({ vif: this.handle, reason: code, error }, 'a frontend cut its backend off');
    this.look();
  }

  #onWritable(): void {
    if (!this.#usable || this.#connection === undefined) return;
    this.#multicast.flush(this.#connection);
    this.#pending.flush();
  }

  #trySend(frame: Uint8Array): WriteOutcome {
    if (!this.#usable) return WriteOutcome.notConnected;
    const staged = stageFrame(this.#xen.memory, [frame]);
    try {
      return this.#tryWrite(staged.batch);
    } finally {
      staged.free();
    }
  }

  #tryWrite(batch: FrameBatch): WriteOutcome {
    if (this.#connection === undefined || !this.#usable) return WriteOutcome.notConnected;
    try {
      return this.#connection.tryWrite(batch);
    } catch (error) {
      this.#cutOff(error);
      return WriteOutcome.notConnected;
    }
  }

  /** Our backend is another one now: what we have was made for the old one. */
  async #followLink(link: BackendLink | undefined): Promise<void> {
    const old = this.#link;
    if (link?.backend === old?.backend && link?.backendDomid === old?.backendDomid) return;
    if (link === undefined) return;
    this.#disconnectRings();
    this.#link = link;
    if (old !== undefined && this.#ending === undefined) {
      this.#fault = undefined;
      this.#wish = 'reopen';
      this.#logger.info({ vif: this.handle, ...link }, 'a frontend has another backend');
    }
    await this.#unwatchBackend();
    await this.#watchBackend(link);
  }

  /** Makes the resumes that were asked for; the last one says where we are now. */
  async #moveOn(): Promise<void> {
    const resumes = this.#resumes.splice(0);
    const xen = resumes.at(-1)?.xen;
    if (xen === undefined) return;
    try {
      await this.#moveTo(xen);
    } catch (error) {
      this.#resumes.unshift(...resumes);
      throw error;
    }
    for (const { done } of resumes) done();
  }

  async #moveTo(xen: Xen): Promise<void> {
    this.#disconnectRings();
    await this.#unwatchAll();
    this.#xen = xen;
    this.#base = basePath(xen, this.handle);
    this.#link = undefined;
    this.#listeners.moveTo(xen.memory);
    if (this.#ending === undefined) {
      this.#fault = undefined;
      this.#wish = 'reopen';
    }
    this.#closingUntilMs = undefined;
    await this.#watchOwn();
  }

  async #readIdentity(): Promise<void> {
    const { mac, mtu, faults } = await readIdentity(this.#xen.store, this.#base);
    this.#mtu = mtu;
    if (mac !== undefined) this.#mac = mac;
    else if (this.#mac === '') this.#mac = randomLocalMac();
    if (faults.length === 0) return;
    const { handle: vif } = this;
    this.#logger.warn({ vif, faults, mac: this.#mac, mtu }, 'a frontend made do with its own');
  }

  async #watchOwn(): Promise<void> {
    this.#ownWatch = await this.#xen.store.watch(this.#base, () => this.look());
  }

  async #watchBackend({ backend }: BackendLink): Promise<void> {
    for (const name of ['state', 'carrier']) {
      const watch = await this.#xen.store.watch(`${backend}/${name}`, () => this.look());
      this.#backendWatches.push(watch);
    }
  }

  async #unwatchBackend(): Promise<void> {
    const watches = this.#backendWatches;
    this.#backendWatches = [];
    await Promise.all(watches.map((watch) => watch.unwatch().catch(() => undefined)));
  }

  async #unwatchAll(): Promise<void> {
    const watch = this.#ownWatch;
    this.#ownWatch = undefined;
    await watch?.unwatch().catch(() => undefined);
    await this.#unwatchBackend();
  }

  #onStepFailed(error: unknown): void {
    this.#logger.warn({ vif: this.handle, error }, 'a frontend could not follow its backend');
    // Nobody can be told that we close, and a XenStore that is away may be away for long.
    if (this.#ending !== undefined && !this.#xen.store.connected) this.#onClosed();
    this.#lookIn(RETRY_MS);
  }

  #lookIn(delayMs: number): void {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => this.look(), delayMs);
    this.#retryTimer.unref();
  }

  #checkNotGivenUp(): void {
    if (this.#ending === undefined) return;
    throw new DisconnectedError(`vif ${this.handle} was disconnected.`);
  }
}

function basePath(xen: Xen, handle: number): string {
  return `/local/domain/${xen.domid}/device/vif/${handle}`;
}

/** An address that no manufacturer gave out: locally administered, not multicast. */
function randomLocalMac(): string {
  const bytes = randomBytes(6);
  bytes[0] = ((bytes[0] as number) & 0xfc) | 0x02;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

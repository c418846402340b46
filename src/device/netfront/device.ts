/**
 * One vif as its frontend sees it: a Network whose far end is whatever the backend is joined to.
 * How it comes to be connected is in lifecycle.ts.
 *
 * A write waits for the backend to be connected, also while the device reconnects, and fails only
 * when the device is given up.
 */
import type { Logger } from 'pino';
import { DisconnectedError } from '../../errors.js';
import type { Xen } from '../../xen/xen.js';
import type { FrameBatch } from '../frame-batch.js';
import { DeviceMetrics, statsOf } from '../metrics.js';
import { type NetworkStats, WriteOutcome } from '../network.js';
import { NetworkBase, type PatientListener } from '../network-base.js';
import { frameTooLong, stageFrame } from '../single-frame.js';
import type { ControlRing } from './control-ring.js';
import type { NetfrontFeatures } from './handshake.js';
import { Lifecycle, type NetfrontFault } from './lifecycle.js';
import { Listeners } from './listeners.js';
import { MulticastAddresses } from './multicast.js';
import { type NetfrontOptions, withDefaults } from './options.js';
import { PendingWrites } from './pending-writes.js';

export class NetfrontDevice extends NetworkBase {
  readonly handle: number;
  readonly metrics = new DeviceMetrics();
  readonly #listeners: Listeners;
  readonly #multicast = new MulticastAddresses();
  readonly #pending = new PendingWrites((frame) => this.#trySend(frame));
  readonly #lifecycle: Lifecycle;
  #ending: Promise<void> | undefined;

  private constructor(xen: Xen, handle: number, options: NetfrontOptions, logger: Logger) {
    super();
    this.handle = handle;
    this.#listeners = new Listeners(xen.memory, logger, () => this.metrics.unconnected.rx);
    const settings = withDefaults(options);
    this.#lifecycle = new Lifecycle(xen, handle, settings, logger, this.metrics, {
      received: (batch) => this.#listeners.deliver(batch),
      writable: () => this.#onWritable(),
      established: (connection) => {
        this.#multicast.tellAll(connection);
        this.#pending.flush();
      },
      disconnected: () => this.#multicast.disconnected(),
      moved: ({ memory }) => this.#listeners.moveTo(memory),
    });
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
    const device = new NetfrontDevice(xen, handle, options, logger);
    await device.#lifecycle.start();
    return device;
  }

  get mac(): string {
    return this.#lifecycle.mac;
  }

  get mtu(): number {
    return this.#lifecycle.mtu;
  }

  get connected(): boolean {
    return this.#lifecycle.connection !== undefined;
  }

  /** Whether the backend says that its link is up. */
  get carrier(): boolean {
    return this.#lifecycle.carrier;
  }

  /** What was agreed on; undefined while there are no rings. */
  get features(): NetfrontFeatures | undefined {
    return this.#lifecycle.rings?.features;
  }

  /** Why the backend was cut off; undefined when it was not. */
  get fault(): NetfrontFault | undefined {
    return this.#lifecycle.fault;
  }

  /** How often a listener of batches threw. */
  get listenerFaults(): number {
    return this.#listeners.faults;
  }

  /** Frames whose writers wait. */
  get pendingWrites(): number {
    return this.#pending.count;
  }

  /** Pages of former connections that a backend has not let go of. */
  get quarantinedPages(): number {
    return this.#lifecycle.quarantinedPages;
  }

  /** The control ring, while connected to a backend that has one and where options ask for it. */
  get control(): ControlRing | undefined {
    return this.#lifecycle.connection?.control;
  }

  get stats(): NetworkStats {
    return statsOf(this.metrics);
  }

  resetStats(): void {
    this.metrics.reset();
  }

  /**
   * Waits for the backend and for room on the ring; then the frame is on the ring.
   * @throws DisconnectedError, InvalidArgumentError; ResourceExhaustedError when too many wait.
   */
  async writev(parts: readonly Uint8Array[]): Promise<void> {
    this.checkNotGivenUp();
    const staged = stageFrame(this.#lifecycle.xen.memory, parts);
    try {
      const outcome =
        this.#pending.count > 0 ? WriteOutcome.queueFull : this.#tryWrite(staged.batch);
      if (outcome === WriteOutcome.accepted) return;
      if (outcome === WriteOutcome.tooLong) throw frameTooLong();
    } finally {
      staged.free();
    }
    await this.#pending.add(Buffer.concat(parts));
  }

  writeBatch(batch: FrameBatch, outcomes?: Uint8Array): number {
    const { connection } = this.#lifecycle;
    if (connection === undefined) {
      this.metrics.unconnected.tx.drop('tx-queue', 'NOT_CONNECTED', batch.count);
      outcomes?.fill(WriteOutcome.notConnected, 0, batch.count);
      return 0;
    }
    try {
      return connection.write(batch, outcomes);
    } catch (error) {
      this.#lifecycle.cutOff(error);
      outcomes?.fill(WriteOutcome.notConnected, 0, batch.count);
      return 0;
    }
  }

  /**
   * Asks for frames to a multicast address, or no longer for them. Returns whether the backend took
   * it; one that does not filter, or is not connected yet, does.
   * @throws InvalidArgumentError MAC_INVALID.
   */
  async setMulticast(address: string, isWanted: boolean): Promise<boolean> {
    return await this.#multicast.change(address, isWanted, this.#lifecycle.connection);
  }

  /**
   * Starts anew, as a driver that is loaded again does: closes, and connects when the backend lets
   * it. Returns when the first step is done.
   */
  async reconnect(): Promise<void> {
    this.checkNotGivenUp();
    await this.#lifecycle.reopen();
  }

  /**
   * Begins a new life after a suspend: our domain's number, the backend, and all that was granted
   * and bound before may be gone. Everything is torn down and built anew on `xen`. Counters,
   * listeners and writes that wait stay; frames that nobody listened to yet go.
   */
  async resume(xen: Xen = this.#lifecycle.xen): Promise<void> {
    this.checkNotGivenUp();
    await this.#lifecycle.resume(xen);
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
    this.#pending.rejectAll(new DisconnectedError(`vif ${this.handle} was disconnected.`));
    await this.#lifecycle.end(skipClosing);
    this.#listeners.close();
    this.endListening();
  }

  /** Frames that came before the first listener are given to it, soon. */
  protected override addListener(listener: PatientListener): () => void {
    return this.#listeners.add((batch) => void listener(batch));
  }

  #onWritable(): void {
    const { connection } = this.#lifecycle;
    if (connection === undefined) return;
    this.#multicast.flush(connection);
    this.#pending.flush();
  }

  #trySend(frame: Uint8Array): WriteOutcome {
    if (!this.connected) return WriteOutcome.notConnected;
    const staged = stageFrame(this.#lifecycle.xen.memory, [frame]);
    try {
      return this.#tryWrite(staged.batch);
    } finally {
      staged.free();
    }
  }

  /** Sends one frame whose writer may wait. */
  #tryWrite(batch: FrameBatch): WriteOutcome {
    const { connection } = this.#lifecycle;
    if (connection === undefined) return WriteOutcome.notConnected;
    try {
      return connection.tryWrite(batch);
    } catch (error) {
      this.#lifecycle.cutOff(error);
      return WriteOutcome.notConnected;
    }
  }

  protected override checkNotGivenUp(): void {
    if (this.#ending === undefined) return;
    throw new DisconnectedError(`vif ${this.handle} was disconnected.`);
  }
}

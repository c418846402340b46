/**
 * A NIC on a hub in memory, or on whatever else is a VnetifBackend: mirage-vnetif's Vnetif. What
 * nobody listens to is gone, as on a wire.
 */
import { DisconnectedError } from '../../errors.js';
import { FRAME_BYTES_MAX, FRAME_BYTES_MIN, FrameBatch, gsoTypeOf } from '../frame-batch.js';
import { DeviceMetrics, statsOf } from '../metrics.js';
import { type NetworkStats, WriteOutcome } from '../network.js';
import { NetworkBase, type PatientListener } from '../network-base.js';
import { checkFrameLength, stageFrame } from '../single-frame.js';
import type { VnetifBackend } from './backend.js';

const MTU_DEFAULT = 1500;
/** Frames that async listeners may have in hand; what comes beyond is dropped and counted. */
const CALLS_MAX = 1024;

/** Which way a monitored frame goes, as this NIC sees it. */
export type VnetifDirection = 'sent' | 'received';

export interface VnetifOptions {
  /**
   * The MTU, in bytes. Frames longer than this and their header cannot be sent, but for those that
   * are still to be segmented. Default: an MTU of 1500 that nothing is held to.
   */
  readonly sizeLimit?: number;
  /** Whether `disconnect` waits for what was sent to us before, and for our listeners. Default: no. */
  readonly flushOnDisconnect?: boolean;
  /** Gets a copy of each frame before it is sent, and before the listeners get it. */
  readonly monitor?: (frame: Uint8Array, direction: VnetifDirection) => void;
  /** Called whenever somebody has begun to listen: from now on frames are heard. */
  readonly onListening?: () => void;
}

export class Vnetif extends NetworkBase {
  readonly mac: string;
  readonly mtu: number;
  readonly metrics = new DeviceMetrics();
  readonly #counters = this.metrics.queue(0);
  readonly #backend: VnetifBackend;
  readonly #node: number;
  readonly #options: VnetifOptions;
  readonly #frameBytesMax: number;
  #isReading = false;
  #ending: Promise<void> | undefined;
  /** What the backend says of frames whose writer did not ask. */
  #outcomes = new Uint8Array(0);

  private constructor(backend: VnetifBackend, options: VnetifOptions) {
    super();
    const { sizeLimit } = options;
    this.#backend = backend;
    this.#options = options;
    this.#node = backend.register();
    this.mac = backend.mac(this.#node);
    this.mtu = sizeLimit ?? MTU_DEFAULT;
    const bytes = sizeLimit === undefined ? FRAME_BYTES_MAX : sizeLimit + FRAME_BYTES_MIN;
    this.#frameBytesMax = Math.min(FRAME_BYTES_MAX, bytes);
  }

  /** Becomes a node of `backend`. @throws what the backend throws when it takes no more. */
  static async connect(backend: VnetifBackend, options: VnetifOptions = {}): Promise<Vnetif> {
    return new Vnetif(backend, options);
  }

  get stats(): NetworkStats {
    return statsOf(this.metrics);
  }

  resetStats(): void {
    this.metrics.reset();
  }

  /** Over when the backend says so: when it is read, or when there is room for it to wait. */
  async writev(parts: readonly Uint8Array[]): Promise<void> {
    this.#checkConnected();
    const staged = stageFrame(this.#backend.memory, parts);
    try {
      const { batch } = staged;
      checkFrameLength(batch.length(0), this.#frameBytesMax);
      this.#monitor(batch, 'sent');
      this.#counters.tx.count(1, batch.length(0));
      await this.#backend.write(this.#node, batch);
    } finally {
      staged.free();
    }
  }

  /** A frame shorter than a header has the outcome `tooLong`, as one that can never be sent. */
  writeBatch(batch: FrameBatch, outcomes?: Uint8Array): number {
    if (this.#ending !== undefined) {
      this.metrics.unconnected.tx.drop('tx-queue', 'NOT_CONNECTED', batch.count);
      outcomes?.fill(WriteOutcome.notConnected, 0, batch.count);
      return 0;
    }
    if (!this.#canSendAll(batch)) return this.#writeSendable(batch, outcomes);
    this.#monitor(batch, 'sent');
    const { tx } = this.#counters;
    const results = outcomes ?? this.#room(batch.count);
    const accepted = this.#backend.writeBatch(this.#node, batch, results);
    let bytes = batch.totalBytes;
    if (accepted < batch.count) {
      for (let index = 0; index < batch.count; index += 1) {
        if (results[index] !== WriteOutcome.accepted) bytes -= batch.length(index);
      }
      tx.drop('tx-queue', 'TX_QUEUE_FULL', batch.count - accepted);
    }
    tx.count(accepted, bytes);
    return accepted;
  }

  disconnect(): Promise<void> {
    this.#ending ??= this.#end();
    return this.#ending;
  }

  protected override addListener(listener: PatientListener): () => void {
    const end = super.addListener(listener);
    if (!this.#isReading) {
      this.#isReading = true;
      this.#backend.setReader(this.#node, (batch) => this.#receive(batch));
    }
    this.#options.onListening?.();
    return end;
  }

  async #end(): Promise<void> {
    const backend = this.#backend;
    if (this.#options.flushOnDisconnect) await backend.unregisterAndFlush(this.#node);
    else await backend.unregister(this.#node);
    this.endListening();
  }

  #receive(batch: FrameBatch): Promise<unknown> | undefined {
    const { rx } = this.#counters;
    if (this.callsUnderWay >= CALLS_MAX) {
      rx.drop('rx-queue', 'LISTENER_BUSY', batch.count);
      return undefined;
    }
    this.#monitor(batch, 'received');
    rx.count(batch.count, batch.totalBytes);
    return this.deliver(batch);
  }

  #monitor(batch: FrameBatch, direction: VnetifDirection): void {
    const { monitor } = this.#options;
    if (monitor === undefined) return;
    for (let index = 0; index < batch.count; index += 1) {
      const offset = batch.offset(index);
      monitor(batch.bytes.slice(offset, offset + batch.length(index)), direction);
    }
  }

  #canSendAll(batch: FrameBatch): boolean {
    for (let index = 0; index < batch.count; index += 1) {
      if (!this.#canSend(batch, index)) return false;
    }
    return true;
  }

  #canSend(batch: FrameBatch, index: number): boolean {
    const length = batch.length(index);
    const isWhole = gsoTypeOf(batch.flag(index)) === 0;
    return length >= FRAME_BYTES_MIN && length <= (isWhole ? this.#frameBytesMax : FRAME_BYTES_MAX);
  }

  /** Sends what can be sent of a batch in which something cannot: nothing that happens often. */
  #writeSendable(batch: FrameBatch, outcomes: Uint8Array | undefined): number {
    const sendable = new FrameBatch(batch.bytes, batch.count);
    outcomes?.fill(WriteOutcome.tooLong, 0, batch.count);
    const places: number[] = [];
    for (let index = 0; index < batch.count; index += 1) {
      if (!this.#canSend(batch, index)) continue;
      sendable.add(batch.offset(index), batch.length(index), batch.flag(index));
      places.push(index);
    }
    this.#counters.tx.drop('tx-queue', 'LENGTH_INVALID', batch.count - places.length);
    const results = new Uint8Array(places.length);
    const accepted = this.writeBatch(sendable, results);
    for (const [result, place] of places.entries()) {
      if (outcomes !== undefined) outcomes[place] = results[result] as number;
    }
    return accepted;
  }

  #room(count: number): Uint8Array {
    if (this.#outcomes.length < count) this.#outcomes = new Uint8Array(count);
    return this.#outcomes;
  }

  #checkConnected(): void {
    if (this.#ending !== undefined) throw new DisconnectedError('The NIC was disconnected.');
  }
}

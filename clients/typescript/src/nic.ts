/**
 * A NIC that this program is: the other end of a guest's interface, or a port of a switch. What its
 * peer sends comes out, what is written goes to the peer. It is a `Network`, as Mirage has it, and more.
 */
import { randomUUID } from 'node:crypto';
import { checkFrameLength } from './batch-encoder.js';
import type { Connection } from './connection.js';
import { Deferred } from './deferred.js';
import { connectionLost, XenvifClientError } from './errors.js';
import { type Frame, FrameIterator } from './frame.js';
import type { FrameBatchView } from './frame-batch-view.js';
import type { FrameCall, FrameEventMessage } from './frame-call.js';
import type { InjectionOutcome } from './frame-messages.js';
import type { OpenedFrames } from './frame-options.js';
import { FrameSender } from './frame-sender.js';
import { LossAccount, type LostTotals } from './loss.js';
import {
  type BatchListener,
  type FillFrame,
  type FrameListener,
  type FrameRequest,
  fillFrame,
  type Network,
  type NicListenOptions,
  type NicStats,
} from './network.js';
import { NicListeners } from './nic-listeners.js';
import { type AttachOptions, attachPurpose, graceMsOf } from './nic-options.js';
import { type NicPlace, placeOf } from './nic-place.js';
import { ResumingFrameCall } from './resuming-frame-call.js';
import type { Port } from './switch.js';
import type { Vif, VifPhase } from './vif.js';

const DEFAULT_SEND_QUEUE_BYTES = 16 * 1024 * 1024;
/** `writeBatch` lets the transport take what it has before it copies more than this. */
const WRITE_AHEAD_BYTES = 1024 * 1024;
/** How long `disconnect` waits for the daemon to take what was written. */
const DISCONNECT_TIMEOUT_MS = 2_000;

export class Nic implements Network, AsyncIterable<Frame> {
  readonly #connection: Connection;
  readonly #call: ResumingFrameCall;
  readonly #sender: FrameSender;
  readonly #options: AttachOptions;
  readonly #listeners = new NicListeners();
  readonly #lost = new LossAccount();
  readonly #closed = new Deferred<XenvifClientError | undefined>();
  /** Set once attached, before anybody gets to see the NIC. */
  #place: NicPlace = { name: '', mac: '', mtu: 0, phase: 'unspecified' };
  #phase: VifPhase = 'unspecified';
  #counters = { rxPackets: 0, rxBytes: 0, txPackets: 0, txBytes: 0 };
  #disconnected = false;
  /** What ended it. */
  #failure: XenvifClientError | undefined;

  private constructor(connection: Connection, target: string, options: AttachOptions) {
    this.#connection = connection;
    this.#options = options;
    const { resumeKey = randomUUID() } = options;
    this.#call = new ResumingFrameCall(connection, {
      purpose: (before) => attachPurpose(target, options, resumeKey, before),
      stream: options,
      resumeForMs: graceMsOf(target, options),
      onMessage: (message, call) => this.#intercept(message, call),
      onBroken: () => this.#break(),
      onResumed: (opened) => this.#resume(opened),
      onEnd: (error) => this.#end(error),
    });
    this.#sender = new FrameSender({
      send: (message, onAccepted) => this.#call.send(message, onAccepted),
      withResults: options.reportResults ?? false,
      queueBytes: options.sendQueueBytes ?? DEFAULT_SEND_QUEUE_BYTES,
      onSent: (frames, bytes) => {
        this.#counters.txPackets += frames;
        this.#counters.txBytes += bytes;
      },
    });
  }

  /**
   * Attaches to a vif (`vifs/1.0` or `1.0`), or to a switch (`switches/default`) as a port of it.
   * @throws XenvifClientError VIF_NOT_FOUND, VIF_ATTACHED (another client is), VIF_NAME_INVALID,
   *   SWITCH_NOT_FOUND, SWITCH_NAME_INVALID, PORT_EXISTS, PORT_ID_INVALID, MAC_INVALID
   */
  static async attach(
    connection: Connection,
    target: string,
    options: AttachOptions = {},
  ): Promise<Nic> {
    const nic = new Nic(connection, target, options);
    const opened = await nic.#call.open();
    try {
      nic.#place = placeOf(opened);
    } catch (error) {
      nic.#call.close();
      throw error;
    }
    // A change of the vif may have been told already.
    if (nic.#phase === 'unspecified') nic.#phase = nic.#place.phase;
    return nic;
  }

  /** The vif as it was when the NIC was attached; undefined for a NIC on a switch. */
  get vif(): Vif | undefined {
    return this.#place.vif;
  }

  /** The port as it was when the NIC was attached; undefined for a NIC on a vif. */
  get port(): Port | undefined {
    return this.#place.port;
  }

  /** Where the NIC is attached: the name of its vif or of its port. */
  get name(): string {
    return this.#place.name;
  }

  /** The guest's MAC address on a vif, the NIC's own on a switch; as six hex pairs with colons. */
  get mac(): string {
    return this.#place.mac;
  }

  /** The largest Ethernet payload in bytes, without the header of 14. */
  get mtu(): number {
    return this.#place.mtu;
  }

  /**
   * The vif's phase as last told; on a switch `connected`. `disconnected` while the NIC tries to come
   * back.
   */
  get phase(): VifPhase {
    return this.#phase;
  }

  get stats(): NicStats {
    const { rxPackets, rxBytes, txPackets, txBytes } = this.#counters;
    return {
      rxPackets: BigInt(rxPackets),
      rxBytes: BigInt(rxBytes),
      txPackets: BigInt(txPackets),
      txBytes: BigInt(txBytes),
    };
  }

  /** Received frames that this client was too slow for, and how often the connection was lost. */
  get lost(): LostTotals {
    return this.#lost;
  }

  /** Settles when the NIC is gone: with the error that ended it, or undefined. Never rejects. */
  get closed(): Promise<XenvifClientError | undefined> {
    return this.#closed.promise;
  }

  /** Sets `stats` to zero and touches nothing else. */
  resetStats(): void {
    this.#counters = { rxPackets: 0, rxBytes: 0, txPackets: 0, txBytes: 0 };
  }

  /**
   * Sends one frame of 14 to 65535 bytes, header included, or `buffer[0 .. fill(buffer))` of a zeroed
   * buffer of exactly `size` bytes. The bytes are copied at once; the promise settles when the transport
   * has taken them, which is what a fast writer waits for. Frames written in one turn of the event loop
   * share a message.
   *
   * While a NIC that reconnects is away, writes wait, up to `sendQueueBytes`, and are sent in order when
   * it is back; if it does not come back they fail with what ended it. What the transport had taken when
   * the connection broke may be lost, and is not sent again; what it was just taking may arrive twice.
   * @throws XenvifClientError FRAME_TOO_SHORT, FRAME_TOO_LONG, SEND_QUEUE_FULL, DISCONNECTED; what
   *   `fill` throws.
   */
  write(frame: Uint8Array): Promise<void>;
  write(request: FrameRequest, fill: FillFrame): Promise<void>;
  async write(what: Uint8Array | FrameRequest, fill?: FillFrame): Promise<void> {
    this.#checkNotGivenUp();
    const frame = what instanceof Uint8Array ? what : fillFrame(what.size, fill ?? wholeBuffer);
    checkFrameLength(frame.length);
    await this.#sender.add([frame], frame.length).accepted.promise;
  }

  /** Sends the parts as one frame. Otherwise as `write`. */
  async writev(parts: readonly Uint8Array[]): Promise<void> {
    this.#checkNotGivenUp();
    let length = 0;
    for (const part of parts) length += part.length;
    checkFrameLength(length);
    await this.#sender.add(parts, length).accepted.promise;
  }

  /** Sends frames in order. None is sent where one has a length that is wrong. As `write`. */
  async writeBatch(frames: readonly Uint8Array[]): Promise<void> {
    this.#checkNotGivenUp();
    for (const frame of frames) checkFrameLength(frame.length);
    let accepted: Promise<void> | undefined;
    for (const frame of frames) {
      accepted = this.#sender.add([frame], frame.length).accepted.promise;
      if (this.#sender.queuedBytes >= WRITE_AHEAD_BYTES) await accepted;
    }
    await accepted;
  }

  /**
   * The fast face of writing, for which nothing is made for a frame and nothing is copied: makes room
   * for a frame of `length` bytes in the message that goes out next and answers where in
   * `placedBytes` it is to be written, at once, before anything is awaited. Several may be placed in a
   * row. `drained` holds a writer back that is faster than the transport.
   * @throws XenvifClientError as `write`.
   */
  place(length: number): number {
    checkFrameLength(length);
    return this.#sender.place(length);
  }

  /** The memory that the frame placed last goes to. Another call of `place` may change it. */
  get placedBytes(): Buffer {
    return this.#sender.bytes;
  }

  /**
   * Settles when at most `bytes` of the frames written so far wait for the transport.
   * @throws XenvifClientError with what ended the NIC.
   */
  async drained(bytes = WRITE_AHEAD_BYTES): Promise<void> {
    await this.#sender.drained(bytes);
  }

  /**
   * Sends frames and waits for the daemon to tell what became of each.
   * @throws XenvifClientError RESULTS_NOT_REPORTED without the option `reportResults`; CONNECTION_LOST
   *   when the connection broke before the daemon could tell; as `write`.
   */
  async inject(frames: readonly Uint8Array[]): Promise<InjectionOutcome[]> {
    if (!this.#options.reportResults) throw resultsNotReported();
    this.#checkNotGivenUp();
    for (const frame of frames) checkFrameLength(frame.length);
    const places: { results: Promise<readonly InjectionOutcome[]>; index: number }[] = [];
    for (const frame of frames) {
      const pending = this.#sender.add([frame], frame.length);
      // Others may write meanwhile: the message has their frames, too.
      places.push({ results: pending.results.promise, index: this.#sender.lastIndex });
      if (this.#sender.queuedBytes >= WRITE_AHEAD_BYTES) await pending.accepted.promise;
    }
    this.#sender.flush();
    const told: InjectionOutcome[] = [];
    for (const { results, index } of places) told.push((await results)[index] ?? 'unspecified');
    return told;
  }

  /**
   * Calls `onFrame` with every frame received from now on, as soon as it comes, and first with those
   * that wait; each frame is the callee's. While anybody listens, a loop over the NIC gets nothing.
   * What a call returns is waited for, where it is a promise, before the daemon may send as much again.
   *
   * Resolves when the NIC is gone (`closed` says why), or by `signal`. Where `onFrame` throws, or a
   * promise of its rejects, it is called no more and `listen` rejects with that error; the NIC and all
   * other listeners go on.
   * @throws XenvifClientError DISCONNECTED, or what ended the NIC.
   */
  async listen(onFrame: FrameListener, options: NicListenOptions = {}): Promise<void> {
    this.#checkNotGivenUp();
    const listening = this.#listeners.listen(onFrame, options, () => this.mtu);
    this.#hearWaiting();
    await listening;
  }

  /** As `listen`, with batches: no copy and no object for a frame. Returns a function that ends it. */
  listenBatch(onBatch: BatchListener): () => void {
    const end = this.#listeners.listenBatch(onBatch);
    this.#hearWaiting();
    return end;
  }

  /**
   * Yields received frames. Those that come while nobody asks wait, up to `creditBytes` here and
   * `queueBytes` in the daemon; the rest is lost and told. Leaving the loop leaves the NIC attached.
   */
  [Symbol.asyncIterator](): AsyncIterator<Frame, undefined> {
    return new FrameIterator(this.batches(), [this.name]);
  }

  /** Yields received frames in batches, to be walked by offsets. */
  async *batches(): AsyncGenerator<FrameBatchView, undefined, undefined> {
    for (;;) {
      const message = await this.#call.next();
      if (message === undefined) return undefined;
      if (message.type !== 'batch') continue;
      this.#countReceived(message.batch);
      yield message.batch;
    }
  }

  /** Sends what was written and gives the NIC up. Never fails; a second call does nothing more. */
  async disconnect(): Promise<void> {
    if (!this.#disconnected) {
      this.#disconnected = true;
      this.#sender.flush();
      this.#call.halfClose();
      const timer = setTimeout(() => this.#call.close(), DISCONNECT_TIMEOUT_MS);
      this.closed.then(() => clearTimeout(timer)).catch(() => {});
    }
    await this.closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.disconnect();
  }

  /** Deals with everything that cannot wait for somebody to ask for the next frame. */
  #intercept(message: FrameEventMessage, call: FrameCall): boolean {
    switch (message.type) {
      case 'batch':
        if (this.#listeners.count === 0) return false;
        this.#deliver(message.batch, call);
        return true;
      case 'lost':
        this.#lost.add(message.lost);
        this.#options.onLost?.(message.lost);
        return true;
      case 'status':
        this.#change(message.phase, message.reason);
        return true;
      case 'results':
        this.#sender.settle(Number(message.firstSequence), message.outcomes);
        return true;
    }
  }

  #deliver(batch: FrameBatchView, call: FrameCall): void {
    this.#countReceived(batch);
    const heard = this.#listeners.deliver(batch);
    if (heard === undefined) call.giveCredit(batch.byteCount);
    else heard.then(() => call.giveCredit(batch.byteCount)).catch(() => {});
  }

  /** Frames that came before anybody listened are heard first; not within the call of `listen`. */
  #hearWaiting(): void {
    queueMicrotask(() =>
      this.#call.drain(
        () => this.#listeners.count > 0,
        (message, call) => {
          if (message.type === 'batch') this.#deliver(message.batch, call);
        },
      ),
    );
  }

  #checkNotGivenUp(): void {
    if (this.#disconnected) throw disconnectedError();
    if (this.#failure !== undefined) throw this.#failure;
  }

  #countReceived(batch: FrameBatchView): void {
    this.#counters.rxPackets += batch.count;
    this.#counters.rxBytes += batch.byteCount;
  }

  #break(): void {
    this.#lost.reconnects += 1;
    this.#sender.suspend(connectionLost('', this.#connection.address));
    this.#change('disconnected', 'CONNECTION_LOST');
  }

  #resume(opened: OpenedFrames): void {
    this.#place = placeOf(opened);
    this.#sender.resume();
    this.#change(this.#place.phase, 'REATTACHED');
  }

  #change(phase: VifPhase, reason: string): void {
    this.#phase = phase;
    this.#options.onStatus?.(phase, reason);
  }

  #end(error: XenvifClientError | undefined): void {
    this.#failure = error ?? disconnectedError();
    this.#sender.end(this.#failure);
    this.#listeners.end();
    this.#closed.resolve(error);
  }
}

function wholeBuffer({ length }: Uint8Array): number {
  return length;
}

function disconnectedError(): XenvifClientError {
  const message = 'The NIC is disconnected.';
  return new XenvifClientError('DISCONNECTED', 'FAILED_PRECONDITION', message);
}

function resultsNotReported(): XenvifClientError {
  const message = 'Attach with reportResults to learn what became of frames.';
  return new XenvifClientError('RESULTS_NOT_REPORTED', 'FAILED_PRECONDITION', message);
}

/**
 * The other end of a guest's interface: what the guest sends comes out, what is written goes to the
 * guest. The shape is that of Mirage's NETWORK module: write, writev, listen, mac, mtu, stats with
 * their reset, disconnect.
 */
import { checkFrameLength } from './batch-encoder.js';
import type { Connection } from './connection.js';
import { Deferred } from './deferred.js';
import { XenvifClientError } from './errors.js';
import { type Frame, FrameIterator } from './frame.js';
import type { FrameBatchView } from './frame-batch-view.js';
import { FrameCall, type FrameEventMessage } from './frame-call.js';
import type { InjectionOutcome, Lost } from './frame-messages.js';
import type { FrameStreamOptions } from './frame-options.js';
import { FrameSender } from './frame-sender.js';
import { FrameMode } from './gen/xenvif/v1/frame_service.js';
import { LossAccount, type LostTotals } from './loss.js';
import type { Vif, VifPhase } from './vif.js';
import { vifName } from './vif-name.js';

export interface AttachOptions extends Omit<FrameStreamOptions, 'maxFrames'> {
  /** Have the daemon tell what became of each frame sent, which `inject` needs. Default false. */
  readonly reportResults?: boolean | undefined;
  /** Bytes of frames that may wait to be sent before writes fail. Default 16 MiB. */
  readonly sendQueueBytes?: number | undefined;
  /** Called for each run of frames that the guest sent and that will never come. */
  readonly onLost?: ((lost: Lost) => void) | undefined;
  /** Called when the vif's phase changes, for example when the guest closes its side. */
  readonly onStatus?: ((phase: VifPhase, reason: string) => void) | undefined;
}

/** Frames and bytes: rx is what came from the guest, tx what was sent to it. */
export interface NicStats {
  readonly rxPackets: bigint;
  readonly rxBytes: bigint;
  readonly txPackets: bigint;
  readonly txBytes: bigint;
}

const DEFAULT_SEND_QUEUE_BYTES = 16 * 1024 * 1024;
/** `writeBatch` lets the transport take what it has before it copies more than this. */
const WRITE_AHEAD_BYTES = 1024 * 1024;
/** How long `disconnect` waits for the daemon to take what was written. */
const DISCONNECT_TIMEOUT_MS = 2_000;

export class Nic implements AsyncIterable<Frame> {
  readonly #call: FrameCall;
  readonly #sender: FrameSender;
  readonly #options: AttachOptions;
  readonly #listeners = new Set<(frame: Uint8Array) => void>();
  readonly #lost = new LossAccount();
  readonly #closed = new Deferred<XenvifClientError | undefined>();
  #vif: Vif | undefined;
  #phase: VifPhase = 'unspecified';
  #counters = { rxPackets: 0, rxBytes: 0, txPackets: 0, txBytes: 0 };
  #disconnected = false;

  private constructor(connection: Connection, name: string, options: AttachOptions) {
    const reportResults = options.reportResults ?? false;
    const purpose = { mode: FrameMode.ATTACH, vifs: [vifName(name)], reportResults };
    this.#options = options;
    this.#call = new FrameCall(connection, purpose, options, {
      onMessage: (message) => this.#intercept(message),
      onEnd: (error) => this.#end(error),
    });
    this.#sender = new FrameSender({
      send: (message, onAccepted) => this.#call.send(message, onAccepted),
      withResults: reportResults,
      queueBytes: options.sendQueueBytes ?? DEFAULT_SEND_QUEUE_BYTES,
      onSent: (frames, bytes) => {
        this.#counters.txPackets += frames;
        this.#counters.txBytes += bytes;
      },
    });
  }

  /**
   * Attaches to the vif `name`.
   * @throws XenvifClientError VIF_NOT_FOUND, VIF_ATTACHED (another client is), VIF_NAME_INVALID
   */
  static async attach(
    connection: Connection,
    name: string,
    options: AttachOptions = {},
  ): Promise<Nic> {
    const nic = new Nic(connection, name, options);
    const { vifs } = await nic.#call.opened;
    const [vif] = vifs;
    if (vif === undefined) {
      nic.#call.close();
      const message = 'The daemon attached without telling the vif.';
      throw new XenvifClientError('RESPONSE_MALFORMED', 'INTERNAL', message);
    }
    nic.#vif = vif;
    if (nic.#phase === 'unspecified') nic.#phase = vif.status.phase;
    return nic;
  }

  /** The vif as it was when the NIC was attached. */
  get vif(): Vif {
    if (this.#vif === undefined) throw disconnectedError();
    return this.#vif;
  }

  /** The guest's MAC address, as six hex pairs with colons. */
  get mac(): string {
    return this.vif.spec.mac;
  }

  /** The largest Ethernet payload in bytes, without the header of 14. */
  get mtu(): number {
    return this.vif.spec.mtu;
  }

  /** The vif's phase as last told. */
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

  /** Frames of the guest's that this client was too slow for. */
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
   * Sends one frame of 14 to 65535 bytes, header included. The bytes are copied at once; the promise
   * settles when the transport has taken them, which is what a fast writer waits for. Frames written in
   * one turn of the event loop share a message.
   * @throws XenvifClientError FRAME_TOO_SHORT, FRAME_TOO_LONG, SEND_QUEUE_FULL, DISCONNECTED
   */
  async write(frame: Uint8Array): Promise<void> {
    checkFrameLength(frame.length);
    await this.#sender.add([frame], frame.length).accepted.promise;
  }

  /** Sends the parts as one frame. Otherwise as `write`. */
  async writev(parts: readonly Uint8Array[]): Promise<void> {
    let length = 0;
    for (const part of parts) length += part.length;
    checkFrameLength(length);
    await this.#sender.add(parts, length).accepted.promise;
  }

  /** Sends frames in order. None is sent where one has a length that is wrong. As `write`. */
  async writeBatch(frames: readonly Uint8Array[]): Promise<void> {
    for (const frame of frames) checkFrameLength(frame.length);
    let accepted: Promise<void> | undefined;
    for (const frame of frames) {
      accepted = this.#sender.add([frame], frame.length).accepted.promise;
      if (this.#sender.queuedBytes >= WRITE_AHEAD_BYTES) await accepted;
    }
    await accepted;
  }

  /**
   * Sends frames in messages of their own and waits for the daemon to tell what became of each.
   * @throws XenvifClientError RESULTS_NOT_REPORTED without the option `reportResults`; as `write`.
   */
  async inject(frames: readonly Uint8Array[]): Promise<InjectionOutcome[]> {
    if (!this.#options.reportResults) throw resultsNotReported();
    for (const frame of frames) checkFrameLength(frame.length);
    this.#sender.flush();
    const messages = new Set<Promise<readonly InjectionOutcome[]>>();
    for (const frame of frames) {
      const pending = this.#sender.add([frame], frame.length);
      messages.add(pending.results.promise);
      if (this.#sender.queuedBytes >= WRITE_AHEAD_BYTES) await pending.accepted.promise;
    }
    this.#sender.flush();
    return (await Promise.all(messages)).flat();
  }

  /**
   * Calls `onFrame` with every frame received from now on, as soon as it comes. While anybody listens,
   * a loop over the NIC gets nothing. Returns a function that ends it.
   */
  listen(onFrame: (frame: Uint8Array) => void): () => void {
    this.#listeners.add(onFrame);
    return () => this.#listeners.delete(onFrame);
  }

  /**
   * Yields received frames. Those that come while nobody asks wait, up to `creditBytes` here and
   * `queueBytes` in the daemon; the rest is lost and told. Leaving the loop leaves the NIC attached.
   */
  [Symbol.asyncIterator](): AsyncIterator<Frame, undefined> {
    return new FrameIterator(this.batches(), [this.vif.name]);
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
  #intercept(message: FrameEventMessage): boolean {
    switch (message.type) {
      case 'batch':
        if (this.#listeners.size === 0) return false;
        this.#deliver(message.batch);
        return true;
      case 'lost':
        this.#lost.add(message.lost);
        this.#options.onLost?.(message.lost);
        return true;
      case 'status':
        this.#phase = message.phase;
        this.#options.onStatus?.(message.phase, message.reason);
        return true;
      case 'results':
        this.#sender.settle(Number(message.firstSequence), message.outcomes);
        return true;
    }
  }

  #deliver(batch: FrameBatchView): void {
    this.#countReceived(batch);
    for (let index = 0; index < batch.count; index += 1) {
      for (const onFrame of this.#listeners) onFrame(batch.frame(index));
    }
    this.#call.giveCredit(batch.byteCount);
  }

  #countReceived(batch: FrameBatchView): void {
    this.#counters.rxPackets += batch.count;
    this.#counters.rxBytes += batch.byteCount;
  }

  #end(error: XenvifClientError | undefined): void {
    this.#sender.end(error ?? disconnectedError());
    this.#closed.resolve(error);
  }
}

function disconnectedError(): XenvifClientError {
  const message = 'The NIC is disconnected.';
  return new XenvifClientError('DISCONNECTED', 'FAILED_PRECONDITION', message);
}

function resultsNotReported(): XenvifClientError {
  const message = 'Attach with reportResults to learn what became of frames.';
  return new XenvifClientError('RESULTS_NOT_REPORTED', 'FAILED_PRECONDITION', message);
}

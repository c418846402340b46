/**
 * What all NICs do alike: who listens, and the easy forms of writing. A NIC says how it sends a
 * frame and a batch, and gives what it received to `deliver`; nothing here is on a batch's way but
 * the calls of its listeners.
 */
import { DisconnectedError } from '../errors.js';
import { CopiedFrames } from './copied-frames.js';
import type { FrameBatch } from './frame-batch.js';
import type {
  BatchListener,
  FillFrame,
  FrameListener,
  FrameRequest,
  ListenOptions,
  Network,
  NetworkStats,
} from './network.js';
import { fillFrame } from './single-frame.js';

/** Takes a batch; a promise that it returns resolves, never rejects, when it is done with it all. */
export type PatientListener = (batch: FrameBatch) => Promise<unknown> | undefined;

/** A call of `listen` that goes on. */
interface Listening {
  readonly frames: CopiedFrames;
  readonly end: () => void;
}

export abstract class NetworkBase implements Network {
  abstract readonly mac: string;
  abstract readonly mtu: number;
  abstract readonly stats: NetworkStats;
  readonly #listeners = new Set<PatientListener>();
  readonly #listenings = new Set<Listening>();
  #isGivenUp = false;

  abstract resetStats(): void;
  abstract writev(parts: readonly Uint8Array[]): Promise<void>;
  abstract disconnect(): Promise<void>;
  abstract writeBatch(batch: FrameBatch, outcomes?: Uint8Array): number;

  write(frame: Uint8Array): Promise<void>;
  write(request: FrameRequest, fill: FillFrame): Promise<void>;
  async write(frame: Uint8Array | FrameRequest, fill?: FillFrame): Promise<void> {
    this.checkNotGivenUp();
    const isWhole = frame instanceof Uint8Array;
    await this.writev([isWhole ? frame : fillFrame(frame.size, fill)]);
  }

  async listen(onFrame: FrameListener, { headerSize }: ListenOptions = {}): Promise<void> {
    this.checkNotGivenUp();
    await new Promise<void>((resolve, reject) => {
      const onFault = (error: unknown) => {
        stop();
        this.#listenings.delete(listening);
        reject(error);
      };
      const frames = new CopiedFrames(onFrame, onFault, () => this.mtu, headerSize);
      const listening = { frames, end: resolve };
      const stop = this.addListener((batch) => frames.deliver(batch));
      this.#listenings.add(listening);
    });
  }

  listenBatch(onBatch: BatchListener): () => void {
    return this.addListener((batch) => {
      onBatch(batch);
      return undefined;
    });
  }

  /** Has a listener hear all batches from now on; what it returns ends that. */
  protected addListener(listener: PatientListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Listeners threw; this is what the first of them did. Here it is the caller's of `deliver`; a NIC
   * whose caller cannot help it says otherwise.
   */
  protected listenerFailed(error: unknown): void {
    throw error;
  }

  /**
   * Hands a batch to everybody who listens, whoever throws, until one of them has the NIC given up.
   * What it returns resolves when all are done with it; undefined when they are.
   */
  protected deliver(batch: FrameBatch): Promise<unknown> | undefined {
    let calls: Promise<unknown>[] | undefined;
    let failures: unknown[] | undefined;
    for (const listener of this.#listeners) {
      try {
        const call = listener(batch);
        if (call === undefined) continue;
        calls ??= [];
        calls.push(call);
      } catch (error) {
        failures ??= [];
        failures.push(error);
      }
    }
    if (failures !== undefined) this.listenerFailed(failures[0]);
    return calls === undefined ? undefined : Promise.all(calls);
  }

  /** Calls of async listeners that have not come to their end. */
  protected get callsUnderWay(): number {
    let calls = 0;
    for (const { frames } of this.#listenings) calls += frames.callsUnderWay;
    return calls;
  }

  /** Nobody hears anything from now on, and those who listened are told. */
  protected endListening(): void {
    this.#isGivenUp = true;
    this.#listeners.clear();
    for (const { end } of this.#listenings) end();
    this.#listenings.clear();
  }

  protected checkNotGivenUp(): void {
    if (this.#isGivenUp) throw new DisconnectedError('The NIC was disconnected.');
  }
}

/**
 * A copy of what passes on some vifs, or at a port of a switch: as frames, as batches, or as events with everything that
 * happens to the stream. Opened again when the connection is lost.
 */
import type { Connection } from './connection.js';
import { isUnavailable, type XenvifClientError } from './errors.js';
import { type Frame, FrameIterator } from './frame.js';
import type { FrameBatchView } from './frame-batch-view.js';
import { FrameCall, type FrameEventMessage } from './frame-call.js';
import type { Lost } from './frame-messages.js';
import type {
  FramePurpose,
  FrameSelectionOptions,
  FrameStreamOptions,
  OpenedFrames,
} from './frame-options.js';
import { LossAccount, type LostTotals } from './loss.js';
import { observed } from './observed.js';
import { Backoff, pause } from './retry.js';
import type { VifPhase } from './vif.js';

export interface ObserveOptions extends FrameStreamOptions {
  /** Open the stream again after the connection was lost. Default true. */
  readonly reconnect?: boolean | undefined;
  /** Called for each run of lost frames, before the batch behind it. */
  readonly onLost?: ((lost: Lost) => void) | undefined;
}

/** What happens to an observation. */
export type ObservationEvent =
  | { readonly type: 'batch'; readonly batch: FrameBatchView }
  | { readonly type: 'lost'; readonly lost: Lost }
  /** A vif of the stream changed. */
  | {
      readonly type: 'status';
      readonly vif: string;
      readonly phase: VifPhase;
      readonly reason: string;
    }
  /** The connection was lost; the SDK tries to open the stream again until it is ended. */
  | { readonly type: 'disconnected'; readonly error: XenvifClientError }
  /**
   * The connection was lost and is back. What passed meanwhile is missing and not counted; sequence
   * numbers start anew. `sameBoot`: the daemon was not started anew.
   */
  | { readonly type: 'reconnected'; readonly opened: OpenedFrames; readonly sameBoot: boolean };

/**
 * A running observation. It begins when it is made; what passes waits for whoever loops over it, in
 * the bounds of `creditBytes` and `queueBytes`. One loop at a time; it ends when the loop is left, by
 * `close`, after `maxFrames`, or by the signal (which makes the loop throw CANCELLED).
 */
export abstract class Observation<Item> implements AsyncIterable<Item> {
  /** The names asked for, of vifs or of one port or switch; `vifIndex` of a batch counts them. */
  readonly vifs: readonly string[];
  readonly #purpose: FramePurpose;
  readonly #connection: Connection;
  readonly #stopping = new AbortController();
  readonly #lost = new LossAccount();
  #options: ObserveOptions;
  #call: FrameCall;
  #frames = 0;

  /** @throws XenvifClientError CREDIT_TOO_SMALL, and as `observed`. */
  constructor(connection: Connection, vifs: string | readonly string[], options: ObserveOptions) {
    const { names, purpose } = observed(vifs);
    this.vifs = names;
    this.#purpose = purpose;
    this.#connection = connection;
    this.#options = options;
    this.#call = this.#openCall();
  }

  abstract [Symbol.asyncIterator](): AsyncIterator<Item, undefined>;

  /** What the daemon granted. Who only loops gets the same errors there. @throws XenvifClientError */
  get opened(): Promise<OpenedFrames> {
    return this.#call.opened;
  }

  /** Losses so far. */
  get lost(): LostTotals {
    return this.#lost;
  }

  /** Changes which frames the stream takes, from now on and after a reconnect. */
  select(selection: FrameSelectionOptions): void {
    const { direction, filter, snaplen, sampleOneIn } = selection;
    this.#options = { ...this.#options, direction, filter, snaplen, sampleOneIn };
    this.#call.select(selection);
  }

  /** Ends the stream; a loop over it still gets what has been received, and then ends. */
  stop(): void {
    this.#stopping.abort();
    this.#call.stop();
  }

  /** Ends the stream at once; a loop over it ends without an error. */
  close(): void {
    this.#stopping.abort();
    this.#call.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  /** Batches, and in their places the losses, changes and reconnects. @throws XenvifClientError */
  async *events(): AsyncGenerator<ObservationEvent, undefined, undefined> {
    const backoff = new Backoff();
    let bootId: string | undefined;
    let isDown = false;
    try {
      for (;;) {
        try {
          const opened = await this.#call.opened;
          if (bootId !== undefined) {
            yield { type: 'reconnected', opened, sameBoot: bootId === opened.bootId };
          }
          bootId = opened.bootId;
          isDown = false;
          backoff.reset();
          for (;;) {
            const message = await this.#call.next();
            if (message === undefined) return undefined;
            const event = this.#event(message);
            if (event !== undefined) yield event;
          }
        } catch (error) {
          if (this.#stopping.signal.aborted) return undefined;
          if (bootId === undefined || !this.#mayResume(error)) throw error;
          if (this.#isComplete) return undefined;
          // Attempts that fail, too, are one loss of the connection.
          if (!isDown) {
            isDown = true;
            this.#lost.reconnects += 1;
            yield { type: 'disconnected', error };
          }
        }
        await pause(backoff.nextMs(), this.#anySignal());
        if (this.#stopping.signal.aborted) return undefined;
        this.#call = this.#openCall();
      }
    } finally {
      this.close();
    }
  }

  /** Batches alone. @throws XenvifClientError */
  async *batches(): AsyncGenerator<FrameBatchView, undefined, undefined> {
    for await (const event of this.events()) {
      if (event.type === 'batch') yield event.batch;
    }
  }

  get #isComplete(): boolean {
    const { maxFrames = 0 } = this.#options;
    return maxFrames > 0 && this.#frames >= maxFrames;
  }

  #openCall(): FrameCall {
    const { maxFrames = 0 } = this.#options;
    const rest = maxFrames === 0 ? 0 : maxFrames - this.#frames;
    return new FrameCall(this.#connection, this.#purpose, { ...this.#options, maxFrames: rest });
  }

  #event(message: FrameEventMessage): ObservationEvent | undefined {
    switch (message.type) {
      case 'batch':
        this.#frames += message.batch.count;
        return message;
      case 'lost':
        this.#lost.add(message.lost);
        this.#options.onLost?.(message.lost);
        return message;
      case 'status': {
        const { vifIndex, phase, reason } = message;
        return { type: 'status', vif: this.vifs[vifIndex] ?? '', phase, reason };
      }
      case 'results':
        return undefined;
    }
  }

  #mayResume(error: unknown): error is XenvifClientError {
    return isUnavailable(error) && (this.#options.reconnect ?? true);
  }

  #anySignal(): AbortSignal {
    const { signal } = this.#options;
    const stopping = this.#stopping.signal;
    return signal === undefined ? stopping : AbortSignal.any([signal, stopping]);
  }
}

/** Yields frame by frame. */
export class FrameObservation extends Observation<Frame> {
  [Symbol.asyncIterator](): AsyncIterator<Frame, undefined> {
    return new FrameIterator(this.batches(), this.vifs);
  }
}

/** Yields batches, to be walked by offsets: what a program that takes millions of frames wants. */
export class BatchObservation extends Observation<FrameBatchView> {
  [Symbol.asyncIterator](): AsyncIterator<FrameBatchView, undefined> {
    return this.batches();
  }
}

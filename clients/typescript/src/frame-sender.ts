/**
 * The sending half of a NIC: gathers the frames of one turn of the event loop into messages, says
 * when the transport has taken them, and matches the daemon's results with what was sent. While the
 * connection is broken, what the transport has not taken waits and is sent, in order, on the next.
 */
import { BatchEncoder, type EncodedBatch } from './batch-encoder.js';
import { Deferred } from './deferred.js';
import { XenvifClientError } from './errors.js';
import type { InjectionOutcome } from './frame-messages.js';

/** A message that has been handed to the call, or is being filled. */
interface PendingMessage {
  readonly accepted: Deferred<void>;
  readonly results: Deferred<readonly InjectionOutcome[]>;
}

/**
 * Bytes that are handed over before the event loop has its turn. HTTP/2 sends nothing before that: a
 * writer that never lets go fills all that may wait, and the daemon has nothing to do meanwhile.
 */
const ROUND_BYTES = 128 * 1024;

export interface FrameSenderOptions {
  /** Hands a message to the call. `onAccepted` runs when the transport has taken it. */
  readonly send: (message: Buffer, onAccepted: () => void) => void;
  /** Number the messages, so that the daemon's results can be told apart. */
  readonly withResults: boolean;
  /** Bytes of frames that may wait for the transport. */
  readonly queueBytes: number;
  /** Counts frames that the transport has taken. */
  readonly onSent: (frames: number, bytes: number) => void;
}

export class FrameSender {
  readonly #options: FrameSenderOptions;
  readonly #encoder = new BatchEncoder();
  /** Messages that the transport has not taken, in order. */
  readonly #inFlight = new Map<PendingMessage, EncodedBatch>();
  readonly #awaitingResults = new Map<number, PendingMessage>();
  #filling: PendingMessage | undefined;
  #queuedBytes = 0;
  #nextSequence = 1;
  #failure: XenvifClientError | undefined;
  #suspended = false;
  /** Bytes that were handed over in this round of the event loop, or since `drained` waited for one. */
  #roundBytes = 0;
  /** Counts connections: what an earlier one says of a message means nothing any more. */
  #connections = 0;

  constructor(options: FrameSenderOptions) {
    this.#options = options;
  }

  /** Bytes of frames that the transport has not taken. */
  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  /** Which frame of its message the frame is that was added last. */
  get lastIndex(): number {
    return this.#encoder.frameCount - 1;
  }

  /**
   * Adds a frame made of `parts`, `length` bytes together and of a length that is right. Answers the
   * message it is in.
   * @throws XenvifClientError SEND_QUEUE_FULL, and after the end whatever ended the call.
   */
  add(parts: readonly Uint8Array[], length: number): PendingMessage {
    const filling = this.#fill(length);
    const [first] = parts;
    if (parts.length === 1 && first !== undefined) this.#encoder.add(first);
    else this.#encoder.addParts(parts, length);
    return filling;
  }

  /**
   * Makes room for a frame of `length` bytes, which the caller writes into `bytes` at the place that
   * is answered, before the turn of the event loop is over.
   * @throws as `add`.
   */
  place(length: number): number {
    this.#fill(length);
    return this.#encoder.place(length);
  }

  /** The message being filled. */
  get bytes(): Buffer {
    return this.#encoder.bytes;
  }

  /** Settles when no more than `bytes` wait for the transport. @throws whatever ends the call. */
  async drained(bytes: number): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    while (this.#queuedBytes > bytes) {
      const [oldest = this.#filling] = this.#inFlight.keys();
      if (oldest === undefined) return;
      await oldest.accepted.promise;
    }
    if (this.#roundBytes >= ROUND_BYTES) await this.#nextRound();
  }

  async #nextRound(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    this.#roundBytes = 0;
  }

  /** The message that takes a frame of `length` bytes. */
  #fill(length: number): PendingMessage {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#queuedBytes + length > this.#options.queueBytes) throw queueFull();
    if (this.#encoder.isFull) this.flush();
    if (this.#filling === undefined) {
      this.#filling = { accepted: new Deferred(), results: new Deferred() };
      // After every promise of this turn has run: frames written one by one in a loop share a message.
      process.nextTick(() => this.flush());
    }
    this.#queuedBytes += length;
    return this.#filling;
  }

  /** Sends what has been gathered; while suspended, only makes room for more. */
  flush(): void {
    const pending = this.#filling;
    if (pending === undefined) return;
    // A message has memory for a full one: those that wait for a connection are full, or the last.
    if (this.#suspended && !this.#encoder.isFull) return;
    this.#filling = undefined;
    const batch = this.#encoder.finish(this.#options.withResults ? this.#nextSequence : 0);
    this.#inFlight.set(pending, batch);
    if (this.#options.withResults) this.#awaitingResults.set(this.#nextSequence, pending);
    this.#nextSequence += batch.frameCount;
    if (!this.#suspended) this.#send(pending, batch);
  }

  /**
   * The connection broke and another may follow. Results of what it had taken will never come: whoever
   * waits for them gets `failure`.
   */
  suspend(failure: XenvifClientError): void {
    this.#suspended = true;
    this.#connections += 1;
    for (const [sequence, pending] of this.#awaitingResults) {
      if (this.#inFlight.has(pending)) continue;
      this.#awaitingResults.delete(sequence);
      pending.results.reject(failure);
    }
  }

  /** There is another connection: what waits is sent on it. */
  resume(): void {
    this.#suspended = false;
    for (const [pending, batch] of this.#inFlight) this.#send(pending, batch);
    this.flush();
  }

  /** The daemon's results for the message that was numbered `firstSequence`. */
  settle(firstSequence: number, outcomes: readonly InjectionOutcome[]): void {
    this.#awaitingResults.get(firstSequence)?.results.resolve(outcomes);
    this.#awaitingResults.delete(firstSequence);
  }

  /** The call is over: nothing that waits will ever be taken. */
  end(failure: XenvifClientError): void {
    if (this.#failure !== undefined) return;
    this.#failure = failure;
    const pending = [...this.#inFlight.keys(), ...this.#awaitingResults.values()];
    if (this.#filling !== undefined) pending.push(this.#filling);
    this.#filling = undefined;
    for (const { accepted, results } of pending) {
      accepted.reject(failure);
      results.reject(failure);
    }
  }

  #send(pending: PendingMessage, batch: EncodedBatch): void {
    const connection = this.#connections;
    this.#roundBytes += batch.byteCount;
    this.#options.send(batch.message, () => {
      if (connection === this.#connections) this.#accept(pending, batch);
    });
  }

  #accept(pending: PendingMessage, batch: EncodedBatch): void {
    this.#inFlight.delete(pending);
    this.#queuedBytes -= batch.byteCount;
    this.#options.onSent(batch.frameCount, batch.byteCount);
    batch.release();
    pending.accepted.resolve();
  }
}

function queueFull(): XenvifClientError {
  const message = 'Too many frames wait to be sent: wait for the promises of earlier writes.';
  return new XenvifClientError('SEND_QUEUE_FULL', 'RESOURCE_EXHAUSTED', message);
}

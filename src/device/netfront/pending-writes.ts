/**
 * Frames whose writers wait: for the backend to be connected, or for room on the ring. They go in
 * the order in which they were written, and a write never overtakes one that waits. They wait on
 * our own heap, not in memory for Xen, so that a resume on another Xen loses none.
 */
import { type DisconnectedError, ResourceExhaustedError } from '../../errors.js';
import { WriteOutcome } from '../network.js';
import { frameTooLong } from '../single-frame.js';

const FRAMES_MAX = 8192;
const BYTES_MAX = 16 * 1024 * 1024;

interface PendingWrite {
  readonly frame: Uint8Array;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class PendingWrites {
  readonly #send: (frame: Uint8Array) => WriteOutcome;
  #writes: PendingWrite[] = [];
  /** How many of `#writes` are done. */
  #done = 0;
  #bytes = 0;
  #isFlushing = false;

  constructor(send: (frame: Uint8Array) => WriteOutcome) {
    this.#send = send;
  }

  get count(): number {
    return this.#writes.length - this.#done;
  }

  /**
   * Lets a frame wait; it is the caller's no more.
   * @throws ResourceExhaustedError WRITES_PENDING when too many wait already.
   */
  add(frame: Uint8Array): Promise<void> {
    if (this.count >= FRAMES_MAX || this.#bytes + frame.length > BYTES_MAX) {
      const message = `${this.count} frames wait already; await a write before the next.`;
      throw new ResourceExhaustedError('WRITES_PENDING', message);
    }
    this.#bytes += frame.length;
    return new Promise((resolve, reject) => {
      this.#writes.push({ frame, resolve, reject });
    });
  }

  /** Sends what waits, as far as there is room. */
  flush(): void {
    if (this.#isFlushing) return;
    this.#isFlushing = true;
    for (let next = this.#head(); next !== undefined; next = this.#head()) {
      let outcome: WriteOutcome;
      try {
        outcome = this.#send(next.frame);
      } catch (error) {
        this.#shift();
        next.reject(error);
        continue;
      }
      if (outcome === WriteOutcome.queueFull || outcome === WriteOutcome.notConnected) break;
      this.#shift();
      if (outcome === WriteOutcome.accepted) next.resolve();
      else next.reject(frameTooLong());
    }
    this.#isFlushing = false;
  }

  rejectAll(error: DisconnectedError): void {
    for (let next = this.#head(); next !== undefined; next = this.#head()) {
      this.#shift();
      next.reject(error);
    }
  }

  #head(): PendingWrite | undefined {
    return this.#writes[this.#done];
  }

  #shift(): void {
    this.#bytes -= this.#head()?.frame.length ?? 0;
    this.#done += 1;
    // The done ones are let go of now and then: each time would cost as much as there are others.
    if (this.#done * 2 < this.#writes.length) return;
    this.#writes = this.#writes.slice(this.#done);
    this.#done = 0;
  }
}

/**
 * Who works when: queues take turns, first come, first served, and all of them together have a slice of
 * each round of the event loop. What does not fit waits for the next round, so that between two slices
 * timers, clients and the watches of XenStore come to their right, however many guests are busy.
 *
 * A turn that is asked for while there is time begins at once: an event need not wait for a round.
 */

/** The slice of a round, in milliseconds: some thousand frames, and what a client waits for at most. */
const SLICE_MS = 1;

/** The clock and the event loop, for tests. */
export interface TurnsHost {
  readonly nowMs: () => number;
  /** Calls back once in the next round of the event loop. */
  readonly nextRound: (callback: () => void) => void;
}

const eventLoop: TurnsHost = {
  nowMs: () => performance.now(),
  nextRound: (callback) => {
    setImmediate(callback);
  },
};

export class Turns {
  readonly #host: TurnsHost;
  #waiting: (() => void)[] = [];
  /** Turns of `#waiting` that have begun. */
  #begun = 0;
  #sliceEndMs = 0;
  /** A slice has begun, and the next round will be told of its end. */
  #isInSlice = false;
  readonly #onRound = () => this.#round();

  constructor(host: TurnsHost = eventLoop) {
    this.#host = host;
  }

  /** Has a turn taken: within this call, unless others wait or the slice is over. It must not throw. */
  take(turn: () => void): void {
    const isFirst = !this.#isInSlice;
    if (isFirst) this.#beginSlice();
    // Where a slice begins nobody waits.
    if (isFirst || (this.#begun === this.#waiting.length && this.isTime)) turn();
    else this.#waiting.push(turn);
  }

  /** Has a turn taken in the next round or a later one, behind all others that wait. */
  takeLater(turn: () => void): void {
    if (!this.#isInSlice) this.#beginSlice();
    this.#waiting.push(turn);
  }

  #beginSlice(): void {
    this.#isInSlice = true;
    this.#sliceEndMs = this.#host.nowMs() + SLICE_MS;
    this.#host.nextRound(this.#onRound);
  }

  /** Whether who has a turn may go on with it: the slice is not over. */
  get isTime(): boolean {
    return this.#host.nowMs() < this.#sliceEndMs;
  }

  #round(): void {
    this.#isInSlice = false;
    if (this.#waiting.length === 0) return;
    this.#beginSlice();
    // Whoever asks again in its turn is not among these.
    const end = this.#waiting.length;
    do {
      const turn = this.#waiting[this.#begun] as () => void;
      this.#begun += 1;
      turn();
    } while (this.#begun < end && this.isTime);
    this.#waiting.splice(0, this.#begun);
    this.#begun = 0;
  }
}

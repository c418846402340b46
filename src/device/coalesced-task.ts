/**
 * Work that is asked for more often than it needs to be done: one run at a time, and one more after
 * it when somebody asked meanwhile. A flood of watches costs a run, not a run each.
 */
export class CoalescedTask {
  readonly #run: () => Promise<void>;
  readonly #onError: (error: unknown) => void;
  #running: Promise<void> | undefined;
  #again = false;
  #stopped = false;

  constructor(run: () => Promise<void>, onError: (error: unknown) => void) {
    this.#run = run;
    this.#onError = onError;
  }

  /** Has the work done, now or as soon as the run under way is over. */
  request(): void {
    if (this.#stopped) return;
    this.#again = true;
    this.#running ??= this.#runUntilCalm();
  }

  /** Resolves when nothing is under way and nothing is asked for. */
  async settled(): Promise<void> {
    await this.#running;
  }

  /** No further run begins; one that is under way goes on to its end. */
  stop(): void {
    this.#stopped = true;
  }

  async #runUntilCalm(): Promise<void> {
    while (this.#again && !this.#stopped) {
      this.#again = false;
      try {
        await this.#run();
      } catch (error) {
        this.#onError(error);
      }
    }
    // In the same step as the last look at #again, so that no request falls in between.
    this.#running = undefined;
  }
}

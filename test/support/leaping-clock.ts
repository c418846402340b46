/**
 * The real time, which may be made to leap: what a stack would do in the minutes to come, it does at
 * once. For tests that show that nothing is left behind for ever.
 */
import { type Clock, monotonicClock } from '@xenvif/client/stack';

interface Wake {
  readonly atMs: number;
  readonly run: () => void;
  readonly cancel: () => void;
}

export class LeapingClock implements Clock {
  readonly #wakes = new Set<Wake>();
  #leaptMs = 0;

  nowMs(): number {
    return monotonicClock.nowMs() + this.#leaptMs;
  }

  wake(delayMs: number, run: () => void, keepsAlive?: boolean): () => void {
    const onTime = () => {
      this.#wakes.delete(wake);
      run();
    };
    const cancel = monotonicClock.wake(delayMs, onTime, keepsAlive);
    const wake: Wake = { atMs: this.nowMs() + delayMs, run, cancel };
    this.#wakes.add(wake);
    return () => {
      this.#wakes.delete(wake);
      cancel();
    };
  }

  /** Lets so many milliseconds pass at once, with all that is due in them, in its order. */
  leap(ms: number): void {
    const endMs = this.nowMs() + ms;
    for (;;) {
      const next = [...this.#wakes].reduce<Wake | undefined>(
        (first, wake) => (first === undefined || wake.atMs < first.atMs ? wake : first),
        undefined,
      );
      if (next === undefined || next.atMs > endMs) break;
      this.#wakes.delete(next);
      next.cancel();
      this.#leaptMs += Math.max(0, next.atMs - this.nowMs());
      next.run();
    }
    this.#leaptMs += Math.max(0, endMs - this.nowMs());
  }
}

/** Time that passes when a test says so: wakes come in order, each at its own time. */
import type { Clock } from '@xenvif/client/stack';

interface Wake {
  readonly atMs: number;
  readonly order: number;
  readonly run: () => void;
}

export class VirtualClock implements Clock {
  #nowMs = 1_000_000;
  #order = 0;
  readonly #wakes = new Set<Wake>();

  get pending(): number {
    return this.#wakes.size;
  }

  nowMs(): number {
    return this.#nowMs;
  }

  wake(delayMs: number, run: () => void): () => void {
    this.#order += 1;
    const wake = { atMs: this.#nowMs + delayMs, order: this.#order, run };
    this.#wakes.add(wake);
    return () => this.#wakes.delete(wake);
  }

  /** Lets `ms` pass, and promises run between wakes. */
  async pass(ms: number): Promise<void> {
    const endMs = this.#nowMs + ms;
    await settle();
    while (this.step(endMs)) await settle();
    this.#nowMs = endMs;
    await settle();
  }

  /** Goes to the next wake, at most to `endMs`, and runs it; false where there is none. */
  step(endMs = Number.POSITIVE_INFINITY): boolean {
    let next: Wake | undefined;
    for (const wake of this.#wakes) {
      const isEarlier = next === undefined || wake.atMs < next.atMs;
      if (isEarlier || (wake.atMs === next?.atMs && wake.order < next.order)) next = wake;
    }
    if (next === undefined || next.atMs > endMs) return false;
    this.#wakes.delete(next);
    this.#nowMs = Math.max(this.#nowMs, next.atMs);
    next.run();
    return true;
  }
}

/** Lets all that is due in this turn of the event loop happen. */
export function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

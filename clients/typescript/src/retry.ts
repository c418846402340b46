/** How the SDK tries again: exponential backoff with jitter, ended by a signal. */

const FIRST_DELAY_MS = 100;
const LONGEST_DELAY_MS = 5_000;

/** Delays between attempts: 100 ms, doubled each time up to 5 s, each shortened by up to half. */
export class Backoff {
  #delayMs = FIRST_DELAY_MS;

  /** How long to wait before the next attempt. The jitter keeps clients from coming all at once. */
  nextMs(): number {
    const delayMs = this.#delayMs;
    this.#delayMs = Math.min(delayMs * 2, LONGEST_DELAY_MS);
    return delayMs * (0.5 + Math.random() / 2);
  }

  /** The attempt succeeded: the next trouble starts from the shortest delay. */
  reset(): void {
    this.#delayMs = FIRST_DELAY_MS;
  }
}

/** Waits. Returns early, without an error, once `signal` is aborted. */
export function pause(delayMs: number, signal?: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const finish = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', finish);
      resolve();
    };
    const timer = setTimeout(finish, delayMs);
    signal?.addEventListener('abort', finish, { once: true });
  });
}

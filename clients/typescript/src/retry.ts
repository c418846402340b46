/** How the SDK tries again: exponential backoff with jitter, ended by a signal. */
import { isUnavailable } from './errors.js';

const FIRST_DELAY_MS = 100;
const LONGEST_DELAY_MS = 5_000;
/** How often a call is made before its failure is the caller's. */
const ATTEMPTS = 4;

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

/** Makes a call that may be repeated; again, a few times, while the daemon is not available. */
export async function retrying<T>(
  signal: AbortSignal | undefined,
  call: () => Promise<T>,
): Promise<T> {
  const backoff = new Backoff();
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await call();
    } catch (error) {
      if (attempt === ATTEMPTS || !isUnavailable(error)) throw error;
    }
    await pause(backoff.nextMs(), signal);
  }
}

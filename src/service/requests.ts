/** Calls that are safe to repeat: what was done for a request_id is answered again, and not done. */
import { createHash } from 'node:crypto';
import { AlreadyExistsError } from '../errors.js';
import { checkRequestId } from './validate.js';

const REQUESTS_MAX = 1000;
const TTL_MS = 600_000;

interface Remembered<Response> {
  readonly digest: string;
  readonly response: Promise<Response>;
  readonly expiresMs: number;
}

export class RepeatableRequests<Response> {
  readonly #requests = new Map<string, Remembered<Response>>();

  /**
   * Runs `run`, or answers what it did for an earlier call with the same id. `content` is the
   * whole request. What failed is forgotten, and may be tried again.
   * @throws InvalidArgumentError REQUEST_ID_INVALID; AlreadyExistsError REQUEST_ID_REUSED.
   */
  async once(
    requestId: string,
    content: Uint8Array,
    run: (isRepeatable: boolean) => Promise<Response>,
  ): Promise<Response> {
    const id = checkRequestId(requestId);
    if (id === '') return await run(false);
    const digest = createHash('sha256').update(content).digest('hex');
    const nowMs = performance.now();
    for (const [key, old] of this.#requests) {
      if (old.expiresMs < nowMs || this.#requests.size >= REQUESTS_MAX) this.#requests.delete(key);
    }
    const known = this.#requests.get(id);
    if (known !== undefined && known.digest !== digest) {
      const text = 'This request_id was used for another request.';
      throw new AlreadyExistsError('REQUEST_ID_REUSED', text);
    }
    if (known !== undefined) return await known.response;
    const response = run(true);
    this.#requests.set(id, { digest, response, expiresMs: nowMs + TTL_MS });
    response.catch(() => this.#requests.delete(id));
    return await response;
  }
}

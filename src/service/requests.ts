/** Calls that are safe to repeat: what was done for a request_id is answered again, and not done. */
import { createHash } from 'node:crypto';
import { AlreadyExistsError } from '../errors.js';
import { checkRequestId } from './validate.js';

const REQUESTS_MAX = 1000;
const TTL_MS = 600_000;
const DIGEST_LENGTH = 32;

interface Remembered<Response> {
  readonly digest: string;
  readonly response: Promise<Response>;
  readonly expiresMs: number;
}

/**
 * A request as it is kept beside what it made, where a daemon that starts finds it: digests, for the
 * id is the caller's secret as much as it likes.
 */
export class RepeatableRequest {
  /** As it is kept. */
  readonly text: string;
  readonly #id: string;

  constructor(id: string, digest: string) {
    this.#id = digestOf(Buffer.from(id)).slice(0, DIGEST_LENGTH);
    this.text = `${this.#id} ${digest.slice(0, DIGEST_LENGTH)}`;
  }

  /**
   * Whether what was kept as `text` was made by this very request.
   * @throws AlreadyExistsError REQUEST_ID_REUSED when it was by another with the same id.
   */
  isOf(text: string | undefined): boolean {
    if (text === undefined || text.split(' ')[0] !== this.#id) return false;
    if (text === this.text) return true;
    throw reused();
  }
}

function digestOf(content: Uint8Array): string {
  return createHash('sha256').update(content).digest('hex');
}

function reused(): AlreadyExistsError {
  const text = 'This request_id was used for another request.';
  return new AlreadyExistsError('REQUEST_ID_REUSED', text);
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
    run: (request: RepeatableRequest | undefined) => Promise<Response>,
  ): Promise<Response> {
    const id = checkRequestId(requestId);
    if (id === '') return await run(undefined);
    const digest = digestOf(content);
    const nowMs = performance.now();
    for (const [key, old] of this.#requests) {
      if (old.expiresMs < nowMs || this.#requests.size >= REQUESTS_MAX) this.#requests.delete(key);
    }
    const known = this.#requests.get(id);
    if (known !== undefined && known.digest !== digest) throw reused();
    if (known !== undefined) return await known.response;
    const response = run(new RepeatableRequest(id, digest));
    this.#requests.set(id, { digest, response, expiresMs: nowMs + TTL_MS });
    response.catch(() => this.#requests.delete(id));
    return await response;
  }
}

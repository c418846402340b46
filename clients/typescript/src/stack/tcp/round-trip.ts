/** The retransmission timeout (RFC 6298): from smoothed round-trip times and their variation. */

/** RFC 6298 says one second; that is what everybody has left, for paths are faster now. */
export const RTO_MIN_MS = 200;
export const RTO_MAX_MS = 60_000;
const RTO_FIRST_MS = 1_000;

export class RoundTrip {
  /** 0 before the first sample. */
  smoothedMs = 0;
  minMs = Number.POSITIVE_INFINITY;
  #variationMs = 0;
  #timeoutMs = RTO_FIRST_MS;
  #doublings = 0;

  /** How long to wait for an acknowledgement now. */
  get timeoutMs(): number {
    return Math.min(RTO_MAX_MS, this.#timeoutMs * 2 ** this.#doublings);
  }

  /** How often in a row nothing was heard. */
  get doublings(): number {
    return this.#doublings;
  }

  /** A segment that was sent once was acknowledged after so long (Karn's rule is the caller's). */
  sample(roundTripMs: number): void {
    this.minMs = Math.min(this.minMs, roundTripMs);
    if (this.smoothedMs === 0) {
      this.smoothedMs = Math.max(roundTripMs, 0.001);
      this.#variationMs = roundTripMs / 2;
    } else {
      const error = Math.abs(this.smoothedMs - roundTripMs);
      this.#variationMs += (error - this.#variationMs) / 4;
      this.smoothedMs += (roundTripMs - this.smoothedMs) / 8;
    }
    this.#timeoutMs = Math.max(RTO_MIN_MS, this.smoothedMs + 4 * this.#variationMs);
    this.#doublings = 0;
  }

  backOff(): void {
    this.#doublings += 1;
  }

  /** Something new was acknowledged, whether or not it says how long it took. */
  progress(): void {
    this.#doublings = 0;
  }
}

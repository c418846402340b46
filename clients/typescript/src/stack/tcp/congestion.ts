/**
 * CUBIC congestion control (RFC 9438) with slow start (RFC 5681): how many bytes may be in flight.
 * Times are in milliseconds, windows in bytes.
 */
const BETA = 0.7;
const C = 0.4;
/** RFC 6928. */
const INITIAL_SEGMENTS = 10;
/** Adds as fast as Reno would with the same loss rate. */
const RENO_SHARE = (3 * (1 - BETA)) / (1 + BETA);

export class Congestion {
  windowBytes: number;
  #thresholdBytes = Number.POSITIVE_INFINITY;
  #segmentBytes: number;
  /** Where the window was when the last loss came. */
  #lastMaxBytes = 0;
  #epochMs = -1;
  #epochWindowBytes = 0;
  /** Seconds from the epoch until the window is where it was. */
  #secondsToMax = 0;
  #renoBytes = 0;
  /** What was before the last slow-down. */
  #before = { windowBytes: 0, thresholdBytes: 0, lastMaxBytes: 0 };

  constructor(segmentBytes: number) {
    this.#segmentBytes = segmentBytes;
    this.windowBytes = initialWindow(segmentBytes);
  }

  get isSlowStart(): boolean {
    return this.windowBytes < this.#thresholdBytes;
  }

  setSegmentBytes(segmentBytes: number, isFirst: boolean): void {
    this.#segmentBytes = segmentBytes;
    if (isFirst) this.windowBytes = initialWindow(segmentBytes);
  }

  /** New bytes were acknowledged while the window was what held us back. */
  onAcknowledged(bytes: number, nowMs: number, roundTripMs: number): void {
    if (this.isSlowStart) {
      this.windowBytes += Math.min(bytes, this.#thresholdBytes - this.windowBytes);
      return;
    }
    if (this.#epochMs < 0) this.#beginEpoch(nowMs);
    const segment = this.#segmentBytes;
    const seconds = (nowMs + roundTripMs - this.#epochMs) / 1000;
    const target = this.#lastMaxBytes + C * segment * (seconds - this.#secondsToMax) ** 3;
    this.#renoBytes += (RENO_SHARE * segment * bytes) / this.windowBytes;
    if (target > this.windowBytes) {
      const step = Math.min(target, 1.5 * this.windowBytes) - this.windowBytes;
      this.windowBytes += (step * bytes) / this.windowBytes;
    }
    this.windowBytes = Math.max(this.windowBytes, this.#renoBytes);
  }

  /** Something was lost and will be repaired by what is acknowledged. */
  onLoss(): void {
    this.#reduce();
    this.windowBytes = this.#thresholdBytes;
  }

  /** Nothing was heard for too long: begin anew. */
  onTimeout(isFirst: boolean): void {
    if (isFirst) this.#reduce();
    this.windowBytes = this.#segmentBytes;
  }

  /** Nothing was sent for a while: what the path takes now is not known (RFC 5681, section 4.1). */
  onIdle(): void {
    this.windowBytes = Math.min(this.windowBytes, initialWindow(this.#segmentBytes));
    this.#epochMs = -1;
  }

  /** The last slow-down was for nothing (RFC 4015, section 3.4). */
  takeBack(): void {
    const { windowBytes, thresholdBytes, lastMaxBytes } = this.#before;
    this.windowBytes = Math.max(this.windowBytes, windowBytes);
    this.#thresholdBytes = thresholdBytes;
    this.#lastMaxBytes = lastMaxBytes;
    this.#epochMs = -1;
  }

  #reduce(): void {
    this.#before = {
      windowBytes: this.windowBytes,
      thresholdBytes: this.#thresholdBytes,
      lastMaxBytes: this.#lastMaxBytes,
    };
    const isShrinking = this.windowBytes < this.#lastMaxBytes;
    this.#lastMaxBytes = this.windowBytes * (isShrinking ? (1 + BETA) / 2 : 1);
    this.#thresholdBytes = Math.max(this.windowBytes * BETA, 2 * this.#segmentBytes);
    this.#epochMs = -1;
  }

  #beginEpoch(nowMs: number): void {
    this.#epochMs = nowMs;
    this.#epochWindowBytes = this.windowBytes;
    this.#renoBytes = this.windowBytes;
    this.#lastMaxBytes = Math.max(this.#lastMaxBytes, this.windowBytes);
    const gap = (this.#lastMaxBytes - this.#epochWindowBytes) / this.#segmentBytes;
    this.#secondsToMax = Math.cbrt(Math.max(0, gap) / C);
  }
}

function initialWindow(segmentBytes: number): number {
  return Math.min(INITIAL_SEGMENTS * segmentBytes, Math.max(2 * segmentBytes, 14_600));
}

/**
 * Which segments are lost: RACK (RFC 8985), by time. What was sent before something that has arrived,
 * and is later than reordering explains, is lost; retransmissions are judged in the same way.
 */
import type { DeliveryObserver, SentSegments } from './sent-segments.js';
import { isBefore, laterOf } from './sequence.js';

const DUPLICATES_MAX = 3;
/** How often the reordering window may be widened by what was sent in vain. */
const WIDENINGS_MAX = 16;
/** Recoveries in which nothing was sent in vain, until the window is narrow again (RFC 8985, 6.2). */
const RECOVERIES_UNTIL_NARROW = 16;

export class LossDetection implements DeliveryObserver {
  /** When the segment was sent that was sent last of all that arrived; its end and round trip. */
  #sentMs = Number.NEGATIVE_INFINITY;
  #end = 0;
  #roundTripMs = 0;
  /** The highest byte that arrived. */
  #highestEnd = 0;
  #hasDelivered = false;
  #minMs = Number.POSITIVE_INFINITY;
  #nowMs = 0;
  #reorderingSeen = false;
  #widenings = 1;
  #recoveriesLeft = 0;
  /** The round trip of the last segment that was sent once; negative: none since `begin`. */
  sampleMs = -1;

  /** An acknowledgement has come: what it says is told by `delivered`. */
  begin(nowMs: number): void {
    this.#nowMs = nowMs;
    this.sampleMs = -1;
  }

  delivered(end: number, sentMs: number, wasRetransmitted: boolean): void {
    const roundTripMs = this.#nowMs - sentMs;
    if (!this.#hasDelivered) this.#highestEnd = end;
    this.#hasDelivered = true;
    if (wasRetransmitted) {
      // Faster than ever: it was the first one that arrived.
      if (roundTripMs < this.#minMs) return;
    } else {
      this.sampleMs = roundTripMs;
      this.#minMs = Math.min(this.#minMs, roundTripMs);
      if (isBefore(end, this.#highestEnd)) this.#reorderingSeen = true;
    }
    this.#highestEnd = laterOf(this.#highestEnd, end);
    if (sentMs < this.#sentMs) return;
    if (sentMs === this.#sentMs && isBefore(end, this.#end)) return;
    this.#sentMs = sentMs;
    this.#end = end;
    this.#roundTripMs = roundTripMs;
  }

  /** We were too quick to take something for lost: it was only late. */
  onReordering(): void {
    this.#reorderingSeen = true;
    this.#recoveriesLeft = RECOVERIES_UNTIL_NARROW;
    this.#widenings = Math.min(WIDENINGS_MAX, this.#widenings + 1);
  }

  /** Something was lost, and is being sent again. */
  onRecovery(): void {
    if (this.#recoveriesLeft === 0) return;
    this.#recoveriesLeft -= 1;
    if (this.#recoveriesLeft === 0) this.#widenings = 1;
  }

  /**
   * Marks what is lost. Answers when, in milliseconds from now, something else may turn out to be; 0:
   * never.
   */
  detect(sent: SentSegments, smoothedMs: number, isRecovering: boolean): number {
    if (!this.#hasDelivered) return 0;
    const windowMs = this.#reorderingWindowMs(sent, smoothedMs, isRecovering);
    let waitMs = 0;
    for (let record = sent.first; record < sent.end; record += 1) {
      const end = sent.endOf(record);
      // Records behind the highest that arrived were sent later than it, but for those sent again.
      if (isBefore(this.#highestEnd, end) && !sent.wasRetransmitted(record)) break;
      if (!sent.isInFlight(record)) continue;
      const sentMs = sent.sentMs(record);
      const wasSentBefore =
        sentMs < this.#sentMs || (sentMs === this.#sentMs && isBefore(end, this.#end));
      if (!wasSentBefore) continue;
      const remainingMs = sentMs + this.#roundTripMs + windowMs - this.#nowMs;
      if (remainingMs <= 0) sent.markLost(record);
      else waitMs = Math.max(waitMs, remainingMs);
    }
    return waitMs;
  }

  #reorderingWindowMs(sent: SentSegments, smoothedMs: number, isRecovering: boolean): number {
    if (!this.#reorderingSeen && (isRecovering || sent.sackedCount >= DUPLICATES_MAX)) return 0;
    return Math.min((this.#widenings * this.#minMs) / 4, smoothedMs);
  }
}

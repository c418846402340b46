/** `RateLimit` of the contract, with plain units. */
import { durationFromMs, msFromDuration } from './duration.js';
import type { RateLimit as WireRateLimit } from './gen/xenvif/v1/vif.js';

/** A token bucket: the limit on what a guest, or a port, may send. */
export interface RateLimit {
  readonly bytesPerInterval: bigint;
  /** 1 to 1000 ms. */
  readonly intervalMs: number;
}

/** What xl uses where nobody says anything, in milliseconds. */
const DEFAULT_INTERVAL_MS = 50;

export function rateToWire({ bytesPerInterval, intervalMs }: RateLimit): WireRateLimit {
  return { bytesPerInterval, interval: durationFromMs(intervalMs) };
}

export function rateFromWire({ bytesPerInterval, interval }: WireRateLimit): RateLimit {
  const intervalMs = interval === undefined ? DEFAULT_INTERVAL_MS : msFromDuration(interval);
  return { bytesPerInterval, intervalMs };
}

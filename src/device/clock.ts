/**
 * The clock of frames: nanoseconds since 1970 that advance with CLOCK_MONOTONIC from where
 * CLOCK_REALTIME was at start, so that two timestamps of one run always have their true distance.
 */
const realtimeAtStartNs = BigInt(Date.now()) * 1_000_000n;
const monotonicAtStartNs = process.hrtime.bigint();

/** Now, in nanoseconds since 1970. */
export function frameTimeNs(): bigint {
  return realtimeAtStartNs + (process.hrtime.bigint() - monotonicAtStartNs);
}

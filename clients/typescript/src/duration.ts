/** `google.protobuf.Duration` as milliseconds. */
import type { Duration } from './gen/google/protobuf/duration.js';

/** Makes a Duration, exact to a microsecond. */
export function durationFromMs(ms: number): Duration {
  const microseconds = Math.round(ms * 1_000);
  const seconds = Math.trunc(microseconds / 1_000_000);
  return { seconds: BigInt(seconds), nanos: (microseconds - seconds * 1_000_000) * 1_000 };
}

/** Milliseconds, with a fraction where there is one. */
export function msFromDuration(duration: Duration): number {
  return Number(duration.seconds) * 1_000 + duration.nanos / 1_000_000;
}

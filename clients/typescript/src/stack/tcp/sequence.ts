/** Sequence numbers (RFC 9293, section 3.4): 32 bits that wrap, ordered by their distance. */

/** Whether `a` comes before `b`. */
export function isBefore(a: number, b: number): boolean {
  return ((a - b) | 0) < 0;
}

/** How far `b` is behind `a`; negative where it is before. */
export function distance(a: number, b: number): number {
  return (b - a) | 0;
}

export function laterOf(a: number, b: number): number {
  return isBefore(a, b) ? b : a;
}

/** `sequence` and so many on. */
export function advance(sequence: number, by: number): number {
  return (sequence + by) | 0;
}

/** Tests of the lab have a short form, which every check runs, and a long one for XENVIF_SOAK=1. */
export const isSoak = process.env['XENVIF_SOAK'] === '1';

/** One of two: what the short form has, or the soak. */
export function rounds<T>(short: T, soak: T): T {
  return isSoak ? soak : short;
}

/** A test's own limit: emulation is slow, and slower beside other work. */
export function patienceMs(roundsOfIt: number, eachMs = 120_000): number {
  return 120_000 + roundsOfIt * eachMs;
}

/** The limit of a file's preparation: three guests, one after the other, on a busy machine. */
export const PREPARATION_MS = 900_000;

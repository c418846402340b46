/** Fault injection: lets every Nth operation of a kind fail the way Xen would let it fail. */

/** For each kind of operation: 1 fails each, 2 every second, and so on; absent never fails. */
export interface FaultRates {
  readonly grantMap?: number;
  /** Counted in segments; the segment gets GNTST_general_error. */
  readonly grantCopy?: number;
  readonly share?: number;
  readonly bind?: number;
  readonly allocate?: number;
}

export type FaultKind = keyof FaultRates;

export class Faults {
  /**
   * Runs before each segment of a grant copy that has bytes, with the segment's number: what other
   * processors may do while one of them copies.
   */
  duringCopy: ((segment: number) => void) | undefined;
  /** Whether anything is to fail. */
  isActive = false;
  #rates: FaultRates = {};
  readonly #counts: Record<FaultKind, number> = {
    grantMap: 0,
    grantCopy: 0,
    share: 0,
    bind: 0,
    allocate: 0,
  };

  /** Replaces all rates and starts every count anew; `{}` ends the injection. */
  set(rates: FaultRates): void {
    this.#rates = rates;
    this.isActive = Object.keys(rates).length > 0;
    for (const kind of Object.keys(this.#counts) as FaultKind[]) this.#counts[kind] = 0;
  }

  /** Counts one operation, and tells whether it must fail. */
  strikes(kind: FaultKind): boolean {
    const rate = this.#rates[kind];
    if (rate === undefined) return false;
    this.#counts[kind] += 1;
    return this.#counts[kind] % rate === 0;
  }
}

/**
 * Which multicast frames a guest wants (xen/io/netif.h, feature-multicast-control): while the filter
 * is on, only those to addresses that the guest has added. Broadcast and unicast always pass.
 */

/** As many addresses as Linux's netback keeps: XEN_NETBK_MCAST_MAX. */
const ADDRESSES_MAX = 64;

export class MulticastFilter {
  /** The sampled value of request-multicast-control. */
  enabled: boolean;
  /**
   * The list is not the guest's whole list: a daemon before us had it, and the guest will not say it
   * again. Then every multicast frame passes, for one too many is better than one too few.
   */
  readonly #incomplete: boolean;
  readonly #addresses = new Set<number>();

  /** `adopted`: a daemon before us had the list; `kept` is what it left of it. */
  constructor(enabled: boolean, adopted: boolean, kept?: readonly number[]) {
    this.enabled = enabled;
    this.#incomplete = adopted && kept === undefined;
    for (const address of kept ?? []) this.#addresses.add(address);
  }

  /** What the next daemon is to know; undefined where there is nothing, or not all of it is known. */
  keep(): number[] | undefined {
    if (this.#incomplete || !(this.enabled || this.#addresses.size > 0)) return undefined;
    return [...this.#addresses];
  }

  /** Adds an address; false when the list is full. */
  add(high: number, low: number): boolean {
    const address = keyOf(high, low);
    if (!this.#addresses.has(address) && this.#addresses.size >= ADDRESSES_MAX) return false;
    this.#addresses.add(address);
    return true;
  }

  delete(high: number, low: number): void {
    this.#addresses.delete(keyOf(high, low));
  }

  /** Whether the frame at `offset` may go to the guest. */
  passes(bytes: Uint8Array, offset: number): boolean {
    if (!this.enabled || this.#incomplete) return true;
    if (((bytes[offset] as number) & 1) === 0) return true;
    const high = ((bytes[offset] as number) << 8) | (bytes[offset + 1] as number);
    const low =
      (((bytes[offset + 2] as number) << 24) |
        ((bytes[offset + 3] as number) << 16) |
        ((bytes[offset + 4] as number) << 8) |
        (bytes[offset + 5] as number)) >>>
      0;
    if (high === 0xffff && low === 0xffffffff) return true;
    return this.#addresses.has(keyOf(high, low));
  }
}

/** An address as one number below 2^48. */
function keyOf(high: number, low: number): number {
  return high * 0x1_0000_0000 + low;
}

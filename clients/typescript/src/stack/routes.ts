/** Which neighbour a packet goes to: the longest prefix that the destination has (RFC 1812, 5.2.4.3). */
import { maskOf } from './address.js';

export interface Route {
  readonly prefix: number;
  readonly prefixBits: number;
  /** The router; 0: the destination is on the link itself. */
  readonly gateway: number;
}

export class RouteTable {
  /** Longest prefix first; of equal ones the first that was added. */
  #routes: readonly Route[] = [];

  get routes(): readonly Route[] {
    return this.#routes;
  }

  replace(routes: readonly Route[]): void {
    // A sort keeps the order of equals.
    this.#routes = [...routes].sort((a, b) => b.prefixBits - a.prefixBits);
  }

  /** The neighbour's address on the way to `destination`; undefined where none leads there. */
  nextHop(destination: number): number | undefined {
    for (const { prefix, prefixBits, gateway } of this.#routes) {
      if (((destination ^ prefix) & maskOf(prefixBits)) !== 0) continue;
      return gateway === 0 ? destination : gateway;
    }
    return undefined;
  }
}

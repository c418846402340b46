/** The MTU of paths that are narrower than the link (RFC 1191): learnt from routers, forgotten by age. */
import type { Clock } from './clock.js';
import { PATH_MTU_AGE_MS, PATH_MTU_MIN, PATH_MTUS_MAX } from './limits.js';

interface PathMtu {
  readonly mtu: number;
  readonly learntMs: number;
}

export class PathMtuCache {
  readonly #clock: Clock;
  readonly #byDestination = new Map<number, PathMtu>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get size(): number {
    return this.#byDestination.size;
  }

  /** How much fits on the way to `destination`, at most `linkMtu`. */
  lookUp(destination: number, linkMtu: number): number {
    // Most stacks never learn any, and this is asked for each connection's turn.
    if (this.#byDestination.size === 0) return linkMtu;
    const path = this.#byDestination.get(destination);
    if (path === undefined) return linkMtu;
    if (this.#clock.nowMs() - path.learntMs > PATH_MTU_AGE_MS) {
      this.#byDestination.delete(destination);
      return linkMtu;
    }
    return Math.min(linkMtu, path.mtu);
  }

  /** A router says that `mtu` is what fits. False where that changes nothing. */
  learn(destination: number, mtu: number, linkMtu: number): boolean {
    const believed = Math.max(PATH_MTU_MIN, mtu);
    if (believed >= this.lookUp(destination, linkMtu)) return false;
    if (this.#byDestination.size >= PATH_MTUS_MAX) {
      const oldest = this.#byDestination.keys().next().value;
      if (oldest !== undefined) this.#byDestination.delete(oldest);
    }
    this.#byDestination.delete(destination);
    this.#byDestination.set(destination, { mtu: believed, learntMs: this.#clock.nowMs() });
    return true;
  }
}

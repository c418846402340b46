/**
 * A hub: what one port receives goes to every other port. It learns nothing and forgets nothing;
 * frames go from where they lie, without a copy of their own.
 */
import type { Network } from '../../src/device/network.js';

export class Hub {
  readonly #ports = new Map<Network, () => void>();

  get ports(): number {
    return this.#ports.size;
  }

  /** Plugs a NIC in. Returns a function that pulls it out. */
  plug(network: Network): () => void {
    const unplug = () => {
      this.#ports.get(network)?.();
      this.#ports.delete(network);
    };
    const end = network.listenBatch((batch) => {
      for (const other of this.#ports.keys()) {
        if (other !== network) other.writeBatch(batch);
      }
    });
    this.#ports.set(network, end);
    return unplug;
  }
}

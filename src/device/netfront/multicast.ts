/**
 * The multicast addresses that a frontend wants frames for (netif.h, "feature-multicast-control").
 * The backend's list lives as long as a connection, so it is told all of them at each new one.
 */

import { parseMac } from '@xenvif/client/wire';
import { InvalidArgumentError } from '../../errors.js';
import type { NetfrontConnection } from './connection.js';

interface Change {
  readonly isAdded: boolean;
  readonly addressHigh: number;
  readonly addressLow: number;
  readonly settle: (isTaken: boolean) => void;
}

export class MulticastAddresses {
  readonly #wanted = new Map<string, readonly [high: number, low: number]>();
  /** Changes that wait for room on the ring. */
  #changes: Change[] = [];
  /** Changes that the backend has not answered. */
  readonly #sent = new Set<Change>();

  /**
   * Adds or deletes an address and tells the backend, if there is one that filters. Returns whether
   * it took it; it refuses when its list is full.
   * @throws InvalidArgumentError MAC_INVALID, when it is no multicast address.
   */
  change(
    address: string,
    isAdded: boolean,
    connection: NetfrontConnection | undefined,
  ): Promise<boolean> {
    const bytes = parseMac(address.toLowerCase());
    if (bytes === undefined || ((bytes[0] as number) & 1) === 0) {
      const message = `${address} is no multicast address.`;
      throw new InvalidArgumentError('MAC_INVALID', 'address', message);
    }
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const words = [view.getUint16(0), view.getUint32(2)] as const;
    const key = address.toLowerCase();
    if (isAdded) this.#wanted.set(key, words);
    else this.#wanted.delete(key);
    if (connection?.features.multicastControl !== true) return Promise.resolve(true);
    const answer = this.#enqueue(isAdded, words);
    this.flush(connection);
    return answer;
  }

  /** Tells a backend that is newly connected of all addresses. */
  tellAll(connection: NetfrontConnection): void {
    if (!connection.features.multicastControl) return;
    for (const words of this.#wanted.values()) void this.#enqueue(true, words);
    this.flush(connection);
  }

  /** Sends what waits, as far as there is room on the ring. */
  flush(connection: NetfrontConnection): void {
    while (this.#changes.length > 0) {
      const change = this.#changes[0] as Change;
      const { isAdded, addressHigh, addressLow } = change;
      const isSent = connection.sendMulticast(isAdded, addressHigh, addressLow, (status) => {
        this.#sent.delete(change);
        change.settle(status === 0);
      });
      if (!isSent) return;
      this.#changes.shift();
      this.#sent.add(change);
    }
  }

  /** The connection is over: the next one will be told everything. */
  disconnected(): void {
    for (const change of [...this.#sent, ...this.#changes]) change.settle(true);
    this.#sent.clear();
    this.#changes = [];
  }

  #enqueue(isAdded: boolean, [addressHigh, addressLow]: readonly [number, number]) {
    return new Promise<boolean>((settle) => {
      this.#changes.push({ isAdded, addressHigh, addressLow, settle });
    });
  }
}

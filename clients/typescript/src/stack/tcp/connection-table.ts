/**
 * Connections by their four numbers: chains in buckets, because a key for a Map would be an object for
 * each segment. The hash is keyed, so that nobody outside can choose connections that share a chain.
 */
import type { ControlBlock } from './control-block.js';

const BUCKETS = 1024;

export class ConnectionTable {
  readonly #key: number;
  readonly #buckets: (ControlBlock | undefined)[] = new Array(BUCKETS).fill(undefined);
  size = 0;

  constructor(key: number) {
    this.#key = key;
  }

  find(
    localAddress: number,
    localPort: number,
    remoteAddress: number,
    remotePort: number,
  ): ControlBlock | undefined {
    let block = this.#buckets[this.#bucket(localPort, remoteAddress, remotePort)];
    while (block !== undefined) {
      if (
        block.remotePort === remotePort &&
        block.remoteAddress === remoteAddress &&
        block.localPort === localPort &&
        block.localAddress === localAddress
      ) {
        return block;
      }
      block = block.nextInBucket;
    }
    return undefined;
  }

  add(block: ControlBlock): void {
    const bucket = this.#bucket(block.localPort, block.remoteAddress, block.remotePort);
    block.nextInBucket = this.#buckets[bucket];
    this.#buckets[bucket] = block;
    this.size += 1;
  }

  remove(block: ControlBlock): void {
    const bucket = this.#bucket(block.localPort, block.remoteAddress, block.remotePort);
    let before: ControlBlock | undefined;
    let at = this.#buckets[bucket];
    while (at !== undefined && at !== block) {
      before = at;
      at = at.nextInBucket;
    }
    if (at === undefined) return;
    if (before === undefined) this.#buckets[bucket] = block.nextInBucket;
    else before.nextInBucket = block.nextInBucket;
    block.nextInBucket = undefined;
    this.size -= 1;
  }

  *[Symbol.iterator](): Iterator<ControlBlock> {
    for (const first of this.#buckets) {
      // A block may be removed while it is looked at.
      for (let block = first; block !== undefined; ) {
        const next: ControlBlock | undefined = block.nextInBucket;
        yield block;
        block = next;
      }
    }
  }

  #bucket(localPort: number, remoteAddress: number, remotePort: number): number {
    let hash = Math.imul(remoteAddress ^ this.#key, 0x9e3779b1);
    hash = Math.imul((hash ^ (hash >>> 15)) + ((localPort << 16) | remotePort), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13) ^ this.#key, 0xc2b2ae35);
    return (hash ^ (hash >>> 16)) & (BUCKETS - 1);
  }
}

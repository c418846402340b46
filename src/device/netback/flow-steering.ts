/**
 * Which queue a frame for the guest goes to. Every frame of a flow goes to the same one, so that it
 * is not overtaken. How frames are hashed is ours to choose until the guest configures it through
 * the control ring (xen/io/netif.h, "Hash types" and "Hash algorithms").
 */
import { HASH_ALGORITHM_NONE, HASH_ALGORITHM_TOEPLITZ } from '../../ring/netif-ctrl.js';
import { flowHash } from '../../wire/flow-hash.js';
import { HASH_TYPES, type NetifHash, netifHash, ToeplitzKey } from '../../wire/toeplitz.js';
import type { HashWish } from './guest-wishes.js';

/** The largest mapping from hash values to queues: as many entries as Linux's netback keeps. */
export const HASH_MAPPING_MAX = 128;

export class FlowSteering {
  readonly queues: number;
  algorithm = HASH_ALGORITHM_NONE;
  /** Of the frame that `choose` looked at last; type 0 when the guest's hashing did not apply. */
  readonly hash: NetifHash = { hash: 0, type: 0 };
  #types = 0;
  #keyBytes = new Uint8Array(0);
  /** Made ready when the first frame is hashed: it takes 36 KiB, and few guests ask for it. */
  #key: ToeplitzKey | undefined;
  #mappingSize = 0;
  readonly #mapping = new Uint32Array(HASH_MAPPING_MAX);

  constructor(queues: number) {
    this.queues = queues;
  }

  /** The guest is told of each frame's flow. */
  get isConfigured(): boolean {
    return this.algorithm === HASH_ALGORITHM_TOEPLITZ && this.#types !== 0;
  }

  /** The queue for a frame; `hash` says then what the guest may be told about it. */
  choose(bytes: Uint8Array, offset: number, length: number): number {
    const { hash } = this;
    hash.hash = 0;
    hash.type = 0;
    if (!this.isConfigured) {
      return this.queues === 1 ? 0 : flowHash(bytes, offset, length) % this.queues;
    }
    this.#key ??= new ToeplitzKey(this.#keyBytes);
    netifHash(this.#key, this.#types, bytes, offset, length, hash);
    if (this.#mappingSize === 0) return hash.hash % this.queues;
    return this.#mapping[hash.hash % this.#mappingSize] as number;
  }

  /** What the next daemon is to know; undefined where the guest has asked for nothing. */
  keep(): HashWish | undefined {
    if (this.algorithm === HASH_ALGORITHM_NONE) return undefined;
    return {
      algorithm: this.algorithm,
      types: this.#types,
      key: Buffer.from(this.#keyBytes).toString('hex'),
      mapping: [...this.#mapping.subarray(0, this.#mappingSize)],
    };
  }

  /** Does again what the guest has asked a daemon before us for. */
  restore({ algorithm, key, mapping, types }: HashWish): void {
    this.setAlgorithm(algorithm);
    this.setTypes(types);
    this.setKey(Buffer.from(key, 'hex'));
    this.setMappingSize(mapping.length);
    this.setMapping(0, Uint32Array.from(mapping));
  }

  /** Sets the algorithm; false when it is none that we know. */
  setAlgorithm(algorithm: number): boolean {
    if (algorithm !== HASH_ALGORITHM_NONE && algorithm !== HASH_ALGORITHM_TOEPLITZ) return false;
    this.algorithm = algorithm;
    return true;
  }

  /** Sets the types to hash, bits of HASH_TYPES; false when one is unknown. */
  setTypes(types: number): boolean {
    if (this.algorithm === HASH_ALGORITHM_NONE || (types & ~HASH_TYPES) !== 0) return false;
    this.#types = types;
    return true;
  }

  /** Takes a copy of `key`, of HASH_KEY_BYTES_MAX bytes at most. */
  setKey(key: Uint8Array): void {
    this.#keyBytes = key.slice();
    this.#key = undefined;
  }

  /** Makes a mapping of `size` entries, all 0; without entries queues are taken by modulo. */
  setMappingSize(size: number): boolean {
    if (size > HASH_MAPPING_MAX) return false;
    this.#mapping.fill(0);
    this.#mappingSize = size;
    return true;
  }

  /** Sets entries from `start` on; false, and nothing is set, when one is past the end or no queue. */
  setMapping(start: number, entries: Uint32Array): boolean {
    if (start + entries.length > this.#mappingSize) return false;
    if (!entries.every((queue) => queue < this.queues)) return false;
    this.#mapping.set(entries, start);
    return true;
  }
}

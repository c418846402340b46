/**
 * What a Vnetif is plugged into: the BACKEND of mirage-vnetif, with batches where it has single
 * buffers. A node is known by the number that `register` gave out.
 */
import type { LocalMemory } from '../../xen/local-memory.js';
import type { FrameBatch } from '../frame-batch.js';

/**
 * Takes frames for a node. The batch is lent for the call. A promise that it returns resolves when
 * all that the frames set in motion has come to its end; it never rejects.
 */
export type VnetifReader = (batch: FrameBatch) => Promise<unknown> | undefined;

export interface VnetifBackend {
  /** The memory that readers' batches lie in. */
  readonly memory: LocalMemory;
  /** Adds a node and returns its number, which no node had before. */
  register(): number;
  /** The node's MAC address. @throws DisconnectedError where there is no such node. */
  mac(node: number): string;
  /** Has `reader` get all frames for the node from now on, instead of the reader before. */
  setReader(node: number, reader: VnetifReader): void;
  /**
   * Sends all frames of `batch`, waiting for room where need be. The batch is the caller's again
   * when the promise settles.
   * @throws DisconnectedError where there is no such node, or no more.
   */
  write(node: number, batch: FrameBatch): Promise<void>;
  /** Sends what there is room for now and returns how many frames; as `Network.writeBatch`. */
  writeBatch(node: number, batch: FrameBatch, outcomes?: Uint8Array): number;
  /** Removes the node: nothing reaches it any more, also not what is on its way. */
  unregister(node: number): Promise<void>;
  /** Removes the node once what was sent before has reached it, and its reader is done with it. */
  unregisterAndFlush(node: number): Promise<void>;
}

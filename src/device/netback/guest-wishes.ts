/**
 * What a guest has asked for through its rings and will not say again: how its frames are hashed to queues,
 * and which multicast it wants. It is kept in the vif's own directory, in `xenvif/wishes`, for the daemon
 * that takes the rings over:
 *
 *     { "ring": 8, "hash": {...}, "multicast": [1101088751873] }
 *
 * `ring` is the reference of the first TX ring, for wishes are those of one connection. How frames are
 * hashed is written at each change. The list of addresses is there only from an orderly end to the next
 * start: were it a moment behind the guest's own, the guest would miss what it asked for.
 */
import { z } from 'zod';
import { HASH_KEY_BYTES_MAX } from '../../wire/toeplitz.js';
import type { Store } from '../../xen/xen.js';
import type { FrontendParameters, VifPaths } from './handshake.js';

const u32 = z.int().min(0).max(0xffffffff);

const hashSchema = z.strictObject({
  algorithm: u32,
  types: u32,
  /** In hex digits. */
  key: z.hex().max(2 * HASH_KEY_BYTES_MAX),
  /** The queue of each hash value, by modulo. */
  mapping: z.array(u32),
});

const wishesSchema = z.strictObject({
  ring: u32,
  hash: hashSchema.optional(),
  /** Addresses as numbers below 2^48. */
  multicast: z.array(z.int().min(0)).optional(),
});

export type HashWish = z.output<typeof hashSchema>;
export type GuestWishes = Omit<z.output<typeof wishesSchema>, 'ring'>;

/**
 * Takes what was kept of a connection that a daemon before us had; undefined where there is nothing.
 * Of a connection that is new nothing is kept.
 */
export async function takeWishes(
  store: Store,
  paths: VifPaths,
  parameters: FrontendParameters,
  adopted: boolean,
): Promise<GuestWishes | undefined> {
  const text = await store.readIfExists(nodeOf(paths));
  if (text === undefined) return undefined;
  const { success, data } = wishesSchema.safeParse(parseJson(text));
  const isOfThis = success && adopted && data.ring === ringOf(parameters);
  // Before the rings are touched: from now on the list is ours, and what is kept may not be read again.
  await keepWishes(store, paths, parameters, isOfThis ? { hash: data.hash } : {});
  return isOfThis ? data : undefined;
}

/** Writes down what the next daemon is to know. */
export async function keepWishes(
  store: Store,
  paths: VifPaths,
  parameters: FrontendParameters,
  wishes: GuestWishes,
): Promise<void> {
  const isEmpty = wishes.hash === undefined && wishes.multicast === undefined;
  await store.transaction(async (transaction) => {
    if ((await transaction.readIfExists(`${paths.backend}/state`)) === undefined) return;
    const node = nodeOf(paths);
    if (!isEmpty) {
      await transaction.write(node, JSON.stringify({ ring: ringOf(parameters), ...wishes }));
    } else if ((await transaction.readIfExists(node)) !== undefined) {
      await transaction.rm(node);
    }
  });
}

function nodeOf({ backend }: VifPaths): string {
  return `${backend}/xenvif/wishes`;
}

function ringOf({ queues }: FrontendParameters): number {
  return queues[0]?.txRingRef ?? 0;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

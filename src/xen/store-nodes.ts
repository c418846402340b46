/**
 * Many nodes of one directory at once. The requests are under way together, so that a handshake
 * costs one round trip to xenstored and not one for each node; xenstored takes them in order.
 */
import type { StoreOperations } from './xen.js';

/** Reads the named children of `path`; a child that does not exist is undefined. */
export async function readNodes<Name extends string>(
  store: StoreOperations,
  path: string,
  names: readonly Name[],
): Promise<Record<Name, string | undefined>> {
  const values = await Promise.all(names.map((name) => store.readIfExists(`${path}/${name}`)));
  const nodes = Object.fromEntries(names.map((name, index) => [name, values[index]]));
  return nodes as Record<Name, string | undefined>;
}

/** Writes children of `path`, in the order given; one that is undefined is removed. */
export async function writeNodes(
  store: StoreOperations,
  path: string,
  nodes: Readonly<Record<string, string | undefined>>,
): Promise<void> {
  await Promise.all(
    Object.entries(nodes).map(([name, value]) =>
      value === undefined ? store.rm(`${path}/${name}`) : store.write(`${path}/${name}`, value),
    ),
  );
}

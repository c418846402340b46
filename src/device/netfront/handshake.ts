/**
 * The frontend's half of the handshake in XenStore: which backend we have, what it offers, and
 * where our rings and ports are.
 */
import { ProtocolError, StoreError } from '../../errors.js';
import { readNodes, writeNodes } from '../../xen/store-nodes.js';
import type { Store, StoreOperations } from '../../xen/xen.js';
import { parseXenbusState, XenbusState } from '../../xen/xenbus.js';

/** What the toolstack wrote about our end. */
export interface NetfrontConfiguration {
  readonly backend: string;
  readonly backendDomid: number;
  readonly mac: string;
  /** The largest Ethernet payload, 1500 where nothing is said. */
  readonly mtu: number;
}

/** What the backend offers and we use. */
export interface BackendFeatures {
  readonly scatterGather: boolean;
  readonly splitEventChannels: boolean;
}

/** What we tell the backend. */
export interface RingKeys {
  readonly txRingRef: number;
  readonly rxRingRef: number;
  readonly txPort: number;
  readonly rxPort: number;
}

/** @throws ProtocolError when the toolstack's nodes are missing or make no sense. */
export async function readConfiguration(
  store: StoreOperations,
  base: string,
): Promise<NetfrontConfiguration> {
  const backend = await store.read(`${base}/backend`);
  const backendDomid = Number(await store.read(`${base}/backend-id`));
  const mac = await store.read(`${base}/mac`);
  const mtu = Number((await store.readIfExists(`${base}/mtu`)) ?? '1500');
  if (!Number.isInteger(backendDomid) || !/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(mac)) {
    throw new ProtocolError('CONFIGURATION_INVALID', `The vif at ${base} is not set up right.`);
  }
  return { backend, backendDomid, mac: mac.toLowerCase(), mtu };
}

/**
 * The backend's state; unknown when its directory is gone. Where a guest may not look into the
 * directory above, xenstored answers EACCES for a node that is not there.
 */
export async function readBackendState(
  store: StoreOperations,
  backend: string,
): Promise<XenbusState> {
  try {
    return parseXenbusState(await store.readIfExists(`${backend}/state`));
  } catch (error) {
    if (error instanceof StoreError && error.errno === 'EACCES') return XenbusState.unknown;
    throw error;
  }
}

export async function readBackendFeatures(
  store: StoreOperations,
  backend: string,
): Promise<BackendFeatures> {
  const features = ['feature-sg', 'feature-split-event-channels'] as const;
  const nodes = await readNodes(store, backend, features);
  return {
    scatterGather: nodes['feature-sg'] === '1',
    splitEventChannels: nodes['feature-split-event-channels'] === '1',
  };
}

/** Writes our keys and Connected in one transaction, so that the backend never sees a half. */
export async function announce(store: Store, base: string, keys: RingKeys): Promise<void> {
  const split = keys.txPort !== keys.rxPort;
  await store.transaction(async (transaction) => {
    const nodes = {
      'tx-ring-ref': String(keys.txRingRef),
      'rx-ring-ref': String(keys.rxRingRef),
      'event-channel': split ? undefined : String(keys.txPort),
      'event-channel-tx': split ? String(keys.txPort) : undefined,
      'event-channel-rx': split ? String(keys.rxPort) : undefined,
      'request-rx-copy': '1',
      'feature-rx-notify': '1',
      'feature-sg': '1',
      'feature-no-csum-offload': '1',
      state: String(XenbusState.connected),
    };
    await writeNodes(transaction, base, nodes);
  });
}

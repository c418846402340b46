/**
 * The backend's half of the handshake in XenStore: what we advertise, what the frontend answers,
 * and how its answer is checked. The frontend's directory belongs to the guest: every value is
 * read once, parsed strictly and bounded; what does not parse refuses the connect.
 */
import { ProtocolError } from '../../errors.js';
import { readNodes, writeNodes } from '../../xen/store-nodes.js';
import type { Store, StoreOperations } from '../../xen/xen.js';
import { parseXenbusState, XenbusState } from '../../xen/xenbus.js';

/** The largest Ethernet payload where the toolstack says nothing. */
const MTU_DEFAULT = 1500;
const U32_MAX = 0xffffffff;

/** What a frontend may write for one queue. */
const FRONTEND_KEYS = [
  'multi-queue-num-queues',
  'tx-ring-ref',
  'rx-ring-ref',
  'event-channel',
  'event-channel-tx',
  'event-channel-rx',
  'request-rx-copy',
  'feature-sg',
  'feature-rx-notify',
  'feature-no-csum-offload',
] as const;
type FrontendKey = (typeof FRONTEND_KEYS)[number];

/** What both sides agreed on: a snapshot taken at connect. */
export interface NetbackFeatures {
  readonly scatterGather: boolean;
  readonly splitEventChannels: boolean;
  readonly rxNotify: boolean;
  readonly checksumOffload: boolean;
}

/** What the frontend wrote: where its rings and ports are, and what it can do. */
export interface FrontendParameters {
  readonly txRingRef: number;
  readonly rxRingRef: number;
  readonly txPort: number;
  readonly rxPort: number;
  readonly features: NetbackFeatures;
}

/** What the toolstack wrote about a vif in our own directory. */
export interface VifConfiguration {
  /** The guest's MAC address; empty when the toolstack gave none. */
  readonly mac: string;
  readonly mtu: number;
  readonly bridge: string;
  readonly rate: string;
}

/** Where a vif's two halves are in XenStore. */
export interface VifPaths {
  readonly backend: string;
  readonly frontend: string;
}

/** The paths of a vif; the frontend's is made here and never taken from a node. */
export function vifPaths(backendDomid: number, domid: number, handle: number): VifPaths {
  return {
    backend: `/local/domain/${backendDomid}/backend/vif/${domid}/${handle}`,
    frontend: `/local/domain/${domid}/device/vif/${handle}`,
  };
}

/** Both states and the toolstack's wish; undefined when our own directory is gone. */
export async function readStates(store: StoreOperations, paths: VifPaths) {
  const [{ state: own, online }, frontend] = await Promise.all([
    readNodes(store, paths.backend, ['state', 'online']),
    store.readIfExists(`${paths.frontend}/state`),
  ]);
  if (own === undefined) return undefined;
  return {
    own: parseXenbusState(own),
    frontend: parseXenbusState(frontend),
    frontendPresent: frontend !== undefined,
    // A toolstack that writes no `online` at all wants the device as long as it is there.
    online: online === undefined || online === '1',
  };
}

/**
 * Checks that the toolstack's link to the frontend leads to the one place it may lead to.
 * @throws ProtocolError FRONTEND_PATH_INVALID.
 */
export async function checkFrontendLink(store: StoreOperations, paths: VifPaths): Promise<void> {
  const link = await store.readIfExists(`${paths.backend}/frontend`);
  if (link !== paths.frontend) {
    throw new ProtocolError(
      'FRONTEND_PATH_INVALID',
      `The frontend must be at ${paths.frontend}; the backend directory names another place.`,
    );
  }
}

export async function readConfiguration(
  store: StoreOperations,
  paths: VifPaths,
): Promise<VifConfiguration> {
  const names = ['mac', 'mtu', 'bridge', 'rate'] as const;
  const { mac, mtu, bridge, rate } = await readNodes(store, paths.backend, names);
  return {
    mac: (mac ?? '').toLowerCase(),
    mtu: parseMtu(mtu),
    bridge: bridge ?? '',
    rate: rate ?? '',
  };
}

function parseMtu(value: string | undefined): number {
  if (value === undefined || !/^[0-9]{1,5}$/.test(value)) return MTU_DEFAULT;
  const mtu = Number(value);
  return mtu >= 68 && mtu <= 65535 ? mtu : MTU_DEFAULT;
}

/** Writes what this backend can do, and InitWait, in one transaction. */
export async function advertise(store: Store, paths: VifPaths): Promise<boolean> {
  return await store.transaction(async (transaction) => {
    if ((await transaction.readIfExists(`${paths.backend}/state`)) === undefined) return false;
    const nodes = {
      'feature-sg': '1',
      'feature-rx-copy': '1',
      'feature-rx-flip': '0',
      'feature-split-event-channels': '1',
      'multi-queue-max-queues': '1',
      'hotplug-status': 'connected',
      state: String(XenbusState.initWait),
    };
    await writeNodes(transaction, paths.backend, nodes);
    return true;
  });
}

/**
 * Writes our state. Returns false when the directory is gone: writing would make it again, and a
 * removed device must stay removed.
 */
export async function writeState(
  store: Store,
  paths: VifPaths,
  state: XenbusState,
): Promise<boolean> {
  return await store.transaction(async (transaction) => {
    if ((await transaction.readIfExists(`${paths.backend}/state`)) === undefined) return false;
    await transaction.write(`${paths.backend}/state`, String(state));
    return true;
  });
}

/** Tells the toolstack and the person who looks why a device does not work. */
export async function writeError(store: Store, paths: VifPaths, message: string): Promise<void> {
  await store.transaction(async (transaction) => {
    if ((await transaction.readIfExists(`${paths.backend}/state`)) === undefined) return;
    await transaction.write(`${paths.backend}/error`, message);
  });
}

/**
 * Reads and checks what the frontend wrote.
 * @throws ProtocolError FRONTEND_KEY_MISSING, FRONTEND_KEY_INVALID, RX_COPY_REQUIRED,
 *   QUEUES_UNSUPPORTED, RING_REFS_EQUAL.
 */
export async function readFrontend(
  store: StoreOperations,
  frontend: string,
): Promise<FrontendParameters> {
  const nodes = await readNodes(store, frontend, FRONTEND_KEYS);
  const number = (key: FrontendKey) => parseU32(key, nodes[key]);
  const flag = (key: FrontendKey) => nodes[key] !== undefined && number(key) !== 0;
  if (nodes['multi-queue-num-queues'] !== undefined && number('multi-queue-num-queues') !== 1) {
    throw new ProtocolError('QUEUES_UNSUPPORTED', 'The frontend asks for more than one queue.');
  }
  const txRingRef = number('tx-ring-ref');
  const rxRingRef = number('rx-ring-ref');
  if (txRingRef === rxRingRef) {
    throw new ProtocolError('RING_REFS_EQUAL', 'Both rings are in the same page.');
  }
  const shared = nodes['event-channel'] !== undefined;
  const txPort = number(shared ? 'event-channel' : 'event-channel-tx');
  const rxPort = shared ? txPort : number('event-channel-rx');
  if (!flag('request-rx-copy')) {
    throw new ProtocolError('RX_COPY_REQUIRED', 'The frontend does not set request-rx-copy.');
  }
  return {
    txRingRef,
    rxRingRef,
    txPort,
    rxPort,
    features: {
      scatterGather: flag('feature-sg'),
      splitEventChannels: !shared,
      rxNotify: flag('feature-rx-notify'),
      checksumOffload: !flag('feature-no-csum-offload'),
    },
  };
}

/** A decimal number and nothing else: no sign, no hex, no leading zero, at most 2^32 - 1. */
function parseU32(key: string, value: string | undefined): number {
  if (value === undefined) {
    throw new ProtocolError('FRONTEND_KEY_MISSING', `The frontend has not written ${key}.`);
  }
  const number = /^(0|[1-9][0-9]{0,9})$/.test(value) ? Number(value) : Number.NaN;
  if (!(number <= U32_MAX)) {
    throw new ProtocolError('FRONTEND_KEY_INVALID', `The frontend's ${key} is no number.`);
  }
  return number;
}

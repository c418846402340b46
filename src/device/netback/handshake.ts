/**
 * The backend's half of the handshake in XenStore: what we advertise, what the frontend answers,
 * and how its answer is checked. The frontend's directory belongs to the guest: every value is
 * read once, parsed strictly and bounded; what does not parse refuses the connect.
 */
import { ProtocolError } from '../../errors.js';
import type { Store, StoreOperations } from '../../xen/xen.js';
import { parseXenbusState, XenbusState } from '../../xen/xenbus.js';

/** The largest Ethernet payload where the toolstack says nothing. */
const MTU_DEFAULT = 1500;
const U32_MAX = 0xffffffff;

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
  const own = await store.readIfExists(`${paths.backend}/state`);
  if (own === undefined) return undefined;
  const online = await store.readIfExists(`${paths.backend}/online`);
  const frontend = await store.readIfExists(`${paths.frontend}/state`);
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
  const mac = await store.readIfExists(`${paths.backend}/mac`);
  const mtu = await store.readIfExists(`${paths.backend}/mtu`);
  const bridge = await store.readIfExists(`${paths.backend}/bridge`);
  const rate = await store.readIfExists(`${paths.backend}/rate`);
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
    };
    for (const [name, value] of Object.entries(nodes)) {
      await transaction.write(`${paths.backend}/${name}`, value);
    }
    await transaction.write(`${paths.backend}/state`, String(XenbusState.initWait));
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
  const read = (key: string) => store.readIfExists(`${frontend}/${key}`);
  const queues = await read('multi-queue-num-queues');
  if (queues !== undefined && parseU32('multi-queue-num-queues', queues) !== 1) {
    throw new ProtocolError('QUEUES_UNSUPPORTED', 'The frontend asks for more than one queue.');
  }
  const txRingRef = parseU32('tx-ring-ref', await read('tx-ring-ref'));
  const rxRingRef = parseU32('rx-ring-ref', await read('rx-ring-ref'));
  if (txRingRef === rxRingRef) {
    throw new ProtocolError('RING_REFS_EQUAL', 'Both rings are in the same page.');
  }
  const shared = await read('event-channel');
  const splitTx = shared === undefined ? await read('event-channel-tx') : undefined;
  const splitRx = shared === undefined ? await read('event-channel-rx') : undefined;
  const txPort = parseU32(
    shared === undefined ? 'event-channel-tx' : 'event-channel',
    shared ?? splitTx,
  );
  const rxPort = shared === undefined ? parseU32('event-channel-rx', splitRx) : txPort;
  if (parseFlag('request-rx-copy', await read('request-rx-copy')) !== true) {
    throw new ProtocolError('RX_COPY_REQUIRED', 'The frontend does not set request-rx-copy.');
  }
  return {
    txRingRef,
    rxRingRef,
    txPort,
    rxPort,
    features: {
      scatterGather: parseFlag('feature-sg', await read('feature-sg')),
      splitEventChannels: shared === undefined,
      rxNotify: parseFlag('feature-rx-notify', await read('feature-rx-notify')),
      checksumOffload: !parseFlag('feature-no-csum-offload', await read('feature-no-csum-offload')),
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

function parseFlag(key: string, value: string | undefined): boolean {
  return value !== undefined && parseU32(key, value) !== 0;
}

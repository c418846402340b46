/**
 * The frontend's half of the handshake in XenStore: which backend we have, what it offers, and
 * where our rings and ports are. The backend's directory is another domain's, so what it says is
 * parsed strictly; what does not parse counts as not offered.
 */
import { ProtocolError, StoreError } from '../../errors.js';
import { readNodes, writeNodes } from '../../xen/store-nodes.js';
import type { Store, StoreOperations } from '../../xen/xen.js';
import { parseXenbusState, XenbusState } from '../../xen/xenbus.js';
import type { NetfrontSettings } from './options.js';

/** The largest Ethernet payload where the toolstack says nothing. */
const MTU_DEFAULT = 1500;
const MTU_MIN = 68;
/** The longest frame that netif carries, less its Ethernet header. */
const MTU_MAX = 65535 - 14;

/** The keys of a queue, which lie in the device's directory itself or in `queue-N` of it. */
const QUEUE_KEYS = [
  'tx-ring-ref',
  'rx-ring-ref',
  'event-channel',
  'event-channel-tx',
  'event-channel-rx',
] as const;

/** Where our backend is, as the toolstack wrote it. */
export interface BackendLink {
  readonly backend: string;
  readonly backendDomid: number;
}

/** Who we are, as the toolstack wrote it; undefined where that is missing or makes no sense. */
export interface Identity {
  readonly mac: string | undefined;
  /** The largest Ethernet payload. */
  readonly mtu: number;
  /** What was wrong, for the log. */
  readonly faults: readonly string[];
}

/** What may be used towards the backend: what it offers and our settings allow. */
export interface NetfrontFeatures {
  readonly queues: number;
  readonly splitEventChannels: boolean;
  readonly scatterGather: boolean;
  readonly gsoTcpv4: boolean;
  readonly gsoTcpv6: boolean;
  readonly checksumIpv4: boolean;
  readonly checksumIpv6: boolean;
  readonly multicastControl: boolean;
  readonly controlRing: boolean;
}

/** Where one queue's rings and ports are. */
export interface QueueKeys {
  readonly txRingRef: number;
  readonly rxRingRef: number;
  readonly txPort: number;
  /** The same as TX unless the channels are split. */
  readonly rxPort: number;
}

/** What we tell the backend. */
export interface ConnectionKeys {
  readonly queues: readonly QueueKeys[];
  readonly control: { readonly ringRef: number; readonly port: number } | undefined;
}

/**
 * Our state, whether that node is there at all, and our backend; the link is undefined while the toolstack's two nodes are missing or
 * contradict each other, for granting pages to the wrong domain would be worse than waiting.
 */
export async function readOwn(store: StoreOperations, base: string) {
  const names = ['state', 'backend', 'backend-id'] as const;
  const { state, backend, 'backend-id': id } = await readNodes(store, base, names);
  return {
    state: parseXenbusState(state),
    isPresent: state !== undefined,
    link: parseLink(backend, id),
  };
}

function parseLink(backend: string | undefined, id: string | undefined): BackendLink | undefined {
  if (backend === undefined || id === undefined || !/^(0|[1-9][0-9]{0,4})$/.test(id)) {
    return undefined;
  }
  if (!backend.startsWith(`/local/domain/${id}/`)) return undefined;
  return { backend, backendDomid: Number(id) };
}

export async function readIdentity(store: StoreOperations, base: string): Promise<Identity> {
  const { mac, mtu } = await readNodes(store, base, ['mac', 'mtu']);
  const faults: string[] = [];
  const isMac = mac !== undefined && /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(mac);
  // Bit 0 of the first byte is multicast's, and no card has such an address.
  const isUsable = isMac && (Number.parseInt(mac.slice(0, 2), 16) & 1) === 0;
  if (!isUsable) faults.push(mac === undefined ? 'there is no mac' : `the mac is ${show(mac)}`);
  const payload = parseMtu(mtu);
  if (payload === undefined) faults.push(`the mtu is ${show(mtu ?? '')}`);
  return { mac: isUsable ? mac.toLowerCase() : undefined, mtu: payload ?? MTU_DEFAULT, faults };
}

function parseMtu(value: string | undefined): number | undefined {
  if (value === undefined) return MTU_DEFAULT;
  const mtu = /^[0-9]{1,5}$/.test(value) ? Number(value) : 0;
  return mtu >= MTU_MIN && mtu <= MTU_MAX ? mtu : undefined;
}

function show(value: string): string {
  return JSON.stringify(value.slice(0, 40));
}

/** The backend's state, whether the toolstack wants the device, and whether the link is up. */
export async function readBackend(store: StoreOperations, backend: string) {
  const [state, online, carrier] = await Promise.all(
    ['state', 'online', 'carrier'].map((name) => readForeign(store, `${backend}/${name}`)),
  );
  return {
    state: parseXenbusState(state),
    // A toolstack that writes no `online` at all wants the device as long as it is there.
    online: online !== '0',
    carrier: carrier !== '0',
  };
}

/**
 * Reads a node of the backend's directory. Where a guest may not look into the directory above,
 * xenstored answers EACCES for a node that is not there.
 */
async function readForeign(store: StoreOperations, path: string): Promise<string | undefined> {
  try {
    return await store.readIfExists(path);
  } catch (error) {
    if (error instanceof StoreError && error.errno === 'EACCES') return undefined;
    throw error;
  }
}

/** @throws ProtocolError RX_COPY_REQUIRED when the backend says that it cannot copy to us. */
export async function readFeatures(
  store: StoreOperations,
  backend: string,
  settings: NetfrontSettings,
): Promise<NetfrontFeatures> {
  const names = [
    'feature-rx-copy',
    'feature-sg',
    'feature-gso-tcpv4',
    'feature-gso-tcpv6',
    'feature-no-csum-offload',
    'feature-ipv6-csum-offload',
    'feature-split-event-channels',
    'feature-multicast-control',
    'feature-ctrl-ring',
    'multi-queue-max-queues',
  ] as const;
  const nodes = await readNodes(store, backend, names);
  const has = (name: (typeof names)[number]) => nodes[name] === '1';
  if (nodes['feature-rx-copy'] === '0') {
    throw new ProtocolError('RX_COPY_REQUIRED', 'The backend cannot copy frames to us.');
  }
  const scatterGather = settings.scatterGather && has('feature-sg');
  const queuesMax = nodes['multi-queue-max-queues'] ?? '';
  return {
    queues: /^[1-9][0-9]{0,4}$/.test(queuesMax)
      ? Math.min(settings.queuesMax, Number(queuesMax))
      : 1,
    splitEventChannels: settings.splitEventChannels && has('feature-split-event-channels'),
    scatterGather,
    gsoTcpv4: settings.gsoTcpv4 && scatterGather && has('feature-gso-tcpv4'),
    gsoTcpv6: settings.gsoTcpv6 && scatterGather && has('feature-gso-tcpv6'),
    // IPv4 is on unless somebody says otherwise, IPv6 is off unless somebody says otherwise.
    checksumIpv4: settings.checksumIpv4 && !has('feature-no-csum-offload'),
    checksumIpv6: settings.checksumIpv6 && has('feature-ipv6-csum-offload'),
    multicastControl: settings.multicastControl && has('feature-multicast-control'),
    controlRing: settings.controlRing && has('feature-ctrl-ring'),
  };
}

/**
 * Writes our keys and Connected in one transaction, so that the backend never sees a half, and
 * removes what an earlier connection of another shape left. Returns false, having written nothing,
 * when we are not Initialising any more: the toolstack was faster.
 */
export async function announce(
  store: Store,
  base: string,
  keys: ConnectionKeys,
  features: NetfrontFeatures,
  settings: NetfrontSettings,
): Promise<boolean> {
  return await store.transaction(async (transaction) => {
    const state = parseXenbusState(await transaction.readIfExists(`${base}/state`));
    if (state !== XenbusState.initialising) return false;
    await writeQueues(transaction, base, keys.queues);
    await writeNodes(transaction, base, {
      'ctrl-ring-ref': text(keys.control?.ringRef),
      'event-channel-ctrl': text(keys.control?.port),
      'request-rx-copy': '1',
      'feature-rx-notify': '1',
      'feature-sg': flag(settings.scatterGather),
      'feature-gso-tcpv4': flag(settings.gsoTcpv4),
      'feature-gso-tcpv6': flag(settings.gsoTcpv6),
      'feature-no-csum-offload': flag(!settings.checksumIpv4),
      'feature-ipv6-csum-offload': flag(settings.checksumIpv6),
      'request-multicast-control': flag(features.multicastControl),
      state: String(XenbusState.connected),
    });
    return true;
  });
}

/** One queue has its keys in the device's directory, several have theirs in `queue-N` only. */
async function writeQueues(
  transaction: StoreOperations,
  base: string,
  queues: readonly QueueKeys[],
): Promise<void> {
  const [only] = queues;
  const isFlat = queues.length === 1 && only !== undefined;
  const names = await transaction.directory(base);
  for (const name of names.filter((each) => /^queue-[0-9]+$/.test(each))) {
    await transaction.rm(`${base}/${name}`);
  }
  const none = Object.fromEntries(QUEUE_KEYS.map((key) => [key, undefined]));
  await writeNodes(transaction, base, {
    ...(isFlat ? queueNodes(only) : none),
    'multi-queue-num-queues': isFlat ? undefined : String(queues.length),
  });
  if (isFlat) return;
  for (const [index, queue] of queues.entries()) {
    await writeNodes(transaction, `${base}/queue-${index}`, queueNodes(queue));
  }
}

function queueNodes(keys: QueueKeys): Record<(typeof QUEUE_KEYS)[number], string | undefined> {
  const isSplit = keys.txPort !== keys.rxPort;
  return {
    'tx-ring-ref': text(keys.txRingRef),
    'rx-ring-ref': text(keys.rxRingRef),
    'event-channel': isSplit ? undefined : text(keys.txPort),
    'event-channel-tx': isSplit ? text(keys.txPort) : undefined,
    'event-channel-rx': isSplit ? text(keys.rxPort) : undefined,
  };
}

function text(value: number | undefined): string | undefined {
  return value === undefined ? undefined : String(value);
}

function flag(value: boolean): string | undefined {
  return value ? '1' : undefined;
}

/**
 * Writes our state, unless it is not what we decided upon any more: the toolstack has removed the
 * vif, and writing would bring it back, or somebody has it start over. Returns whether it did.
 */
export async function changeState(
  store: Store,
  base: string,
  from: XenbusState,
  to: XenbusState,
): Promise<boolean> {
  return await store.transaction(async (transaction) => {
    const state = await transaction.readIfExists(`${base}/state`);
    if (state === undefined || parseXenbusState(state) !== from) return false;
    await transaction.write(`${base}/state`, String(to));
    return true;
  });
}

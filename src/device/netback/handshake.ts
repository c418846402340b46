/**
 * The backend's half of the handshake in XenStore: what we advertise, what the frontend answers,
 * and how its answer is checked. The frontend's directory belongs to the guest: every value is
 * read once, parsed strictly and bounded; what does not parse refuses the connect.
 */
import { isIP } from 'node:net';
import { ProtocolError } from '../../errors.js';
import { readNodes, writeNodes } from '../../xen/store-nodes.js';
import type { Store, StoreOperations } from '../../xen/xen.js';
import { parseXenbusState, XenbusState } from '../../xen/xenbus.js';
import type { RateLimit } from '../token-bucket.js';

/** The largest Ethernet payload where the toolstack says nothing. */
const MTU_DEFAULT = 1500;
/** The least that IPv4 asks of a link (RFC 791), and the longest that a frame can carry. */
const MTU_MIN = 68;
const MTU_MAX = 65535;
const U32_MAX = 0xffffffff;
const VLAN_MAX = 4094;
/** As many as a policy of ours may have. */
const ADDRESSES_MAX = 64;

/** Where a queue's rings and ports are: once for one queue, and in each `queue-N` for more. */
const QUEUE_KEYS = [
  'tx-ring-ref',
  'rx-ring-ref',
  'event-channel',
  'event-channel-tx',
  'event-channel-rx',
] as const;

/** What a frontend writes once, however many queues it has. */
const DEVICE_KEYS = [
  'multi-queue-num-queues',
  'request-rx-copy',
  'feature-sg',
  'feature-gso-tcpv4',
  'feature-gso-tcpv6',
  'feature-rx-notify',
  'feature-no-csum-offload',
  'feature-ipv6-csum-offload',
  'request-multicast-control',
  'ctrl-ring-ref',
  'event-channel-ctrl',
] as const;

/** What both sides agreed on: a snapshot taken at connect. */
export interface NetbackFeatures {
  readonly scatterGather: boolean;
  /** The guest takes TCPv4 frames with segmentation to be done. */
  readonly gsoTcpv4: boolean;
  readonly gsoTcpv6: boolean;
  /** The guest takes IPv4 frames with a blank checksum. */
  readonly ipv4Checksum: boolean;
  readonly ipv6Checksum: boolean;
  readonly splitEventChannels: boolean;
  /** The guest tells when it has posted buffers. */
  readonly rxNotify: boolean;
  /** The guest asked for multicast filtering when it connected. */
  readonly multicastControl: boolean;
  readonly controlRing: boolean;
}

/** Where the rings and ports of one queue are. */
export interface QueueParameters {
  readonly txRingRef: number;
  readonly rxRingRef: number;
  readonly txPort: number;
  /** The same as `txPort` unless the frontend has split them. */
  readonly rxPort: number;
}

/** What the frontend wrote. */
export interface FrontendParameters {
  readonly queues: readonly QueueParameters[];
  readonly control: { readonly ref: number; readonly port: number } | undefined;
  readonly features: NetbackFeatures;
}

/** What the toolstack wrote about a vif in our own directory. */
export interface VifConfiguration {
  /** The guest's MAC address; empty when the toolstack gave none. */
  readonly mac: string;
  readonly mtu: number;
  /** The switch that the vif is to be joined to; empty where the toolstack says nothing. */
  readonly bridge: string;
  /** What the port on that switch allows, as this daemon wrote it down; empty: everything. */
  readonly policy: string;
  /** What the guest may send; undefined for no limit. */
  readonly rate: RateLimit | undefined;
  /** Whether the link is up: `carrier`, which is up where nobody says anything. */
  readonly carrier: boolean;
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

/**
 * @throws ProtocolError MTU_INVALID, RATE_INVALID, VLAN_INVALID, IP_INVALID: what the toolstack wrote
 *   cannot be meant.
 */
export async function readConfiguration(
  store: StoreOperations,
  paths: VifPaths,
): Promise<VifConfiguration> {
  const names = ['mac', 'mtu', 'bridge', 'xenvif/policy', 'vlan', 'ip', 'rate', 'carrier'] as const;
  const nodes = await readNodes(store, paths.backend, names);
  const { mac, mtu, bridge, rate, carrier } = nodes;
  return {
    mac: (mac ?? '').toLowerCase(),
    mtu: parseMtu(mtu),
    bridge: bridge ?? '',
    policy: nodes['xenvif/policy'] ?? policyOfXl(nodes.vlan, nodes.ip),
    rate: parseRate(rate),
    carrier: carrier !== '0',
  };
}

function parseMtu(value: string | undefined): number {
  if (value === undefined) return MTU_DEFAULT;
  const mtu = /^[0-9]{1,5}$/.test(value) ? Number(value) : 0;
  if (mtu >= MTU_MIN && mtu <= MTU_MAX) return mtu;
  throw new ProtocolError('MTU_INVALID', `The node mtu must be ${MTU_MIN} to ${MTU_MAX}.`);
}

/**
 * What xl's keys say of the port, as the text that policies are kept as: an access VLAN, and the
 * addresses that the guest may send from. A policy of ours goes before them.
 */
function policyOfXl(vlan: string | undefined, ip: string | undefined): string {
  const policy = {
    ...(vlan === undefined || vlan === '' ? {} : { accessVlan: parseVlan(vlan) }),
    ...(ip === undefined || ip.trim() === '' ? {} : { allowedAddresses: parseAddresses(ip) }),
  };
  return Object.keys(policy).length === 0 ? '' : JSON.stringify(policy);
}

function parseVlan(value: string): number {
  const vlan = /^[0-9]{1,4}$/.test(value) ? Number(value) : 0;
  if (vlan >= 1 && vlan <= VLAN_MAX) return vlan;
  throw new ProtocolError('VLAN_INVALID', `The node vlan must be 1 to ${VLAN_MAX}.`);
}

/** Addresses with blanks between; a prefix length is for whoever makes routes. */
function parseAddresses(value: string): string[] {
  const addresses = value.trim().split(/[ ,]+/, ADDRESSES_MAX + 1);
  const plain = addresses.map((address) => address.replace(/\/[0-9]{1,3}$/, ''));
  if (plain.length <= ADDRESSES_MAX && plain.every((address) => isIP(address) !== 0)) return plain;
  throw new ProtocolError('IP_INVALID', 'The node ip must be IP addresses with blanks between.');
}

/** `bytes,usecs`, as libxl writes it. Its parser makes no bytes of an unlimited rate. */
function parseRate(value: string | undefined): RateLimit | undefined {
  if (value === undefined) return undefined;
  const [, bytes, interval] = /^([0-9]{1,19}),([0-9]{1,10})$/.exec(value) ?? [];
  const bytesPerInterval = Number(bytes);
  const intervalUs = Number(interval);
  if (bytesPerInterval > 0 && intervalUs > 0 && intervalUs <= U32_MAX) {
    return { bytesPerInterval, intervalUs };
  }
  throw new ProtocolError('RATE_INVALID', 'The node rate must be BYTES,MICROSECONDS, both over 0.');
}

/** Writes what this backend can do, and InitWait, in one transaction. */
export async function advertise(
  store: Store,
  paths: VifPaths,
  queuesMax: number,
  carrier: boolean,
): Promise<boolean> {
  return await store.transaction(async (transaction) => {
    if ((await transaction.readIfExists(`${paths.backend}/state`)) === undefined) return false;
    const nodes = {
      'feature-sg': '1',
      'feature-gso-tcpv4': '1',
      'feature-gso-tcpv6': '1',
      'feature-ipv6-csum-offload': '1',
      'feature-rx-copy': '1',
      'feature-rx-flip': '0',
      'feature-multicast-control': '1',
      'feature-dynamic-multicast-control': '1',
      'feature-split-event-channels': '1',
      'feature-ctrl-ring': '1',
      'multi-queue-max-queues': String(queuesMax),
      carrier: carrier ? '1' : '0',
      'hotplug-status': 'connected',
      error: undefined,
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

/** Tells the toolstack and the person who looks why a device does not work; undefined: it does. */
export async function writeError(
  store: Store,
  paths: VifPaths,
  message: string | undefined,
): Promise<void> {
  await store.transaction(async (transaction) => {
    if ((await transaction.readIfExists(`${paths.backend}/state`)) === undefined) return;
    await writeNodes(transaction, paths.backend, { error: message });
  });
}

/**
 * Reads and checks what the frontend wrote.
 * @throws ProtocolError FRONTEND_KEY_MISSING, FRONTEND_KEY_INVALID, RX_COPY_REQUIRED,
 *   QUEUES_INVALID, RING_REFS_EQUAL.
 */
export async function readFrontend(
  store: StoreOperations,
  frontend: string,
  queuesMax: number,
): Promise<FrontendParameters> {
  const nodes = await readNodes(store, frontend, DEVICE_KEYS);
  const flag = (key: keyof typeof nodes) => {
    const value = nodes[key];
    return value !== undefined && parseU32(key, value) !== 0;
  };
  if (!flag('request-rx-copy')) {
    throw new ProtocolError('RX_COPY_REQUIRED', 'The frontend does not set request-rx-copy.');
  }
  const count = parseQueueCount(nodes['multi-queue-num-queues'], queuesMax);
  const prefixes = Array.from({ length: count }, (_, index) =>
    count === 1 ? '' : `queue-${index}/`,
  );
  const queues = await Promise.all(prefixes.map((prefix) => readQueue(store, frontend, prefix)));
  const control = parseControl(nodes['ctrl-ring-ref'], nodes['event-channel-ctrl']);
  checkRefs(queues, control);
  return {
    queues,
    control,
    features: {
      scatterGather: flag('feature-sg'),
      gsoTcpv4: flag('feature-gso-tcpv4'),
      gsoTcpv6: flag('feature-gso-tcpv6'),
      ipv4Checksum: !flag('feature-no-csum-offload'),
      ipv6Checksum: flag('feature-ipv6-csum-offload'),
      splitEventChannels: queues.every(({ rxPort, txPort }) => rxPort !== txPort),
      rxNotify: flag('feature-rx-notify'),
      multicastControl: flag('request-multicast-control'),
      controlRing: control !== undefined,
    },
  };
}

/** Whether the frontend wants multicast filtered: the one wish that may change while connected. */
export async function readMulticastRequest(
  store: StoreOperations,
  frontend: string,
): Promise<boolean> {
  return (await store.readIfExists(`${frontend}/request-multicast-control`)) === '1';
}

function parseQueueCount(value: string | undefined, queuesMax: number): number {
  if (value === undefined) return 1;
  const count = /^[1-9][0-9]{0,4}$/.test(value) ? Number(value) : 0;
  if (count >= 1 && count <= queuesMax) return count;
  const text = `The frontend must ask for 1 to ${queuesMax} queues.`;
  throw new ProtocolError('QUEUES_INVALID', text);
}

async function readQueue(
  store: StoreOperations,
  frontend: string,
  prefix: string,
): Promise<QueueParameters> {
  const nodes = await readNodes(
    store,
    frontend,
    QUEUE_KEYS.map((key) => `${prefix}${key}`),
  );
  const number = (key: (typeof QUEUE_KEYS)[number]) => {
    const name = `${prefix}${key}`;
    return parseU32(name, nodes[name]);
  };
  // A driver that ran before may have left the key of the other kind; split ones win, as in Linux.
  const shared = nodes[`${prefix}event-channel-tx`] === undefined;
  const txRingRef = number('tx-ring-ref');
  const rxRingRef = number('rx-ring-ref');
  const txPort = number(shared ? 'event-channel' : 'event-channel-tx');
  return { txRingRef, rxRingRef, txPort, rxPort: shared ? txPort : number('event-channel-rx') };
}

function parseControl(ref: string | undefined, port: string | undefined) {
  if (ref === undefined) return undefined;
  return { ref: parseU32('ctrl-ring-ref', ref), port: parseU32('event-channel-ctrl', port) };
}

function checkRefs(
  queues: readonly QueueParameters[],
  control: FrontendParameters['control'],
): void {
  const refs = queues.flatMap(({ txRingRef, rxRingRef }) => [txRingRef, rxRingRef]);
  if (control !== undefined) refs.push(control.ref);
  if (new Set(refs).size === refs.length) return;
  throw new ProtocolError('RING_REFS_EQUAL', 'Two rings are in the same page.');
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

/**
 * The toolstack's part of a vif's life, done as libxl does it: both halves in XenStore, their
 * permissions, and libxl's own copy, so that `xl network-list` and `xl network-detach` know it.
 */
import {
  AlreadyExistsError,
  FailedPreconditionError,
  NotFoundError,
  StoreError,
} from '../../errors.js';
import { writeNodes } from '../../xen/store-nodes.js';
import type { Store, StoreOperations, StorePermissions } from '../../xen/xen.js';
import { XenbusState } from '../../xen/xenbus.js';
import type { RateLimit } from '../token-bucket.js';
import { type VifPaths, vifPaths } from './handshake.js';

/** What a new vif shall be. */
export interface NewVif {
  readonly backendDomid: number;
  readonly domid: number;
  /** Undefined: the lowest that is free. */
  readonly handle: number | undefined;
  readonly mac: string;
  readonly mtu: number;
  /** What the guest may send; undefined for no limit. */
  readonly rate?: RateLimit | undefined;
  /** The switch to be joined to; undefined for the one that libxl names, which is the default. */
  readonly bridge?: string | undefined;
  /** What the port allows, as text; undefined for everything. */
  readonly policy?: string | undefined;
  readonly linkDown?: boolean;
  readonly labels: Readonly<Record<string, string>>;
  readonly uid: string;
  /** What the request was that it is made for, so that the same request makes no second one. */
  readonly request?: string | undefined;
}

/** The most interfaces that the search for a free handle goes through. */
const HANDLE_MAX = 65535;
const MTU_DEFAULT = 1500;
/** Where libxl looks for hotplug scripts, and deploy's is installed; libxl removes no vif without. */
const HOTPLUG_SCRIPT = '/etc/xen/scripts/vif-xenvif';

/**
 * Writes both halves in one transaction and returns the handle.
 * @throws NotFoundError DOMAIN_NOT_FOUND; AlreadyExistsError HANDLE_BUSY; FailedPreconditionError
 *   NOT_PRIVILEGED where only domain 0 can.
 */
export async function plugVif(store: Store, vif: NewVif): Promise<number> {
  try {
    return await plugBoth(store, vif);
  } catch (error) {
    if (!(error instanceof StoreError) || error.errno !== 'EACCES') throw error;
    const { backendDomid, domid } = vif;
    throw notPrivileged(backendDomid, `xl network-attach ${domid} backend=${backendDomid}`);
  }
}

/** @throws FailedPreconditionError NOT_PRIVILEGED where only domain 0 can remove a vif. */
export function checkMayUnplug(ownDomid: number, domid: number, handle: number): void {
  // A driver domain may close its own half, and would leave the guest's and libxl's behind.
  if (ownDomid !== 0) throw notPrivileged(ownDomid, `xl network-detach ${domid} ${handle}`);
}

function notPrivileged(ownDomid: number, command: string): FailedPreconditionError {
  const text = `Domain ${ownDomid} may not write what is the guest's in XenStore. In domain 0, use: ${command}`;
  return new FailedPreconditionError('NOT_PRIVILEGED', text, { command });
}

async function plugBoth(store: Store, vif: NewVif): Promise<number> {
  if (!(await store.isDomainIntroduced(vif.domid))) {
    throw new NotFoundError('DOMAIN_NOT_FOUND', `There is no domain ${vif.domid}.`, {
      domid: String(vif.domid),
    });
  }
  return await store.transaction(async (transaction) => {
    const handle = vif.handle ?? (await freeHandle(transaction, vif));
    const paths = vifPaths(vif.backendDomid, vif.domid, handle);
    for (const path of [paths.backend, paths.frontend]) {
      if ((await transaction.readIfExists(`${path}/state`)) === undefined) continue;
      throw new AlreadyExistsError('HANDLE_BUSY', `vifs/${vif.domid}.${handle} exists already.`, {
        vif: `vifs/${vif.domid}.${handle}`,
      });
    }
    const libxl = libxlPath(vif.domid, handle);
    const toGuest: StorePermissions = {
      owner: vif.backendDomid,
      others: 'n',
      domains: [{ domid: vif.domid, access: 'r' }],
    };
    const toBackend: StorePermissions = {
      owner: vif.domid,
      others: 'n',
      domains: [{ domid: vif.backendDomid, access: 'r' }],
    };
    const backend = backendNodes(vif, handle);
    const { frontend: frontendPath, backend: backendPath } = paths;
    await writeTree(transaction, backendPath, { frontend: frontendPath, ...backend }, toGuest);
    await writeNodes(transaction, backendPath, ownNodes(vif));
    const frontend = frontendNodes(vif, handle, backendPath);
    await writeTree(transaction, frontendPath, frontend, toBackend);
    // The guest may read its MTU, and the backend change it.
    await transaction.write(`${frontendPath}/mtu`, String(vif.mtu));
    await transaction.setPermissions(`${frontendPath}/mtu`, toGuest);
    const own: StorePermissions = { owner: 0, others: 'n' };
    await writeTree(transaction, libxl, { ...paths, ...backend }, own);
    return handle;
  });
}

/** What to change of a vif; what is left out stays, and what is null is no longer limited or chosen. */
export interface VifChanges {
  readonly mtu?: number;
  readonly rate?: RateLimit | null;
  readonly bridge?: string | null;
  readonly policy?: string | null;
  readonly linkDown?: boolean;
  readonly labels?: Readonly<Record<string, string>>;
}

/** Writes changes in one transaction; false when the vif is gone. */
export async function changeVif(
  store: Store,
  paths: VifPaths,
  changes: VifChanges,
): Promise<boolean> {
  const { bridge, labels, linkDown, mtu, policy, rate } = changes;
  const backend: Record<string, string | undefined> = {};
  if (mtu !== undefined) backend['mtu'] = mtu === MTU_DEFAULT ? undefined : String(mtu);
  if (rate !== undefined) backend['rate'] = rate === null ? undefined : rateNode(rate);
  if (bridge !== undefined) backend['bridge'] = bridge ?? undefined;
  // Empty, and not absent, for then the keys of xl's would hold.
  if (policy !== undefined) backend['xenvif/policy'] = policy ?? '';
  if (linkDown !== undefined) backend['carrier'] = linkDown ? '0' : '1';
  if (labels !== undefined) backend['xenvif/labels'] = JSON.stringify(labels);
  return await store.transaction(async (transaction) => {
    if ((await transaction.readIfExists(`${paths.backend}/state`)) === undefined) return false;
    await writeNodes(transaction, paths.backend, backend);
    const hasFrontend = (await transaction.readIfExists(`${paths.frontend}/state`)) !== undefined;
    if (hasFrontend && mtu !== undefined) {
      await writeNodes(transaction, paths.frontend, { mtu: String(mtu) });
    }
    return true;
  });
}

function rateNode({ bytesPerInterval, intervalUs }: RateLimit): string {
  return `${bytesPerInterval},${intervalUs}`;
}

/** Tells the backend, and through it the guest, that the vif shall go. */
export async function requestUnplug(
  store: Store,
  backendDomid: number,
  domid: number,
  handle: number,
): Promise<void> {
  const { backend } = vifPaths(backendDomid, domid, handle);
  await store.transaction(async (transaction) => {
    const state = await transaction.readIfExists(`${backend}/state`);
    if (state === undefined) return;
    await transaction.write(`${backend}/online`, '0');
    if (state !== String(XenbusState.closed)) {
      await transaction.write(`${backend}/state`, String(XenbusState.closing));
    }
  });
}

/** Removes all that is left of a vif. */
export async function removeVif(
  store: Store,
  backendDomid: number,
  domid: number,
  handle: number,
): Promise<void> {
  const paths = vifPaths(backendDomid, domid, handle);
  await store.transaction(async (transaction) => {
    await transaction.rm(paths.frontend);
    await transaction.rm(paths.backend);
    await transaction.rm(libxlPath(domid, handle));
  });
}

function libxlPath(domid: number, handle: number): string {
  return `/libxl/${domid}/device/vif/${handle}`;
}

async function freeHandle(store: StoreOperations, vif: NewVif): Promise<number> {
  const base = `/local/domain/${vif.domid}/device`;
  const types = await store.directory(base).catch((): string[] => []);
  const used = types.includes('vif') ? await store.directory(`${base}/vif`) : [];
  const taken = new Set(used);
  for (let handle = 0; handle <= HANDLE_MAX; handle += 1) {
    if (!taken.has(String(handle))) return handle;
  }
  throw new AlreadyExistsError('HANDLE_BUSY', `Domain ${vif.domid} has no handle left.`);
}

/** The backend's half as libxl writes it, of which it keeps a copy. */
function backendNodes(vif: NewVif, handle: number): Record<string, string> {
  return {
    'frontend-id': String(vif.domid),
    online: '1',
    state: String(XenbusState.initialising),
    script: HOTPLUG_SCRIPT,
    mac: vif.mac,
    ...(vif.rate === undefined ? {} : { rate: rateNode(vif.rate) }),
    ...(vif.mtu === MTU_DEFAULT ? {} : { mtu: String(vif.mtu) }),
    bridge: vif.bridge ?? 'xenbr0',
    handle: String(handle),
    type: 'vif',
    'hotplug-status': '',
  };
}

/** What libxl knows nothing of. */
function ownNodes(vif: NewVif): Record<string, string> {
  return {
    ...(vif.policy === undefined ? {} : { 'xenvif/policy': vif.policy }),
    ...(vif.linkDown ? { carrier: '0' } : {}),
    'xenvif/uid': vif.uid,
    'xenvif/labels': JSON.stringify(vif.labels),
    ...(vif.request === undefined ? {} : { 'xenvif/request': vif.request }),
  };
}

function frontendNodes(vif: NewVif, handle: number, backend: string): Record<string, string> {
  return {
    backend,
    'backend-id': String(vif.backendDomid),
    state: String(XenbusState.initialising),
    handle: String(handle),
    mac: vif.mac,
    trusted: '1',
  };
}

/** Makes the directory with its permissions first, for new nodes below take theirs from it. */
async function writeTree(
  store: StoreOperations,
  path: string,
  nodes: Record<string, string>,
  permissions: StorePermissions,
): Promise<void> {
  await store.mkdir(path);
  await store.setPermissions(path, permissions);
  await writeNodes(store, path, nodes);
}

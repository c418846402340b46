/**
 * What the toolstack writes into XenStore when it builds a domain, and removes when it is gone
 * (libxl__domain_make and libxl__build_post in tools/libs/light; seen with xenstore-ls -p).
 */
import type { Store, StoreOperations, StorePermissions } from '../xen.js';

export interface DomainFacts {
  readonly domid: number;
  readonly name: string;
  readonly uuid: string;
}

/** Directories that the toolstack owns and the guest may only read. */
const READABLE = ['cpu', 'memory', 'control', 'device'];
/** Directories and nodes that are the guest's own. */
const OWN = [
  'control/shutdown',
  'control/feature-poweroff',
  'control/feature-reboot',
  'control/feature-suspend',
  'control/sysrq',
  'device/suspend/event-channel',
  'data',
  'drivers',
  'feature',
  'attr',
  'error',
];

export async function writeDomain(store: Store, facts: DomainFacts): Promise<void> {
  const { domid, name, uuid } = facts;
  const base = `/local/domain/${domid}`;
  const vm = `/vm/${uuid}`;
  const readable: StorePermissions = {
    owner: 0,
    others: 'n',
    domains: [{ domid, access: 'r' }],
  };
  const own: StorePermissions = { owner: domid, others: 'n' };
  await store.transaction(async (transaction) => {
    await transaction.rm(base);
    await makeNode(transaction, base, readable);
    await makeNode(transaction, vm, readable);
    await makeNode(transaction, `/libxl/${domid}`, { owner: 0, others: 'n' });
    for (const path of READABLE) await makeNode(transaction, `${base}/${path}`, readable);
    for (const path of OWN) await makeNode(transaction, `${base}/${path}`, own);
    await transaction.write(`${base}/vm`, vm);
    await transaction.write(`${base}/name`, name);
    await transaction.write(`${base}/domid`, String(domid));
    await transaction.write(`${base}/control/platform-feature-multiprocessor-suspend`, '1');
    await transaction.write(`${base}/control/platform-feature-xs_reset_watches`, '1');
    await transaction.write(`${base}/cpu/0/availability`, 'online');
    await transaction.write(`${vm}/uuid`, uuid);
    await transaction.write(`${vm}/name`, name);
    await transaction.write(`/libxl/${domid}/type`, 'pv');
  });
}

/** What xen-init-dom0 writes. */
export async function writeDomain0(store: Store): Promise<void> {
  await store.transaction(async (transaction) => {
    await transaction.write('/local/domain/0/domid', '0');
    await transaction.write('/local/domain/0/name', 'Domain-0');
  });
}

export async function removeDomain(store: Store, facts: DomainFacts): Promise<void> {
  await store.transaction(async (transaction) => {
    await transaction.rm(`/local/domain/${facts.domid}`);
    await transaction.rm(`/vm/${facts.uuid}`);
    await transaction.rm(`/libxl/${facts.domid}`);
  });
}

async function makeNode(
  store: StoreOperations,
  path: string,
  permissions: StorePermissions,
): Promise<void> {
  await store.mkdir(path);
  await store.setPermissions(path, permissions);
}

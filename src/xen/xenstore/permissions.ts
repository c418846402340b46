/**
 * Permissions as they travel (xenstore.txt, GET_PERMS and SET_PERMS): a list of a letter and a
 * domain each, such as `n0`, `r5`. The first names the owner, who may do everything, and by its
 * letter what every domain that is not listed may do.
 */
import { StoreError } from '../../errors.js';
import type { StoreAccess, StorePermissions } from '../xen.js';
import { emitStrings, parseStrings } from './wire.js';

const entry = /^([nrwb])(0|[1-9][0-9]{0,4})$/;

/** The highest number a domain can have: a domid_t has 16 bits. */
export const DOMID_MAX = 0xffff;

/** @throws StoreError EINVAL when the payload is no list of permissions. */
export function parsePermissions(payload: Buffer): StorePermissions {
  const [first, ...rest] = (parseStrings(payload) ?? []).map(parseEntry);
  if (first === undefined) {
    throw new StoreError('EINVAL', 'the permissions of a XenStore node need at least an owner');
  }
  const owned = { owner: first.domid, others: first.access };
  return rest.length === 0 ? owned : { ...owned, domains: rest };
}

/** @throws StoreError EINVAL when a domain is no number of a domain. */
export function emitPermissions(permissions: StorePermissions): Buffer {
  const entries = [
    { domid: permissions.owner, access: permissions.others },
    ...(permissions.domains ?? []),
  ];
  return emitStrings(
    ...entries.map(({ domid, access }) => {
      const text = `${access}${domid}`;
      parseEntry(text);
      return text;
    }),
  );
}

function parseEntry(text: string): { domid: number; access: StoreAccess } {
  const match = entry.exec(text);
  const domid = Number(match?.[2]);
  if (match === null || domid > DOMID_MAX) {
    throw new StoreError(
      'EINVAL',
      `${JSON.stringify(text.slice(0, 40))} is no XenStore permission`,
    );
  }
  return { domid, access: match[1] as StoreAccess };
}

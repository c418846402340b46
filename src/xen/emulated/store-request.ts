/**
 * What a handler of the emulated XenStore gets to see, and how it takes a payload apart.
 */
import { StoreError } from '../../errors.js';
import type { StorePermissions } from '../xen.js';
import { checkPath } from '../xenstore/path.js';
import { DOMID_MAX } from '../xenstore/permissions.js';
import { emitStrings, parseStrings } from '../xenstore/wire.js';
import type { ServedConnection } from './store-connection.js';
import type { StoreTransaction } from './store-transaction.js';
import type { StoreCaller, StoreChange, StoreTree } from './store-tree.js';

/** What a domain other than 0 may have open at once, and how much a transaction may touch. */
export interface StoreRequestLimits {
  readonly watchesPerDomainMax: number;
  readonly transactionsPerDomainMax: number;
  readonly transactionSizeMax: number;
  /** Applies to domain 0 as well: nothing here is without end. */
  readonly watchesPerConnectionMax: number;
  readonly transactionsPerConnectionMax: number;
  readonly quotaErrno: 'EQUOTA' | 'ENOSPC';
}

/** What handlers need of the store around them. */
export interface StoreServer {
  readonly tree: StoreTree;
  readonly limits: StoreRequestLimits;
  /** Who may hear of the special watches, by their names. */
  readonly specialPermissions: Map<string, StorePermissions>;
  fire(changes: readonly StoreChange[]): void;
  isIntroduced(domid: number): boolean;
  introduce(domid: number): void;
  release(domid: number): void;
  connectionsOf(domid: number): readonly ServedConnection[];
}

/** One request on its way through the store. */
export interface Request {
  readonly server: StoreServer;
  readonly connection: ServedConnection;
  readonly caller: StoreCaller;
  readonly payload: Buffer;
  readonly transaction: StoreTransaction | undefined;
  /** What happens after the reply is on its way. */
  readonly afterwards: (() => void)[];
}

/** Returns the payload of the reply, or throws the StoreError to answer. */
export type Handler = (request: Request) => Buffer;

/** The reply to what was done and has nothing to tell. */
export const OK = emitStrings('OK');

/** @throws StoreError EINVAL when there are fewer strings. */
export function strings(request: Request, count: number): string[] {
  const found = parseStrings(request.payload);
  if (found === undefined || found.length < count) {
    throw new StoreError('EINVAL', `the request needs ${count} strings`);
  }
  return found;
}

/** @throws StoreError EINVAL when the payload is not exactly one string. */
export function one(request: Request): string {
  const [only, ...more] = strings(request, 1);
  if (only === undefined || more.length > 0) {
    throw new StoreError('EINVAL', 'the request needs exactly one string');
  }
  return only;
}

/** The absolute form of a path: a relative one starts at the caller's own directory. */
export function absolute(request: Request, path: string, special?: 'special allowed'): string {
  checkPath(path, special);
  if (path.startsWith('/') || path.startsWith('@')) {
    return path;
  }
  const whole = `/local/domain/${request.connection.domid}/${path}`;
  checkPath(whole);
  return whole;
}

export function onePath(request: Request): string {
  return absolute(request, one(request));
}

export function parseDomid(text: string): number {
  if (!/^[0-9]{1,5}$/.test(text) || Number(text) > DOMID_MAX) {
    throw new StoreError('EINVAL', `${JSON.stringify(text.slice(0, 40))} is no domain`);
  }
  return Number(text);
}

export function oneDomid(request: Request): number {
  return parseDomid(one(request));
}

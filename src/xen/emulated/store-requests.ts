/**
 * What the emulated XenStore does for each type of request: one table. A handler returns the
 * payload of the reply or throws the StoreError to answer. Semantics are those of xenstored in Xen
 * 4.17 and later; where its two implementations differ, the C one is followed, except for quota.
 */
import { StoreError } from '../../errors.js';
import { type Message, type MessageName, messageName } from '../xenstore/wire.js';
import type { ServedConnection, ServedReply } from './store-connection.js';
import {
  directory,
  directoryPart,
  getPermissions,
  mkdir,
  read,
  rm,
  setPermissions,
  write,
} from './store-node-requests.js';
import type { Handler, StoreServer } from './store-request.js';
import {
  control,
  domainPath,
  introduce,
  isDomainIntroduced,
  release,
  resetWatches,
  resume,
  setTarget,
  transactionEnd,
  transactionStart,
  unwatch,
  watch,
} from './store-session-requests.js';
import type { StoreTransaction } from './store-transaction.js';
import { isPrivileged } from './store-tree.js';

const handlers: { readonly [name in MessageName]?: Handler } = {
  CONTROL: control,
  DIRECTORY: directory,
  READ: read,
  GET_PERMS: getPermissions,
  WATCH: watch,
  UNWATCH: unwatch,
  TRANSACTION_START: transactionStart,
  TRANSACTION_END: transactionEnd,
  INTRODUCE: introduce,
  RELEASE: release,
  GET_DOMAIN_PATH: domainPath,
  WRITE: write,
  MKDIR: mkdir,
  RM: rm,
  SET_PERMS: setPermissions,
  IS_DOMAIN_INTRODUCED: isDomainIntroduced,
  RESUME: resume,
  SET_TARGET: setTarget,
  RESET_WATCHES: resetWatches,
  DIRECTORY_PART: directoryPart,
};

const privileged: ReadonlySet<MessageName> = new Set<MessageName>([
  'CONTROL',
  'INTRODUCE',
  'RELEASE',
  'IS_DOMAIN_INTRODUCED',
  'RESUME',
  'SET_TARGET',
]);

/** Requests that mean the same inside a transaction and outside. */
const outsideTransactions: ReadonlySet<MessageName> = new Set<MessageName>([
  'CONTROL',
  'WATCH',
  'UNWATCH',
]);

/**
 * Carries out one request.
 * @throws StoreError with the error to answer.
 */
export function serveRequest(
  server: StoreServer,
  connection: ServedConnection,
  message: Message,
): ServedReply {
  const name = messageName(message.type);
  const handler = name === undefined ? undefined : handlers[name];
  if (name === undefined || handler === undefined) {
    throw new StoreError('ENOSYS', `there is no request of the type ${message.type}`);
  }
  const { caller } = connection;
  if (privileged.has(name) && !isPrivileged(caller)) {
    throw new StoreError('EACCES', `only domain 0 may ask for ${name}`);
  }
  let transaction: StoreTransaction | undefined;
  if (message.transactionId !== 0 && !outsideTransactions.has(name)) {
    transaction = connection.transactions.get(message.transactionId);
    if (transaction === undefined) {
      throw new StoreError('ENOENT', `there is no transaction ${message.transactionId}`);
    }
  }
  const afterwards: (() => void)[] = [];
  const request = { server, connection, caller, payload: message.payload, transaction, afterwards };
  const payload = handler(request);
  const runAfterwards = () => {
    for (const act of afterwards) {
      act();
    }
  };
  return { payload, afterwards: runAfterwards };
}

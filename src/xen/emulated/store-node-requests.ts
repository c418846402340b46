/** What the emulated XenStore does for requests about nodes, in a transaction or outside. */
import { StoreError } from '../../errors.js';
import type { StorePermissions } from '../xen.js';
import { INTRODUCE_DOMAIN, RELEASE_DOMAIN } from '../xenstore/path.js';
import { emitPermissions, parsePermissions } from '../xenstore/permissions.js';
import { emitStrings, PAYLOAD_BYTES_MAX } from '../xenstore/wire.js';
import { absolute, OK, one, onePath, type Request, strings } from './store-request.js';
import type { StoreMutation } from './store-transaction.js';
import { isPrivileged } from './store-tree.js';

export function read(request: Request): Buffer {
  return readNode(request, onePath(request)).value;
}

function readNode(request: Request, path: string) {
  const { transaction, server, caller } = request;
  transaction?.see(path);
  checkTransactionSize(request);
  return (transaction?.tree ?? server.tree).get(caller, path, 'read');
}

function mutate(request: Request, path: string, mutation: StoreMutation): Buffer {
  const { transaction, server } = request;
  if (transaction === undefined) {
    const changes = mutation(server.tree);
    request.afterwards.push(() => server.fire(changes));
  } else {
    transaction.see(path);
    checkTransactionSize(request);
    transaction.mutate(mutation);
  }
  return OK;
}

function checkTransactionSize({ transaction, server, caller }: Request): void {
  const { transactionSizeMax, quotaErrno } = server.limits;
  if (!isPrivileged(caller) && transaction !== undefined && transaction.size > transactionSizeMax) {
    throw new StoreError(quotaErrno, 'the transaction touches too much');
  }
}

export function directory(request: Request): Buffer {
  const list = emitStrings(...readNode(request, onePath(request)).children.keys());
  if (list.length > PAYLOAD_BYTES_MAX) {
    throw new StoreError('E2BIG', 'the list of children is too long for one message');
  }
  return list;
}

/** Children from a byte offset on, as many as fit; an empty name at the end says that all came. */
export function directoryPart(request: Request): Buffer {
  const [asked = '', from = '', ...more] = strings(request, 2);
  if (more.length > 0 || !/^[0-9]{1,9}$/.test(from)) {
    throw new StoreError('EINVAL', 'the request needs a path and an offset');
  }
  const node = readNode(request, absolute(request, asked));
  const list = emitStrings(...node.children.keys());
  const generation = emitStrings(String(node.generation));
  const rest = list.subarray(Number(from));
  const roomBytes = PAYLOAD_BYTES_MAX - generation.length - 1;
  if (rest.length <= roomBytes) {
    return Buffer.concat([generation, rest, emitStrings('')]);
  }
  const end = rest.lastIndexOf(0, roomBytes - 1) + 1;
  return Buffer.concat([generation, rest.subarray(0, end)]);
}

export function write(request: Request): Buffer {
  const { payload, caller } = request;
  const nul = payload.indexOf(0);
  if (nul < 0) {
    throw new StoreError('EINVAL', 'the path has no end');
  }
  const path = absolute(request, payload.toString('utf8', 0, nul));
  const value = payload.subarray(nul + 1);
  return mutate(request, path, (tree) => [tree.write(caller, path, value)]);
}

export function mkdir(request: Request): Buffer {
  const path = onePath(request);
  return mutate(request, path, (tree) => {
    const change = tree.mkdir(request.caller, path);
    return change === undefined ? [] : [change];
  });
}

export function rm(request: Request): Buffer {
  const path = onePath(request);
  return mutate(request, path, (tree) => tree.remove(request.caller, path));
}

export function getPermissions(request: Request): Buffer {
  const path = absolute(request, one(request), 'special allowed');
  if (path.startsWith('@')) {
    return emitPermissions(specialPermissions(request, path));
  }
  return emitPermissions(readNode(request, path).permissions);
}

export function setPermissions(request: Request): Buffer {
  const { payload, caller, server } = request;
  const nul = payload.indexOf(0);
  if (nul < 0) {
    throw new StoreError('EINVAL', 'the path has no end');
  }
  const path = absolute(request, payload.toString('utf8', 0, nul), 'special allowed');
  const permissions = parsePermissions(payload.subarray(nul + 1));
  if (path.startsWith('@')) {
    specialPermissions(request, path);
    server.specialPermissions.set(path, permissions);
    return OK;
  }
  return mutate(request, path, (tree) => [tree.setPermissions(caller, path, permissions)]);
}

function specialPermissions(request: Request, name: string): StorePermissions {
  const permissions = request.server.specialPermissions.get(name);
  if (!isPrivileged(request.caller)) {
    throw new StoreError('EACCES', 'the special watches belong to domain 0');
  }
  if (permissions === undefined) {
    throw new StoreError('EINVAL', `there is no special watch ${name}`);
  }
  return permissions;
}

/** Both special watches, heard by domain 0 alone until it says otherwise. */
export function initialSpecialPermissions(): Map<string, StorePermissions> {
  return new Map([
    [INTRODUCE_DOMAIN, { owner: 0, others: 'n' }],
    [RELEASE_DOMAIN, { owner: 0, others: 'n' }],
  ]);
}

/** What the emulated XenStore does for requests about watches, transactions and domains. */
import { StoreError } from '../../errors.js';
import { emitStrings } from '../xenstore/wire.js';
import { absolute, OK, one, oneDomid, parseDomid, type Request, strings } from './store-request.js';
import { StoreTransaction } from './store-transaction.js';
import { isPrivileged } from './store-tree.js';

export function watch(request: Request): Buffer {
  const { connection, server, caller } = request;
  const [asked = '', token = '', ...more] = strings(request, 2);
  if (more.length > 0) {
    throw new StoreError('EINVAL', 'a watch has a path and a token');
  }
  const path = absolute(request, asked, 'special allowed');
  const { watchesPerDomainMax, watchesPerConnectionMax, quotaErrno } = server.limits;
  const max = isPrivileged(caller) ? watchesPerConnectionMax : watchesPerDomainMax;
  if (connection.watches.count >= max) {
    throw new StoreError(quotaErrno, `there are ${max} watches already`);
  }
  connection.watches.add({ asked, path, token });
  request.afterwards.push(() => connection.sendEvent(asked, '', token));
  return OK;
}

export function unwatch(request: Request): Buffer {
  const [asked = '', token = ''] = strings(request, 2);
  request.connection.watches.remove(absolute(request, asked, 'special allowed'), token);
  return OK;
}

export function resetWatches({ connection }: Request): Buffer {
  connection.watches.clear();
  connection.transactions.clear();
  return OK;
}

export function transactionStart({ connection, server, caller, transaction }: Request): Buffer {
  if (transaction !== undefined) {
    throw new StoreError('EBUSY', 'transactions cannot be nested');
  }
  const { transactionsPerDomainMax, transactionsPerConnectionMax, quotaErrno } = server.limits;
  const max = isPrivileged(caller) ? transactionsPerConnectionMax : transactionsPerDomainMax;
  if (connection.transactions.size >= max) {
    throw new StoreError(quotaErrno, `there are ${max} transactions open already`);
  }
  const id = connection.takeTransactionId();
  connection.transactions.set(id, new StoreTransaction(id, server.tree));
  return emitStrings(String(id));
}

export function transactionEnd(request: Request): Buffer {
  const how = one(request);
  if (how !== 'T' && how !== 'F') {
    throw new StoreError('EINVAL', 'a transaction ends with T or F');
  }
  const { transaction, connection, server, afterwards } = request;
  if (transaction === undefined) {
    throw new StoreError('ENOENT', 'there is no transaction to end');
  }
  connection.transactions.delete(transaction.id);
  if (how === 'T') {
    const changes = transaction.commit(server.tree);
    afterwards.push(() => server.fire(changes));
  }
  return OK;
}

export function introduce(request: Request): Buffer {
  const [domid = '', frame = '', port = ''] = strings(request, 3);
  if (!/^-?[0-9]+$/.test(frame) || !(Number(port) > 0)) {
    throw new StoreError('EINVAL', 'a domain is introduced with a page and an event channel');
  }
  const { server, afterwards } = request;
  const introduced = parseDomid(domid);
  // To introduce a domain again only tells xenstored of a new event channel.
  if (!server.isIntroduced(introduced)) {
    afterwards.push(() => server.introduce(introduced));
  }
  return OK;
}

function introducedDomid(request: Request): number {
  const domid = oneDomid(request);
  if (domid === 0) {
    throw new StoreError('EINVAL', 'domain 0 is always there');
  }
  if (!request.server.isIntroduced(domid)) {
    throw new StoreError('ENOENT', `domain ${domid} is not introduced`);
  }
  return domid;
}

export function release(request: Request): Buffer {
  const domid = introducedDomid(request);
  request.afterwards.push(() => request.server.release(domid));
  return OK;
}

export function resume(request: Request): Buffer {
  introducedDomid(request);
  return OK;
}

export function setTarget(request: Request): Buffer {
  const [domid = '', target = ''] = strings(request, 2);
  const { server } = request;
  for (const one of [domid, target].map(parseDomid)) {
    if (!server.isIntroduced(one)) {
      throw new StoreError('ENOENT', `domain ${one} is not introduced`);
    }
  }
  for (const connection of server.connectionsOf(parseDomid(domid))) {
    connection.target = parseDomid(target);
  }
  return OK;
}

/** DOMID_SELF (xen.h). */
const DOMID_SELF = 0x7ff0;

export function isDomainIntroduced(request: Request): Buffer {
  const domid = oneDomid(request);
  const introduced = domid === DOMID_SELF || request.server.isIntroduced(domid);
  return emitStrings(introduced ? 'T' : 'F');
}

export function control(request: Request): Buffer {
  const [command] = strings(request, 1);
  switch (command) {
    case 'check':
    case 'print':
      return OK;
    case 'help':
      return emitStrings('check\nprint <string>\nhelp');
    default:
      throw new StoreError('EINVAL', `there is no control command ${command}`);
  }
}

export function domainPath(request: Request): Buffer {
  return emitStrings(`/local/domain/${oneDomid(request)}`);
}

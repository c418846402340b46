/**
 * Transactions (xenstore.txt): a body of requests under one transaction id, committed as one. When
 * somebody else changed what the body saw, xenstored answers EAGAIN and the body runs again. A
 * transaction lives and dies with its connection.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { FailedPreconditionError, StoreError } from '../../errors.js';
import type { StoreOperations } from '../xen.js';
import type { StoreConnection } from './connection.js';
import { RequestOperations } from './operations.js';
import { emitStrings, MessageType, parseStrings } from './wire.js';

/** The random wait before another attempt grows up to this, in milliseconds. */
const RETRY_DELAY_MAX_MS = 100;

/**
 * Runs `body` until it commits, `retriesMax` times again at most after an EAGAIN.
 * @param current the connection of the moment; throws UnavailableError when there is none.
 */
export async function runTransaction<T>(
  current: () => StoreConnection,
  retriesMax: number,
  body: (transaction: StoreOperations) => Promise<T>,
): Promise<T> {
  for (let retries = 0; ; retries++) {
    try {
      return await attempt(current(), body);
    } catch (error) {
      if (!(error instanceof StoreError && error.errno === 'EAGAIN')) {
        throw error;
      }
      if (retries >= retriesMax) {
        throw new StoreError(
          'EAGAIN',
          `a XenStore transaction was given up after ${retries + 1} conflicts with others`,
        );
      }
    }
    // A random wait lets two that keep disturbing each other come apart.
    await sleep(Math.random() * Math.min(2 ** retries, RETRY_DELAY_MAX_MS));
  }
}

async function attempt<T>(
  connection: StoreConnection,
  body: (transaction: StoreOperations) => Promise<T>,
): Promise<T> {
  const transactionId = await begin(connection);
  let ended = false;
  const operations = new RequestOperations((type, payload, subject) => {
    if (ended) {
      const message = `the transaction has ended already; cannot ${subject} in it`;
      return Promise.reject(new FailedPreconditionError('XENSTORE_TRANSACTION_ENDED', message));
    }
    return connection.request(type, transactionId, payload, subject);
  });
  let result: T;
  try {
    result = await body(operations);
  } catch (error) {
    ended = true;
    await end(connection, transactionId, 'F', 'abort a transaction').catch(() => {
      // What the body threw matters more, and a transaction that cannot be aborted is gone anyway.
    });
    throw error;
  }
  ended = true;
  await end(connection, transactionId, 'T', 'commit a transaction');
  return result;
}

async function begin(connection: StoreConnection): Promise<number> {
  const subject = 'start a transaction';
  const reply = await connection.request(
    MessageType.TRANSACTION_START,
    0,
    emitStrings(''),
    subject,
  );
  const transactionId = Number(parseStrings(reply)?.[0]);
  if (!Number.isInteger(transactionId) || transactionId <= 0 || transactionId > 0xffffffff) {
    throw new StoreError('EIO', `could not ${subject}: XenStore answered no number`);
  }
  return transactionId;
}

async function end(connection: StoreConnection, id: number, how: 'T' | 'F', subject: string) {
  await connection.request(MessageType.TRANSACTION_END, id, emitStrings(how), subject);
}

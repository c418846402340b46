import { type Duplex, duplexPair } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { UnavailableError } from '../../../../src/errors.js';
import { EmulatedStore } from '../../../../src/xen/emulated/store.js';
import { StoreClient, type StoreClientOptions } from '../../../../src/xen/xenstore/client.js';
import {
  emitMessage,
  emitStrings,
  MessageParser,
  MessageType,
} from '../../../../src/xen/xenstore/wire.js';

let emulated: EmulatedStore;
let clients: StoreClient[];

beforeEach(() => {
  emulated = new EmulatedStore();
  clients = [];
});

afterEach(async () => {
  await Promise.all(clients.map((client) => client.close()));
  await emulated.close();
});

async function open(options: Partial<StoreClientOptions> = {}): Promise<StoreClient> {
  const connect = async () => emulated.connect(0);
  const client = await StoreClient.open({
    connect,
    reconnectDelayMs: 2,
    reconnectDelayMaxMs: 8,
    ...options,
  });
  clients.push(client);
  return client;
}

const unavailable = expect.objectContaining({ code: 'XENSTORE_UNAVAILABLE' });

describe('transactions under faults', () => {
  test('EAGAIN is tried again as often as allowed, and then told clearly', async () => {
    const client = await open({ transactionRetriesMax: 3 });
    const twice = emulated.fail({ request: 'TRANSACTION_END', answer: 'EAGAIN', times: 2 });
    await client.transaction((transaction) => transaction.write('/a', '1'));
    expect(twice.hits).toBe(2);
    const always = emulated.fail({ request: 'TRANSACTION_END', answer: 'EAGAIN' });
    let bodies = 0;
    const refused = client.transaction(async () => {
      bodies += 1;
    });
    await expect(refused).rejects.toMatchObject({ errno: 'EAGAIN' });
    expect([bodies, always.hits]).toEqual([4, 4]);
    emulated.checkNoLeaks(0);
  });

  test('EAGAIN from a request of the body counts as a conflict too', async () => {
    const client = await open();
    emulated.fail({ request: 'WRITE', answer: 'EAGAIN', times: 1 });
    await client.transaction((transaction) => transaction.write('/a', '1'));
    expect(await client.read('/a')).toBe('1');
    emulated.checkNoLeaks(0);
  });

  test('EQUOTA ends a transaction at once and leaves none open', async () => {
    const client = await open();
    const fault = emulated.fail({ request: 'WRITE', path: '/a', answer: 'EQUOTA' });
    const refused = client.transaction((transaction) => transaction.write('/a', '1'));
    await expect(refused).rejects.toMatchObject({ errno: 'EQUOTA', code: 'XENSTORE_EQUOTA' });
    expect(fault.hits).toBe(1);
    emulated.checkNoLeaks(0);
  });

  test('a transaction that has ended cannot be used', async () => {
    const client = await open();
    const late = await client.transaction(async (transaction) => transaction);
    await expect(late.read('/')).rejects.toMatchObject({ code: 'XENSTORE_TRANSACTION_ENDED' });
  });

  test('a commit whose connection is lost fails, and is not repeated', async () => {
    const client = await open();
    emulated.fail({ request: 'TRANSACTION_END', answer: 'drop', times: 1 });
    let bodies = 0;
    const lost = client.transaction(async () => {
      bodies += 1;
    });
    await expect(lost).rejects.toEqual(unavailable);
    expect(bodies).toBe(1);
  });
});

describe('the connection', () => {
  test('the first attempt to connect tells its failure', async () => {
    const failure = new UnavailableError('XENSTORE_UNAVAILABLE', 'nobody is there');
    const connect = () => Promise.reject(failure);
    await expect(StoreClient.open({ connect })).rejects.toBe(failure);
  });

  test('everything in flight fails when it is lost, and says what could not be done', async () => {
    const client = await open();
    emulated.fail({ answer: 'nothing' });
    const waiting = [
      client.read('/one'),
      client.watch('/two', () => {}),
      client.directory('/three'),
    ];
    const settled = Promise.allSettled(waiting);
    emulated.dropConnections();
    for (const [index, result] of (await settled).entries()) {
      expect(result).toMatchObject({ status: 'rejected', reason: unavailable });
      expect(String((result as PromiseRejectedResult).reason)).toContain(
        ['one', 'two', 'three'][index],
      );
    }
  });

  test('requests fail at once while xenstored is gone, and work when it is back', async () => {
    const client = await open();
    const heard: boolean[] = [];
    client.onConnection((connected) => heard.push(connected));
    emulated.stop();
    await expect.poll(() => client.connected).toBe(false);
    await expect(client.read('/')).rejects.toEqual(unavailable);
    await expect(client.transaction(async () => {})).rejects.toEqual(unavailable);
    await expect(client.watch('/a', () => {})).rejects.toEqual(unavailable);
    // Many attempts must fail before one succeeds.
    await sleep(60);
    emulated.start();
    await expect.poll(() => client.connected).toBe(true);
    await client.write('/a', '1');
    expect(heard).toEqual([false, true]);
  });

  test('who is told by a watch that XenStore is back can ask it at once', async () => {
    const client = await open();
    await client.write('/a', '1');
    const answers: Promise<string>[] = [];
    await client.watch('/a', () => answers.push(client.read('/a')));
    await expect.poll(() => answers.length).toBe(1);
    for (let round = 1; round <= 10; round += 1) {
      emulated.stop();
      await expect.poll(() => client.connected).toBe(false);
      emulated.start();
      await expect.poll(() => answers.length).toBe(round + 1);
      expect(await answers.at(-1)).toBe('1');
    }
  });

  test('a connection on which a request is not answered is given up', async () => {
    const client = await open({ requestTimeoutMs: 30 });
    emulated.fail({ request: 'READ', answer: 'nothing', times: 1 });
    await expect(client.read('/')).rejects.toThrow('did not answer within 30 ms');
    await expect.poll(() => client.connected).toBe(true);
    expect(await client.read('/')).toBe('');
  });

  test('watches are restored once each, also when the restoring is disturbed', async () => {
    const client = await open();
    const seen: string[] = [];
    const paths = ['/w/0', '/w/1', '/w/2'];
    for (const path of paths) {
      await client.watch(path, (changed) => seen.push(changed));
    }
    await expect.poll(() => seen).toEqual(paths);
    seen.length = 0;
    emulated.fail({ request: 'WATCH', path: '/w/1', answer: 'drop', times: 1 });
    emulated.fail({ request: 'WATCH', path: '/w/2', answer: 'ENOMEM', times: 1 });
    const heard: boolean[] = [];
    client.onConnection((connected) => heard.push(connected));
    emulated.dropConnections();
    await expect.poll(() => heard).toEqual([false, true]);
    await expect.poll(() => seen).toContain('/w/2');
    seen.length = 0;
    for (const path of paths) {
      await client.write(path, '1');
    }
    await expect.poll(() => seen).toEqual(paths);
    expect(() => emulated.checkNoLeaks(0)).toThrow(/\/w\/0.*\/w\/1.*\/w\/2/);
  });

  test('a watch that ends while the connection is away does not come back', async () => {
    const client = await open();
    const watch = await client.watch('/w', () => {});
    emulated.stop();
    await expect.poll(() => client.connected).toBe(false);
    await watch.unwatch();
    emulated.start();
    await expect.poll(() => client.connected).toBe(true);
    emulated.checkNoLeaks(0);
  });

  test('close while away ends the attempts to come back', async () => {
    let attempts = 0;
    const client = await open({
      connect: async () => {
        attempts += 1;
        return emulated.connect(0);
      },
    });
    emulated.stop();
    await expect.poll(() => attempts).toBeGreaterThan(2);
    await client.close();
    const before = attempts;
    await sleep(40);
    expect(attempts).toBe(before);
  });

  test('too many requests at once are refused, not queued', async () => {
    const client = await open({ requestsMax: 2 });
    emulated.fail({ request: 'READ', answer: 'nothing' });
    const waiting = [client.read('/a'), client.read('/b')].map((read) => read.catch(() => {}));
    await expect(client.read('/c')).rejects.toMatchObject({ code: 'XENSTORE_BUSY' });
    emulated.dropConnections();
    await Promise.all(waiting);
  });

  test('listeners and callbacks that throw or reject are reported and harm nobody', async () => {
    const logger = { info: vi.fn(), warn: vi.fn(), error: vi.fn() };
    const client = await open({ logger });
    client.onConnection(() => {
      throw new Error('a broken listener');
    });
    const rejecting: () => unknown = () => Promise.reject(new Error('a broken watcher'));
    await client.watch('/a', rejecting);
    await expect.poll(() => logger.error).toHaveBeenCalledTimes(1);
    emulated.dropConnections();
    // The listener throws at the loss and at the return, the watcher when it is restored.
    await expect.poll(() => logger.error).toHaveBeenCalledTimes(4);
    expect(client.connected).toBe(true);
  });
});

describe('long directories', () => {
  test('one that changes between two parts is read anew', async () => {
    const client = await open();
    const names = Array.from({ length: 300 }, (_, index) => `${'n'.repeat(40)}${index}`);
    await Promise.all(names.map((name) => client.write(`/long/${name}`, '')));
    const listing = client.directory('/long');
    const writing = client.write('/long/another', '');
    expect((await listing).filter((name) => name !== 'another')).toHaveLength(300);
    await writing;
    expect(await client.directory('/long')).toEqual(expect.arrayContaining([...names, 'another']));
  });

  test('without XS_DIRECTORY_PART the refusal is that it is too long', async () => {
    const client = await open();
    emulated.fail({ request: 'DIRECTORY', answer: 'E2BIG', times: 1 });
    emulated.fail({ request: 'DIRECTORY_PART', answer: 'ENOSYS', times: 1 });
    await expect(client.directory('/')).rejects.toMatchObject({ errno: 'E2BIG' });
  });
});

describe('a xenstored that breaks the protocol loses the connection', () => {
  /** A client of a server that answers each request with whatever bytes `answer` makes. */
  async function against(answer: (type: number, requestId: number) => Buffer) {
    const servers: Duplex[] = [];
    const connect = async () => {
      const [ours, theirs] = duplexPair();
      const parser = new MessageParser();
      ours.on('data', (chunk: Buffer) => {
        for (const { type, requestId } of parser.feed(chunk)) {
          ours.write(answer(type, requestId));
        }
      });
      servers.push(ours);
      return theirs;
    };
    return await open({ connect, reconnectDelayMs: 10_000 });
  }
  const message = (type: number, requestId: number, payload = emitStrings('OK')) =>
    emitMessage({ type, requestId, transactionId: 0, payload });

  test.each([
    ['an answer nobody asked for', (type: number, id: number) => message(type, id + 1)],
    ['an answer of another type', (_type: number, id: number) => message(MessageType.WRITE, id)],
    ['a watch event without a token', () => message(MessageType.WATCH_EVENT, 0, Buffer.from('x'))],
    ['a length beyond all measure', () => Buffer.alloc(16, 0xff)],
  ])('%s', async (_name, answer) => {
    const client = await against(answer);
    await expect(client.read('/')).rejects.toEqual(unavailable);
    expect(client.connected).toBe(false);
  });

  test.each([
    ['no number for a transaction', () => emitStrings('x'), 'XENSTORE_EIO'],
    ['the number 0 for a transaction', () => emitStrings('0'), 'XENSTORE_EIO'],
  ])('%s is an error', async (_name, payload, code) => {
    const client = await against((type, id) => message(type, id, payload()));
    await expect(client.transaction(async () => {})).rejects.toMatchObject({ code });
  });

  test('an event for a watch that ended is ignored', async () => {
    const client = await against((type, id) =>
      Buffer.concat([
        message(MessageType.WATCH_EVENT, 0, emitStrings('/a', 'stale')),
        message(type, id),
      ]),
    );
    expect(await client.read('/a')).toBe('OK\0');
  });
});

import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { MisuseError } from '../../../../src/errors.js';
import { EmulatedStore, type EmulatedStoreOptions } from '../../../../src/xen/emulated/store.js';
import type { StorePermissions } from '../../../../src/xen/xen.js';
import { StoreClient } from '../../../../src/xen/xenstore/client.js';
import {
  emitMessage,
  emitStrings,
  type Message,
  MessageParser,
  MessageType,
} from '../../../../src/xen/xenstore/wire.js';
import { storeContract } from '../../../contract/store.js';

let emulated: EmulatedStore;
let clients: StoreClient[];

function start(options?: EmulatedStoreOptions): void {
  emulated = new EmulatedStore(options);
}

beforeEach(() => {
  clients = [];
  start();
});

afterEach(async () => {
  await Promise.all(clients.map((client) => client.close()));
  await emulated.close();
});

/** A client that speaks as the domain, which is introduced if it is not yet. */
async function as(domid: number, transactionRetriesMax = 0): Promise<StoreClient> {
  if (domid !== 0 && !(await introduced(domid))) {
    emulated.introduceDomain(domid);
  }
  const client = await StoreClient.open({
    connect: async () => emulated.connect(domid),
    reconnectDelayMs: 5,
    transactionRetriesMax,
  });
  clients.push(client);
  return client;
}

async function introduced(domid: number): Promise<boolean> {
  const [dom0] = clients;
  return await (dom0 ?? (await as(0))).isDomainIntroduced(domid);
}

/** A home for a guest, as the toolstack makes it. */
async function home(dom0: StoreClient, domid: number): Promise<string> {
  const path = `/local/domain/${domid}`;
  await dom0.mkdir(`${path}/data`);
  await dom0.setPermissions(path, { owner: 0, others: 'n', domains: [{ domid, access: 'r' }] });
  await dom0.setPermissions(`${path}/data`, { owner: domid, others: 'n' });
  return path;
}

const refused = (errno: string) => expect.objectContaining({ errno });

describe('the contract, as domain 0', () => {
  storeContract(test, async () => {
    const store = await as(0, 20);
    await store.mkdir('/local/domain/0/contract');
    return {
      store,
      domid: 0,
      base: '/local/domain/0/contract',
      breakConnection: async () => emulated.dropConnections(),
      close: async () => {},
    };
  });
});

describe('the contract, as a guest', () => {
  storeContract(test, async () => {
    const dom0 = await as(0);
    const base = `${await home(dom0, 3)}/data`;
    const store = await StoreClient.open({
      connect: async () => {
        if (!(await introduced(3))) {
          emulated.introduceDomain(3);
        }
        return emulated.connect(3);
      },
      reconnectDelayMs: 5,
    });
    clients.push(store);
    return { store, domid: 3, base, close: async () => {} };
  });
});

describe('permissions between domains', () => {
  test('a guest sees nothing that was not opened to it, not even that it is missing', async () => {
    const [dom0, guest] = [await as(0), await as(1)];
    await dom0.write('/secret', '1');
    await expect(guest.read('/secret')).rejects.toEqual(refused('EACCES'));
    await expect(guest.read('/missing')).rejects.toEqual(refused('EACCES'));
    await expect(guest.directory('/')).rejects.toEqual(refused('EACCES'));
    await expect(guest.write('/new', '1')).rejects.toEqual(refused('EACCES'));
    await expect(guest.rm('/secret')).rejects.toEqual(refused('EACCES'));
  });

  test('each right opens what it says', async () => {
    const [dom0, guest] = [await as(0), await as(1)];
    const attempt = async (access: 'n' | 'r' | 'w' | 'b', listed: boolean) => {
      await dom0.write('/node', 'value');
      const permissions: StorePermissions = listed
        ? { owner: 0, others: 'n', domains: [{ domid: 1, access }] }
        : { owner: 0, others: access, domains: [{ domid: 2, access: 'n' }] };
      await dom0.setPermissions('/node', permissions);
      const read = await guest.read('/node').then(
        () => 'r',
        () => '',
      );
      const write = await guest.write('/node', '2').then(
        () => 'w',
        () => '',
      );
      return read + write;
    };
    for (const listed of [true, false]) {
      expect(await attempt('n', listed)).toBe('');
      expect(await attempt('r', listed)).toBe('r');
      expect(await attempt('w', listed)).toBe('w');
      expect(await attempt('b', listed)).toBe('rw');
    }
  });

  test('the entry of a domain counts, not what others may', async () => {
    const [dom0, guest] = [await as(0), await as(1)];
    await dom0.write('/node', '1');
    const domains = [{ domid: 1, access: 'n' }] as const;
    await dom0.setPermissions('/node', { owner: 0, others: 'r', domains });
    await expect(guest.read('/node')).rejects.toEqual(refused('EACCES'));
  });

  test('a guest owns what it makes, with the other rights of the parent', async () => {
    const [dom0, backend, guest] = [await as(0), await as(1), await as(2)];
    await dom0.mkdir('/common');
    const domains = [{ domid: 2, access: 'r' }] as const;
    await dom0.setPermissions('/common', { owner: 0, others: 'b', domains });
    await backend.write('/common/mine/deep', '1');
    expect(await backend.getPermissions('/common/mine/deep')).toEqual({
      owner: 1,
      others: 'b',
      domains,
    });
    expect(await guest.read('/common/mine/deep')).toBe('1');
    await expect(guest.write('/common/mine/deep', '2')).rejects.toEqual(refused('EACCES'));
  });

  test('only the owner changes permissions, and only domain 0 the owner', async () => {
    const [dom0, owner, other] = [await as(0), await as(1), await as(2)];
    const path = `${await home(dom0, 1)}/data`;
    await owner.setPermissions(path, { owner: 1, others: 'b' });
    await expect(other.setPermissions(path, { owner: 1, others: 'r' })).rejects.toEqual(
      refused('EACCES'),
    );
    await expect(owner.setPermissions(path, { owner: 2, others: 'r' })).rejects.toEqual(
      refused('EPERM'),
    );
    await dom0.setPermissions(path, { owner: 2, others: 'n' });
    await other.write(path, '1');
  });

  test('a device model acts for its target', async () => {
    const [dom0, model, guest] = [await as(0), await as(4), await as(5)];
    const path = `${await home(dom0, 5)}/data`;
    await guest.write(path, '1');
    await expect(model.read(path)).rejects.toEqual(refused('EACCES'));
    await send(0, MessageType.SET_TARGET, emitStrings('4', '5'));
    expect(await model.read(path)).toBe('1');
  });

  test('only domain 0 may manage domains', async () => {
    const guest = await as(1);
    await expect(guest.isDomainIntroduced(1)).rejects.toEqual(refused('EACCES'));
    for (const type of [
      MessageType.CONTROL,
      MessageType.INTRODUCE,
      MessageType.RELEASE,
      MessageType.SET_TARGET,
    ]) {
      expect(await send(1, type, emitStrings('1', '1', '1'))).toBe('EACCES');
    }
  });

  test('a watch is silent about what its domain may not read', async () => {
    const [dom0, guest] = [await as(0), await as(1)];
    const path = await home(dom0, 1);
    const seen: string[] = [];
    await guest.watch('/', (changed) => seen.push(changed));
    await dom0.write('/local/domain/0/hidden', '1');
    await dom0.write(`${path}/shown`, '1');
    await expect.poll(() => seen).toEqual(['/', `${path}/shown`]);
    // Who loses the right to read is told so, once.
    await dom0.setPermissions(path, { owner: 0, others: 'n' });
    await expect.poll(() => seen.at(-1)).toBe(path);
    await dom0.write(path, '2');
    await guest.read(`${path}/data`);
    expect(seen).toHaveLength(3);
  });
});

describe('domains that come and go', () => {
  test('special watches tell domain 0, and others only when it lets them', async () => {
    const [dom0, driver] = [await as(0), await as(1)];
    const [heardByDom0, heardByDriver]: [string[], string[]] = [[], []];
    await dom0.watch('@releaseDomain', (path) => heardByDom0.push(path));
    await driver.watch('@releaseDomain', (path) => heardByDriver.push(path));
    await expect.poll(() => heardByDriver).toHaveLength(1);
    emulated.introduceDomain(8);
    emulated.releaseDomain(8);
    await expect.poll(() => heardByDom0).toHaveLength(2);
    await dom0.setPermissions('@releaseDomain', {
      owner: 0,
      others: 'n',
      domains: [{ domid: 1, access: 'r' }],
    });
    emulated.introduceDomain(8);
    emulated.releaseDomain(8);
    await expect.poll(() => heardByDom0).toHaveLength(3);
    await expect.poll(() => heardByDriver).toHaveLength(2);
  });

  test('a released domain loses its connection, its nodes and its rights', async () => {
    const [dom0, guest] = [await as(0), await as(1)];
    const path = await home(dom0, 1);
    await guest.write(`${path}/data/deep`, '1');
    await dom0.write('/backend', '1');
    const domains = [
      { domid: 1, access: 'r' },
      { domid: 2, access: 'r' },
    ] as const;
    await dom0.setPermissions('/backend', { owner: 0, others: 'n', domains });
    const seen: string[] = [];
    await dom0.watch(`${path}/data/deep`, (changed) => seen.push(changed));
    emulated.releaseDomain(1);
    await expect.poll(() => seen).toHaveLength(2);
    expect(await dom0.readIfExists(`${path}/data`)).toBeUndefined();
    expect(await dom0.getPermissions('/backend')).toEqual({
      owner: 0,
      others: 'n',
      domains: [{ domid: 2, access: 'r' }],
    });
    expect(await dom0.isDomainIntroduced(1)).toBe(false);
    await expect.poll(() => guest.connected).toBe(false);
    const successor = await as(1);
    await expect(successor.read('/backend')).rejects.toEqual(refused('EACCES'));
  });

  test('the toolstack introduces and releases over the wire', async () => {
    const dom0 = await as(0);
    const heard: string[] = [];
    await dom0.watch('@introduceDomain', (path) => heard.push(path));
    expect(await send(0, MessageType.INTRODUCE, emitStrings('9', '1234', '2'))).toBe('OK');
    expect(await dom0.isDomainIntroduced(9)).toBe(true);
    // A second time it only tells of a new event channel.
    expect(await send(0, MessageType.INTRODUCE, emitStrings('9', '1234', '3'))).toBe('OK');
    await expect.poll(() => heard).toHaveLength(2);
    expect(await send(0, MessageType.RELEASE, emitStrings('9'))).toBe('OK');
    expect(await send(0, MessageType.RELEASE, emitStrings('9'))).toBe('ENOENT');
    expect(await send(0, MessageType.RELEASE, emitStrings('0'))).toBe('EINVAL');
  });
});

describe('transactions of several', () => {
  test('a conflict is EAGAIN to the one that commits last', async () => {
    const [first, second] = [await as(0), await as(0)];
    await first.write('/node', '0');
    const late = first.transaction(async (transaction) => {
      await transaction.read('/node');
      await second.transaction((theirs) => theirs.write('/node', '2'));
      await transaction.write('/elsewhere', '1');
    });
    await expect(late).rejects.toEqual(refused('EAGAIN'));
    expect(await first.read('/node')).toBe('2');
    expect(await first.readIfExists('/elsewhere')).toBeUndefined();
    emulated.checkNoLeaks(0);
  });

  test('a transaction sees the store as it was at its start', async () => {
    const [first, second] = [await as(0), await as(0)];
    await first.write('/node', '0');
    const late = first.transaction(async (transaction) => {
      await second.write('/node', '1');
      expect(await transaction.read('/node')).toBe('0');
    });
    await expect(late).rejects.toEqual(refused('EAGAIN'));
  });

  test('changes elsewhere are no conflict, and both stay', async () => {
    const [first, second] = [await as(0), await as(0)];
    await first.write('/ours/a', '0');
    await first.write('/theirs/a', '0');
    await first.transaction(async (transaction) => {
      await transaction.write('/ours/a', '1');
      await second.write('/theirs/a', '1');
    });
    expect([await first.read('/ours/a'), await first.read('/theirs/a')]).toEqual(['1', '1']);
  });

  test('a node made and removed again in one transaction is no change to anybody', async () => {
    const dom0 = await as(0);
    const seen: string[] = [];
    await dom0.watch('/w', (path) => seen.push(path));
    await dom0.transaction(async (transaction) => {
      await transaction.write('/w/passing', '1');
      await transaction.write('/w/staying', '1');
      await transaction.rm('/w/passing');
    });
    await expect.poll(() => seen).toEqual(['/w', '/w/staying']);
  });

  test('transactions of the same number on two connections are two', async () => {
    const [first, second] = [await as(0), await as(0)];
    await first.write('/ours', '0');
    await first.write('/theirs', '0');
    await first.transaction(async (ours) => {
      await ours.write('/ours', '1');
      await second.transaction((theirs) => theirs.write('/theirs', '1'));
      expect(await second.read('/ours')).toBe('0');
    });
    expect([await first.read('/ours'), await first.read('/theirs')]).toEqual(['1', '1']);
  });

  test('an unknown transaction is ENOENT, a nested one EBUSY', async () => {
    expect(await send(0, MessageType.READ, emitStrings('/'), 77)).toBe('ENOENT');
    expect(await send(0, MessageType.TRANSACTION_END, emitStrings('T'))).toBe('ENOENT');
    const connection = raw(0);
    const id = Number(
      (await connection.ask(MessageType.TRANSACTION_START, emitStrings(''))).slice(0, -1),
    );
    expect(await connection.ask(MessageType.TRANSACTION_START, emitStrings(''), id)).toBe('EBUSY');
    expect(await connection.ask(MessageType.TRANSACTION_END, emitStrings('X'), id)).toBe('EINVAL');
    expect(() => emulated.checkNoLeaks(0)).toThrow(`the transaction ${id}`);
    expect(await connection.ask(MessageType.RESET_WATCHES, emitStrings(''))).toBe('OK\0');
    emulated.checkNoLeaks(0);
  });
});

describe('quotas of a guest', () => {
  test('nodes: the one too many is EQUOTA, and a half-made path is undone', async () => {
    start({ nodesPerDomainMax: 5 });
    const [dom0, guest] = [await as(0), await as(1)];
    const path = `${await home(dom0, 1)}/data`;
    await guest.write(`${path}/1`, '');
    await expect(guest.write(`${path}/a/b/c/d/e`, '')).rejects.toEqual(refused('EQUOTA'));
    expect(await guest.directory(path)).toEqual(['1']);
    await guest.write(`${path}/2/3/4`, '');
    await expect(guest.mkdir(`${path}/5`)).rejects.toEqual(refused('EQUOTA'));
    await guest.rm(`${path}/2`);
    await guest.mkdir(`${path}/5`);
    for (let index = 0; index < 20; index++) {
      await dom0.write(`/unlimited/${index}`, '');
    }
  });

  test('nodes made in a transaction count when it commits', async () => {
    start({ nodesPerDomainMax: 3 });
    const [dom0, guest] = [await as(0), await as(1)];
    const path = `${await home(dom0, 1)}/data`;
    const late = guest.transaction(async (transaction) => {
      await transaction.write(`${path}/a`, '');
      await dom0.transaction(async (theirs) => {
        await theirs.mkdir('/elsewhere/a');
        await theirs.setPermissions('/elsewhere', { owner: 1, others: 'n' });
        await theirs.setPermissions('/elsewhere/a', { owner: 1, others: 'n' });
      });
    });
    await expect(late).rejects.toEqual(refused('EQUOTA'));
    expect(await guest.directory(path)).toEqual([]);
  });

  test('values, permissions, watches and transactions', async () => {
    start({
      valueBytesMax: 10,
      permissionsPerNodeMax: 2,
      watchesPerDomainMax: 2,
      transactionsPerDomainMax: 1,
    });
    const [dom0, guest] = [await as(0), await as(1)];
    const path = `${await home(dom0, 1)}/data`;
    await guest.write(path, '0123456789');
    await expect(guest.write(path, '0123456789a')).rejects.toEqual(refused('E2BIG'));
    const domains = [2, 3].map((domid) => ({ domid, access: 'r' as const }));
    await expect(guest.setPermissions(path, { owner: 1, others: 'n', domains })).rejects.toEqual(
      refused('ENOSPC'),
    );
    await guest.watch(path, () => {});
    const watch = await guest.watch(path, () => {});
    await expect(guest.watch(path, () => {})).rejects.toEqual(refused('EQUOTA'));
    await watch.unwatch();
    await guest.watch(path, () => {});
    const nested = guest.transaction(() => guest.transaction(async () => {}));
    await expect(nested).rejects.toEqual(refused('EQUOTA'));
  });

  test('what one transaction touches', async () => {
    start({ transactionSizeMax: 20, quotaErrno: 'ENOSPC' });
    const [dom0, guest] = [await as(0), await as(1)];
    const path = `${await home(dom0, 1)}/data`;
    const greedy = guest.transaction(async (transaction) => {
      for (let index = 0; index < 30; index++) {
        await transaction.write(`${path}/${index}`, '');
      }
    });
    await expect(greedy).rejects.toEqual(refused('ENOSPC'));
  });
});

describe('peers that break the rules', () => {
  test('requests that make no sense are refused, each with its error', async () => {
    const cases: [number, Buffer, string][] = [
      [20, emitStrings(''), 'ENOSYS'],
      [99, emitStrings(''), 'ENOSYS'],
      [MessageType.ERROR, emitStrings('EIO'), 'ENOSYS'],
      [MessageType.WATCH_EVENT, emitStrings('/', 'x'), 'ENOSYS'],
      [MessageType.READ, Buffer.alloc(0), 'EINVAL'],
      [MessageType.READ, Buffer.from('/'), 'EINVAL'],
      [MessageType.READ, emitStrings('/', '/'), 'EINVAL'],
      [MessageType.READ, emitStrings('@releaseDomain'), 'EINVAL'],
      [MessageType.WRITE, Buffer.from('/a'), 'EINVAL'],
      [MessageType.SET_PERMS, emitStrings('/'), 'EINVAL'],
      [MessageType.SET_PERMS, emitStrings('/', 'q1'), 'EINVAL'],
      [MessageType.WATCH, emitStrings('/'), 'EINVAL'],
      [MessageType.UNWATCH, emitStrings('/', 'never'), 'ENOENT'],
      [MessageType.RM, emitStrings('/'), 'EINVAL'],
      [MessageType.RM, emitStrings('/missing/parent'), 'ENOENT'],
      [MessageType.DIRECTORY_PART, emitStrings('/', 'x'), 'EINVAL'],
      [MessageType.GET_DOMAIN_PATH, emitStrings('x'), 'EINVAL'],
      [MessageType.CONTROL, emitStrings('no-such-command'), 'EINVAL'],
      [MessageType.INTRODUCE, emitStrings('9', '1', '0'), 'EINVAL'],
    ];
    const connection = raw(0);
    for (const [type, payload, errno] of cases) {
      expect(await connection.ask(type, payload), `${type} ${payload.toString()}`).toBe(errno);
    }
  });

  test('every request gets an answer, whatever is in it', async () => {
    emulated.introduceDomain(1);
    const parts = [
      '',
      '/',
      '/a',
      '/a/b',
      'rel',
      '@releaseDomain',
      '@x',
      '0',
      '1',
      '7',
      'T',
      'n0',
      'b1',
      't',
      '\0',
      '//',
    ];
    let state = 1;
    const next = (below: number) => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      return (state >>> 8) % below;
    };
    for (const domid of [0, 1]) {
      const connection = raw(domid);
      for (let round = 0; round < 3_000; round++) {
        const strings = Array.from({ length: next(4) }, () => parts[next(parts.length)] ?? '');
        const whole = emitStrings(...strings);
        const payload = next(4) === 0 ? whole.subarray(0, -1) : whole;
        // A domain that is released takes its own connection along.
        const type = next(24);
        if (type !== MessageType.RELEASE) {
          await connection.ask(type, payload, next(3));
        }
      }
    }
  });

  test('the same watch twice is EEXIST', async () => {
    const connection = raw(0);
    expect(await connection.ask(MessageType.WATCH, emitStrings('/', 't'))).toBe('OK\0');
    expect(await connection.ask(MessageType.WATCH, emitStrings('/', 't'))).toBe('EEXIST');
    expect(() => emulated.checkNoLeaks(0)).toThrow('a watch of / (t)');
  });

  test('a payload beyond the limit ends the connection, and only that one', async () => {
    const dom0 = await as(0);
    const connection = raw(0);
    const header = Buffer.alloc(16);
    header.writeUInt32LE(4097, 12);
    connection.stream.write(header);
    await expect.poll(() => connection.stream.destroyed).toBe(true);
    expect(await dom0.read('/')).toBe('');
  });

  test('one that never reads loses its connection before it costs much', async () => {
    start({ outputBytesMax: 100_000 });
    const dom0 = await as(0);
    const stream = emulated.connect(0);
    stream.pause();
    const payload = emitStrings('/flood', 't'.repeat(1000));
    stream.write(emitMessage({ type: MessageType.WATCH, requestId: 1, transactionId: 0, payload }));
    await dom0.mkdir('/flood');
    // The same event many times over waits but once.
    for (let index = 0; index < 300; index++) {
      await dom0.write('/flood/same', '');
    }
    expect(stream.destroyed).toBe(false);
    for (let index = 0; index < 300 && !stream.destroyed; index++) {
      await dom0.write(`/flood/${index}`, '');
    }
    expect(stream.destroyed).toBe(true);
    emulated.checkNoLeaks(0);
  });

  test('one that sends without reading gets every answer in the end', async () => {
    start({ outputBytesMax: 20_000 });
    const dom0 = await as(0);
    await dom0.write('/value', 'x'.repeat(4000));
    const stream = emulated.connect(0);
    const count = 500;
    for (let requestId = 1; requestId <= count; requestId++) {
      const payload = emitStrings('/value');
      stream.write(emitMessage({ type: MessageType.READ, requestId, transactionId: 0, payload }));
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
    const parser = new MessageParser();
    const answered: number[] = [];
    stream.on('data', (chunk: Buffer) => {
      answered.push(...[...parser.feed(chunk)].map(({ requestId }) => requestId));
    });
    await expect.poll(() => answered).toHaveLength(count);
    expect(answered).toEqual(Array.from({ length: count }, (_, index) => index + 1));
  });
});

describe('faults', () => {
  test('a rule hits what it names, as often as it says', async () => {
    const [dom0, guest] = [await as(0), await as(1)];
    await home(dom0, 1);
    const fault = emulated.fail({
      request: 'READ',
      domid: 1,
      path: /data$/,
      answer: 'EIO',
      times: 2,
    });
    await guest.directory('data');
    await dom0.read('/local/domain/1/data');
    for (let hit = 0; hit < 2; hit++) {
      await expect(guest.read('data')).rejects.toEqual(refused('EIO'));
    }
    await guest.read('data');
    expect(fault.hits).toBe(2);
  });

  test('a rule ends when it is told to', async () => {
    const dom0 = await as(0);
    const fault = emulated.fail({ answer: 'ENOMEM' });
    await expect(dom0.read('/')).rejects.toEqual(refused('ENOMEM'));
    fault.end();
    await dom0.read('/');
  });
});

describe('misuse is loud', () => {
  test('what no program of ours may do throws', async () => {
    expect(() => emulated.connect(5)).toThrow(MisuseError);
    emulated.introduceDomain(5);
    expect(() => emulated.introduceDomain(5)).toThrow(MisuseError);
    expect(() => emulated.introduceDomain(0)).toThrow(MisuseError);
    expect(() => emulated.releaseDomain(6)).toThrow(MisuseError);
    expect(() => emulated.releaseDomain(0)).toThrow(MisuseError);
    expect(() => emulated.fail({ answer: 'EIO', times: 0 })).toThrow(MisuseError);
    await emulated.close();
    expect(() => emulated.connect(0)).toThrow(MisuseError);
    await expect(emulated.listen('/nowhere')).rejects.toThrow(MisuseError);
  });

  test('watches and transactions that stay open are named', async () => {
    const dom0 = await as(0);
    const watch = await dom0.watch('/a', () => {});
    expect(() => emulated.checkNoLeaks(0)).toThrow('domain 0 left open in XenStore: a watch of /a');
    emulated.introduceDomain(1);
    emulated.checkNoLeaks(1);
    await watch.unwatch();
    emulated.checkNoLeaks(0);
  });
});

describe('the socket', () => {
  let directory: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'xenvif-emulated-'));
  });

  afterEach(async () => {
    await rm(directory, { recursive: true });
  });

  test('is open to its owner and group, and gone after close', async () => {
    const path = join(directory, 'socket');
    await emulated.listen(path);
    expect((await stat(path)).mode & 0o777).toBe(0o660);
    await expect(emulated.listen(path)).rejects.toThrow(MisuseError);
    await emulated.close();
    await expect(stat(path)).rejects.toMatchObject({ code: 'ENOENT' });
  });

  test('replaces one that was left behind, but none that is served, and no other file', async () => {
    const path = join(directory, 'socket');
    await emulated.listen(path);
    const second = new EmulatedStore();
    await expect(second.listen(path)).rejects.toMatchObject({ code: 'SOCKET_IN_USE' });
    await second.close();
    const file = join(directory, 'file');
    await writeFile(file, 'precious');
    const third = new EmulatedStore();
    await expect(third.listen(file)).rejects.toMatchObject({ code: 'EADDRINUSE' });
    await third.close();
    expect((await stat(file)).size).toBe(8);
  });

  test('a peer on it is domain 0, and may break off at any byte', async () => {
    const path = join(directory, 'socket');
    await emulated.listen(path);
    const payload = emitStrings('/from-the-socket', 'x');
    const bytes = emitMessage({ type: MessageType.WRITE, requestId: 1, transactionId: 0, payload });
    for (let cut = 0; cut <= bytes.length; cut++) {
      const socket = createConnection(path);
      socket.end(bytes.subarray(0, cut));
      await new Promise((resolve) => socket.once('close', resolve).resume());
    }
    const dom0 = await as(0);
    expect(await dom0.getPermissions('/from-the-socket')).toEqual({ owner: 0, others: 'n' });
  });
});

/** A connection without a client, for requests that a client would not send. */
function raw(domid: number): {
  stream: Duplex;
  ask(type: number, payload: Buffer, transactionId?: number): Promise<string>;
} {
  const stream = emulated.connect(domid);
  const parser = new MessageParser();
  const replies: Message[] = [];
  stream.on('data', (chunk: Buffer) => {
    replies.push(...[...parser.feed(chunk)].filter(({ type }) => type !== MessageType.WATCH_EVENT));
  });
  let requestId = 0;
  return {
    stream,
    async ask(type, payload, transactionId = 0) {
      requestId += 1;
      stream.write(emitMessage({ type, requestId, transactionId, payload }));
      while (replies.length === 0 && !stream.destroyed) {
        await new Promise(setImmediate);
      }
      const reply = replies.shift();
      expect(reply).toMatchObject({ requestId, transactionId });
      const text = reply?.payload.toString() ?? '';
      return reply?.type === MessageType.ERROR ? text.slice(0, -1) : text;
    },
  };
}

/** One request on a connection of its own. */
async function send(
  domid: number,
  type: number,
  payload: Buffer,
  transactionId = 0,
): Promise<string> {
  const connection = raw(domid);
  const reply = await connection.ask(type, payload, transactionId);
  connection.stream.destroy();
  return reply.replace(/\0$/, '');
}

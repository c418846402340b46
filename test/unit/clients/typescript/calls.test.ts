import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  type Vif,
  XenvifClient,
  XenvifClientError,
} from '../../../../clients/typescript/src/index.js';
import { FakeDaemon, someStats } from '../fake-daemon.js';

let daemon: FakeDaemon;
let client: XenvifClient;

beforeEach(async () => {
  daemon = new FakeDaemon();
  await daemon.start();
  client = new XenvifClient({ address: daemon.address });
});

afterEach(() => {
  client.close();
  daemon.dispose();
});

async function errorOf(promise: Promise<unknown>): Promise<XenvifClientError> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error instanceof XenvifClientError) return error;
  throw new Error(`expected an XenvifClientError, got ${String(error)}`);
}

describe('a call', () => {
  it('answers a vif in words', async () => {
    const vif = await client.vifs.get('1.0');
    expect(vif).toMatchObject({
      name: 'vifs/1.0',
      domid: 1,
      handle: 0,
      spec: { mac: '00:16:3e:00:00:01', mtu: 1500 },
      status: { phase: 'connected', backendState: 'connected', connects: 1n },
    });
    expect(vif.status.since).toEqual(new Date(1_700_000_000_000));
  });

  it('fails with the reason, the metadata and the message that the daemon gives', async () => {
    const error = await errorOf(client.vifs.get('9.0'));
    expect(error).toMatchObject({
      code: 'VIF_NOT_FOUND',
      grpcStatus: 'NOT_FOUND',
      message: 'There is no vif vifs/9.0.',
      metadata: { vif: 'vifs/9.0' },
      fromDaemon: true,
    });
  });

  it('names the fields at fault', async () => {
    const error = await errorOf(client.vifs.create(1, { mac: 'bad' }));
    expect(error.code).toBe('MAC_INVALID');
    expect(error.fieldViolations).toEqual([
      { field: 'spec.mac', description: 'Not a MAC address.' },
    ]);
  });

  it('says where it looked for a daemon that is not there', async () => {
    const nowhere = new XenvifClient({ address: '/nowhere/xenvifd.sock' });
    const error = await errorOf(nowhere.vifs.get('1.0'));
    expect(error).toMatchObject({ code: 'DAEMON_UNREACHABLE', grpcStatus: 'UNAVAILABLE' });
    expect(error.message).toBe(
      'Cannot reach xenvifd at unix:/nowhere/xenvifd.sock: there is no such socket. Is xenvifd running?',
    );
    nowhere.close();
    const refused = new XenvifClient({ address: '127.0.0.1:1' });
    expect((await errorOf(refused.vifs.get('1.0'))).message).toContain('nothing listens there');
    refused.close();
  });

  it('ends when its signal says so, before and during', async () => {
    const aborted = AbortSignal.abort(new Error('enough'));
    const before = await errorOf(client.vifs.get('1.0', { signal: aborted }));
    expect(before).toMatchObject({ code: 'CANCELLED', cause: new Error('enough') });
    const controller = new AbortController();
    const during = errorOf(client.vifs.get('1.0', { signal: controller.signal }));
    controller.abort();
    expect((await during).code).toBe('CANCELLED');
  });

  it('ends when its time is over', async () => {
    const error = await errorOf(client.vifs.get('1.0', { timeoutMs: 0 }));
    expect(error).toMatchObject({ code: 'DEADLINE_EXCEEDED', grpcStatus: 'DEADLINE_EXCEEDED' });
  });

  it('ends when the client is closed', async () => {
    const call = errorOf(client.vifs.get('1.0'));
    client.close();
    expect((await call).code).toBe('CANCELLED');
  });
});

describe('connect', () => {
  it('takes a daemon that answers, even one without a health service', async () => {
    const connected = await XenvifClient.connect({ address: daemon.address });
    expect(connected.address).toBe(daemon.address);
    connected.close();
  });

  it('fails at once where nobody answers', async () => {
    const start = Date.now();
    const error = await errorOf(XenvifClient.connect({ address: '/nowhere/xenvifd.sock' }));
    expect(error.code).toBe('DAEMON_UNREACHABLE');
    expect(Date.now() - start).toBeLessThan(9_000);
  });
});

describe('vifs', () => {
  it('are created with an id that makes it safe to try again', async () => {
    daemon.createFailures = 2;
    const vif = await client.vifs.create(4, { handle: 2, labels: { a: 'b' }, waitMs: 0 });
    expect(vif.name).toBe('vifs/4.2');
    expect(daemon.creates).toHaveLength(3);
    const ids = new Set(daemon.creates.map(({ requestId }) => requestId));
    expect(ids.size).toBe(1);
    expect([...ids][0]).toMatch(/^[0-9a-f-]{36}$/);
    expect(daemon.creates[0]).toMatchObject({
      domid: 4,
      handle: 2,
      labels: { a: 'b' },
      waitTimeout: { seconds: 0n, nanos: 0 },
    });
  });

  it('are not created for ever', async () => {
    daemon.createFailures = 100;
    const error = await errorOf(client.vifs.create(4));
    expect(error.code).toBe('XENSTORE_UNAVAILABLE');
    expect(daemon.creates).toHaveLength(4);
  });

  it('say their rate in the units of the contract', async () => {
    await client.vifs.create(4, { rate: { bytesPerInterval: 50_000n, intervalMs: 20.5 } });
    expect(daemon.creates[0]?.spec?.rate).toEqual({
      bytesPerInterval: 50_000n,
      interval: { seconds: 0n, nanos: 20_500_000 },
    });
  });

  it('are listed over all pages', async () => {
    const vifs: Vif[] = [];
    for await (const vif of client.vifs.list({ pageSize: 2, domid: 7 })) vifs.push(vif);
    expect(vifs.map(({ name }) => name)).toEqual(['vifs/1.0', 'vifs/2.0', 'vifs/3.0']);
    expect(daemon.lists.map(({ pageToken, domid }) => [pageToken, domid])).toEqual([
      ['', 7],
      ['2', 7],
    ]);
  });

  it('are asked for page by page: who stops early asks for no more', async () => {
    for await (const _vif of client.vifs.list({ pageSize: 1 })) break;
    expect(daemon.lists).toHaveLength(1);
  });

  it('are deleted', async () => {
    await client.vifs.delete('1.0', { etag: 'e1', closeTimeoutMs: 1_500 });
    expect(daemon.deletes[0]).toMatchObject({
      name: 'vifs/1.0',
      etag: 'e1',
      closeTimeout: { seconds: 1n, nanos: 500_000_000 },
    });
    expect((await errorOf(client.vifs.delete('9.0'))).code).toBe('VIF_NOT_FOUND');
    await client.vifs.delete('9.0', { allowMissing: true });
  });
});

describe('statistics and host', () => {
  it('answer counters as bigints', async () => {
    const [stats] = await client.stats.get(['2.0']);
    expect(stats).toMatchObject({ name: 'vifs/2.0', tx: { packets: 7n, bytes: 700n } });
    expect(await client.stats.reset('2.0')).toMatchObject({ rx: { packets: 7n } });
  });

  it('stream with a marker behind the first round', async () => {
    daemon.onStats = (call) => {
      call.on('data', (request) => {
        expect(request).toMatchObject({ names: ['vifs/1.0'], interval: { nanos: 20_000_000 } });
        const stats = someStats('vifs/1.0', 1n);
        call.write({ event: { $case: 'stats', value: stats } });
        call.write({ event: { $case: 'synced', value: {} } });
      });
    };
    const types: string[] = [];
    for await (const event of client.stats.stream({ names: ['1.0'], intervalMs: 20 })) {
      types.push(event.type);
      if (event.type === 'synced') break;
    }
    expect(types).toEqual(['stats', 'synced']);
  });

  it('tell of the daemon and its domains', async () => {
    expect(await client.host.get()).toMatchObject({ xenKind: 'emulated', memoryBytes: 1n << 20n });
    const domains = [];
    for await (const domain of client.host.domains()) domains.push(domain);
    expect(domains).toEqual([{ domid: 1, name: 'alpha', vifs: 1 }]);
  });
});

import { randomUUID } from 'node:crypto';
import { credentials, type ServiceError, status } from '@grpc/grpc-js';
import { type Vif, XenvifClient, type XenvifClientError } from '@xenvif/client';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config.js';
import { Daemon } from '../../src/daemon.js';
import { DemoGuests } from '../../src/demo/guests.js';
import {
  FrameBatch,
  FrameMode,
  FrameServiceClient,
  OpenFrames,
} from '../../src/gen/xenvif/v1/frame_service.js';
import { Hypervisor } from '../../src/xen/emulated/index.js';
import type { Xen } from '../../src/xen/xen.js';
import { silent, until } from '../support/machine.js';

let hypervisor: Hypervisor;
let xen: Xen;
let daemon: Daemon;
let guests: DemoGuests;
let client: XenvifClient;

async function startDaemon(): Promise<void> {
  xen = await hypervisor.dom0.open({ localMemoryBytes: 64 * 1024 * 1024 });
  const config = loadConfig({ tcp: '127.0.0.1:0' });
  daemon = await Daemon.start({ xen, config, logger: silent, socket: undefined });
  client = new XenvifClient({ address: daemon.addresses[0] as string });
}

async function stopDaemon(): Promise<void> {
  client.close();
  await daemon.stop();
  await xen.close();
}

beforeEach(async () => {
  hypervisor = new Hypervisor();
  await startDaemon();
  guests = new DemoGuests(hypervisor, silent);
  await guests.start(xen.store, 2);
});
afterEach(async () => {
  await guests.stop();
  await stopDaemon();
  hypervisor.assertNoLeaks();
  await hypervisor.shutdown();
});

async function failure(promise: Promise<unknown>): Promise<XenvifClientError> {
  return await promise.then(
    () => {
      throw new Error('The call succeeded.');
    },
    (error: XenvifClientError) => error,
  );
}

describe('bad input gets a clear error with a stable code', () => {
  const cases: [string, () => Promise<unknown>, string, string][] = [
    ['an unknown vif', () => client.vifs.get('vifs/9.0'), 'NOT_FOUND', 'VIF_NOT_FOUND'],
    [
      'a malformed name',
      () => client.vifs.get('vifs/01.0'),
      'INVALID_ARGUMENT',
      'VIF_NAME_INVALID',
    ],
    [
      'a bad MAC',
      () => client.vifs.create(1, { mac: '00:16:3e:00:00' }),
      'INVALID_ARGUMENT',
      'MAC_INVALID',
    ],
    [
      'a multicast MAC',
      () => client.vifs.create(1, { mac: '01:00:5e:00:00:01' }),
      'INVALID_ARGUMENT',
      'MAC_INVALID',
    ],
    ['a busy handle', () => client.vifs.create(1, { handle: 0 }), 'ALREADY_EXISTS', 'HANDLE_BUSY'],
    [
      'an MTU of 20',
      () => client.vifs.create(1, { mtu: 20 }),
      'INVALID_ARGUMENT',
      'MTU_OUT_OF_RANGE',
    ],
    ['a domain that is not there', () => client.vifs.create(77), 'NOT_FOUND', 'DOMAIN_NOT_FOUND'],
    [
      'a bad label',
      () => client.vifs.create(1, { labels: { 'A B': 'c' } }),
      'INVALID_ARGUMENT',
      'LABEL_INVALID',
    ],
    [
      'a stale etag',
      () => client.vifs.delete('vifs/1.0', { etag: 'stale' }),
      'ABORTED',
      'ETAG_MISMATCH',
    ],
  ];
  test.each(cases)('%s', async (_name, call, grpcStatus, code) => {
    const error = await failure(call());
    expect(error).toMatchObject({ grpcStatus, code });
    expect(error.message.length).toBeGreaterThan(10);
  });

  test('XenStore that is dead, and then back', async () => {
    await hypervisor.store.stop();
    await until('the daemon notices', () => !xen.store.connected);
    const error = await failure(client.vifs.create(1));
    expect(error).toMatchObject({ grpcStatus: 'UNAVAILABLE', code: 'XENSTORE_UNAVAILABLE' });
    const { storeConnected } = await client.host.get();
    expect(storeConnected).toBe(false);
    expect((await client.stats.get())[0]?.tx.packets).toBeGreaterThanOrEqual(0);
    await hypervisor.store.start();
    await until('it is back', () => xen.store.connected);
    const vif = await client.vifs.create(1);
    expect(vif.status.phase).toBe('connected');
  });
});

describe('vifs', () => {
  test('are created, shown, listed by label, and deleted', async () => {
    const vif = await client.vifs.create(1, { labels: { app: 'web' }, mtu: 9000 });
    expect(vif.name).toBe('vifs/1.1');
    expect(vif.spec).toMatchObject({ mtu: 9000, mac: expect.stringMatching(/^00:16:3e:/) });
    expect(vif.status).toMatchObject({ phase: 'connected', reason: 'CONNECTED' });
    const listed: string[] = [];
    for await (const { name } of client.vifs.list({ labels: { app: 'web' } })) listed.push(name);
    expect(listed).toEqual(['vifs/1.1']);
    expect((await client.vifs.get('1.1')).uid).toBe(vif.uid);
    await client.vifs.delete('vifs/1.1', { etag: (await client.vifs.get('1.1')).etag });
    expect((await failure(client.vifs.get('1.1'))).code).toBe('VIF_NOT_FOUND');
    await client.vifs.delete('vifs/1.1', { allowMissing: true });
    expect(await xen.store.readIfExists('/local/domain/1/device/vif/1/state')).toBeUndefined();
    expect(await xen.store.readIfExists('/libxl/1/device/vif/1/state')).toBeUndefined();
  });

  test('a create with the same request_id makes one vif', async () => {
    const requestId = randomUUID();
    const [a, b] = await Promise.all([
      client.vifs.create(1, { requestId }),
      client.vifs.create(1, { requestId }),
    ]);
    expect(a.uid).toBe(b.uid);
    const error = await failure(client.vifs.create(2, { requestId }));
    expect(error.code).toBe('REQUEST_ID_REUSED');
  });

  test('a guest that does not answer: the caller is told, and the vif stays', async () => {
    const domain = await hypervisor.createDomain({ name: 'asleep' });
    const error = await failure(client.vifs.create(domain.domid, { waitMs: 200 }));
    expect(error).toMatchObject({ grpcStatus: 'DEADLINE_EXCEEDED', code: 'VIF_NOT_CONNECTED' });
    const name = `vifs/${domain.domid}.0`;
    expect((await client.vifs.get(name)).status.reason).toBe('WAITING_FOR_FRONTEND');
    await client.vifs.delete(name, { closeTimeoutMs: 1000 });
    expect((await failure(client.vifs.get(name))).code).toBe('VIF_NOT_FOUND');
  });

  test('150 vifs are listed over pages, each once, in order', async () => {
    const domain = await hypervisor.createDomain({ name: 'many' });
    const options = { waitMs: 0 };
    for (let handle = 0; handle < 150; handle += 1) {
      await client.vifs.create(domain.domid, { handle, ...options });
    }
    const names: string[] = [];
    for await (const vif of client.vifs.list({ domid: domain.domid, pageSize: 40 }))
      names.push(vif.name);
    expect(names).toEqual(
      Array.from({ length: 150 }, (_, handle) => `vifs/${domain.domid}.${handle}`),
    );
  });

  test('a watch sends the whole state, a marker, and every change after it', async () => {
    const seen: string[] = [];
    const abort = new AbortController();
    const watching = (async () => {
      for await (const event of client.vifs.watch({ signal: abort.signal })) {
        if (!('vif' in event)) seen.push(event.type);
        else seen.push(`${event.type} ${event.vif.name} ${event.vif.status.phase}`);
      }
    })().catch(() => undefined);
    await until('the state is there', () => seen.includes('synced'));
    expect(seen).toEqual(['updated vifs/1.0 connected', 'updated vifs/2.0 connected', 'synced']);
    await client.vifs.create(2);
    await client.vifs.delete('vifs/2.1');
    await until('the end is seen', () =>
      seen.some((event) => event.startsWith('deleted vifs/2.1')),
    );
    expect(seen.some((event) => event === 'updated vifs/2.1 connected')).toBe(true);
    abort.abort();
    await watching;
  });
});

describe('frames', () => {
  test('an observer sees pings both ways, numbered without a gap', async () => {
    const directions = new Set<string>();
    let expected = 1n;
    for await (const frame of client.observe('vifs/1.0')) {
      expect(frame.sequence).toBe(expected);
      expected += 1n;
      directions.add(frame.direction);
      expect(frame.data.length).toBeGreaterThanOrEqual(42);
      if (directions.size === 2) break;
    }
  });

  test('a filter means what it means to tcpdump', async () => {
    const seen: number[] = [];
    for await (const frame of client.observe('vifs/1.0', {
      filter: 'icmp[icmptype] == icmp-echo',
    })) {
      seen.push(frame.data[34] as number);
      if (seen.length === 4) break;
    }
    expect(seen).toEqual([8, 8, 8, 8]);
    for await (const frame of client.observe('vifs/1.0', { filter: 'arp' })) {
      expect([...frame.data.subarray(12, 14)]).toEqual([8, 6]);
      break;
    }
  });

  const filters = ['tcp port', 'host example.org', 'frob', 'host dead.beef', 'x'.repeat(2000)];
  test.each(filters)('the filter %.20s is refused', async (filter) => {
    const reading = (async () => {
      for await (const _ of client.observe('vifs/1.0', { filter })) break;
    })();
    const error = await failure(reading);
    expect(error).toMatchObject({ grpcStatus: 'INVALID_ARGUMENT', code: 'FILTER_INVALID' });
  });

  test('a NIC that is attached hears the guest and is heard by it', async () => {
    const before = (await client.stats.get(['1.0']))[0]?.rx.packets ?? 0;
    const nic = await client.attach('vifs/1.0');
    const heard: number[] = [];
    void nic.listen((frame) => {
      heard.push(frame.length);
    });
    await nic.write(new Uint8Array(60).fill(0xff));
    await until('the guest is heard', () => heard.length > 0);
    const after = (await client.stats.get(['1.0']))[0]?.rx.packets ?? 0;
    expect(Number(after)).toBeGreaterThan(Number(before));
    const error = await failure(client.attach('vifs/1.0'));
    expect(error).toMatchObject({ grpcStatus: 'ALREADY_EXISTS', code: 'VIF_ATTACHED' });
    await nic.disconnect();
    await until('the place is free', () => daemon.netback.get(1, 0) !== undefined);
    const again = await client.attach('vifs/1.0');
    await again.disconnect();
  });

  // The SDK refuses such frames itself, so this speaks to the daemon without it.
  test.each([
    [5, 'FRAME_TOO_SHORT'],
    [70_000, 'FRAME_TOO_LONG'],
  ])('a frame of %i bytes is refused by the daemon', async (length, reason) => {
    const address = daemon.addresses[0] as string;
    const raw = new FrameServiceClient(address, credentials.createInsecure());
    const call = raw.streamFrames();
    const error = new Promise<ServiceError>((resolve) => call.on('error', resolve));
    call.on('data', () => undefined);
    const open = OpenFrames.fromPartial({ mode: FrameMode.ATTACH, vifs: ['vifs/1.0'] });
    call.write({ message: { $case: 'open', value: open } });
    const frames = FrameBatch.fromPartial({ frames: [Buffer.alloc(length)] });
    call.write({ message: { $case: 'frames', value: frames } });
    const { code, details, metadata } = await error;
    expect(code).toBe(status.INVALID_ARGUMENT);
    expect(details).toContain(`this one has ${length}`);
    expect(String(metadata.get('grpc-status-details-bin')[0])).toContain(reason);
    raw.close();
    expect((await client.vifs.get('1.0')).status.phase).toBe('connected');
  });

  test('a deleted vif ends its streams with a reason', async () => {
    const vif: Vif = await client.vifs.create(1);
    const reading = (async () => {
      for await (const _ of client.observe(vif.name));
    })();
    await until('the stream is open', () => daemon.netback.list().length === 3);
    await new Promise((resolve) => setTimeout(resolve, 100));
    await client.vifs.delete(vif.name);
    expect((await failure(reading)).code).toBe('VIF_DELETED');
  });
});

describe('statistics', () => {
  test('are reset on their own, and streamed', async () => {
    await until('frames flow', () => (daemon.netback.get(1, 0)?.metrics.tx.packets ?? 0) > 2);
    const before = await client.stats.reset('1.0');
    expect(Number(before.tx.packets)).toBeGreaterThan(2);
    expect(Number((await client.stats.get(['1.0']))[0]?.tx.packets)).toBeLessThan(3);
    let rounds = 0;
    for await (const event of client.stats.stream({ names: ['1.0'], intervalMs: 20 })) {
      if (event.type === 'stats') expect(event.stats.name).toBe('vifs/1.0');
      rounds += 1;
      if (rounds === 5) break;
    }
  });
});

describe('the next daemon', () => {
  test('takes the guests over: same uid, frames flow on', async () => {
    const { uid } = await client.vifs.get('1.0');
    const replies = () => daemon.netback.get(1, 0)?.metrics.rx.packets ?? 0;
    await stopDaemon();
    await startDaemon();
    expect((await client.vifs.get('1.0')).uid).toBe(uid);
    await until('pings are answered again', () => replies() > 2);
  });
});

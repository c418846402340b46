/** What an orchestration tool relies on: watches, xenstored in trouble, and calls that are safe to repeat. */
import { randomUUID } from 'node:crypto';
import { credentials, type ServiceError, status } from '@grpc/grpc-js';
import { XenvifClient, type XenvifClientError } from '@xenvif/client';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config.js';
import { Daemon } from '../../src/daemon.js';
import { DemoGuests } from '../../src/demo/guests.js';
import { plugVif, removeVif, requestUnplug } from '../../src/device/netback/toolstack.js';
import { VifServiceClient, WatchVifsRequest } from '../../src/gen/xenvif/v1/vif_service.js';
import { Hypervisor } from '../../src/xen/emulated/index.js';
import type { Xen } from '../../src/xen/xen.js';
import { Crowd } from '../support/crowd.js';
import { silent, until } from '../support/machine.js';

const MIB = 1024 * 1024;
/** Small, so that a test can fill it. */
const WATCH_QUEUE = 64;
const WATCHERS = 100;
const CLIENTS = 4;
/** The first start loads all of gRPC. */
const HOOK_TIMEOUT_MS = 60_000;

let hypervisor: Hypervisor;
let xen: Xen;
let daemon: Daemon;
let guests: DemoGuests;
let client: XenvifClient;
const address = () => daemon.addresses[0] as string;

async function startDaemon(): Promise<void> {
  xen = await hypervisor.dom0.open({ localMemoryBytes: 64 * MIB });
  const config = loadConfig({ tcp: '127.0.0.1:0', limits: { watchQueue: WATCH_QUEUE } });
  daemon = await Daemon.start({ xen, config, logger: silent, socket: undefined });
  client = new XenvifClient({ address: address() });
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
}, HOOK_TIMEOUT_MS);
afterEach(async () => {
  hypervisor.store.start();
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

/** Resume tokens count the changes of a run of the daemon. */
const sequenceOf = (token: string) => Number(token.split(':')[1]);

/** Reads a watch to its end; what it has seen grows meanwhile. */
function collect(watch: ReturnType<XenvifClient['vifs']['watch']>) {
  const seen: { sequence: number; text: string }[] = [];
  let isSynced = false;
  let syncedAt = 0;
  const done = (async () => {
    for await (const event of watch) {
      if (event.type === 'synced') {
        isSynced = true;
        syncedAt = sequenceOf(event.resumeToken);
      }
      if (!('vif' in event)) continue;
      const { etag, name } = event.vif;
      const text = `${event.type} ${name} ${etag}`;
      if (isSynced) seen.push({ sequence: sequenceOf(event.resumeToken), text });
    }
  })().catch((error: unknown) => error);
  return { seen, done, isSynced: () => isSynced, syncedAt: () => syncedAt };
}

describe('watches', () => {
  test(`${WATCHERS} watchers see each change once, in order`, async () => {
    const clients = Array.from({ length: CLIENTS }, () => new XenvifClient({ address: address() }));
    const watches = Array.from({ length: WATCHERS }, (_, index) => {
      const watch = (clients[index % CLIENTS] as XenvifClient).vifs.watch();
      return { watch, ...collect(watch) };
    });
    await until('all are in step', () => watches.every(({ isSynced }) => isSynced()));
    const heapBefore = process.memoryUsage().heapUsed;
    const startMs = performance.now();
    for (let round = 0; round < 10; round += 1) {
      await client.vifs.create(1, { handle: 5 });
      for (let value = 0; value < 5; value += 1) {
        await client.vifs.update('1.5', { labels: { value: String(value) } });
      }
      await client.vifs.delete('1.5');
    }
    const last = daemon.netback.list().length;
    expect(last).toBe(2);
    const first = watches[0]?.seen ?? [];
    await until('the last change is with everybody', () =>
      watches.every(
        ({ seen }) => seen.filter(({ text }) => text.startsWith('deleted')).length === 10,
      ),
    );
    const seconds = (performance.now() - startMs) / 1000;
    const heap = (process.memoryUsage().heapUsed - heapBefore) / MIB;
    process.stdout.write(
      `${WATCHERS} watchers, ${first.length} changes each: ${seconds.toFixed(1)} s, ${heap.toFixed(0)} MiB more, both ends\n`,
    );
    // None is missing from the whole state on, and none comes twice.
    const begin = (watches[0]?.syncedAt() ?? 0) + 1;
    expect(first.map(({ sequence }) => sequence)).toEqual(first.map((_, index) => begin + index));
    for (const { seen } of watches) expect(seen).toEqual(first);
    for (const { watch } of watches) watch.close();
    for (const other of clients) other.close();
  });

  test('one that does not read is cut off with a clear error, and no other', async () => {
    const raw = new VifServiceClient(address(), credentials.createInsecure());
    const call = raw.watchVifs(WatchVifsRequest.fromPartial({}));
    const error = new Promise<ServiceError>((resolve) => call.on('error', resolve));
    call.once('data', () => call.pause());
    const other = client.vifs.watch();
    const reading = collect(other);
    await until('the other is in step', () => reading.isSynced());
    const text = 'x'.repeat(250);
    const labels = Object.fromEntries(Array.from({ length: 10 }, (_, key) => [`k${key}`, text]));
    for (let change = 0; change < 6 * WATCH_QUEUE; change += 1) {
      await client.vifs.update('1.0', { labels: { ...labels, change: String(change) } });
    }
    call.resume();
    const { code, metadata } = await error;
    expect(code).toBe(status.RESOURCE_EXHAUSTED);
    expect(String(metadata.get('grpc-status-details-bin')[0])).toContain('WATCHER_TOO_SLOW');
    await until('the other has all', () => reading.seen.length >= 6 * WATCH_QUEUE);
    other.close();
    raw.close();
  });

  test('a token brings what was missed, and one of another run is refused', async () => {
    const tokens: string[] = [];
    for await (const event of client.vifs.watch()) {
      if (event.type !== 'synced') continue;
      tokens.push(event.resumeToken);
      break;
    }
    await client.vifs.update('1.0', { labels: { a: '1' } });
    await client.vifs.update('2.0', { labels: { a: '2' } });
    const missed: string[] = [];
    for await (const event of client.vifs.watch({ resumeToken: tokens[0] as string })) {
      if (event.type === 'synced') break;
      if ('vif' in event) missed.push(`${event.vif.name} ${event.vif.labels['a']}`);
    }
    expect(missed).toEqual(['vifs/1.0 1', 'vifs/2.0 2']);
    await stopDaemon();
    await startDaemon();
    const late = (async () => {
      for await (const _ of client.vifs.watch({ resumeToken: tokens[0] as string }));
    })();
    expect(await failure(late)).toMatchObject({
      grpcStatus: 'OUT_OF_RANGE',
      code: 'RESUME_TOKEN_EXPIRED',
    });
  });
});

describe('XenStore in trouble', () => {
  const replies = () => daemon.netback.get(1, 0)?.metrics.rx.packets ?? 0;

  test('dead: frames flow, control is UNAVAILABLE, and all is made whole when it is back', async () => {
    const { watch, seen } = (() => {
      const made = client.vifs.watch();
      return { watch: made, ...collect(made) };
    })();
    await client.vifs.create(1, { handle: 4 });
    hypervisor.store.stop();
    await until('the daemon notices', () => !xen.store.connected);
    const before = replies();
    for (const call of [
      () => client.vifs.create(1),
      () => client.vifs.update('1.0', { mtu: 1400 }),
      () => client.vifs.delete('1.4'),
      () => client.switches.create('lan'),
    ]) {
      const error = await failure(call());
      expect(error).toMatchObject({ grpcStatus: 'UNAVAILABLE', code: 'XENSTORE_UNAVAILABLE' });
    }
    expect((await client.vifs.get('1.0')).status.phase).toBe('connected');
    await until('guests ping on', () => replies() > before + 1);
    hypervisor.store.start();
    await until('it is back', () => xen.store.connected);
    // What the toolstack does now is seen again, and what could not be done can be.
    await xen.store.write('/local/domain/0/backend/vif/2/0/rate', '1000,50000');
    await until(
      'watches are back',
      () => daemon.netback.get(2, 0)?.configuration.rate !== undefined,
    );
    await client.switches.create('lan');
    for (const domid of [1, 2]) {
      expect((await client.vifs.create(domid, { handle: 8 })).status.phase).toBe('connected');
    }
    await client.vifs.delete('1.4');
    await until('the watcher knows', () =>
      seen.some(({ text }) => text.startsWith('deleted vifs/1.4')),
    );
    watch.close();
  });

  test('a guest that died meanwhile is let go when it is back, and nobody else', async () => {
    const crowd = new Crowd();
    const { domid } = await crowd.add(hypervisor, 'mortal', 1);
    const { name, status } = await client.vifs.create(domid, { handle: 0 });
    expect(status.phase).toBe('connected');
    hypervisor.store.stop();
    await until('the daemon notices', () => !xen.store.connected);
    // The toolstack has no XenStore to tidy up in, either.
    await hypervisor.destroyDomain(domid).catch(() => undefined);
    const before = replies();
    hypervisor.store.start();
    const reason = async () => (await client.vifs.get(name)).status.reason;
    await expect.poll(reason).toBe('FRONTEND_GONE');
    await until('others ping on', () => replies() > before + 1);
    await client.vifs.delete(name);
    expect((await failure(client.vifs.get(name))).code).toBe('VIF_NOT_FOUND');
  });

  test('EAGAIN is tried again, within bounds, and EQUOTA is refused at once', async () => {
    hypervisor.store.fail({ request: 'TRANSACTION_END', domid: 0, answer: 'EAGAIN', times: 3 });
    expect((await client.vifs.create(1, { handle: 6 })).status.phase).toBe('connected');
    for (const answer of ['EAGAIN', 'EQUOTA'] as const) {
      const fault = hypervisor.store.fail({ request: 'TRANSACTION_END', domid: 0, answer });
      const error = await failure(client.vifs.create(1, { handle: 7 }));
      expect(error.grpcStatus).toBe('UNAVAILABLE');
      expect(fault.hits).toBeLessThan(100);
      fault.end();
      expect((await failure(client.vifs.get('1.7'))).code).toBe('VIF_NOT_FOUND');
    }
    const before = replies();
    await until('frames flow on', () => replies() > before);
    expect((await client.vifs.create(1, { handle: 7 })).status.phase).toBe('connected');
  });
});

describe('a call that is repeated after the daemon died', () => {
  test('makes no second vif, whichever daemon answers', async () => {
    const requestId = randomUUID();
    const first = await client.vifs.create(1, { requestId, labels: { a: 'b' } });
    await stopDaemon();
    await startDaemon();
    const again = await client.vifs.create(1, { requestId, labels: { a: 'b' } });
    expect(again.uid).toBe(first.uid);
    expect(daemon.netback.list().length).toBe(3);
    const other = await failure(client.vifs.create(1, { requestId, labels: { a: 'c' } }));
    expect(other.code).toBe('REQUEST_ID_REUSED');
    await client.vifs.delete(again.name);
    const after = await client.vifs.create(1, { requestId: randomUUID(), labels: { a: 'b' } });
    expect(after.uid).not.toBe(first.uid);
  });
});

describe("vifs of xl's", () => {
  test('have the VLAN and the addresses of its keys, until they are given a policy', async () => {
    const backend = '/local/domain/0/backend/vif/2/0';
    const policy = async () => (await client.vifs.get('2.0')).spec.portPolicy;
    await xen.store.write(`${backend}/vlan`, '30');
    await xen.store.write(`${backend}/ip`, '10.0.0.2/24 fd00::2');
    await expect
      .poll(policy)
      .toMatchObject({ accessVlan: 30, allowedAddresses: ['10.0.0.2', 'fd00::2'] });
    await client.vifs.update('2.0', { portPolicy: { lockMac: true } });
    expect(await policy()).toMatchObject({ accessVlan: 0, lockMac: true, allowedAddresses: [] });
    await client.vifs.update('2.0', { portPolicy: null });
    expect((await policy())?.accessVlan ?? 0).toBe(0);
    await xen.store.rm(`${backend}/xenvif/policy`);
    await xen.store.write(`${backend}/vlan`, 'trunk');
    const reason = async () => (await client.vifs.get('2.0')).status.reason;
    await expect.poll(reason).toBe('VLAN_INVALID');
    await xen.store.rm(`${backend}/vlan`);
    await xen.store.rm(`${backend}/ip`);
    await expect.poll(reason).toBe('CONNECTED');
  });
});

describe('in a driver domain', () => {
  test("vifs are served, and what only domain 0 may do is refused with xl's command for it", async () => {
    const domain = await hypervisor.createDomain({ name: 'driver' });
    const { domid } = domain;
    const driverXen = await domain.open({ localMemoryBytes: 16 * MIB });
    await xen.store.mkdir(`/local/domain/${domid}/backend/vif`);
    await xen.store.setPermissions(`/local/domain/${domid}/backend/vif`, {
      owner: domid,
      others: 'n',
    });
    const config = loadConfig({ tcp: '127.0.0.1:0' });
    const options = { xen: driverXen, config, logger: silent, socket: undefined };
    const driver = await Daemon.start(options);
    const asked = new XenvifClient({ address: driver.addresses[0] as string });
    // As xl network-attach with backend=driver does it.
    const vif = { backendDomid: domid, domid: 1, handle: 3, mac: '00:16:3e:00:00:99', mtu: 1500 };
    await plugVif(xen.store, { ...vif, labels: {}, uid: randomUUID() });
    const phase = async () => {
      for await (const found of asked.vifs.list()) return found.status.phase;
      return undefined;
    };
    await expect.poll(phase).toBe('connected');
    expect(await failure(asked.vifs.create(2))).toMatchObject({
      code: 'NOT_PRIVILEGED',
      grpcStatus: 'FAILED_PRECONDITION',
      metadata: { command: `xl network-attach 2 backend=${domid}` },
    });
    expect(await failure(asked.vifs.delete('1.3'))).toMatchObject({
      metadata: { command: 'xl network-detach 1 3' },
    });
    expect(await phase()).toBe('connected');
    // libxl detaches, and waits for the directory to vanish.
    await requestUnplug(xen.store, domid, 1, 3);
    const state = `/local/domain/${domid}/backend/vif/1/3/state`;
    await expect.poll(() => xen.store.readIfExists(state), { timeout: 10_000 }).toBeUndefined();
    await removeVif(xen.store, domid, 1, 3);
    asked.close();
    await driver.stop();
    await driverXen.close();
  });
});

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  AlreadyExistsError,
  GrantError,
  MisuseError,
  NotFoundError,
} from '../../../../src/errors.js';
import { Hypervisor } from '../../../../src/xen/emulated/hypervisor.js';
import type { Store } from '../../../../src/xen/xen.js';

/** What there is only where a guest has memory, a console and a kernel. */
const NOT_EMULATED = /\/(console\b|memory\/|store\b|image\b|start_time\b)/;

/** The tree below `path` as xenstore-ls -fp prints it. */
async function listing(store: Store, path: string): Promise<string[]> {
  const { owner, others, domains } = await store.getPermissions(path);
  const rights = [`${others}${owner}`, ...(domains ?? []).map((d) => `${d.access}${d.domid}`)];
  const line = `${path} = "${await store.read(path)}"   (${rights.join(',')})`;
  const names = await store.directory(path);
  const below = await Promise.all(names.map((name) => listing(store, `${path}/${name}`)));
  return [line, ...below.flat()];
}

let hypervisor: Hypervisor;

beforeEach(() => {
  hypervisor = new Hypervisor({ memoryBytes: 128 * 1024 * 1024 });
});

afterEach(async () => {
  await hypervisor.shutdown();
});

describe('a new domain', () => {
  test('finds in XenStore what the toolstack writes, with the rights it gives', async () => {
    const domain = await hypervisor.createDomain({ name: 'web' });
    const { store, domid } = await domain.open();
    const base = `/local/domain/${domid}`;
    expect(await store.read('domid')).toBe(String(domid));
    expect(await store.read('name')).toBe('web');
    expect(await store.read('vm')).toBe(`/vm/${domain.uuid}`);
    expect(await store.read(`/vm/${domain.uuid}/name`)).toBe('web');
    expect(await store.domainPath(domid)).toBe(base);
    const readable = { owner: 0, others: 'n', domains: [{ domid, access: 'r' }] };
    expect(await store.getPermissions(base)).toEqual(readable);
    expect(await store.getPermissions(`${base}/device`)).toEqual(readable);
    await expect(store.write('device/vif', 'x')).rejects.toMatchObject({ errno: 'EACCES' });
    await expect(store.write('name', 'x')).rejects.toMatchObject({ errno: 'EACCES' });
    await store.write('data/mine', 'x');
    await store.write('drivers/0', 'x');
  });

  test('has the nodes, values and rights that xl gives a guest on real Xen', async () => {
    const domain = await hypervisor.createDomain({ domid: 1, name: 'g1' });
    const { store } = await hypervisor.dom0.open();
    const real = readFileSync(
      join(import.meta.dirname, '../../../golden/xenstore-guest.txt'),
      'utf8',
    )
      .trim()
      .replaceAll('UUID', domain.uuid)
      .split('\n')
      .filter((line) => !line.startsWith('#') && !NOT_EMULATED.test(line));
    const emulated = [
      ...(await listing(store, '/local/domain/1')),
      ...(await listing(store, `/vm/${domain.uuid}`)),
      ...(await listing(store, '/libxl/1')),
    ];
    // What a booted Linux writes into its own nodes is not the toolstack's doing.
    const byToolstack = (line: string) => line.replace(/(feature-\w+ = )"1"( +\(n1\))/, '$1""$2');
    expect(emulated.sort()).toEqual(real.map(byToolstack).sort());
  });

  test('can be opened more than once, and each process counts for itself', async () => {
    const domain = await hypervisor.createDomain();
    const [first, second] = [await domain.open(), await domain.open()];
    const region = first.memory.allocate(4096);
    expect(second.memory.allocatedBytes).toBe(0);
    await second.close();
    expect(hypervisor.leaks()).toEqual([
      `domain ${domain.domid} (${domain.name}) holds 4096 bytes of local memory`,
    ]);
    region.free();
    hypervisor.assertNoLeaks();
    await first.close();
  });

  test('gets a number never used before, or the one asked for if it is free', async () => {
    const first = await hypervisor.createDomain();
    await hypervisor.destroyDomain(first.domid);
    expect((await hypervisor.createDomain()).domid).toBe(first.domid + 1);
    await hypervisor.createDomain({ domid: 40 });
    expect((await hypervisor.createDomain()).domid).toBe(41);
    await expect(hypervisor.createDomain({ domid: 40 })).rejects.toThrow(AlreadyExistsError);
    await expect(hypervisor.createDomain({ domid: 0 })).rejects.toThrow(AlreadyExistsError);
    await expect(hypervisor.createDomain({ domid: 0x7ff0 })).rejects.toThrow(MisuseError);
  });
});

test('domain 0 is there from the start, privileged, and named', async () => {
  const xen = await hypervisor.dom0.open();
  expect(xen.domid).toBe(0);
  expect(await xen.store.read('/local/domain/0/name')).toBe('Domain-0');
  expect(await xen.store.read('domid')).toBe('0');
  const guest = await hypervisor.createDomain();
  await xen.store.write(`/local/domain/${guest.domid}/device/vif/0/state`, '1');
  await xen.close();
});

describe('a destroyed domain', () => {
  test('leaves its mapped pages readable, but nothing can be mapped or copied', async () => {
    const guest = await hypervisor.createDomain();
    const backend = await hypervisor.dom0.open();
    const shared = (await guest.open()).grants.share(0, 1, 'write');
    const raw = guest.raw.allocatePage();
    raw.writeU32(0, 2);
    shared.pages[0]?.writeU32(0, 1);
    const rawRef = guest.raw.grantPage(raw, 0);
    const ref = shared.refs[0] as number;
    const mapped = [ref, rawRef].map((each) => backend.grants.map(guest.domid, each, 'read'));
    await hypervisor.destroyDomain(guest.domid);
    expect(mapped.map(({ page }) => page.readU32(0))).toEqual([1, 2]);
    expect(() => backend.grants.map(guest.domid, ref, 'read')).toThrow(GrantError);
    expect(hypervisor.leaks()).toHaveLength(2);
    for (const mapping of mapped) mapping.unmap();
    expect(hypervisor.leaks()).toEqual([]);
    await backend.close();
    expect(hypervisor.memory.allocatedBytes).toBe(0);
  });

  test('is told by XenStore, which forgets it', async () => {
    const guest = await hypervisor.createDomain();
    const xen = await hypervisor.dom0.open();
    let released = 0;
    const watch = await xen.store.watch('@releaseDomain', () => {
      released += 1;
    });
    await sleep(5);
    const before = released;
    await hypervisor.destroyDomain(guest.domid);
    await sleep(5);
    expect(released).toBe(before + 1);
    expect(await xen.store.isDomainIntroduced(guest.domid)).toBe(false);
    expect(await xen.store.readIfExists(`/local/domain/${guest.domid}`)).toBeUndefined();
    expect(await xen.store.readIfExists(`/vm/${guest.uuid}`)).toBeUndefined();
    await watch.unwatch();
    await xen.close();
  });

  test('is gone for good, and a new one with its number inherits nothing', async () => {
    const old = await hypervisor.createDomain({ domid: 9 });
    const backend = await hypervisor.dom0.open();
    const page = old.raw.allocatePage();
    const ref = old.raw.grantPage(page, 0);
    await hypervisor.destroyDomain(9);
    const fresh = await hypervisor.createDomain({ domid: 9 });
    expect(fresh.generation).toBeGreaterThan(old.generation);
    expect(() => backend.grants.map(9, ref, 'read')).toThrow(GrantError);
    await expect(old.open()).rejects.toThrow(NotFoundError);
    await (await fresh.open()).close();
    await backend.close();
  });

  test('takes its processes with it, whose code has no effect any more', async () => {
    const guest = await hypervisor.createDomain();
    const xen = await guest.open();
    const shared = xen.grants.share(0, 1, 'write');
    const channel = xen.events.allocate(0, () => {});
    await hypervisor.destroyDomain(guest.domid);
    shared.pages[0]?.writeU32(0, 1);
    shared.unshare();
    channel.notify();
    channel.close();
    await expect(xen.store.read('name')).rejects.toThrow();
    await xen.close();
  });

  test('cannot be destroyed twice, and domain 0 not at all', async () => {
    const guest = await hypervisor.createDomain();
    await hypervisor.destroyDomain(guest.domid);
    await expect(hypervisor.destroyDomain(guest.domid)).rejects.toThrow(NotFoundError);
    await expect(hypervisor.destroyDomain(0)).rejects.toThrow(NotFoundError);
  });
});

test('a watch that was not ended is named at the close', async () => {
  const xen = await hypervisor.dom0.open();
  const watch = await xen.store.watch('/local', () => {});
  await xen.store.watch('/vm', () => {});
  await watch.unwatch();
  await expect(xen.close()).rejects.toThrow(/it watches \/vm\./);
});

test('a thousand domains come and go, and nothing is left of them', async () => {
  const xen = await hypervisor.dom0.open();
  const before = hypervisor.memory.allocatedBytes;
  for (let round = 0; round < 1_000; round++) {
    const guest = await hypervisor.createDomain({ localMemoryBytes: 4096 });
    const frontend = await guest.open();
    const shared = frontend.grants.share(0, 2, 'write');
    const left = frontend.events.allocate(0, () => {});
    const mapped = xen.grants.map(guest.domid, shared.refs[0] as number, 'write');
    const right = xen.events.bind(guest.domid, left.port, () => {});
    await hypervisor.destroyDomain(guest.domid);
    mapped.unmap();
    right.close();
  }
  hypervisor.assertNoLeaks();
  expect(hypervisor.memory.allocatedBytes).toBe(before);
  await xen.close();
}, 60_000);

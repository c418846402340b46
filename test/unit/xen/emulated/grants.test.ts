import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { GrantError, MisuseError } from '../../../../src/errors.js';
import { CopyBatch } from '../../../../src/xen/copy-batch.js';
import type { Domain } from '../../../../src/xen/emulated/domain.js';
import type { EmulatedXen } from '../../../../src/xen/emulated/emulated-xen.js';
import { Hypervisor } from '../../../../src/xen/emulated/hypervisor.js';
import { PAGE_SIZE } from '../../../../src/xen/xen.js';
import golden from '../../../golden/xen-headers.json' with { type: 'json' };

const { GNTST_okay, GNTST_general_error, GNTST_bad_domain, GNTST_bad_gntref } = golden.constants;

let hypervisor: Hypervisor;
let guest: Domain;
let backend: EmulatedXen;
let frontend: EmulatedXen;

beforeEach(async () => {
  hypervisor = new Hypervisor({ memoryBytes: 64 * 1024 * 1024 });
  guest = await hypervisor.createDomain({ domid: 5, grantsMax: 600 });
  backend = await hypervisor.dom0.open({ localMemoryBytes: 1024 * 1024 });
  frontend = await guest.open({ localMemoryBytes: 1024 * 1024 });
});

afterEach(async () => {
  await hypervisor.shutdown();
});

/** Runs one copy of 4 bytes out of a grant, or into it, and answers its status. */
function copyStatus(domid: number, ref: number, way: 'from' | 'to' = 'from'): number {
  const region = backend.memory.allocate(PAGE_SIZE);
  const batch = new CopyBatch(backend.memory, 1);
  if (way === 'from') batch.fromGrant(domid, ref, 0, region.offset, 4);
  else batch.toGrant(domid, ref, 0, region.offset, 4);
  backend.grants.copy(batch);
  region.free();
  return batch.status(0);
}

describe('grant references', () => {
  test('start at 8 and are handed out again, the last one given back first', () => {
    const [first, second, third] = [1, 2, 3].map(() => frontend.grants.share(0, 1, 'write'));
    expect([first?.refs[0], second?.refs[0], third?.refs[0]]).toEqual([8, 9, 10]);
    first?.unshare();
    third?.unshare();
    const again = frontend.grants.share(0, 3, 'write');
    expect(again.refs).toEqual([10, 8, 11]);
  });

  test('run out at the limit of the domain, and nothing of the attempt is left', () => {
    const before = hypervisor.memory.allocatedBytes;
    expect(() => frontend.grants.share(0, 593, 'write')).toThrow(GrantError);
    expect(hypervisor.memory.allocatedBytes).toBe(before);
    const all = frontend.grants.share(0, 592, 'write');
    expect(() => frontend.grants.share(0, 1, 'write')).toThrow(GrantError);
    all.unshare();
    frontend.grants.share(0, 592, 'write').unshare();
    expect(hypervisor.memory.allocatedBytes).toBe(before);
  });

  test('memory runs out as a grant error, and nothing of the attempt is left', async () => {
    const small = new Hypervisor({ memoryBytes: 64 * PAGE_SIZE });
    const xen = await small.dom0.open({ localMemoryBytes: PAGE_SIZE });
    expect(() => xen.grants.share(0, 64, 'write')).toThrow(GrantError);
    xen.grants.share(0, 62, 'write').unshare();
    await xen.close();
    expect(small.memory.allocatedBytes).toBe(0);
    await small.shutdown();
  });

  test('a page that comes back to another owner is zeroed before', () => {
    const first = frontend.grants.share(0, 1, 'write');
    first.pages[0]?.bytes.fill(0xee);
    first.unshare();
    const second = frontend.grants.share(0, 1, 'write');
    expect(second.pages[0]?.bytes.every((byte) => byte === 0)).toBe(true);
  });
});

describe('a mapping', () => {
  test('is refused with the status that Xen gives', () => {
    const shared = frontend.grants.share(3, 1, 'write');
    const statusOf = (domid: number, ref: number) => {
      try {
        backend.grants.map(domid, ref, 'read');
      } catch (error) {
        if (error instanceof GrantError) return Number(error.metadata['status']);
      }
      return undefined;
    };
    expect(statusOf(5, shared.refs[0] as number)).toBe(GNTST_general_error);
    expect(statusOf(5, 511)).toBe(GNTST_general_error);
    expect(statusOf(5, 512)).toBe(GNTST_bad_gntref);
    expect(statusOf(77, 8)).toBe(GNTST_bad_domain);
  });

  test('keeps a page from being unshared, and tells that it is in use', () => {
    const shared = frontend.grants.share(0, 2, 'write');
    const mapped = backend.grants.map(5, shared.refs[1] as number, 'read');
    expect([shared.inUse(0), shared.inUse(1)]).toEqual([false, true]);
    expect(() => shared.inUse(2)).toThrow(MisuseError);
    expect(() => shared.unshare()).toThrow(GrantError);
    shared.pages[0]?.writeU32(0, 1);
    mapped.unmap();
    shared.unshare();
  });

  test('survives the revocation of its grant, and the page lives as long as it does', () => {
    const page = guest.raw.allocatePage();
    const ref = guest.raw.grantPage(page, 0);
    const mapped = backend.grants.map(5, ref, 'write');
    const before = hypervisor.memory.allocatedBytes;
    expect(guest.raw.mappings(ref)).toBe(1);
    guest.raw.revoke(ref);
    expect(() => backend.grants.map(5, ref, 'write')).toThrow(GrantError);
    page.writeU32(0, 99);
    expect(mapped.page.readU32(0)).toBe(99);
    guest.raw.freePage(page);
    expect(mapped.page.readU32(0)).toBe(99);
    expect(hypervisor.memory.allocatedBytes).toBe(before);
    mapped.unmap();
    expect(hypervisor.memory.allocatedBytes).toBe(before - PAGE_SIZE);
  });

  test('is not confused by another page under the same reference', () => {
    const [old, fresh] = [guest.raw.allocatePage(), guest.raw.allocatePage()];
    old.writeU32(0, 1);
    fresh.writeU32(0, 2);
    const ref = guest.raw.grantPage(old, 0);
    const first = backend.grants.map(5, ref, 'read');
    guest.raw.grantPage(fresh, 0, 'read', ref);
    const second = backend.grants.map(5, ref, 'read');
    expect([first.page.readU32(0), second.page.readU32(0)]).toEqual([1, 2]);
    first.unmap();
    expect(guest.raw.mappings(ref)).toBe(1);
    second.unmap();
    expect(guest.raw.mappings(ref)).toBe(0);
  });
});

describe('a copy', () => {
  test('answers each kind of failure as Xen does', () => {
    const page = guest.raw.allocatePage();
    const readable = guest.raw.grantPage(page, 0, 'read');
    const foreign = guest.raw.grantPage(page, 3);
    expect(copyStatus(5, readable)).toBe(GNTST_okay);
    expect(copyStatus(5, readable, 'to')).toBe(GNTST_general_error);
    expect(copyStatus(5, foreign)).toBe(GNTST_general_error);
    expect(copyStatus(5, 300)).toBe(GNTST_general_error);
    expect(copyStatus(5, 0xffffffff)).toBe(GNTST_bad_gntref);
    expect(copyStatus(77, 8)).toBe(GNTST_bad_domain);
    guest.raw.revoke(readable);
    expect(copyStatus(5, readable)).toBe(GNTST_general_error);
  });

  test('to or from memory that is not ours is a bug of ours', async () => {
    const shared = frontend.grants.share(0, 1, 'write');
    const ref = shared.refs[0] as number;
    const other = await hypervisor.dom0.open({ localMemoryBytes: PAGE_SIZE });
    const theirs = other.memory.allocate(PAGE_SIZE);
    const ours = backend.memory.allocate(PAGE_SIZE);
    const batch = new CopyBatch(backend.memory, 1);
    for (const local of [theirs.offset, ours.offset + PAGE_SIZE - 3, 0, 0xffff_fff0]) {
      batch.clear();
      batch.fromGrant(5, ref, 0, local, 4);
      expect(() => backend.grants.copy(batch)).toThrow(MisuseError);
    }
    ours.free();
    batch.clear();
    batch.toGrant(5, ref, 0, ours.offset, 4);
    expect(() => backend.grants.copy(batch)).toThrow(MisuseError);
  });

  test('to an address past the first 4 GiB is a bug of ours', () => {
    const shared = frontend.grants.share(0, 1, 'write');
    const region = backend.memory.allocate(PAGE_SIZE);
    const batch = new CopyBatch(backend.memory, 1);
    batch.fromGrant(5, shared.refs[0] as number, 0, region.offset + 2 ** 32, 4);
    expect(() => backend.grants.copy(batch)).toThrow(MisuseError);
  });

  test('with both sides or neither side a grant, or past the page, is a bug of ours', () => {
    const shared = frontend.grants.share(0, 1, 'write');
    const region = backend.memory.allocate(PAGE_SIZE);
    const batch = new CopyBatch(backend.memory, 1);
    batch.fromGrant(5, shared.refs[0] as number, 0, region.offset, 4);
    const view = new DataView(batch.segments.buffer);
    const { flags, 'source.foreign.offset': offset } = golden.xengnttab_grant_copy_segment;
    for (const wrong of [0, 3]) {
      view.setUint16(flags, wrong, true);
      expect(() => backend.grants.copy(batch)).toThrow(MisuseError);
    }
    view.setUint16(flags, 1, true);
    view.setUint16(offset, PAGE_SIZE - 3, true);
    expect(() => backend.grants.copy(batch)).toThrow(MisuseError);
  });
});

describe('an orderly close', () => {
  test('names everything that was left, and takes it back', async () => {
    const shared = frontend.grants.share(0, 2, 'write');
    backend.grants.map(5, shared.refs[0] as number, 'read');
    backend.memory.allocate(PAGE_SIZE);
    await expect(backend.close()).rejects.toThrow(
      /maps grant 8 of domain 5; it holds 4096 bytes of local memory/,
    );
    await expect(frontend.close()).rejects.toThrow(/shares grants 8, 9 with domain 0/);
    hypervisor.assertNoLeaks();
    expect(hypervisor.memory.allocatedBytes).toBe(0);
  });

  test('makes every later use a bug', async () => {
    const batch = new CopyBatch(backend.memory, 1);
    await backend.close();
    expect(() => backend.grants.map(5, 8, 'read')).toThrow(MisuseError);
    expect(() => backend.grants.share(5, 1, 'read')).toThrow(MisuseError);
    expect(() => backend.grants.copy(batch)).toThrow(MisuseError);
    await expect(backend.close()).rejects.toThrow(MisuseError);
  });
});

describe('a killed process', () => {
  test('loses its mappings, and its code has no effect any more', async () => {
    const shared = frontend.grants.share(0, 1, 'write');
    const mapped = backend.grants.map(5, shared.refs[0] as number, 'write');
    const batch = new CopyBatch(backend.memory, 1);
    batch.toGrant(5, shared.refs[0] as number, 0, 0, 4);
    await backend.kill();
    expect(shared.inUse(0)).toBe(false);
    mapped.page.writeU32(0, 7);
    mapped.page.storeIndex(4, 7);
    mapped.unmap();
    expect(() => backend.grants.copy(batch)).toThrow(GrantError);
    expect(shared.pages[0]?.readU32(0)).toBe(0);
    await backend.kill();
    await backend.close();
    shared.unshare();
    expect(hypervisor.leaks()).toEqual([]);
  });

  test('leaves its shared pages to whoever maps them, until the last unmap', async () => {
    const shared = frontend.grants.share(0, 2, 'write');
    const mapped = backend.grants.map(5, shared.refs[0] as number, 'write');
    await frontend.kill();
    expect(hypervisor.leaks()).toContain(
      'domain 5 (guest-5) waits for domain 0 to unmap grant 8, whose owner is done with it',
    );
    mapped.page.writeU32(0, 3);
    expect(mapped.page.readU32(0)).toBe(3);
    expect(copyStatus(5, shared.refs[1] as number)).toBe(GNTST_general_error);
    mapped.unmap();
    expect(hypervisor.leaks()).toEqual([]);
    expect(copyStatus(5, shared.refs[0] as number)).toBe(GNTST_general_error);
    await backend.close();
    expect(hypervisor.memory.allocatedBytes).toBe(0);
  });
});

describe('a notice', () => {
  /** A page of the guest that domain 0 maps with a notice, and the channel it goes over. */
  function mapWithNotice() {
    let events = 0;
    const left = frontend.events.allocate(0, () => {
      events += 1;
    });
    const channel = backend.events.bind(5, left.port, () => {});
    const shared = frontend.grants.share(0, 1, 'write', { byteOffset: 21, channel: left });
    const ref = shared.refs[0] as number;
    const mapped = backend.grants.map(5, ref, 'write', { byteOffset: 20, channel });
    mapped.page.bytes.fill(1);
    return { shared, mapped, events: () => events };
  }
  const turns = () => new Promise((resolve) => setTimeout(resolve, 5));

  test('is given when the process that maps is killed', async () => {
    const { shared, events } = mapWithNotice();
    await backend.kill();
    await turns();
    expect([...(shared.pages[0]?.bytes.subarray(19, 23) ?? [])]).toEqual([1, 0, 1, 1]);
    expect(events()).toBe(1);
  });

  test('is given when the process that shares is killed', async () => {
    const { mapped } = mapWithNotice();
    await frontend.kill();
    expect([...mapped.page.bytes.subarray(19, 23)]).toEqual([1, 1, 0, 1]);
  });

  test('is not given when the whole domain is destroyed, for its kernel is gone too', async () => {
    const { mapped } = mapWithNotice();
    await hypervisor.destroyDomain(5);
    expect([...mapped.page.bytes.subarray(19, 23)]).toEqual([1, 1, 1, 1]);
  });

  test('goes with a writable mapping and with a single page', () => {
    const channel = frontend.events.allocate(0, () => {});
    const notice = { byteOffset: 0, channel };
    expect(() => frontend.grants.share(0, 2, 'write', notice)).toThrow(MisuseError);
    const shared = frontend.grants.share(0, 1, 'read');
    expect(() => backend.grants.map(5, shared.refs[0] as number, 'read', notice)).toThrow(
      MisuseError,
    );
  });
});

describe('a raw guest', () => {
  test('is held to what a guest can do at all', () => {
    const page = guest.raw.allocatePage();
    const ref = guest.raw.grantPage(page, 0);
    expect(() => guest.raw.freePage(page)).toThrow(MisuseError);
    expect(() => guest.raw.revoke(ref + 1)).toThrow(MisuseError);
    expect(() => guest.raw.grantPage(page, 0, 'read', 600)).toThrow(MisuseError);
    const stranger = frontend.grants.share(0, 1, 'write').pages[0];
    expect(() => stranger && guest.raw.grantPage(stranger, 0)).toThrow(MisuseError);
  });

  test('may replace a grant of its own driver, whose end then leaves the new one alone', () => {
    const shared = frontend.grants.share(0, 1, 'write');
    const ref = shared.refs[0] as number;
    guest.raw.grantPage(guest.raw.allocatePage(), 0, 'write', ref);
    shared.unshare();
    expect(copyStatus(5, ref)).toBe(GNTST_okay);
    expect(frontend.grants.share(0, 1, 'write').refs).toEqual([ref + 1]);
  });

  test('may take a reference that the next share would have got', () => {
    const page = guest.raw.allocatePage();
    expect(guest.raw.grantPage(page, 0, 'write', 9)).toBe(9);
    expect(frontend.grants.share(0, 3, 'write').refs).toEqual([8, 10, 11]);
  });
});

describe('injected faults', () => {
  test('strike every Nth operation, and end', () => {
    const shared = frontend.grants.share(0, 1, 'write');
    const ref = shared.refs[0] as number;
    hypervisor.failEvery({ grantMap: 3, grantCopy: 2, share: 1 });
    const outcomes = Array.from({ length: 6 }, () => {
      try {
        backend.grants.map(5, ref, 'read').unmap();
        return 'mapped';
      } catch (error) {
        expect(error).toBeInstanceOf(GrantError);
        return 'failed';
      }
    });
    expect(outcomes).toEqual(['mapped', 'mapped', 'failed', 'mapped', 'mapped', 'failed']);
    expect([1, 2, 3, 4].map(() => copyStatus(5, ref))).toEqual([0, -1, 0, -1]);
    expect(() => frontend.grants.share(0, 1, 'write')).toThrow(GrantError);
    hypervisor.failEvery({});
    backend.grants.map(5, ref, 'read').unmap();
    expect(copyStatus(5, ref)).toBe(GNTST_okay);
  });
});

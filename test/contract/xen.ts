/**
 * What every implementation of the seam `Xen` must do, whatever is below it. `a` and `b` are two
 * views: of two domains when emulated; on real Xen both may be of one domain that grants to itself
 * and binds its own ports, which is why nothing here supposes that their numbers differ.
 */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { EventChannelError, GrantError, MisuseError } from '../../src/errors.js';
import { CopyBatch, GNTST_OKAY } from '../../src/xen/copy-batch.js';
import { type EventChannel, PAGE_SIZE, type Xen } from '../../src/xen/xen.js';

export interface XenPair {
  readonly a: Xen;
  readonly b: Xen;
  /** Closes both; it must not find anything left. */
  close(): Promise<void>;
}

/** No domain has it, and a reference nobody granted. */
const NO_DOMID = 0x7000;
const NO_REF = 0x7fff0;

export function xenContract(
  test: (name: string, run: () => Promise<void>) => void,
  open: () => Promise<XenPair>,
): void {
  const withPair = (name: string, run: (a: Xen, b: Xen) => void | Promise<void>) => {
    test(name, async () => {
      const pair = await open();
      try {
        await run(pair.a, pair.b);
      } catch (error) {
        // The first failure is the one to tell; that things are left behind then is no wonder.
        await pair.close().catch(() => {});
        throw error;
      }
      await pair.close();
    });
  };
  localMemoryContract(withPair);
  mappingContract(withPair);
  noticeContract(withPair);
  copyContract(withPair);
  eventContract(withPair);
}

type TestWithPair = (name: string, run: (a: Xen, b: Xen) => void | Promise<void>) => void;

function localMemoryContract(test: TestWithPair): void {
  test('local memory is ours alone, and given back', (a, b) => {
    const before = a.memory.allocatedBytes;
    const first = a.memory.allocate(10_000);
    assert.equal(first.length, 3 * PAGE_SIZE);
    assert.equal(a.memory.allocatedBytes, before + first.length);
    const second = b.memory.allocate(PAGE_SIZE);
    b.memory.bytes.fill(0, second.offset, second.offset + second.length);
    a.memory.bytes.fill(0xaa, first.offset, first.offset + first.length);
    assert.ok(
      b.memory.bytes.subarray(second.offset, second.offset + PAGE_SIZE).every((x) => x === 0),
    );
    first.free();
    second.free();
    assert.equal(a.memory.allocatedBytes, before);
  });
}

function mappingContract(test: TestWithPair): void {
  test('shared pages start as zeros, and each has a reference of its own', (a, b) => {
    const shared = a.grants.share(b.domid, 3, 'write');
    assert.equal(shared.refs.length, 3);
    assert.equal(shared.pages.length, 3);
    assert.equal(new Set(shared.refs).size, 3);
    for (const page of shared.pages) assert.ok(page.bytes.every((byte) => byte === 0));
    shared.unshare();
  });

  test('a mapped page is the same memory, seen from both sides at once', (a, b) => {
    const shared = a.grants.share(b.domid, 2, 'write');
    const mapped = shared.refs.map((ref) => b.grants.map(a.domid, ref, 'write'));
    shared.pages.forEach((page, index) => {
      const other = mapped[index]?.page;
      assert.ok(other !== undefined);
      page.writeU32(0, 0xcafe_0000 + index);
      page.storeIndex(64, 0xffff_ffff);
      assert.equal(other.readU32(0), 0xcafe_0000 + index);
      assert.equal(other.loadIndex(64), 0xffff_ffff);
      other.bytes[PAGE_SIZE - 1] = 77;
      assert.equal(page.readU8(PAGE_SIZE - 1), 77);
    });
    for (const mapping of mapped) mapping.unmap();
    shared.unshare();
  });

  test('a page can be mapped twice, and one unmap leaves the other', (a, b) => {
    const shared = a.grants.share(b.domid, 1, 'write');
    const ref = only(shared.refs);
    const first = b.grants.map(a.domid, ref, 'write');
    const second = b.grants.map(a.domid, ref, 'write');
    first.unmap();
    second.page.writeU32(0, 5);
    assert.equal(only(shared.pages).readU32(0), 5);
    second.unmap();
    shared.unshare();
  });

  test('a page mapped to be read shows changes and refuses to be written', (a, b) => {
    const shared = a.grants.share(b.domid, 1, 'read');
    const ref = only(shared.refs);
    const mapped = b.grants.map(a.domid, ref, 'read');
    only(shared.pages).writeU32(8, 1234);
    assert.equal(mapped.page.readU32(8), 1234);
    assert.throws(() => mapped.page.writeU32(8, 1), MisuseError);
    assert.throws(() => b.grants.map(a.domid, ref, 'write'), GrantError);
    mapped.unmap();
    shared.unshare();
  });

  test('what was never granted, or not to us, cannot be mapped', (a, b) => {
    assert.throws(() => b.grants.map(a.domid, NO_REF, 'read'), GrantError);
    assert.throws(() => b.grants.map(NO_DOMID, 8, 'read'), GrantError);
    const shared = a.grants.share(NO_DOMID, 1, 'write');
    assert.throws(() => b.grants.map(a.domid, only(shared.refs), 'read'), GrantError);
    shared.unshare();
  });

  test('what was unshared cannot be mapped any more', (a, b) => {
    const shared = a.grants.share(b.domid, 1, 'write');
    shared.unshare();
    assert.throws(() => b.grants.map(a.domid, only(shared.refs), 'read'), GrantError);
  });

  test('an unmapped page refuses every access, and a second unmap', (a, b) => {
    const shared = a.grants.share(b.domid, 1, 'write');
    const mapped = b.grants.map(a.domid, only(shared.refs), 'write');
    mapped.unmap();
    assert.equal(mapped.page.bytes.length, 0);
    assert.throws(() => mapped.page.readU32(0), MisuseError);
    assert.throws(() => mapped.page.storeIndex(0, 1), MisuseError);
    assert.throws(() => mapped.unmap(), MisuseError);
    shared.unshare();
    assert.throws(() => only(shared.pages).readU32(0), MisuseError);
    assert.throws(() => shared.unshare(), MisuseError);
  });

  test('where it can be told that the peer still maps a page, it is not taken away', (a, b) => {
    const shared = a.grants.share(b.domid, 1, 'write');
    assert.notEqual(shared.inUse(0), true);
    const mapped = b.grants.map(a.domid, only(shared.refs), 'write');
    if (shared.inUse(0) === true) {
      assert.throws(() => shared.unshare(), GrantError);
      only(shared.pages).writeU32(0, 6);
      assert.equal(mapped.page.readU32(0), 6);
    }
    mapped.unmap();
    assert.notEqual(shared.inUse(0), true);
    shared.unshare();
  });
}

function noticeContract(test: TestWithPair): void {
  test('who unmaps with a notice clears a byte, and the owner gets an event', async (a, b) => {
    const { left, right, leftCount } = connect(a, b);
    const shared = a.grants.share(b.domid, 1, 'write');
    const page = only(shared.pages);
    page.bytes.fill(7);
    const notice = { byteOffset: 20, channel: right };
    const mapped = b.grants.map(a.domid, only(shared.refs), 'write', notice);
    await settle();
    assert.equal(leftCount(), 0);
    mapped.unmap();
    await until(() => leftCount() === 1);
    assert.deepEqual([...page.bytes.subarray(19, 22)], [7, 0, 7]);
    right.close();
    left.close();
    shared.unshare();
  });

  for (const end of ['unshare', 'release'] as const) {
    test(`who ends a share with a notice by ${end} sends an event`, async (a, b) => {
      const { left, right, rightCount } = connect(a, b);
      await until(() => rightCount() === 1);
      right.unmask();
      const notice = { byteOffset: 21, channel: left };
      const shared = a.grants.share(b.domid, 1, 'write', notice);
      only(shared.pages).writeU8(21, 1);
      shared[end]();
      await until(() => rightCount() === 2);
      left.close();
      right.close();
    });
  }

  test('what was released stays mapped for the peer, with the byte cleared', async (a, b) => {
    const { left, right, rightCount } = connect(a, b);
    await until(() => rightCount() === 1);
    right.unmask();
    const shared = a.grants.share(b.domid, 1, 'write', { byteOffset: 21, channel: left });
    const ring = a.grants.share(b.domid, 2, 'write');
    only(shared.pages).bytes.fill(9);
    ring.pages[1]?.writeU32(0, 0xfeed);
    const mapped = b.grants.map(a.domid, only(shared.refs), 'write');
    const second = b.grants.map(a.domid, ring.refs[1] as number, 'read');
    ring.release();
    shared.release();
    await until(() => rightCount() === 2);
    assert.deepEqual([...mapped.page.bytes.subarray(20, 23)], [9, 0, 9]);
    assert.equal(second.page.readU32(0), 0xfeed);
    assert.throws(() => only(shared.pages).readU8(0), MisuseError);
    assert.throws(() => shared.release(), MisuseError);
    mapped.unmap();
    second.unmap();
    left.close();
    right.close();
  });

  test('bits of a byte are set and cleared in one step, seen from both sides', (a, b) => {
    const shared = a.grants.share(b.domid, 1, 'write');
    const mapped = b.grants.map(a.domid, only(shared.refs), 'write');
    const page = only(shared.pages);
    assert.equal(page.fetchOrU8(22, 1), 0);
    assert.equal(mapped.page.fetchOrU8(22, 2), 1);
    assert.equal(page.fetchAndU8(22, ~1), 3);
    assert.equal(mapped.page.readU8(22), 2);
    assert.deepEqual([page.readU8(21), page.readU8(23)], [0, 0]);
    mapped.unmap();
    shared.unshare();
  });
}

function copyContract(test: TestWithPair): void {
  test('one batch copies many sizes at many offsets both ways', (a, b) => {
    const count = 100;
    const shared = a.grants.share(b.domid, count, 'write');
    const region = b.memory.allocate(count * PAGE_SIZE);
    const batch = new CopyBatch(b.memory, count);
    const sizes = Array.from({ length: count }, (_, index) => 1 + ((index * 41 + 60) % PAGE_SIZE));
    shared.pages.forEach((page, index) => {
      page.bytes.forEach((_, at) => {
        page.bytes[at] = (at * 7 + index) & 0xff;
      });
    });
    sizes.forEach((size, index) => {
      const offset = (index * 13) % (PAGE_SIZE - size + 1);
      // Local addresses need no alignment, and a copy may cross local pages.
      const local = region.offset + index * PAGE_SIZE + (index % 3 === 0 ? PAGE_SIZE - size : 0);
      batch.fromGrant(a.domid, shared.refs[index] as number, offset, local, size);
    });
    b.grants.copy(batch);
    sizes.forEach((size, index) => {
      const offset = (index * 13) % (PAGE_SIZE - size + 1);
      const local = region.offset + index * PAGE_SIZE + (index % 3 === 0 ? PAGE_SIZE - size : 0);
      assert.equal(batch.status(index), GNTST_OKAY, `segment ${index}`);
      const page = shared.pages[index]?.bytes.subarray(offset, offset + size);
      assert.deepEqual(b.memory.bytes.subarray(local, local + size), page);
    });

    batch.clear();
    b.memory.bytes.fill(0x5c, region.offset, region.offset + region.length);
    sizes.forEach((size, index) => {
      const ref = shared.refs[index] as number;
      batch.toGrant(a.domid, ref, PAGE_SIZE - size, region.offset + 1, size);
    });
    b.grants.copy(batch);
    sizes.forEach((size, index) => {
      assert.equal(batch.status(index), GNTST_OKAY, `segment ${index}`);
      const bytes = shared.pages[index]?.bytes ?? new Uint8Array();
      assert.ok(bytes.subarray(PAGE_SIZE - size).every((byte) => byte === 0x5c));
      if (size < PAGE_SIZE) {
        assert.equal(bytes[PAGE_SIZE - size - 1], ((PAGE_SIZE - size - 1) * 7 + index) & 0xff);
      }
    });
    region.free();
    shared.unshare();
  });

  test('a copy crosses pages of local memory', (a, b) => {
    const shared = a.grants.share(b.domid, 1, 'write');
    const region = b.memory.allocate(2 * PAGE_SIZE);
    const bytes = only(shared.pages).bytes;
    bytes.forEach((_, at) => {
      bytes[at] = (at * 31) & 0xff;
    });
    const batch = new CopyBatch(b.memory, 1);
    batch.fromGrant(a.domid, only(shared.refs), 0, region.offset + 1234, PAGE_SIZE);
    b.grants.copy(batch);
    assert.equal(batch.status(0), GNTST_OKAY);
    const local = region.offset + 1234;
    assert.deepEqual(b.memory.bytes.subarray(local, local + PAGE_SIZE), bytes);
    region.free();
    shared.unshare();
  });

  test('a segment that fails says so, and the others are copied', (a, b) => {
    const shared = a.grants.share(b.domid, 1, 'write');
    const readOnly = a.grants.share(b.domid, 1, 'read');
    const foreign = a.grants.share(NO_DOMID, 1, 'write');
    const region = b.memory.allocate(PAGE_SIZE);
    const ref = only(shared.refs);
    only(shared.pages).bytes.fill(9);
    only(readOnly.pages).bytes.fill(8);
    const batch = new CopyBatch(b.memory, 8);
    const good = [batch.fromGrant(a.domid, ref, 0, region.offset, 10)];
    const bad = [batch.fromGrant(a.domid, NO_REF, 0, region.offset + 100, 10)];
    good.push(batch.fromGrant(a.domid, only(readOnly.refs), 0, region.offset + 10, 10));
    bad.push(batch.toGrant(a.domid, only(readOnly.refs), 0, region.offset, 10));
    bad.push(batch.fromGrant(a.domid, only(foreign.refs), 0, region.offset + 100, 10));
    bad.push(batch.fromGrant(NO_DOMID, 8, 0, region.offset + 100, 10));
    good.push(batch.toGrant(a.domid, ref, 4000, region.offset + 10, 10));
    // Xen is asked nothing for a segment without bytes, so any reference will do.
    good.push(batch.fromGrant(a.domid, NO_REF, 0, region.offset + 20, 0));
    b.grants.copy(batch);
    for (const index of good) assert.equal(batch.status(index), GNTST_OKAY, `segment ${index}`);
    for (const index of bad) assert.ok(batch.status(index) < 0, `segment ${index}`);
    const bytes = b.memory.bytes;
    assert.deepEqual([...bytes.subarray(region.offset, region.offset + 10)], Array(10).fill(9));
    assert.deepEqual(
      [...bytes.subarray(region.offset + 10, region.offset + 20)],
      Array(10).fill(8),
    );
    assert.equal(bytes[region.offset + 100], 0);
    assert.equal(only(shared.pages).readU8(4009), 8);
    assert.equal(only(readOnly.pages).readU8(0), 8);
    region.free();
    for (const share of [shared, readOnly, foreign]) share.unshare();
  });

  test('an empty batch copies nothing and is no error', (_a, b) => {
    b.grants.copy(new CopyBatch(b.memory, 1));
  });

  test('a batch is filled again and again', (a, b) => {
    const shared = a.grants.share(b.domid, 1, 'write');
    const region = b.memory.allocate(PAGE_SIZE);
    const batch = new CopyBatch(b.memory, 2);
    for (let round = 0; round < 100; round++) {
      batch.clear();
      only(shared.pages).writeU32(0, round);
      batch.fromGrant(a.domid, only(shared.refs), 0, region.offset, 4);
      b.grants.copy(batch);
      assert.equal(batch.status(0), GNTST_OKAY);
      assert.equal(b.memory.bytes[region.offset], round);
    }
    region.free();
    shared.unshare();
  });
}

function eventContract(test: TestWithPair): void {
  test('a bound channel is pending at once, at the end that bound it', async (a, b) => {
    const { left, right, leftCount, rightCount } = connect(a, b);
    await until(() => rightCount() === 1);
    await settle();
    assert.equal(rightCount(), 1);
    assert.equal(leftCount(), 0);
    left.close();
    right.close();
  });

  test('events go both ways, never from inside notify', async (a, b) => {
    const { left, right, leftCount, rightCount } = connect(a, b);
    await until(() => rightCount() === 1);
    right.unmask();
    left.notify();
    assert.equal(rightCount(), 1);
    await until(() => rightCount() === 2);
    right.notify();
    assert.equal(leftCount(), 0);
    await until(() => leftCount() === 1);
    left.close();
    right.close();
  });

  test('events coalesce while masked, and one comes after the unmask', async (a, b) => {
    const { left, right, rightCount } = connect(a, b);
    await until(() => rightCount() === 1);
    for (let count = 0; count < 50; count++) left.notify();
    await settle();
    assert.equal(rightCount(), 1);
    right.unmask();
    await until(() => rightCount() === 2);
    await settle();
    assert.equal(rightCount(), 2);
    right.unmask();
    right.unmask();
    await settle();
    assert.equal(rightCount(), 2);
    left.notify();
    await until(() => rightCount() === 3);
    left.close();
    right.close();
  });

  test('many channels deliver each its own', async (a, b) => {
    const pairs = Array.from({ length: 40 }, () => connect(a, b));
    await until(() => pairs.every(({ rightCount }) => rightCount() === 1));
    for (const { right } of pairs) right.unmask();
    pairs.forEach(({ left }, index) => {
      if (index % 3 === 0) left.notify();
    });
    await until(() => pairs.every((p, index) => p.rightCount() === (index % 3 === 0 ? 2 : 1)));
    await settle();
    assert.ok(pairs.every(({ leftCount }) => leftCount() === 0));
    assert.equal(new Set(pairs.map(({ left }) => left.port)).size, 40);
    for (const { left, right } of pairs) {
      left.close();
      right.close();
    }
  });

  test('a ping-pong of a thousand rounds loses no event', async (a, b) => {
    const { left, right, leftCount, rightCount } = connect(a, b, {
      onLeft: (ends) => {
        ends.left.unmask();
        if (leftCount() < 1000) ends.left.notify();
      },
      onRight: (ends) => {
        ends.right.unmask();
        ends.right.notify();
      },
    });
    // The first event, of the binding itself, starts the game.
    await until(() => leftCount() === 1000, 20_000);
    await settle();
    assert.equal(rightCount(), 1000);
    left.close();
    right.close();
  });

  test('a closed end hears nothing, and its peer may notify on', async (a, b) => {
    const { left, right, rightCount } = connect(a, b);
    await until(() => rightCount() === 1);
    right.unmask();
    left.notify();
    right.close();
    left.notify();
    await settle();
    assert.equal(rightCount(), 1);
    left.close();
  });

  test('the port of a closed peer can be bound again', async (a, b) => {
    const { left, right, leftCount, rightCount } = connect(a, b);
    await until(() => rightCount() === 1);
    right.close();
    let again = 0;
    const second = b.events.bind(a.domid, left.port, () => {
      again += 1;
    });
    await until(() => again === 1);
    second.notify();
    await until(() => leftCount() === 1);
    second.unmask();
    left.notify();
    await until(() => again === 2);
    assert.equal(rightCount(), 1);
    second.close();
    left.close();
  });

  test('a port that is bound, closed, never there or not for us cannot be bound', (a, b) => {
    const { left, right } = connect(a, b);
    const bind = (domid: number, port: number) => () => b.events.bind(domid, port, () => {});
    assert.throws(bind(a.domid, left.port), EventChannelError);
    const foreign = a.events.allocate(NO_DOMID, () => {});
    assert.throws(bind(a.domid, foreign.port), EventChannelError);
    assert.throws(bind(NO_DOMID, 1), EventChannelError);
    right.close();
    left.close();
    foreign.close();
    assert.throws(bind(a.domid, left.port), EventChannelError);
  });

  test('a closed channel refuses every use', (a, b) => {
    const channel = a.events.allocate(b.domid, () => {});
    channel.close();
    assert.throws(() => channel.notify(), MisuseError);
    assert.throws(() => channel.unmask(), MisuseError);
    assert.throws(() => channel.close(), MisuseError);
  });

  test('a handler may close its own channel and others', async (a, b) => {
    let others = 0;
    const first = connect(a, b, {
      onRight: (ends) => {
        ends.right.close();
        second.right.close();
      },
    });
    const second = connect(a, b, {
      onRight: () => {
        others += 1;
      },
    });
    await until(() => first.rightCount() === 1);
    await settle();
    assert.ok(others <= 1);
    first.left.close();
    second.left.close();
  });
}

interface Ends {
  readonly left: EventChannel;
  readonly right: EventChannel;
}

interface Reactions {
  readonly onLeft?: (ends: Ends) => void;
  readonly onRight?: (ends: Ends) => void;
}

/** A channel from `a`, who allocates, to `b`, who binds; each end counts its events. */
function connect(a: Xen, b: Xen, reactions: Reactions = {}) {
  let leftEvents = 0;
  let rightEvents = 0;
  const left = a.events.allocate(b.domid, () => {
    leftEvents += 1;
    reactions.onLeft?.(ends);
  });
  const right = b.events.bind(a.domid, left.port, () => {
    rightEvents += 1;
    reactions.onRight?.(ends);
  });
  const ends: Ends = { left, right };
  return { left, right, leftCount: () => leftEvents, rightCount: () => rightEvents };
}

async function until(holds: () => boolean, deadlineMs = 5_000): Promise<void> {
  const end = performance.now() + deadlineMs;
  while (!holds()) {
    assert.ok(performance.now() < end, 'it did not come to pass in time');
    await sleep(1);
  }
}

/** Long enough for an event that should not come to come. */
async function settle(): Promise<void> {
  await sleep(30);
}

function only<T>(items: readonly T[]): T {
  const [item] = items;
  assert.ok(item !== undefined);
  return item;
}

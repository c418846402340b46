import { describe, expect, test } from 'vitest';
import { MisuseError } from '../../../src/errors.js';
import { CopyBatch, SEGMENT_SIZE } from '../../../src/xen/copy-batch.js';
import { LocalMemory } from '../../../src/xen/local-memory.js';
import { PAGE_SIZE } from '../../../src/xen/xen.js';
import golden from '../../golden/xen-headers.json' with { type: 'json' };

const layout = golden.xengnttab_grant_copy_segment;
const baseAddress = 0x7fff_ffff_f000n;

function batchOf(capacity: number): CopyBatch {
  return new CopyBatch(new LocalMemory(new ArrayBuffer(4 * PAGE_SIZE), baseAddress), capacity);
}

function viewOf(batch: CopyBatch, index: number): DataView {
  return new DataView(batch.segments.buffer, index * layout.size, layout.size);
}

describe('a copy batch', () => {
  test('lays a copy out of a grant out as the C struct does', () => {
    const batch = batchOf(2);
    batch.fromGrant(1, 9, 0, 0, 1);
    const index = batch.fromGrant(0x7fef, 0xffffffff, 0xabc, 0x2345, 0x123);
    const view = viewOf(batch, index);
    expect(SEGMENT_SIZE).toBe(layout.size);
    expect(view.getUint32(layout['source.foreign.ref'], true)).toBe(0xffffffff);
    expect(view.getUint16(layout['source.foreign.offset'], true)).toBe(0xabc);
    expect(view.getUint16(layout['source.foreign.domid'], true)).toBe(0x7fef);
    expect(view.getBigUint64(layout['dest.virt'], true)).toBe(baseAddress + 0x2345n);
    expect(view.getUint16(layout.len, true)).toBe(0x123);
    expect(view.getUint16(layout.flags, true)).toBe(golden.constants.GNTCOPY_source_gref);
  });

  test('lays a copy into a grant out as the C struct does', () => {
    const batch = batchOf(1);
    const view = viewOf(batch, batch.toGrant(5, 8, 4, 0x10, 4092));
    expect(view.getBigUint64(layout['source.virt'], true)).toBe(baseAddress + 0x10n);
    expect(view.getUint32(layout['dest.foreign.ref'], true)).toBe(8);
    expect(view.getUint16(layout['dest.foreign.offset'], true)).toBe(4);
    expect(view.getUint16(layout['dest.foreign.domid'], true)).toBe(5);
    expect(view.getUint16(layout.len, true)).toBe(4092);
    expect(view.getUint16(layout.flags, true)).toBe(golden.constants.GNTCOPY_dest_gref);
  });

  test('reads back the status that Xen writes', () => {
    const batch = batchOf(1);
    const index = batch.fromGrant(1, 8, 0, 0, 1);
    expect(batch.status(index)).toBeGreaterThan(0);
    viewOf(batch, index).setInt16(layout.status, golden.constants.GNTST_bad_gntref, true);
    expect(batch.status(index)).toBe(golden.constants.GNTST_bad_gntref);
  });

  test('carries into the upper half of an address', () => {
    const memory = new LocalMemory(new ArrayBuffer(4 * PAGE_SIZE), 0x1_ffff_f000n);
    const batch = new CopyBatch(memory, 1);
    batch.fromGrant(1, 8, 0, 0x1234, 1);
    expect(viewOf(batch, 0).getBigUint64(layout['dest.virt'], true)).toBe(0x2_0000_0234n);
  });

  test.each([
    { baseAddress: 0x7f00_0000_0000n, local: 0x2000 },
    { baseAddress: 0x1_ffff_f000n, local: 0x1234 },
  ])('lays many copies out as one by one, from $baseAddress on', ({ baseAddress, local }) => {
    const memory = new LocalMemory(new ArrayBuffer(4 * PAGE_SIZE), baseAddress);
    const one = new CopyBatch(memory, 4);
    one.fromGrant(5, 8, 14, 0x10, 60);
    one.fromGrant(5, 0xffffffff, 0, local, 1514);
    one.toGrant(5, 8, 0, 0x10, 60);
    one.toGrant(5, 0xffffffff, 0, local, 1514);
    const many = new CopyBatch(memory, 4);
    many.putFromGrant(0, 5, 8, 14, 0x10, 60);
    many.putFromGrant(1, 5, 0xffffffff, 0, local, 1514);
    many.putToGrant(2, 5, 8, 0x10, 60);
    many.putToGrant(3, 5, 0xffffffff, local, 1514);
    expect(many.count).toBe(0);
    many.take(4);
    expect(many.count).toBe(4);
    expect(many.segments).toEqual(one.segments);
    expect(() => many.take(5)).toThrow(MisuseError);
  });

  test('says of segments that succeeded that they did, until it is cleared or fails', () => {
    const batch = batchOf(3);
    for (const ref of [8, 9, 10]) batch.fromGrant(1, ref, 0, 0, 1);
    batch.succeed(0, 2);
    expect([0, 1, 2].map((index) => batch.status(index) === 0)).toEqual([true, true, false]);
    expect(batch.allOkay).toBe(false);
    batch.succeed(2, 3);
    expect(batch.allOkay).toBe(true);
    batch.fail();
    expect([0, 1, 2].map((index) => batch.status(index) === 0)).toEqual([false, false, false]);
    batch.succeed(1, 3);
    expect([0, 1, 2].map((index) => batch.status(index) === 0)).toEqual([false, true, true]);
    expect(batch.allOkay).toBe(false);
    batch.succeed(0, 1);
    expect(batch.allOkay).toBe(true);
    batch.clear();
    batch.fromGrant(1, 8, 0, 0, 1);
    expect(batch.allOkay).toBe(false);
  });

  test('counts, fills up and is filled again', () => {
    const batch = batchOf(2);
    expect([batch.count, batch.free]).toEqual([0, 2]);
    expect(batch.fromGrant(1, 8, 0, 0, 1)).toBe(0);
    expect(batch.toGrant(1, 8, 0, 0, 1)).toBe(1);
    expect([batch.count, batch.free]).toEqual([2, 0]);
    expect(() => batch.fromGrant(1, 8, 0, 0, 1)).toThrow(MisuseError);
    batch.clear();
    expect(batch.fromGrant(1, 8, 0, 0, 1)).toBe(0);
  });

  test('refuses a copy that leaves the page of the grant', () => {
    const batch = batchOf(2);
    expect(() => batch.fromGrant(1, 8, 1, 0, PAGE_SIZE)).toThrow(MisuseError);
    expect(() => batch.toGrant(1, 8, PAGE_SIZE, 0, 1)).toThrow(MisuseError);
    expect(batch.count).toBe(0);
    batch.toGrant(1, 8, 0, 0, PAGE_SIZE);
  });
});

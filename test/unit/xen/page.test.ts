import { describe, expect, test } from 'vitest';
import { MisuseError } from '../../../src/errors.js';
import { Page } from '../../../src/xen/page.js';
import { PAGE_SIZE } from '../../../src/xen/xen.js';

describe('a page', () => {
  test('reads and writes little-endian fields of every width in place', () => {
    const memory = new ArrayBuffer(2 * PAGE_SIZE);
    const page = new Page(memory, PAGE_SIZE);
    page.writeU32(0, 0xfedcba98);
    page.writeU16(4, 0x8001);
    page.writeU8(6, 0xff);
    const view = new DataView(memory, PAGE_SIZE);
    expect(view.getUint32(0, true)).toBe(0xfedcba98);
    expect(view.getUint16(4, true)).toBe(0x8001);
    expect(view.getUint8(6)).toBe(0xff);
    expect(page.readU32(0)).toBe(0xfedcba98);
    expect(page.readU16(4)).toBe(0x8001);
    expect(page.readI16(4)).toBe(-0x7fff);
    expect(page.readU8(6)).toBe(0xff);
    expect(page.bytes.byteOffset).toBe(PAGE_SIZE);
    expect(page.bytes.length).toBe(PAGE_SIZE);
  });

  test('keeps a free-running index an unsigned number of 32 bits', () => {
    const page = new Page(new ArrayBuffer(PAGE_SIZE));
    page.storeIndex(8, 0xffffffff);
    expect(page.loadIndex(8)).toBe(0xffffffff);
    page.storeIndex(8, 0xffffffff + 2);
    expect(page.loadIndex(8)).toBe(1);
    page.storeIndex(8, -1);
    expect(page.loadIndex(8)).toBe(0xffffffff);
  });

  test.each([
    ['before the start', -4],
    ['past the end', PAGE_SIZE],
    ['across the end', PAGE_SIZE - 2],
    ['off its alignment', 2],
    ['nowhere', Number.NaN],
    ['between two bytes', 0.5],
  ])('refuses an access %s', (_where, offset) => {
    const page = new Page(new ArrayBuffer(2 * PAGE_SIZE));
    expect(() => page.readU32(offset)).toThrow(MisuseError);
    expect(() => page.writeU32(offset, 1)).toThrow(MisuseError);
    expect(() => page.loadIndex(offset)).toThrow(MisuseError);
    expect(() => page.storeIndex(offset, 1)).toThrow(MisuseError);
  });

  test('reaches its very last bytes', () => {
    const page = new Page(new ArrayBuffer(PAGE_SIZE));
    page.writeU8(PAGE_SIZE - 1, 7);
    expect(page.readU16(PAGE_SIZE - 2)).toBe(7 << 8);
    expect(page.readU32(PAGE_SIZE - 4)).toBe(7 << 24);
  });

  test('does not fit where the memory ends before it does, nor between two words', () => {
    expect(() => new Page(new ArrayBuffer(PAGE_SIZE - 8))).toThrow(MisuseError);
    expect(() => new Page(new ArrayBuffer(2 * PAGE_SIZE), 4)).toThrow(MisuseError);
    expect(() => new Page(new ArrayBuffer(2 * PAGE_SIZE), PAGE_SIZE + 8)).toThrow(MisuseError);
  });

  test('that was mapped to be read can be read and not written', () => {
    const memory = new ArrayBuffer(PAGE_SIZE);
    new Page(memory).writeU32(0, 42);
    const page = new Page(memory, 0, 'read');
    expect(page.readU32(0)).toBe(42);
    expect(page.loadIndex(0)).toBe(42);
    expect(() => page.writeU32(0, 1)).toThrow(MisuseError);
    expect(() => page.writeU16(0, 1)).toThrow(MisuseError);
    expect(() => page.writeU8(0, 1)).toThrow(MisuseError);
    expect(() => page.storeIndex(0, 1)).toThrow(MisuseError);
    expect(page.readU32(0)).toBe(42);
  });

  test('that is gone has no bytes and refuses every access', () => {
    const page = new Page(new ArrayBuffer(PAGE_SIZE));
    page.invalidate();
    expect(page.bytes.length).toBe(0);
    expect(() => page.loadIndex(0)).toThrow(MisuseError);
    expect(() => page.readU8(0)).toThrow(MisuseError);
    expect(() => page.writeU32(0, 1)).toThrow(MisuseError);
  });

  test('that became a ghost is readable and writable, and touches the memory no more', () => {
    const memory = new ArrayBuffer(PAGE_SIZE);
    const page = new Page(memory);
    page.invalidate(new ArrayBuffer(PAGE_SIZE));
    page.storeIndex(0, 9);
    page.bytes[8] = 9;
    expect(page.loadIndex(0)).toBe(9);
    expect(new Uint8Array(memory).every((byte) => byte === 0)).toBe(true);
  });
});

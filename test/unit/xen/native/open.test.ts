/** What of native Xen can be tested without Xen; the rest is test/lab/xen-contract.test.ts. */
import { constants } from 'node:buffer';
import { closeSync, existsSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { UnavailableError } from '../../../../src/errors.js';
import { openArena } from '../../../../src/xen/native/arena.js';
import { openNativeXen } from '../../../../src/xen/native/index.js';
import { libc, loadXenLibrary } from '../../../../src/xen/native/library.js';
import { onReadable, readAvailable } from '../../../../src/xen/native/readable-descriptor.js';

test.skipIf(existsSync('/dev/xen/gntdev'))('without Xen the error says what to do', async () => {
  const error: unknown = await openNativeXen().catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(UnavailableError);
  expect(error).toMatchObject({
    code: 'XEN_UNAVAILABLE',
    message: expect.stringMatching(/does not run under Xen|modprobe|install the package libxen/),
  });
});

test('a missing library is named with the package that has it', () => {
  expect(() => loadXenLibrary('libxennothing.so.1', 'libxennothing1')).toThrow(
    /libxennothing\.so\.1 cannot be loaded; install the package libxennothing1/,
  );
});

describe('the arena of local memory', () => {
  test('is used again by the next who opens Xen, and is zero then', () => {
    const first = openArena(1 << 20);
    const second = openArena(1 << 20);
    const region = first.memory.allocate(1);
    first.memory.bytes[region.offset] = 1;
    expect(second.memory.bytes[region.offset]).toBe(0);
    expect(second.memory.baseAddress).not.toBe(first.memory.baseAddress);
    first.release();
    const third = openArena(1 << 20);
    expect(third.memory.baseAddress).toBe(first.memory.baseAddress);
    expect(third.memory.allocatedBytes).toBe(0);
    expect(third.memory.bytes[region.offset]).toBe(0);
    second.release();
    third.release();
  });

  test('that is longer than Node can view is refused, whatever the system would give', () => {
    expect(() => openArena(constants.MAX_LENGTH + 1)).toThrow(UnavailableError);
  });

  test('that the system refuses is an error with its reason', () => {
    expect(() => openArena(0)).toThrow('No 0 bytes of memory: EINVAL.');
  });
});

test('a readable descriptor calls back until it is read, and not after its end', async () => {
  const ends = new Int32Array(2);
  expect(libc.func('int pipe(void *ends)')(ends)).toBe(0);
  const [input = -1, output = -1] = ends;
  const buffer = new Uint8Array(16);
  const seen: number[] = [];
  const stop = onReadable(input, () => seen.push(readAvailable(input, buffer)));
  expect(readAvailable(input, buffer)).toBe(0);
  writeSync(output, 'abcd');
  await expect.poll(() => seen).toEqual([4]);
  stop();
  writeSync(output, 'more');
  await sleep(20);
  expect(seen).toEqual([4]);
  expect(readAvailable(input, buffer)).toBe(4);
  closeSync(input);
  closeSync(output);
  expect(() => readAvailable(input, buffer)).toThrow(UnavailableError);
});

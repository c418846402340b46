import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { EmulatedStore } from '../../../../src/xen/emulated/store.js';
import { connectXenstored, xenstoredPaths } from '../../../../src/xen/native/store.js';
import { openXenbusDevice } from '../../../../src/xen/native/xenbus-device.js';
import { StoreClient } from '../../../../src/xen/xenstore/client.js';

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'xenvif-store-'));
});

afterEach(async () => {
  await rm(directory, { recursive: true });
});

describe('the way to xenstored', () => {
  test('XENSTORED_PATH is taken at its word', () => {
    expect(xenstoredPaths({ XENSTORED_PATH: '/x' })).toEqual({ sockets: ['/x'] });
    expect(xenstoredPaths({}).sockets[0]).toBe('/run/xenstored/socket');
    expect(xenstoredPaths({ XENSTORED_PATH: '' }).device).toBe('/dev/xen/xenbus');
  });

  test('the first socket that answers is used', async () => {
    const emulated = new EmulatedStore();
    const socket = join(directory, 'socket');
    await emulated.listen(socket);
    const paths = { sockets: [join(directory, 'missing'), socket] };
    const client = await StoreClient.open({ connect: () => connectXenstored(paths) });
    await client.write('/a', '1');
    expect(await client.read('/a')).toBe('1');
    await client.close();
    await emulated.close();
  });

  test('when nothing answers the error tells all that was tried', async () => {
    const sockets = [join(directory, 'a'), join(directory, 'b')];
    const paths = { sockets, device: join(directory, 'c') };
    const error: unknown = await connectXenstored(paths).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'XENSTORE_UNAVAILABLE' });
    expect(String(error)).toMatch(/a: ENOENT.*b: ENOENT.*c: ENOENT/);
  });

  test('the device is not tried in a domain whose own xenstored has died', async () => {
    const device = join(directory, 'device');
    execFileSync('mkfifo', [device]);
    const paths = { sockets: [join(directory, 'a'), directory], device };
    await expect(connectXenstored(paths)).rejects.toThrow(/a: ENOENT; \S*: ECONNREFUSED$/);
  });
});

describe('the device as a stream', () => {
  // A named pipe opened for both ways gives back what is written to it.
  function pipe(): string {
    const path = join(directory, 'pipe');
    execFileSync('mkfifo', [path]);
    return path;
  }
  const openFiles = async () => (await readdir('/proc/self/fd')).length;

  test('what is written arrives, and what arrives is read', async () => {
    const device = await openXenbusDevice(pipe());
    const read: Buffer[] = [];
    device.on('data', (chunk: Buffer) => read.push(chunk));
    for (let round = 0; round < 5; round++) {
      device.write(Buffer.alloc(4000, round));
      await expect.poll(() => Buffer.concat(read)).toHaveLength(4000 * (round + 1));
    }
    device.destroy();
    await once(device, 'close');
  });

  test('more than the pipe holds gets through in the end', async () => {
    const device = await openXenbusDevice(pipe());
    for (let index = 0; index < 50; index++) {
      device.write(Buffer.alloc(4096, index));
    }
    let bytes = 0;
    device.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
    });
    await expect.poll(() => bytes).toBe(50 * 4096);
    device.destroy();
    await once(device, 'close');
  });

  test('closing does not wait for something to read, and gives the descriptors back', async () => {
    const path = pipe();
    (await openXenbusDevice(path)).destroy();
    const before = await openFiles();
    const tookMs: number[] = [];
    for (let round = 0; round < 20; round++) {
      const device = await openXenbusDevice(path);
      device.resume();
      await new Promise((resolve) => setTimeout(resolve, 1));
      const beganMs = performance.now();
      device.destroy();
      await once(device, 'close');
      tookMs.push(performance.now() - beganMs);
    }
    expect(await openFiles()).toBeLessThanOrEqual(before);
    // Each would take the half second that a poll may last, and not one of many on a busy machine.
    expect(tookMs.sort((a, b) => a - b)[10]).toBeLessThan(300);
  });
});

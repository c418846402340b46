/**
 * The stock command line tools of Xen (package xenstore-utils) against the emulated XenStore: a
 * second opinion on its wire protocol by a client that is not ours.
 */
import { execFile, spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { EmulatedStore } from '../../src/xen/emulated/store.js';
import { StoreClient } from '../../src/xen/xenstore/client.js';

const tools = ['ls', 'read', 'write', 'list', 'rm', 'chmod', 'watch', 'exists'] as const;
type Tool = (typeof tools)[number];

let directory: string;
let socket: string;
let emulated: EmulatedStore;
let client: StoreClient;

beforeAll(async () => {
  const searched = (process.env['PATH'] ?? '').split(delimiter);
  const missing = tools.filter((tool) => !searched.some((folder) => executable(folder, tool)));
  if (missing.length > 0) {
    const names = missing.map((tool) => `xenstore-${tool}`).join(', ');
    throw new Error(
      `${names} must be installed for this test (Debian: apt-get install xenstore-utils)`,
    );
  }
  directory = await mkdtemp(join(tmpdir(), 'xenvif-tools-'));
  socket = join(directory, 'socket');
  emulated = new EmulatedStore();
  await emulated.listen(socket);
  client = await StoreClient.open({ connect: async () => emulated.connect(0) });
});

afterAll(async () => {
  await client?.close();
  await emulated?.close();
  if (directory !== undefined) {
    await rm(directory, { recursive: true });
  }
});

beforeEach(async () => {
  await client.rm('/test');
  await client.mkdir('/test');
});

function executable(folder: string, tool: Tool): boolean {
  try {
    accessSync(join(folder, `xenstore-${tool}`), constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function environment(): NodeJS.ProcessEnv {
  return { ...process.env, XENSTORED_PATH: socket };
}

interface Outcome {
  readonly code: number;
  readonly output: string;
  readonly errors: string;
}

function run(tool: Tool, ...args: string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    const options = { env: environment(), timeout: 10_000 };
    const child = execFile(`xenstore-${tool}`, args, options, (_error, output, errors) => {
      resolve({ code: child.exitCode ?? -1, output, errors });
    });
  });
}

describe('the stock xenstore tools', () => {
  test('xenstore-write and xenstore-read agree with the client', async () => {
    expect(await run('write', '/test/a', 'one', '/test/b/c', 'two')).toMatchObject({ code: 0 });
    expect(await client.read('/test/a')).toBe('one');
    expect(await client.read('/test/b/c')).toBe('two');
    await client.write('/test/a', 'three');
    expect(await run('read', '/test/a', '/test/b/c')).toMatchObject({
      code: 0,
      output: 'three\ntwo\n',
    });
    expect(await run('read', '-p', '/test/a')).toMatchObject({ output: '/test/a: three\n' });
  });

  test('xenstore-read of what is missing fails', async () => {
    const outcome = await run('read', '/test/missing');
    expect(outcome).toMatchObject({
      code: 1,
      errors: expect.stringContaining("couldn't read path"),
    });
  });

  test('a relative path of a tool is that of domain 0', async () => {
    expect(await run('write', 'tool-test', '1')).toMatchObject({ code: 0 });
    expect(await client.read('/local/domain/0/tool-test')).toBe('1');
    await client.rm('/local/domain/0/tool-test');
  });

  test('xenstore-list names the children', async () => {
    await client.write('/test/x', '');
    await client.write('/test/y/z', '');
    expect(await run('list', '/test')).toMatchObject({ code: 0, output: 'x\ny\n' });
    expect((await run('list', '/test/missing')).code).not.toBe(0);
  });

  test('xenstore-ls -f -p prints paths, values and permissions', async () => {
    await client.write('/test/x', 'value');
    await client.write('/test/dir/below', 'with\ttab');
    const domains = [{ domid: 7, access: 'r' }] as const;
    await client.setPermissions('/test/x', { owner: 0, others: 'n', domains });
    const outcome = await run('ls', '-f', '-p', '/test');
    expect(outcome.code).toBe(0);
    const lines = outcome.output
      .trim()
      .split('\n')
      .map((line) => line.replace(/\s+/g, ' '));
    expect(lines).toEqual([
      '/test/x = "value" (n0,r7)',
      '/test/dir = "" (n0)',
      '/test/dir/below = "with\\ttab" (n0)',
    ]);
    expect((await run('ls', '-f')).output).toContain('/test/x = "value"');
  });

  test('xenstore-ls shows a directory that does not fit into one message', async () => {
    const names = Array.from({ length: 200 }, (_, index) => `${'long-'.repeat(8)}${index}`);
    await Promise.all(names.map((name) => client.write(`/test/${name}`, '')));
    const { output } = await run('ls', '-f', '/test');
    expect(output.trim().split('\n')).toHaveLength(200);
  });

  test('xenstore-exists tells by its exit code', async () => {
    await client.write('/test/x', '');
    expect((await run('exists', '/test/x')).code).toBe(0);
    expect((await run('exists', '/test/y')).code).toBe(1);
  });

  test('xenstore-rm removes a tree, and with -t what is empty above', async () => {
    await client.write('/test/tree/a/b', '1');
    expect((await run('rm', '/test/tree')).code).toBe(0);
    expect(await client.directory('/test')).toEqual([]);
    await client.write('/test/other/a/b', '1');
    expect((await run('rm', '-t', '/test/other/a/b')).code).toBe(0);
    expect(await client.readIfExists('/test/other')).toBeUndefined();
  });

  test('xenstore-chmod sets permissions, also for a whole tree', async () => {
    await client.write('/test/perms/below', '');
    expect((await run('chmod', '-r', '/test/perms', 'n0', 'r5', 'b6')).code).toBe(0);
    const expected = {
      owner: 0,
      others: 'n',
      domains: [
        { domid: 5, access: 'r' },
        { domid: 6, access: 'b' },
      ],
    };
    expect(await client.getPermissions('/test/perms')).toEqual(expected);
    expect(await client.getPermissions('/test/perms/below')).toEqual(expected);
  });

  test('xenstore-watch prints what changes', async () => {
    const child = spawn('xenstore-watch', ['-n', '3', '/test'], { env: environment() });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    const ended = new Promise((resolve) => child.once('exit', resolve));
    await vi.waitFor(() => expect(output).toBe('/test\n'), { timeout: 5_000 });
    await client.write('/test/a', '1');
    await run('write', '/test/b', '2');
    expect(await ended).toBe(0);
    expect(output).toBe('/test\n/test/a\n/test/b\n');
  });

  test('many tools at once leave the store whole and no connection behind', async () => {
    const indices = Array.from({ length: 20 }, (_, index) => index);
    const outcomes = await Promise.all(
      indices.map((index) => run('write', `/test/${index}`, `${index}`)),
    );
    expect(outcomes.map(({ code }) => code)).toEqual(indices.map(() => 0));
    expect(await client.directory('/test')).toHaveLength(20);
    emulated.checkNoLeaks(0);
  });
});

/** The stack on a remote NIC: unprivileged programs that are hosts on a switch of a real daemon. */

import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, get, type IncomingMessage } from 'node:http';
import { buffer } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { XenvifClient } from '@xenvif/client';
import { NicLink, Stack, type StackOptions } from '@xenvif/client/stack';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { type DaemonUnderTest, startDaemon } from '../support/daemon.js';

const run = promisify(execFile);
const cli = fileURLToPath(new URL('../../clients/cli/bin/xenvif.js', import.meta.url));
const examples = fileURLToPath(new URL('../../clients/typescript/examples/', import.meta.url));

let daemon: DaemonUnderTest;
let client: XenvifClient;
const stacks: Stack[] = [];

beforeAll(async () => {
  daemon = await startDaemon();
  client = await XenvifClient.connect({ address: daemon.address });
});
afterEach(async () => {
  for (const stack of stacks.splice(0)) await stack.disconnect();
});
afterAll(async () => {
  client?.close();
  await daemon?.stop();
});

async function host(cidr: string, options: StackOptions = {}): Promise<Stack> {
  const stack = Stack.connect(new NicLink(await client.attach('switches/default')), {
    cidr,
    ...options,
  });
  stacks.push(stack);
  return stack;
}

async function commandOutput(...args: string[]): Promise<string> {
  const { stdout } = await run(process.execPath, args, {
    env: { ...process.env, XENVIF_ADDRESS: daemon.address },
    timeout: 30_000,
  });
  return stdout;
}

test('two hosts on a switch ping each other and talk HTTP', async () => {
  const server = await host('10.55.0.1/24');
  const caller = await host('10.55.0.2/24');
  for await (const { outcome } of caller.ping('10.55.0.1', {
    count: 2,
    intervalMs: 10,
    bytes: 5000,
  })) {
    expect(outcome).toBe('reply');
  }
  const data = randomBytes(3_000_000);
  const http = createServer((_, response) => response.end(data));
  server
    .createServer({ allowHalfOpen: true }, (socket) => http.emit('connection', socket))
    .listen(80);
  const createConnection = () => caller.connect({ host: '10.55.0.1', port: 80 });
  const [response] = (await once(get({ createConnection, host: '10.55.0.1' }), 'response')) as [
    IncomingMessage,
  ];
  expect((await buffer(response)).equals(data)).toBe(true);
});

test('a guest of the demonstration answers a host on its switch', async () => {
  const caller = await host('10.0.0.77/24');
  const results = [];
  for await (const result of caller.ping('10.0.0.1', { count: 3, intervalMs: 100 })) {
    results.push(result.outcome);
  }
  expect(results).toContain('reply');
});

describe('xenvif ping', () => {
  test('prints the answers of a host on a switch', async () => {
    await host('10.55.0.1/24');
    const args = ['10.55.0.1', '--via', 'default', '--from', '10.55.0.9/24', '--interval', '50ms'];
    const text = await commandOutput(cli, 'ping', ...args, '--count', '2', '--size', '3000');
    expect(text).toMatch(/3000 bytes from 10\.55\.0\.1: seq 1 {2}ttl 64 {2}[\d.]+ ms/);
    expect(text).toContain('2 sent, 2 answered');
    const json = await commandOutput(cli, '--json', 'ping', ...args, '--count', '1');
    expect(JSON.parse(json)).toMatchObject({ outcome: 'reply', from: '10.55.0.1' });
  });

  test('fails where nobody answers', async () => {
    const args = ['10.55.0.200', '--via', 'default', '--from', '10.55.0.9/24'];
    const failed = commandOutput(cli, 'ping', ...args, '--count', '1', '--timeout', '100ms');
    await expect(failed).rejects.toMatchObject({
      code: 1,
      stdout: expect.stringContaining('no answer'),
    });
  });
});

describe('the examples', () => {
  test('connect: two hosts of one program talk by TCP', async () => {
    expect(await commandOutput(`${examples}connect.mjs`, 'default')).toContain('HELLO, NEIGHBOUR');
  });

  test('http-server: serves its files, and none above them', async () => {
    const args = [`${examples}http-server.mjs`, 'default', '10.55.0.7/24', '--root', examples];
    const env = { ...process.env, XENVIF_ADDRESS: daemon.address };
    const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'inherit'] });
    await once(child.stdout, 'data');
    const caller = await host('10.55.0.8/24');
    const fetchPath = async (path: string) => {
      const createConnection = () => caller.connect({ host: '10.55.0.7', port: 80 });
      const asked = get({ createConnection, host: '10.55.0.7', path });
      const [response] = (await once(asked, 'response')) as [IncomingMessage];
      return { status: response.statusCode, text: String(await buffer(response)) };
    };
    expect(await fetchPath('/connect.mjs')).toMatchObject({
      ...{ status: 200, text: expect.stringContaining('hello, neighbour') },
    });
    expect(await fetchPath('/%2e%2e/package.json')).toMatchObject({ status: 404 });
    child.kill('SIGINT');
    expect((await once(child, 'exit'))[0]).toBe(0);
  });

  test('iperf-self: tells how fast', async () => {
    const text = await commandOutput(`${examples}iperf-self.mjs`, 'default', '--bytes', '5000000');
    expect(text).toMatch(/^5000000 bytes in .*\n\d+ Mbit\/s/);
  });
});

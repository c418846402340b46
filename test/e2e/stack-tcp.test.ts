/** TCP of the user-space stack against the kernel's, with Node's own http on top of it. */
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, request, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import type { TcpServer } from '@xenvif/client/stack';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { removeNamespaces, requireNamespaces } from '../support/network-namespaces.js';
import { KERNEL_IP, type SceneOptions, STACK_IP, StackScene } from './stack-scene.js';

const HTTP_PORT = 80;
const isLong = process.env['XENVIF_LONG'] === '1';
const FILE_BYTES = (isLong ? 200 : 8) * 1024 * 1024;
const LOSSY_BYTES = (isLong ? 200 : 2) * 1024 * 1024;

beforeAll(requireNamespaces);
afterAll(removeNamespaces);

function sha256(data: Uint8Array): string {
  return createHash('sha256').update(data).digest('hex');
}

/** Serves `data`, and answers an upload by its hash, with Node's http server on the stack. */
async function serveHttp(
  scene: StackScene,
  data: Buffer,
): Promise<{ http: Server; tcp: TcpServer }> {
  const http = createServer(async (incoming, response) => {
    if (incoming.method === 'PUT') response.end(sha256(await buffer(incoming)));
    else response.end(data);
  });
  const tcp = scene.stack.createServer({ allowHalfOpen: true, noDelay: true }, (socket) =>
    http.emit('connection', socket),
  );
  tcp.listen(HTTP_PORT);
  await once(tcp, 'listening');
  return { http, tcp };
}

/** An HTTP server of the kernel's stack in the namespace: serves a file, hashes what is sent. */
async function serveKernelHttp(scene: StackScene, path: string): Promise<void> {
  const program = `
    const { createHash } = require('node:crypto');
    const fs = require('node:fs');
    require('node:http').createServer((request, response) => {
      if (request.method === 'PUT') {
        const hash = createHash('sha256');
        request.on('data', (data) => hash.update(data));
        request.on('end', () => response.end(hash.digest('hex')));
      } else fs.createReadStream(process.argv[1]).pipe(response);
    }).listen(${HTTP_PORT}, '0.0.0.0', () => console.log('ready'));`;
  await scene.space.start(process.execPath, '-e', program, path);
}

describe.each<[string, SceneOptions & { readonly bytes: number }]>([
  ['offloads', { offloads: true, bytes: FILE_BYTES }],
  ['no offloads', { offloads: false, bytes: FILE_BYTES }],
  ['offloads and an MTU of 9000', { mtu: 9000, bytes: FILE_BYTES }],
  ['1 % loss', { offloads: false, bytes: LOSSY_BYTES, faults: { loss: 0.01, delayMs: 1 } }],
  ['5 % loss', { offloads: false, bytes: LOSSY_BYTES, faults: { loss: 0.05, delayMs: 1 } }],
  [
    'delay, reordering and duplication',
    {
      ...{ offloads: false, bytes: LOSSY_BYTES },
      faults: { delayMs: 5, jitterMs: 2, reorder: 0.02, reorderDelayMs: 3, duplicate: 0.02 },
    },
  ],
  [
    'loss of large frames too',
    { offloads: true, bytes: LOSSY_BYTES, faults: { loss: 0.01, duplicate: 0.01, delayMs: 1 } },
  ],
])('HTTP over a TAP with %s', (_, { bytes, ...options }) => {
  let scene: StackScene;
  let folder: string;
  const data = randomBytes(bytes);
  const timeout = isLong ? 600_000 : 60_000;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'xenvif-stack-'));
    await writeFile(join(folder, 'sent'), data);
    scene = await StackScene.create(options);
    await serveHttp(scene, data);
    await serveKernelHttp(scene, join(folder, 'sent'));
  });
  afterAll(async () => {
    await scene?.end();
    expect(scene?.allocatedBytes).toBe(0);
    await rm(folder, { recursive: true });
  });

  test('curl fetches from the server on our TCP', { timeout }, async () => {
    const path = join(folder, 'fetched');
    const started = performance.now();
    await scene.space.runFor(timeout, 'curl', '-sSf', '-o', path, `http://${STACK_IP}/`);
    report('fetch by curl', bytes, started);
    expect(sha256(await readFile(path))).toBe(sha256(data));
  });

  test('curl uploads to it', { timeout }, async () => {
    const started = performance.now();
    const args = ['-sSf', '-T', join(folder, 'sent'), `http://${STACK_IP}/up`];
    const answer = await scene.space.runFor(timeout, 'curl', ...args);
    report('upload by curl', bytes, started);
    expect(answer).toBe(sha256(data));
  });

  test('the http client on our TCP fetches from a server of the kernel', { timeout }, async () => {
    const createConnection = () => scene.stack.connect({ host: KERNEL_IP, port: HTTP_PORT });
    const started = performance.now();
    const sent = request({ createConnection, host: KERNEL_IP });
    sent.end();
    const [response] = (await once(sent, 'response')) as [IncomingMessage];
    const fetched = await buffer(response);
    report('fetch by us', bytes, started);
    expect(sha256(fetched)).toBe(sha256(data));
  });

  test('and uploads to it', { timeout }, async () => {
    const createConnection = () => scene.stack.connect({ host: KERNEL_IP, port: HTTP_PORT });
    const started = performance.now();
    const sent = request({ createConnection, host: KERNEL_IP, method: 'PUT' });
    sent.end(data);
    const [response] = (await once(sent, 'response')) as [IncomingMessage];
    const answer = (await buffer(response)).toString();
    report('upload by us', bytes, started);
    expect(answer).toBe(sha256(data));
  });
});

function report(what: string, bytes: number, startedMs: number): void {
  const seconds = (performance.now() - startedMs) / 1000;
  console.log(`${what}: ${(bytes / 1e6 / seconds).toFixed(1)} MB/s`);
}

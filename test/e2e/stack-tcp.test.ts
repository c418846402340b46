/** TCP of the user-space stack against the kernel's, with Node's own http on top of it. */

import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, request, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { promisify } from 'node:util';
import type { TcpServer } from '@xenvif/client/stack';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { until } from '../support/machine.js';
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

describe('many connections', () => {
  let scene: StackScene;
  beforeAll(async () => {
    scene = await StackScene.create({ stack: { tcp: { timeWaitMs: 100 } } });
  });
  afterAll(() => scene?.end());

  test('1000 are opened by the kernel, 200 at once, and none is left', async () => {
    let echoed = 0;
    const server = scene.stack.createServer({ allowHalfOpen: true }, (socket) => {
      echoed += 1;
      socket.pipe(socket);
    });
    server.listen(7);
    const program = `
      const net = require('node:net');
      let left = 1000, open = 0, good = 0, most = 0;
      const next = () => {
        while (open < 200 && left > 0) {
          left -= 1; open += 1; most = Math.max(most, open);
          const text = 'number ' + left;
          const socket = net.connect({ port: 7, host: '${STACK_IP}', allowHalfOpen: true });
          let got = '';
          socket.on('connect', () => setTimeout(() => socket.end(text), 20));
          socket.on('data', (data) => { got += data; });
          socket.on('close', () => { open -= 1; if (got === text) good += 1; next(); });
        }
        if (open === 0 && left === 0) console.log(JSON.stringify({ good, most }));
      };
      next();`;
    const told = JSON.parse(await scene.space.run(process.execPath, '-e', program));
    expect(told).toEqual({ good: 1000, most: 200 });
    expect(echoed).toBe(1000);
    await until('all connections are gone', () => scene.stack.tcpConnections.total === 0);
    expect(server.connectionCount).toBe(0);
    server.close();
  });

  test('1000 are opened by us, 200 at once, and none is left', async () => {
    const program = `
      require('node:net').createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket))
        .listen(7, '0.0.0.0', 1000, () => console.log('ready'));`;
    await scene.space.start(process.execPath, '-e', program);
    let left = 1000;
    let good = 0;
    const worker = async () => {
      while (left > 0) {
        left -= 1;
        const text = `number ${left}`;
        const socket = scene.stack.connect({ host: KERNEL_IP, port: 7, allowHalfOpen: true });
        socket.end(text);
        if ((await buffer(socket)).toString() === text) good += 1;
      }
    };
    await Promise.all(Array.from({ length: 200 }, worker));
    expect(good).toBe(1000);
    await until('all connections are gone', () => scene.stack.tcpConnections.total === 0);
  });

  test('one to a port that nobody has is refused, either way', async () => {
    const refused = once(scene.stack.connect({ host: KERNEL_IP, port: 9 }), 'connect');
    await expect(refused).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    const curl = scene.space.run('curl', '-sS', `http://${STACK_IP}:9/`);
    await expect(curl).rejects.toThrow(/refused|Failed to connect|Could not connect/);
  });
});

describe('odd packets of a hostile neighbour', () => {
  /** Sends through a packet socket, so that no stack of the kernel has a say in what goes out. */
  const ODD_PACKETS = `
import random, socket, struct, sys
name, count, dst_mac = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
src, dst = socket.inet_aton("${KERNEL_IP}"), socket.inet_aton("${STACK_IP}")
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
s.bind((name, 0))
random.seed(7)
def sum16(data):
  if len(data) % 2: data += b"\\0"
  total = sum(struct.unpack(">%dH" % (len(data) // 2), data))
  while total > 0xffff: total = (total & 0xffff) + (total >> 16)
  return ~total & 0xffff
def ip(payload, proto, source=src, ident=1, frag=0, good=True, options=b""):
  head = struct.pack(">BBHHHBBH", 0x40 | (5 + len(options) // 4), 0, 20 + len(options) + len(payload), ident, frag, 64, proto, 0) + source + dst + options
  check = sum16(head) if good else 0x1234
  return head[:10] + struct.pack(">H", check) + head[12:] + payload
def tcp(flags, sport, dport, seq, ack, good=True, source=src, data=b""):
  head = struct.pack(">HHIIBBHHH", sport, dport, seq, ack, 0x50, flags, 1024, 0, 0) + data
  check = sum16(source + dst + struct.pack(">HH", 6, len(head)) + head) if good else 1
  return head[:16] + struct.pack(">H", check) + head[18:]
def send(packet):
  s.send(dst_mac + bytes.fromhex("029700000001") + b"\\x08\\x00" + packet)
rnd = random.getrandbits
for n in range(count):
  kind = n % 11
  sport, seq = 1024 + rnd(15), rnd(32)
  if kind == 0: send(ip(tcp(0x3f, sport, 80, seq, rnd(32)), 6))
  elif kind == 1: send(ip(tcp(0, sport, 80, seq, 0), 6))
  elif kind == 2: send(ip(tcp(2, 80, 80, seq, 0, source=dst), 6, source=dst))
  elif kind == 3: send(ip(tcp(2, sport, 80, seq, 0, good=False), 6))
  elif kind == 4: send(ip(tcp(2, sport, 80, seq, 0), 6, good=False))
  elif kind == 5:
    send(ip(rnd(64).to_bytes(8, "big"), 6, ident=n & 0xffff, frag=0x2000))
    send(ip(rnd(64).to_bytes(8, "big"), 6, ident=n & 0xffff, frag=1))
  elif kind == 6:
    send(ip(bytes(1480), 17, ident=n & 0xffff, frag=0x2000))
    send(ip(bytes(800), 17, ident=n & 0xffff, frag=100))
  elif kind == 7: send(ip(bytes(1000), 17, ident=n & 0xffff, frag=0x1fff))
  elif kind == 8: send(ip(tcp(2, sport, 80, seq, 0, source=socket.inet_aton("10.97.0.%d" % (3 + rnd(7)))), 6, source=socket.inet_aton("10.97.0.%d" % (3 + rnd(7)))))
  elif kind == 9: send(ip(rnd(8 * 40).to_bytes(40, "big"), rnd(8), options=bytes([rnd(8) for _ in range(4)])))
  elif kind == 10: s.send(dst_mac + bytes([rnd(8) for _ in range(8 + rnd(6))]))
`;

  test('crash nothing, grow nothing, and do not end what goes on', async () => {
    const scene = await StackScene.create({ offloads: false });
    const server = scene.stack.createServer({ allowHalfOpen: true }, (socket) => {
      // Callers that are no callers end by errors of all kinds.
      socket.on('error', () => undefined);
      socket.pipe(socket);
    });
    server.listen(80);
    const { space } = scene;
    // A conversation that goes on meanwhile.
    const program = `
      const socket = require('node:net').connect(80, '${STACK_IP}');
      let got = 0;
      socket.on('data', (data) => { got += data.length; });
      socket.on('connect', () => {
        console.log('ready');
        const timer = setInterval(() => socket.write(Buffer.alloc(1000)), 5);
        setTimeout(() => { clearInterval(timer); socket.end(); }, 2500);
      });
      socket.on('error', (error) => { console.log(error.code); });
      socket.on('close', () => { require('node:fs').writeFileSync(process.argv[1], String(got)); });`;
    const folder = await mkdtemp(join(tmpdir(), 'xenvif-stack-'));
    const child = await space.start(process.execPath, '-e', program, join(folder, 'got'));
    const over = once(child, 'exit');
    const mac = '029700000002';
    await space.run('python3', '-c', ODD_PACKETS, scene.tap.name, '6600', mac);
    await over;
    expect(Number(await readFile(join(folder, 'got'), 'utf8'))).toBeGreaterThan(100_000);
    const { counts, tcpConnections } = scene.stack;
    expect(counts.ip.malformed).toBeGreaterThan(100);
    expect(counts.ip.badSource).toBeGreaterThan(100);
    expect(counts.tcp.malformed).toBeGreaterThan(100);
    expect(counts.reassembly.overlap).toBeGreaterThan(100);
    expect(scene.stack.ipv4.reassembly.size).toBeLessThanOrEqual(64);
    expect(tcpConnections.halfOpen).toBeLessThanOrEqual(256);
    expect(await space.run('ping', '-c', '1', '-W', '5', STACK_IP)).toContain('1 received');
    await scene.end();
    expect(scene.allocatedBytes).toBe(0);
    await rm(folder, { recursive: true });
  });
});

test('tshark finds no error in what the stack and the kernel say to each other', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'xenvif-stack-'));
  const path = join(folder, 'capture.pcapng');
  const capture = createWriteStream(path);
  const scene = await StackScene.create({ offloads: false, capture });
  const data = randomBytes(3 * 1024 * 1024);
  await serveHttp(scene, data);
  await writeFile(join(folder, 'sent'), data);
  const upload = ['-sSf', '-T', join(folder, 'sent'), `http://${STACK_IP}/`];
  expect(await scene.space.run('curl', ...upload)).toBe(sha256(data));
  await scene.space.run('curl', '-sSf', '-o', '/dev/null', `http://${STACK_IP}/`);
  await scene.space.run('ping', '-c', '2', '-i', '0.2', '-s', '5000', STACK_IP);
  for await (const { outcome } of scene.stack.ping(KERNEL_IP, { count: 1, bytes: 4000 })) {
    expect(outcome).toBe('reply');
  }
  await scene.end();
  await new Promise((resolve) => capture.end(resolve));
  const checks = ['ip', 'tcp', 'udp'].flatMap((name) => ['-o', `${name}.check_checksum:TRUE`]);
  const filter = ['-Y', '_ws.expert.severity == "Error" || _ws.malformed'];
  const { stdout } = await promisify(execFile)('tshark', ['-r', path, ...checks, ...filter]);
  expect(stdout).toBe('');
  const counted = await promisify(execFile)('tshark', [
    '-r',
    path,
    '-Y',
    'tcp',
    '-T',
    'fields',
    '-e',
    'tcp.len',
  ]);
  const bytes = counted.stdout.split('\n').reduce((sum, text) => sum + Number(text), 0);
  expect(bytes).toBeGreaterThan(2 * data.length);
  await rm(folder, { recursive: true });
});

/**
 * vchans by way of a real daemon on emulated Xen: the SDK, `xenvif vchan` and `xencat`, each a program of
 * a domain of its own, in processes of their own.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Vchan, XenvifClient } from '../../clients/typescript/src/index.js';
import { COMMAND, CommandUnderTest, type Ended, ended } from '../support/command.js';
import { type DaemonUnderTest, startDaemon } from '../support/daemon.js';

const XENCAT = fileURLToPath(new URL('../../dist/xencat.js', import.meta.url));

let daemon: DaemonUnderTest;
let client: XenvifClient;
let names = 0;
const command = new CommandUnderTest(() => daemon.address);

beforeAll(async () => {
  daemon = await startDaemon();
  client = await XenvifClient.connect({ address: daemon.address });
});

afterAll(async () => {
  client?.close();
  await daemon?.stop();
});

function freshPort(): string {
  names += 1;
  return `test-${names}`;
}

/** Both ends of a vchan between the guests 1 and 2. */
async function pair(ringBytes?: number): Promise<{ server: Vchan; peer: Vchan }> {
  const port = freshPort();
  const listening = client.vchan({ listen: true, domid: 1, asDomid: 2, port, ringBytes });
  const [server, peer] = await Promise.all([
    listening,
    client.vchan({ domid: 2, asDomid: 1, port }),
  ]);
  return { server, peer };
}

async function readAll(vchan: Vchan): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of vchan) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function write(vchan: Vchan, bytes: Buffer): Promise<void> {
  for (let at = 0; at < bytes.length; at += 100_000) {
    if (vchan.write(bytes.subarray(at, at + 100_000))) continue;
    await new Promise((resolve) => vchan.once('drain', resolve));
  }
}

describe('a program without privileges', () => {
  it.each([1024, 4096, 65_536])('talks both ways at once over rings of %i bytes', async (bytes) => {
    const { server, peer } = await pair(bytes);
    expect(server.path).toMatch(/^\/local\/domain\/2\/data\/vchan\/1\/test-\d+$/);
    expect(peer.writeRingBytes).toBe(server.readRingBytes);
    expect(server.readRingBytes).toBeGreaterThanOrEqual(bytes);
    const up = randomBytes(700_001);
    const down = randomBytes(600_001);
    const take = async (vchan: Vchan, length: number) => {
      const chunks: Buffer[] = [];
      let have = 0;
      await new Promise<void>((resolve) => {
        vchan.on('data', (chunk: Buffer) => {
          chunks.push(chunk);
          have += chunk.length;
          if (have >= length) resolve();
        });
      });
      return Buffer.concat(chunks);
    };
    const [atServer, atPeer] = await Promise.all([
      take(server, up.length),
      take(peer, down.length),
      write(peer, up),
      write(server, down),
    ]);
    expect(atServer.equals(up)).toBe(true);
    expect(atPeer.equals(down)).toBe(true);
    await peer.close();
    if (!server.closed) await new Promise((resolve) => server.once('close', resolve));
  });

  it('that reads nothing holds its peer, and the daemon holds little', async () => {
    const { server, peer } = await pair(4096);
    let written = 0;
    const chunk = randomBytes(65_536);
    const count = () => {
      written += chunk.length;
    };
    for (let round = 0; round < 400; round++) peer.write(chunk, count);
    await sleep(1000);
    // What HTTP/2 and the credit let through, and what waits on the way to the ring.
    expect(written).toBeLessThan(20 * 1024 * 1024);
    const got = readAll(server);
    await peer.close();
    expect(await got).toHaveLength(400 * chunk.length);
  });

  it('half-closes and still hears its peer', async () => {
    const { server, peer } = await pair();
    peer.end('question');
    const question = await new Promise((resolve) => server.once('data', resolve));
    expect(String(question)).toBe('question');
    server.write('answer');
    const heard = readAll(peer);
    await server.close();
    expect(String(await heard)).toBe('answer');
  });

  it('that is cancelled leaves its peer with an end', async () => {
    const { server, peer } = await pair();
    await write(peer, Buffer.from('last words'));
    const heard = new Promise((resolve) => server.once('data', resolve));
    expect(String(await heard)).toBe('last words');
    peer.destroy();
    expect(await readAll(server)).toHaveLength(0);
  });

  it('is told what is wrong', async () => {
    const expectCode = (options: Parameters<XenvifClient['vchan']>[0], code: string) =>
      expect(client.vchan(options)).rejects.toMatchObject({ code });
    await expectCode({ domid: 1, port: 'a/b' }, 'VCHAN_PORT_INVALID');
    await expectCode({ domid: 1 }, 'VCHAN_PORT_INVALID');
    await expectCode({ domid: 40_000, port: 'x' }, 'DOMID_INVALID');
    await expectCode({ domid: 99, port: 'x' }, 'DOMAIN_NOT_FOUND');
    await expectCode({ domid: 1, port: 'x', asDomid: 99 }, 'DOMAIN_NOT_FOUND');
    await expectCode({ domid: 1, port: 'x', wait: false }, 'VCHAN_NOT_FOUND');
    await expectCode({ domid: 1, port: 'x', path: '/local/domain/0/data/x' }, 'VCHAN_PATH_INVALID');
    const large = { listen: true, domid: 1, port: 'x', ringBytes: 2 ** 20 + 1 };
    await expectCode(large, 'RING_BYTES_INVALID');
    for (const path of [
      '/local/domain/0/backend/x',
      '/vchan',
      'data',
      '/local/domain/1/database',
    ]) {
      await expectCode({ listen: true, domid: 1, path }, 'PATH_NOT_ALLOWED');
    }
  });

  it('may serve a place that nobody else serves', async () => {
    const port = freshPort();
    const abort = new AbortController();
    const options = { listen: true, domid: 1, port };
    let isListening: (() => void) | undefined;
    const listening = new Promise<void>((resolve) => {
      isListening = resolve;
    });
    const onListening = () => isListening?.();
    const first = client.vchan({ ...options, signal: abort.signal, onListening });
    await listening;
    await expect(client.vchan(options)).rejects.toMatchObject({ code: 'VCHAN_SERVED' });
    abort.abort();
    await expect(first).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});

/** Starts one of two programs that talk alike, as a program of a domain. */
function start(program: 'xencat' | 'xenvif', as: number, ...args: string[]) {
  const place = ['--as', String(as), '--address', daemon.address];
  if (program === 'xenvif') return command.start(COMMAND, ['vchan', ...place, ...args]);
  return spawn(process.execPath, [XENCAT, '--xen', 'emulated', ...place, ...args]);
}

describe.each(['xencat', 'xenvif'] as const)('%s', (program) => {
  it('copies a file from one domain to another', async () => {
    const port = freshPort();
    const foo = randomBytes(3_000_000);
    const server = start(program, 2, '-l', '1', port);
    const received: Buffer[] = [];
    server.stdout.on('data', (chunk: Buffer) => received.push(chunk));
    const serverEnd = exitOf(server);
    server.stdin.end();
    const sender = start(program, 1, '2', port);
    sender.stdin.end(foo);
    const [sent, copied] = await Promise.all([exitOf(sender), serverEnd]);
    expect([sent.code, copied.code], sent.stderr + copied.stderr).toEqual([0, 0]);
    expect(sha(Buffer.concat(received))).toBe(sha(foo));
    expect(sent.stderr).toBe('Connected.\nDisconnected.\n');
  });

  it('talks both ways, and leaves at Ctrl-C', async () => {
    const port = freshPort();
    const server = start(program, 2, '-l', '1', port);
    const peer = start(program, 1, '2', port);
    const ends = [exitOf(server), exitOf(peer)];
    peer.stdin.write('ping');
    expect(await heard(server)).toBe('ping');
    server.stdin.write('pong');
    expect(await heard(peer)).toBe('pong');
    peer.kill('SIGINT');
    const [atServer, atPeer] = await Promise.all(ends);
    expect([atServer?.code, atPeer?.code]).toEqual([0, 130]);
  });

  it('says what is wrong in one line and an exit code', async () => {
    const usage = await run(program, 1, '2');
    expect(usage).toMatchObject({ code: 2, stdout: '' });
    const invalid = await run(program, 1, '-l', '2', 'a/b');
    expect(invalid.stderr).toMatch(/A vchan port is .* \(VCHAN_PORT_INVALID\)\n$/);
    const nobody = await run(program, 0, '99', 'port');
    expect(nobody).toMatchObject({ code: 1 });
    expect(nobody.stderr).toMatch(/There is no domain 99. \(DOMAIN_NOT_FOUND\)\n$/);
    const unreachable = await run(program, 1, '2', 'port', '--address', '/nowhere.sock');
    expect(unreachable.code).toBe(3);
  });
});

describe('xencat with a local socket', () => {
  it('carries connections of one socket to a server behind another, one after another', async () => {
    const port = freshPort();
    const front = join(daemon.directory, 'front.sock');
    const back = join(daemon.directory, 'back.sock');
    const service = createServer({ allowHalfOpen: true }, (socket) => {
      socket.on('error', () => undefined);
      socket.on('data', (chunk) => socket.write(String(chunk).toUpperCase()));
      socket.on('end', () => socket.end());
    });
    await new Promise<void>((resolve) => service.listen(back, resolve));
    const server = start('xencat', 2, '-l', '1', port, '--socket', back);
    const proxy = start('xencat', 1, '2', port, '--socket', front);
    const ends = [exitOf(server), exitOf(proxy)];
    while (!existsSync(front)) await sleep(10);
    for (let round = 0; round < 3; round++) {
      const socket = connect(front);
      socket.write(`question ${round}`);
      expect(await heardOf(socket)).toBe(`QUESTION ${round}`);
      socket.end();
      await new Promise((resolve) => socket.once('close', resolve));
    }
    server.kill('SIGTERM');
    proxy.kill('SIGTERM');
    const codes = await Promise.all(ends);
    expect(codes.map(({ code }) => code)).toEqual([130, 130]);
    expect(existsSync(front)).toBe(false);
    await new Promise((resolve) => service.close(resolve));
  });
});

describe('xencat', () => {
  it('talks over a socket that it inherits', async () => {
    const port = freshPort();
    const args = ['--xen', 'emulated', '--as', '2', '--address', daemon.address];
    const server = spawn(process.execPath, [XENCAT, ...args, '-l', '1', port, '--fd', '3'], {
      stdio: ['ignore', 'ignore', 'inherit', 'pipe'],
    });
    const socket = server.stdio[3] as Duplex;
    const peer = start('xencat', 1, '2', port);
    const peerEnd = exitOf(peer);
    peer.stdin.write('question');
    expect(String(await new Promise((resolve) => socket.once('data', resolve)))).toBe('question');
    socket.end('answer');
    expect(await heard(peer)).toBe('answer');
    expect((await peerEnd).code).toBe(0);
    const code = server.exitCode ?? (await new Promise((resolve) => server.once('exit', resolve)));
    expect(code).toBe(0);
  });

  it('explains itself, and says where there is no Xen', async () => {
    const help = await ended(spawn(process.execPath, [XENCAT, '--help']));
    expect(help).toMatchObject({ code: 0, stderr: '' });
    expect(help.stdout).toContain('xencat -l 1 foo > copy-of-foo');
    const native = await ended(spawn(process.execPath, [XENCAT, '--xen', 'native', '1', 'x']));
    expect(native.code).toBe(3);
    expect(native.stderr).toMatch(/^xencat: Xen cannot be used: .* \(XEN_UNAVAILABLE\)\n$/);
  });
});

describe('the daemon', () => {
  it('ends all channels when it stops, and leaves nothing', async () => {
    const own = await startDaemon();
    const other = await XenvifClient.connect({ address: own.address });
    const waiting = other.vchan({ domid: 1, asDomid: 2, port: 'nobody' });
    const failed = expect(waiting).rejects.toMatchObject({ code: 'DAEMON_STOPPING' });
    const [server, peer] = await Promise.all([
      other.vchan({ listen: true, domid: 1, port: 'x' }),
      other.vchan({ domid: 0, asDomid: 1, port: 'x' }),
    ]);
    const errors = [server, peer].map(
      (vchan) => new Promise((resolve) => vchan.once('error', resolve)),
    );
    expect(await own.stop()).toBe(0);
    await failed;
    for (const error of await Promise.all(errors)) {
      expect(error).toMatchObject({ code: 'DAEMON_STOPPING' });
    }
    expect(own.logs()).not.toMatch(/"level":[56]0/);
    other.close();
  });
});

function sha(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

function run(program: 'xencat' | 'xenvif', as: number, ...args: string[]): Promise<Ended> {
  const child = start(program, as, ...args);
  child.stdin.end();
  return ended(child);
}

function exitOf(child: ChildProcessWithoutNullStreams) {
  let stderr = '';
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });
  return new Promise<{ code: number | null; stderr: string }>((resolve) => {
    child.on('close', (code) => resolve({ code, stderr }));
  });
}

async function heard(child: ChildProcessWithoutNullStreams): Promise<string> {
  return String(await new Promise((resolve) => child.stdout.once('data', resolve)));
}

async function heardOf(socket: Socket): Promise<string> {
  return String(await new Promise((resolve) => socket.once('data', resolve)));
}

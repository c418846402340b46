/**
 * Our vchan against Debian's own libxenvchan, which runs in a C program beside this process: the library is
 * the real one, its devices are files that both share. Real Xen under both is for the lab.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectVchan, VchanServer, type VchanStream } from '../../src/device/vchan/index.js';
import { SharedFileXen } from '../support/shared-file-xen.js';

const BYTES = 3_000_000;

let shared: SharedFileXen;
let run: ReturnType<SharedFileXen['buildPeer']>;
let names = 0;

beforeAll(async () => {
  shared = await SharedFileXen.open();
  run = shared.buildPeer();
});

afterAll(async () => {
  await shared?.close();
});

interface Peer {
  readonly child: ChildProcessWithoutNullStreams;
  /** Its exit code, and the sum of all that it received. */
  readonly end: Promise<{ code: number | null; sum: string; stderr: string }>;
}

function startPeer(role: 'server' | 'client', path: string, ...options: string[]): Peer {
  const env = { ...process.env, ...run.env };
  const child = spawn(run.program, [role, '0', path, ...options], { env });
  const hash = createHash('sha256');
  let stderr = '';
  child.stdout.on('data', (chunk) => hash.update(chunk));
  child.stdin.on('error', () => undefined);
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });
  const end = new Promise<{ code: number | null; sum: string; stderr: string }>((resolve) => {
    child.on('close', (code) => resolve({ code, sum: hash.digest('hex'), stderr }));
  });
  return { child, end };
}

/** Our end as `ours`, and libxenvchan at the other. */
async function pair(
  ours: 'server' | 'client',
  ring: number,
  ...options: string[]
): Promise<{ stream: VchanStream; peer: Peer }> {
  names += 1;
  const path = `/local/domain/0/data/c${names}`;
  if (ours === 'client') {
    const peer = startPeer('server', path, `ring=${ring}`, ...options);
    return { stream: await connectVchan(shared.xen, { domid: 0, path }), peer };
  }
  const sizes = { readRingBytes: ring, writeRingBytes: ring };
  const server = await VchanServer.listen(shared.xen, { domid: 0, path, ...sizes });
  const peer = startPeer('client', path, ...options);
  const stream = await server.accept();
  await server.close();
  return { stream, peer };
}

function sha(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

async function readAll(stream: VchanStream): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

describe.each(['server', 'client'] as const)('our %s', (ours) => {
  it.each([1024, 4096, 65_536])('and rings of %i bytes, both ways at once', async (ring) => {
    // Every size of write from a byte to three rings, from the other side.
    const { stream, peer } = await pair(ours, ring, 'chunk=0', `expect=${BYTES}`);
    const up = randomBytes(BYTES);
    const down = randomBytes(BYTES);
    peer.child.stdin.end(up);
    stream.write(down);
    const received = await readAll(stream);
    const { code, stderr, sum } = await peer.end;
    expect(code, stderr).toBe(0);
    expect(sha(received)).toBe(sha(up));
    expect(sum).toBe(sha(down));
  });

  it('and packets', async () => {
    const { stream, peer } = await pair(ours, 1024, 'packets=1', 'expect=200000');
    const up = randomBytes(200_000);
    const down = randomBytes(200_000);
    peer.child.stdin.end(up);
    const sending = (async () => {
      for (let at = 0; at < down.length; at += 1000)
        await stream.send(down.subarray(at, at + 1000));
    })();
    for (let at = 0; at < up.length; at += 1000) {
      expect((await stream.receive(1000))?.equals(up.subarray(at, at + 1000))).toBe(true);
    }
    await sending;
    expect(await stream.receive(1)).toBeUndefined();
    expect(await peer.end).toMatchObject({ code: 0, sum: sha(down) });
  });

  it('closes, and libxenvchan has heard all of it before the end', async () => {
    const { stream, peer } = await pair(ours, 4096);
    peer.child.stdin.end();
    const bytes = randomBytes(100_000);
    stream.write(bytes);
    await stream.close();
    expect(await peer.end).toMatchObject({ code: 0, sum: sha(bytes) });
  });

  it('hears an echo', async () => {
    const { stream, peer } = await pair(ours, 1024, 'echo=1');
    for (let round = 0; round < 200; round++) {
      const bytes = randomBytes(1 + ((round * 37) % 900));
      await stream.send(bytes);
      expect((await stream.receive(bytes.length))?.equals(bytes)).toBe(true);
    }
    stream.destroy();
    expect((await peer.end).code).toBe(0);
  });
});

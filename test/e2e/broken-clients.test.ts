/** Clients of a switch that die or lose their connection: what becomes of their ports, and of others. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { XenvifClient } from '../../clients/typescript/src/index.js';
import { breakableConnection } from '../support/breakable-connection.js';
import { conversation } from '../support/conversation.js';
import { type DaemonUnderTest, startDaemon } from '../support/daemon.js';

const BUSY_CLIENT = fileURLToPath(new URL('busy-client.mjs', import.meta.url));
const MAC = '02:00:00:00:0d:1e';
const GRACE_MS = 3_000;
/** The daemon's start alone may take twenty seconds on a busy machine. */
const HOOK_TIMEOUT_MS = 60_000;
const HALF_OPEN = 200;
const CANCELLED_CALLS = 800;
/** A connection has a hundred at most. */
const CALLS_AT_ONCE = 40;

let daemon: DaemonUnderTest;
let client: XenvifClient;

beforeAll(async () => {
  daemon = await startDaemon();
  client = await XenvifClient.connect({ address: daemon.address });
}, HOOK_TIMEOUT_MS);
afterAll(async () => {
  client?.close();
  await daemon?.stop();
});

const portsOf = async (name: string) => (await client.switches.ports(name)).map(({ id }) => id);

async function knows(name: string, mac: string): Promise<boolean> {
  for await (const entry of client.switches.forwardingEntries(name)) {
    if (entry.mac === mac) return true;
  }
  return false;
}

/** What the daemon has open in the kernel. */
function descriptors(): number {
  return readdirSync(`/proc/${daemon.child.pid}/fd`).length;
}

/** Frames that guest 1 has sent: it pings the other one a second, whatever clients do. */
async function sentByGuest(): Promise<number> {
  const [stats] = await client.stats.get(['1.0']);
  return Number(stats?.tx.packets);
}

/** Waits until the guests have pinged again. */
async function expectLivingGuests(): Promise<void> {
  const before = await sentByGuest();
  await expect.poll(sentByGuest, { timeout: 10_000 }).toBeGreaterThan(before + 1);
}

test('a client that is killed in traffic goes with its port, after the grace, and nobody else notices', async () => {
  await client.switches.create('killed');
  const [a, b] = [await client.attach('switches/killed'), await client.attach('switches/killed')];
  const [there, back] = [conversation(a, b), conversation(b, a)];
  const args = [BUSY_CLIENT, daemon.address, 'switches/killed', 'busy', MAC, String(GRACE_MS)];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child.stdout, 'data');
  const exit = once(child, 'exit');
  child.kill('SIGKILL');
  await exit;
  const killedMs = performance.now();
  // Within the grace the port waits, for its client and for nobody else.
  expect(await portsOf('killed')).toContain('busy');
  const impostor = client.attach('switches/killed', { portId: 'busy', mac: MAC });
  await expect(impostor).rejects.toMatchObject({ code: 'PORT_EXISTS' });
  expect(await knows('killed', MAC)).toBe(true);
  await expect.poll(() => portsOf('killed'), { timeout: 20_000 }).not.toContain('busy');
  expect(performance.now() - killedMs).toBeGreaterThan(GRACE_MS - 500);
  expect(await knows('killed', MAC)).toBe(false);
  await sleep(200);
  const sent = [await there.stop(), await back.stop()];
  await expect.poll(() => [there.heard.length, back.heard.length]).toEqual(sent);
  for (const { heard } of [there, back]) {
    expect(heard).toEqual(Array.from({ length: heard.length }, (_, index) => index));
    expect(heard.length).toBeGreaterThan(1000);
  }
  for (const nic of [a, b]) {
    expect(nic.lost.frames).toBe(0n);
    await nic.disconnect();
  }
  const complaints = daemon
    .logs()
    .split('\n')
    .filter((line) => /"level":[456]0/.test(line));
  expect(complaints).toEqual([]);
  await expect.poll(() => portsOf('killed')).toEqual([]);
});

test('a client that stands still goes with its port, after keepalive and grace', async () => {
  await client.switches.create('frozen');
  const args = [BUSY_CLIENT, daemon.address, 'switches/frozen', 'busy', MAC, '0'];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const exit = once(child, 'exit');
  await once(child.stdout, 'data');
  child.kill('SIGSTOP');
  await expectLivingGuests();
  expect(await portsOf('frozen')).toEqual(['busy']);
  await expect.poll(() => portsOf('frozen'), { timeout: 90_000, interval: 500 }).toEqual([]);
  child.kill('SIGKILL');
  await exit;
  await expectLivingGuests();
}, 120_000);

describe('clients that are none', () => {
  /** Connects to the daemon, and says `words` if there are any. */
  async function connection(words = ''): Promise<Socket> {
    const [host = '', port = ''] = daemon.tcp.split(':');
    const socket = connect(Number(port), host);
    socket.on('error', () => {});
    await once(socket, 'connect');
    if (words !== '') socket.write(words);
    return socket;
  }

  const OPENINGS = {
    'say nothing': '',
    'say that they speak HTTP/2 and then nothing': 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
    'speak something else': `GET / HTTP/1.1\r\n${'x'.repeat(10_000)}`,
  };

  test.each(Object.entries(OPENINGS))('and %s, by the hundred', async (_, words) => {
    const before = descriptors();
    const sockets = await Promise.all(Array.from({ length: HALF_OPEN }, () => connection(words)));
    await expectLivingGuests();
    for (const socket of sockets) socket.resetAndDestroy();
    await expect.poll(descriptors, { timeout: 20_000 }).toBeLessThanOrEqual(before);
  });
});

test('calls that are cancelled as soon as they are made leave nothing behind', async () => {
  const before = descriptors();
  const hasty = await XenvifClient.connect({ address: daemon.address });
  for (let round = 0; round < CANCELLED_CALLS / CALLS_AT_ONCE; round += 1) {
    const streams = Array.from({ length: CALLS_AT_ONCE }, () => hasty.observe('vifs/1.0'));
    // Some are with the daemon by then, and some have not left.
    if (round % 2 === 0) await hasty.host.get();
    for (const stream of streams) stream.close();
  }
  const streams = async () => (await client.host.get()).frameStreams;
  await expect.poll(streams, { timeout: 20_000 }).toBe(0);
  hasty.close();
  await expect.poll(descriptors, { timeout: 20_000 }).toBeLessThanOrEqual(before);
  await expectLivingGuests();
}, 120_000);

describe('a client that loses its connection', () => {
  test('comes back to its port, address and policy; meanwhile nobody gets it', async () => {
    await client.switches.create('broken');
    const fragile = await breakableConnection(daemon.tcp);
    const away = await XenvifClient.connect({ address: fragile.address });
    const changes: string[] = [];
    const place = { portId: 'mine', mac: MAC };
    const nic = await away.attach('switches/broken', {
      ...place,
      policy: { isolated: true },
      graceMs: 30_000,
      onStatus: (phase, reason) => changes.push(`${phase} ${reason}`),
    });
    const other = await client.attach('switches/broken');
    const before = (await client.switches.ports('broken')).find(({ id }) => id === 'mine');
    fragile.refuse();
    fragile.break();
    await expect.poll(() => changes).toEqual(['disconnected CONNECTION_LOST']);
    for (const wanted of [place, { portId: 'mine' }, { ...place, resumeKey: 'guessed' }]) {
      const taking = client.attach('switches/broken', wanted);
      await expect(taking).rejects.toMatchObject({
        code: 'PORT_EXISTS',
        grpcStatus: 'ALREADY_EXISTS',
      });
    }
    fragile.welcome();
    await expect
      .poll(() => changes, { timeout: 20_000 })
      .toEqual(['disconnected CONNECTION_LOST', 'connected REATTACHED']);
    const after = (await client.switches.ports('broken')).find(({ id }) => id === 'mine');
    expect(after).toMatchObject({ mac: MAC, policy: { isolated: true, lockMac: true } });
    expect(after?.policy).toEqual(before?.policy);
    expect(nic.name).toBe('switches/broken/ports/mine');
    const { heard, stop } = conversation(nic, other);
    await expect.poll(() => heard.length).toBeGreaterThan(10);
    await stop();
    await nic.disconnect();
    await expect.poll(() => portsOf('broken')).not.toContain('mine');
    away.close();
    await fragile.close();
    await other.disconnect();
  });

  test('gets its port back as another process, too, by a key that both know', async () => {
    await client.switches.create('restarted');
    const place = { portId: 'mine', resumeKey: 'kept in a file' };
    const fragile = await breakableConnection(daemon.tcp);
    const first = await XenvifClient.connect({ address: fragile.address });
    const before = await first.attach('switches/restarted', { ...place, graceMs: 30_000 });
    fragile.refuse();
    fragile.break();
    first.close();
    const after = await client.attach('switches/restarted', place);
    expect([after.name, after.mac]).toEqual([before.name, before.mac]);
    await after.disconnect();
    await fragile.close();
  });
});

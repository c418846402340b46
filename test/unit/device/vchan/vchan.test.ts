import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { connectVchan, VchanServer } from '../../../../src/device/vchan/index.js';
import { closed, noise, readAll, VchanMachine, writeAll } from './pair.js';

let machine: VchanMachine;

beforeEach(async () => {
  machine = await VchanMachine.start();
});

afterEach(async () => {
  await machine.end();
});

const SIZES = [
  ['both rings in the page', 1024, 2048],
  ['both in the page, the other way round', 2048, 1024],
  ['one ring in the page', 2048, 4096],
  ['a page each', 4096, 4096],
  ['64 KiB', 65536, 65536],
  ['a megabyte and a page', 2 ** 20, 4096],
] as const;

describe('bytes', () => {
  test.each(SIZES)('go both ways at once with %s', async (_, readRingBytes, writeRingBytes) => {
    const { server, client } = await machine.join({ readRingBytes, writeRingBytes });
    expect([server.readRingBytes, server.writeRingBytes]).toEqual([readRingBytes, writeRingBytes]);
    expect([client.readRingBytes, client.writeRingBytes]).toEqual([writeRingBytes, readRingBytes]);
    const up = noise(300_000);
    const down = noise(300_000);
    const atServer = server.receive(up.length);
    const atClient = client.receive(down.length);
    await Promise.all([writeAll(client, up, 7001), writeAll(server, down, 333)]);
    expect((await atServer)?.equals(up)).toBe(true);
    expect((await atClient)?.equals(down)).toBe(true);
    await Promise.all([client.close(), server.close()]);
  });

  test('arrive in order for every size of write from one byte to three rings', async () => {
    const { server, client } = await machine.join({ readRingBytes: 1024, writeRingBytes: 1024 });
    const all = readAll(server);
    const sent: Buffer[] = [];
    for (let size = 1; size <= 3 * 1024; size += size < 64 ? 1 : 61) {
      const chunk = noise(size);
      sent.push(chunk);
      if (!client.write(chunk)) await once(client, 'drain');
    }
    await client.close();
    expect((await all).equals(Buffer.concat(sent))).toBe(true);
    await closed(server);
  });

  test('wait in the ring, and no more than fit, while nobody reads', async () => {
    const { server, client } = await machine.join({ readRingBytes: 4096, writeRingBytes: 4096 });
    const bytes = noise(200_000);
    let done = false;
    client.write(bytes, () => {
      done = true;
    });
    await sleep(50);
    // Nobody has asked for data at the other end, so that none has left the ring.
    expect(server.readableLength).toBe(0);
    expect(done).toBe(false);
    const all = readAll(server);
    await client.close();
    expect((await all).equals(bytes)).toBe(true);
    expect(done).toBe(true);
  });

  test('a reader that stops holds its writer, and nobody else', async () => {
    const first = await machine.join({ readRingBytes: 4096, writeRingBytes: 4096 });
    const other = await machine.listen({ port: 'other' });
    const [server, client] = await Promise.all([
      other.accept(),
      machine.connect({ port: 'other' }),
    ]);
    await other.close();
    first.client.write(noise(500_000));
    const bytes = noise(500_000);
    const all = readAll(server);
    await writeAll(client, bytes, 10_000);
    await client.close();
    expect((await all).equals(bytes)).toBe(true);
    first.client.destroy();
    await readAll(first.server);
    await Promise.all([closed(first.server), closed(first.client), closed(server)]);
  });
});

describe('packets', () => {
  test('become visible whole, and are received whole', async () => {
    const { server, client } = await machine.join({ readRingBytes: 1024, writeRingBytes: 1024 });
    const packets = Array.from({ length: 50 }, (_, index) => noise(1 + ((index * 97) % 1024)));
    const sending = (async () => {
      for (const packet of packets) await client.send(packet);
    })();
    for (const packet of packets) {
      expect((await server.receive(packet.length))?.equals(packet)).toBe(true);
    }
    await sending;
    await expect(client.send(noise(1025))).rejects.toMatchObject({ code: 'PACKET_TOO_LONG' });
    await expect(client.receive(0)).rejects.toMatchObject({ code: 'LENGTH_INVALID' });
    await client.close();
    expect(await server.receive(1)).toBeUndefined();
    await closed(server);
  });

  test('that do not fit wait until all of them do', async () => {
    const { server, client } = await machine.join({ readRingBytes: 1024, writeRingBytes: 1024 });
    await client.send(noise(1000));
    let sent = false;
    const second = client.send(noise(100)).then(() => {
      sent = true;
    });
    await sleep(20);
    expect(sent).toBe(false);
    expect(await server.receive(1000)).toHaveLength(1000);
    await second;
    expect(await server.receive(100)).toHaveLength(100);
    await Promise.all([client.close(), server.close()]);
  });

  test('of whom the peer left before it read them are lost, and that is told', async () => {
    const { server, client } = await machine.join({ readRingBytes: 1024, writeRingBytes: 1024 });
    await client.send(noise(1024));
    const waiting = client.send(noise(5));
    const failure = expect(waiting).rejects.toMatchObject({ code: 'DISCONNECTED' });
    client.on('error', () => undefined);
    server.destroy();
    await failure;
    await closed(client);
  });
});

describe('the end', () => {
  test('of our writing leaves the peer’s to be read', async () => {
    const { server, client } = await machine.join();
    client.end('question');
    expect(String(await server.receive(8))).toBe('question');
    await once(client, 'finish');
    const answer = readAll(client);
    await writeAll(server, noise(100_000), 1000);
    await server.close();
    expect(await answer).toHaveLength(100_000);
    await closed(client);
  });

  test.each(['client', 'server'] as const)(
    'comes when the %s closes, after what it wrote',
    async (leaver) => {
      const { server, client } = await machine.join({ readRingBytes: 4096, writeRingBytes: 4096 });
      const [one, other] = leaver === 'client' ? [client, server] : [server, client];
      const bytes = noise(4096);
      await new Promise((resolve) => one.write(bytes, resolve));
      one.destroy();
      expect((await readAll(other)).equals(bytes)).toBe(true);
      await Promise.all([closed(one), closed(other)]);
    },
  );

  test('close waits until the peer has read all of it', async () => {
    const { server, client } = await machine.join();
    client.write(noise(1000));
    let isClosed = false;
    const closing = client.close().then(() => {
      isClosed = true;
    });
    await sleep(30);
    expect(isClosed).toBe(false);
    server.resume();
    await closing;
    await closed(server);
  });

  test('close gives up after its time, and tells of a loss', async () => {
    const { server, client } = await machine.join();
    client.write(noise(1000));
    await expect(client.close(20)).rejects.toMatchObject({ code: 'VCHAN_UNREAD' });
    const again = await readAll(server);
    expect(again).toHaveLength(1000);
  });

  test('close tells when the peer left before it had read all', async () => {
    const { server, client } = await machine.join();
    client.write(noise(1000));
    const failure = expect(client.close()).rejects.toMatchObject({ code: 'DISCONNECTED' });
    await sleep(5);
    server.destroy();
    await failure;
  });

  test.each(['client', 'server'] as const)(
    'comes when the process of the %s is killed',
    async (who) => {
      const { server, client } = await machine.join();
      const [victim, other] = who === 'client' ? [client, server] : [server, client];
      await new Promise((resolve) => victim.write('last words', resolve));
      const all = readAll(other);
      await (who === 'client' ? machine.clientXen : machine.serverXen).kill();
      expect(String(await all)).toBe('last words');
      await closed(other);
      victim.destroy();
    },
  );

  test.each(['client', 'server'] as const)(
    'comes to domain 0 when the domain of the %s is destroyed',
    async (who) => {
      const other = who === 'client' ? 'server' : 'client';
      const own = await VchanMachine.start({ [other]: 'dom0' });
      const ends = await own.join();
      await new Promise((resolve) => ends[who].write('last words', resolve));
      const all = readAll(ends[other]);
      const domain = who === 'client' ? own.clientDomain : own.serverDomain;
      const start = performance.now();
      await own.hypervisor.destroyDomain(domain.domid);
      expect(String(await all)).toBe('last words');
      expect(performance.now() - start).toBeLessThan(30_000);
      await closed(ends[other]);
      ends[who].destroy();
      await own.end();
    },
  );

  test('a write that the peer’s end cut off fails once all was read', async () => {
    const { server, client } = await machine.join({ readRingBytes: 1024, writeRingBytes: 1024 });
    await new Promise((resolve) => server.write(noise(500), resolve));
    const failed = once(client, 'error');
    const received: Buffer[] = [];
    client.on('data', (chunk) => received.push(chunk));
    client.write(noise(5000));
    await sleep(5);
    server.destroy();
    const [error] = await failed;
    expect(error).toMatchObject({ code: 'DISCONNECTED' });
    expect(Buffer.concat(received)).toHaveLength(500);
    await closed(client);
  });
});

describe('XenStore', () => {
  test('has the nodes where Mirage looks, readable to the client alone, while one may come', async () => {
    const server = await machine.listen({ port: 'hello_World-1' });
    const { store, domid } = machine.serverXen;
    const peer = machine.clientDomain.domid;
    const path = `/local/domain/${domid}/data/vchan/${peer}/hello_World-1`;
    expect(server.path).toBe(path);
    for (const name of ['ring-ref', 'event-channel']) {
      expect(await store.read(`${path}/${name}`)).toMatch(/^[1-9]\d*$/);
      expect(await store.getPermissions(`${path}/${name}`)).toMatchObject({
        owner: domid,
        others: 'n',
        domains: [{ domid: peer, access: 'r' }],
      });
    }
    const [accepted, client] = await Promise.all([
      server.accept(),
      machine.connect({ port: 'hello_World-1' }),
    ]);
    await client.close();
    await readAll(accepted);
    await closed(accepted);
    expect(await machine.nodes()).toEqual([]);
    await server.close();
  });

  test('takes any other path', async () => {
    const path = `/local/domain/${machine.serverXen.domid}/data/any/where`;
    const server = await machine.listen({ path });
    const [accepted, client] = await Promise.all([server.accept(), machine.connect({ path })]);
    expect(accepted.path).toBe(path);
    await client.close();
    await readAll(accepted);
    await server.close();
    await machine.serverXen.store.rm(`/local/domain/${machine.serverXen.domid}/data/any`);
  });

  test('keeps what others have below the same path', async () => {
    const { store, domid } = machine.serverXen;
    const path = `/local/domain/${domid}/data/shared`;
    await store.write(`${path}/note`, 'mine');
    const server = await machine.listen({ path });
    await server.close();
    expect(await machine.nodes()).toEqual(['shared', 'shared/note']);
    await store.rm(path);
  });

  test('keeps the nodes of a server that took the place', async () => {
    const first = await machine.listen();
    const second = await machine.listen();
    await first.close();
    expect(await machine.nodes()).toHaveLength(5);
    await second.close();
  });

  test.each(['', 'a b', 'a/b', '../x', 'ä', 'x'.repeat(256)])('has no port %j', async (port) => {
    const peer = machine.clientDomain.domid;
    const opening = VchanServer.listen(machine.serverXen, { domid: peer, port });
    await expect(opening).rejects.toMatchObject({ code: 'VCHAN_PORT_INVALID' });
  });

  test.each(['', '/a//b', '/a b', 'x'.repeat(4000)])('has no path %j', async (path) => {
    await expect(machine.listen({ path })).rejects.toMatchObject({ code: 'VCHAN_PATH_INVALID' });
  });

  test('knows no such peer', async () => {
    const dom0 = await machine.hypervisor.dom0.open();
    for (const domid of [-1, 1.5, 0x7ff0]) {
      const opening = VchanServer.listen(machine.serverXen, { domid, port: 'x' });
      await expect(opening).rejects.toMatchObject({ code: 'DOMID_INVALID' });
    }
    const nobody = { domid: 99, port: 'x' };
    const missing = { code: 'DOMAIN_NOT_FOUND' };
    await expect(VchanServer.listen(dom0, nobody)).rejects.toMatchObject(missing);
    await expect(connectVchan(dom0, nobody)).rejects.toMatchObject(missing);
    await dom0.close();
  });
});

describe('a server', () => {
  test('takes one client after another, each on rings of its own', async () => {
    const server = await machine.listen();
    for (let round = 0; round < 5; round++) {
      const [accepted, client] = await Promise.all([server.accept(), machine.connect()]);
      // Nothing that one client left unread reaches the next.
      accepted.write(`for ${round}`);
      expect(String(await client.receive(5))).toBe(`for ${round}`);
      client.write('unread');
      await client.close(5).catch(() => undefined);
      accepted.destroy();
      await closed(accepted);
    }
    await server.close();
  });

  test('offers nothing while a client is there, and the next one waits', async () => {
    const server = await machine.listen();
    const [accepted, client] = await Promise.all([server.accept(), machine.connect()]);
    while ((await machine.nodes()).length > 0) await sleep(1);
    const refused = machine.connect({ wait: false });
    await expect(refused).rejects.toMatchObject({ code: 'VCHAN_NOT_FOUND' });
    const next = machine.connect();
    await client.close();
    await readAll(accepted);
    const second = await server.accept();
    second.end('hello');
    expect(String(await (await next).receive(5))).toBe('hello');
    (await next).destroy();
    await readAll(second);
    await server.close();
  });

  test('takes a client that came, wrote and left before it looked', async () => {
    const server = await machine.listen();
    const client = await machine.connect();
    await new Promise((resolve) => client.write('gone already', resolve));
    client.destroy();
    await closed(client);
    expect(String(await readAll(await server.accept()))).toBe('gone already');
    await server.close();
  });

  test('that waits can be closed, told to stop, and asked for one client at a time', async () => {
    const server = await machine.listen();
    const abort = new AbortController();
    const stopped = expect(server.accept(abort.signal)).rejects.toThrow('enough');
    await expect(server.accept()).rejects.toMatchObject({ code: 'VCHAN_ACCEPT_PENDING' });
    abort.abort(new Error('enough'));
    await stopped;
    const waiting = expect(server.accept()).rejects.toMatchObject({ code: 'VCHAN_SERVER_CLOSED' });
    await server.close();
    await server.close();
    await waiting;
    await expect(server.accept()).rejects.toMatchObject({ code: 'VCHAN_SERVER_CLOSED' });
  });

  test('hears that the client’s domain is gone while it waits', async () => {
    const own = await VchanMachine.start({ server: 'dom0' });
    const server = await own.listen();
    const waiting = expect(server.accept()).rejects.toMatchObject({ code: 'PEER_GONE' });
    await own.hypervisor.destroyDomain(own.clientDomain.domid);
    await waiting;
    await server.close();
    await own.end();
  });

  test('gives everything back when it cannot be offered', async () => {
    machine.hypervisor.failEvery({ share: 2 });
    await expect(machine.listen()).rejects.toMatchObject({ code: 'GRANT_FAILED' });
    machine.hypervisor.failEvery({ allocate: 1 });
    await expect(machine.listen()).rejects.toMatchObject({ code: 'EVENT_CHANNEL_FAILED' });
    machine.hypervisor.failEvery({});
    const fault = machine.hypervisor.store.fail({ request: 'WRITE', answer: 'EQUOTA' });
    await expect(machine.listen()).rejects.toMatchObject({ code: 'XENSTORE_EQUOTA' });
    fault.end();
  });
});

describe('a client', () => {
  test('waits for its server', async () => {
    const waiting = machine.connect();
    await sleep(20);
    const server = await machine.listen();
    const [accepted, client] = await Promise.all([server.accept(), waiting]);
    client.end('here');
    expect(String(await accepted.receive(4))).toBe('here');
    accepted.destroy();
    await readAll(client);
    await server.close();
  });

  test('waits past what a dead server left in XenStore', async () => {
    const server = await machine.listen();
    await machine.serverXen.kill();
    expect(await machine.nodes()).toContain('vchan/2/test/ring-ref');
    const waiting = machine.connect();
    await sleep(20);
    const again = await machine.serverDomain.open();
    const next = await VchanServer.listen(again, {
      domid: machine.clientDomain.domid,
      port: 'test',
    });
    const [accepted, client] = await Promise.all([next.accept(), waiting]);
    client.destroy();
    await readAll(accepted);
    await closed(accepted);
    await next.close();
    await server.close().catch(() => undefined);
    await again.close();
  });

  test('that need not wait says that nobody is there', async () => {
    const missing = { code: 'VCHAN_NOT_FOUND' };
    await expect(machine.connect({ wait: false })).rejects.toMatchObject(missing);
  });

  test('can be told to stop, and hears that the server’s domain is gone', async () => {
    const abort = new AbortController();
    const stopped = expect(machine.connect({ signal: abort.signal })).rejects.toThrow('enough');
    await sleep(5);
    abort.abort(new Error('enough'));
    await stopped;
    const own = await VchanMachine.start({ client: 'dom0' });
    const waiting = expect(own.connect()).rejects.toMatchObject({ code: 'PEER_GONE' });
    await sleep(5);
    await own.hypervisor.destroyDomain(own.serverDomain.domid);
    await waiting;
    await own.end();
  });

  test('gives everything back when a page cannot be mapped, and tries again', async () => {
    const server = await machine.listen();
    machine.hypervisor.failEvery({ grantMap: 7 });
    const refused = machine.connect({ wait: false });
    await expect(refused).rejects.toMatchObject({ code: 'VCHAN_NOT_FOUND' });
    machine.hypervisor.failEvery({});
    // The attempt was seen as a client that came and left.
    const left = await server.accept();
    expect(await readAll(left)).toHaveLength(0);
    await server.close();
  });
});

describe('loopback', () => {
  test('both ends live in one domain, and in one process', async () => {
    const own = await VchanMachine.start({ server: 'dom0', client: 'dom0' });
    const server = await VchanServer.listen(own.serverXen, { domid: 0, port: 'self' });
    const client = await connectVchan(own.serverXen, { domid: 0, port: 'self' });
    const accepted = await server.accept();
    const bytes = noise(100_000);
    const all = readAll(accepted);
    await writeAll(client, bytes, 5000);
    await client.close();
    expect((await all).equals(bytes)).toBe(true);
    await server.close();
    await own.end();
  });
});

test('five hundred opens and closes leave nothing', async () => {
  const { memory } = machine.hypervisor;
  const before = memory.allocatedBytes;
  const server = await machine.listen({ readRingBytes: 4096, writeRingBytes: 4096 });
  for (let round = 0; round < 500; round++) {
    const [accepted, client] = await Promise.all([server.accept(), machine.connect()]);
    const [first, second] = round % 2 === 0 ? [accepted, client] : [client, accepted];
    first.destroy();
    second.resume();
    await Promise.all([closed(first), closed(second)]);
  }
  await server.close();
  expect(memory.allocatedBytes).toBe(before);
  expect(await machine.nodes()).toEqual([]);
});

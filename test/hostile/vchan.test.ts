import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect } from 'vitest';
import * as ring from '../../src/ring/vchan-ring.js';
import { hostileVchan, outcome } from './vchan-scene.js';

describe('indices', () => {
  for (const prod of [4097, 2 ** 31, 2 ** 32 - 1]) {
    hostileVchan(`case 54: a producer ${prod} ahead of a ring of 4096`, async (scene) => {
      const { stream, peer } = await scene.serve();
      const ended = outcome(stream);
      peer.poke((page) => page.storeIndex(ring.LEFT_PROD, prod));
      expect(await ended).toMatchObject({ code: 'VCHAN_INDEX_INVALID' });
      expect(scene.held()).toEqual([]);
      peer.leave();
    });
  }

  for (const cons of [1, 2 ** 31, 2 ** 32 - 4097]) {
    hostileVchan(`case 54: a consumer ${cons} ahead of what was written`, async (scene) => {
      const { stream, peer } = await scene.serve();
      const ended = outcome(stream);
      stream.write('a few bytes');
      peer.poke((page) => page.storeIndex(ring.RIGHT_CONS, 11 + cons));
      stream.write('and more');
      expect(await ended).toMatchObject({ code: 'VCHAN_INDEX_INVALID' });
      peer.leave();
    });
  }

  hostileVchan('case 54: a full ring, and the wrap at 2^32, are legal', async (scene) => {
    const server = await scene.offer({ left: 12, right: 12 });
    const start = 2 ** 32 - 100;
    for (const index of [ring.LEFT_CONS, ring.LEFT_PROD, ring.RIGHT_CONS, ring.RIGHT_PROD]) {
      server.page.storeIndex(index, start);
    }
    const stream = await scene.connect();
    const ended = outcome(stream);
    server.rings[1]?.bytes.fill(0x5a);
    server.poke((page) => page.storeIndex(ring.RIGHT_PROD, (start + 4096) >>> 0));
    await sleep(20);
    server.poke((page) => page.writeU8(ring.SRV_LIVE, 0));
    const { bytes, code } = await ended;
    expect(code).toBe('END');
    expect(bytes.equals(Buffer.alloc(4096, 0x5a))).toBe(true);
    server.channel.close();
  });

  hostileVchan('case 55: an index that is rewritten as soon as it was read', async (scene) => {
    const server = await scene.offer({ left: 12, right: 12 });
    let reads = 0;
    scene.guest.raw.watchReads(server.page, (offset) => {
      if (offset !== ring.RIGHT_PROD) return;
      reads += 1;
      // Whoever checks one value and uses another copies far past the ring.
      server.page.storeIndex(ring.RIGHT_PROD, reads < 50 ? 7 : 0x4000_0000);
      if (reads === 1) server.page.storeIndex(ring.RIGHT_PROD, 7);
    });
    const stream = await scene.connect();
    const ended = outcome(stream);
    server.rings[1]?.bytes.fill(0x33);
    for (let round = 0; round < 100 && !stream.destroyed; round++) {
      server.channel.notify();
      await sleep(1);
    }
    const { bytes, code } = await ended;
    expect(code).toBe('VCHAN_INDEX_INVALID');
    expect([...bytes]).toEqual(Array(7).fill(0x33));
    server.channel.close();
  });

  hostileVchan('case 55: indices of our own that the peer writes', async (scene) => {
    const { stream, peer } = await scene.serve();
    const ended = outcome(stream);
    peer.poke((page) => {
      page.storeIndex(ring.RIGHT_PROD, 0x1234_5678);
      page.storeIndex(ring.LEFT_CONS, 0x1234_5678);
      page.storeIndex(ring.LEFT_PROD, 5);
    });
    await new Promise((resolve) => stream.write('right', resolve));
    expect(peer.page.loadIndex(ring.RIGHT_PROD)).toBe(5);
    await sleep(10);
    expect(peer.page.loadIndex(ring.LEFT_CONS)).toBe(5);
    peer.poke((page) => page.writeU8(ring.CLI_LIVE, 0));
    expect(await ended).toMatchObject({ code: 'END', bytes: Buffer.alloc(5) });
    peer.leave();
  });
});

describe('what a server shows', () => {
  const orders = [
    [9, 12],
    [12, 9],
    [0, 0],
    [21, 12],
    [12, 21],
    [32, 12],
    [0xffff, 0xffff],
    [10, 10],
    [11, 11],
    [10, 20],
  ] as const;
  for (const [left, right] of orders) {
    hostileVchan(`case 56: rings of the orders ${left} and ${right}`, async (scene) => {
      const server = await scene.offer({ left, right });
      const refused = scene.connect();
      await expect(refused).rejects.toMatchObject({ code: 'VCHAN_ORDERS_INVALID' });
      expect(scene.held()).toEqual([]);
      server.channel.close();
    });
  }

  hostileVchan('case 56: grants that are none, or not ours', async (scene) => {
    const { raw } = scene.guest;
    const server = await scene.offer({ left: 12, right: 12 });
    const foreign = raw.grantPage(raw.allocatePage(), 77);
    for (const refs of [
      [0, 0],
      [4_000_000_000, 8],
      [foreign, foreign],
    ]) {
      for (const [index, ref] of refs.entries()) {
        server.page.writeU32(ring.GRANTS + 4 * index, ref);
      }
      const refused = scene.connect();
      await expect(refused).rejects.toMatchObject({ code: 'VCHAN_NOT_FOUND' });
      expect(scene.held()).toEqual([]);
    }
    server.channel.close();
  });

  hostileVchan('case 56: nodes that are no numbers', async (scene) => {
    const server = await scene.offer({ left: 12, right: 12 });
    for (const text of ['', '0', '-1', '+8', '0x8', '8 ', '08', '4294967296', '1e3', 'x\0', '９']) {
      await scene.writeNodes(text, String(server.channel.port));
      const refused = scene.connect();
      await expect(refused).rejects.toMatchObject({ code: 'VCHAN_NODES_INVALID' });
      await scene.writeNodes('8', text);
      const again = scene.connect();
      await expect(again).rejects.toMatchObject({ code: 'VCHAN_NODES_INVALID' });
    }
    expect(scene.held()).toEqual([]);
    server.channel.close();
  });

  hostileVchan('case 56: indices that are nonsense from the start', async (scene) => {
    const server = await scene.offer({ left: 12, right: 12 });
    server.page.storeIndex(ring.LEFT_CONS, 5);
    const refused = scene.connect();
    await expect(refused).rejects.toMatchObject({ code: 'VCHAN_INDEX_INVALID' });
    expect(scene.held()).toEqual([]);
    server.channel.close();
  });

  hostileVchan('case 57: orders and grants that change after the connect', async (scene) => {
    const server = await scene.offer({ left: 12, right: 12 });
    const stream = await scene.connect();
    const ended = outcome(stream);
    const far = scene.guest.raw.grantPage(scene.guest.raw.allocatePage(), 0);
    server.poke((page) => {
      page.writeU16(ring.LEFT_ORDER, 20);
      page.writeU16(ring.RIGHT_ORDER, 10);
      page.writeU32(ring.GRANTS, far);
      page.writeU32(ring.GRANTS + 4, far);
    });
    expect([stream.readRingBytes, stream.writeRingBytes]).toEqual([4096, 4096]);
    await new Promise((resolve) => stream.write(Buffer.alloc(4096, 1), resolve));
    expect(server.rings[0]?.bytes.every((byte) => byte === 1)).toBe(true);
    server.rings[1]?.bytes.fill(2);
    server.poke((page) => page.storeIndex(ring.RIGHT_PROD, 4096));
    await sleep(10);
    server.poke((page) => page.writeU8(ring.SRV_LIVE, 0));
    expect(await ended).toMatchObject({ code: 'END', bytes: Buffer.alloc(4096, 2) });
    server.channel.close();
  });

  hostileVchan('case 57: orders that are rewritten as soon as they were read', async (scene) => {
    const server = await scene.offer({ left: 12, right: 12 });
    scene.guest.raw.watchReads(server.page, (offset) => {
      if (offset === ring.LEFT_ORDER) server.page.writeU16(ring.LEFT_ORDER, 31);
      if (offset === ring.RIGHT_ORDER) server.page.writeU16(ring.RIGHT_ORDER, 31);
    });
    const stream = await scene.connect();
    expect([stream.readRingBytes, stream.writeRingBytes]).toEqual([4096, 4096]);
    stream.destroy();
    await outcome(stream);
    server.channel.close();
  });

  hostileVchan('case 57: a client that rewrites orders and grants of ours', async (scene) => {
    const { stream, peer } = await scene.serve(65_536);
    peer.poke((page) => page.bytes.fill(0xff, ring.LEFT_ORDER, ring.CLI_LIVE));
    peer.poke((page) => page.bytes.fill(0xff, ring.GRANTS));
    await new Promise((resolve) => stream.write(Buffer.alloc(65_536), resolve));
    expect(peer.page.loadIndex(ring.RIGHT_PROD)).toBe(65_536);
    stream.destroy();
    peer.leave();
    await outcome(stream);
  });
});

describe('life and death', () => {
  for (const live of [0, 2, 3, 255]) {
    hostileVchan(`case 58: a live byte that becomes ${live}, and 1 again`, async (scene) => {
      const { stream, peer } = await scene.serve();
      const ended = outcome(stream);
      peer.poke((page) => {
        page.storeIndex(ring.LEFT_PROD, 3);
        page.writeU8(ring.CLI_LIVE, live);
      });
      await sleep(5);
      peer.poke((page) => page.writeU8(ring.CLI_LIVE, 1));
      expect(await ended).toMatchObject({ code: 'END', bytes: Buffer.alloc(3) });
      peer.leave();
    });
  }

  hostileVchan('case 58: a peer that is gone and goes on writing', async (scene) => {
    const { stream, peer } = await scene.serve();
    stream.pause();
    peer.poke((page) => {
      page.storeIndex(ring.LEFT_PROD, 4096);
      page.writeU8(ring.CLI_LIVE, 0);
    });
    await sleep(5);
    const ended = outcome(stream);
    stream.resume();
    for (let more = 1; more < 200 && !stream.destroyed; more++) {
      peer.poke((page) => page.storeIndex(ring.LEFT_PROD, 4096 + more * 1000));
      await sleep(1);
    }
    const { bytes, code } = await ended;
    expect(code).toBe('END');
    expect(bytes.length).toBeLessThanOrEqual(2 * 4096);
    peer.leave();
  });

  hostileVchan('case 58: a peer that is killed in the midst of a write', async (scene) => {
    const { stream } = await scene.serve();
    const ended = outcome(stream);
    stream.write(Buffer.alloc(100_000));
    await sleep(5);
    await scene.guestXen.kill();
    // The raw map of this client has no notice; Xen's own end of the domain does the rest.
    await scene.hypervisor.destroyDomain(scene.guest.domid);
    expect(await ended).toMatchObject({ code: 'DISCONNECTED' });
  });

  hostileVchan('case 58: a domain that is destroyed while it serves', async (scene) => {
    await scene.offer({ left: 12, right: 12 });
    const stream = await scene.connect();
    const ended = outcome(stream);
    await scene.hypervisor.destroyDomain(scene.guest.domid);
    expect(await ended).toMatchObject({ code: 'END' });
  });

  hostileVchan('case 58: a peer that keeps everything mapped for ever', async (scene) => {
    const { stream, peer } = await scene.serve();
    stream.destroy();
    await outcome(stream);
    expect(scene.hypervisor.leaks().join()).toMatch(/whose owner is done with it/);
    peer.page.bytes.fill(0xff);
    peer.leave();
    expect(scene.hypervisor.leaks().join()).not.toMatch(/whose owner is done with it/);
  });

  hostileVchan('case 33: a storm of events on a vchan with nothing in its rings', async (scene) => {
    const { stream, peer } = await scene.serve();
    stream.resume();
    let looks = 0;
    const look = stream.handleEvent.bind(stream);
    stream.handleEvent = () => {
      looks += 1;
      look();
    };
    let rounds = 0;
    const end = performance.now() + 300;
    while (performance.now() < end) {
      for (let index = 0; index < 1000; index++) peer.channel.notify();
      rounds += 1;
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(rounds).toBeGreaterThan(50);
    expect(looks).toBeLessThan(rounds / 2);
    stream.destroy();
    peer.leave();
    await outcome(stream);
  });
});

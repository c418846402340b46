import { describe, expect, test } from 'vitest';
import * as ring from '../../../src/ring/vchan-ring.js';
import { WatchedPage } from '../../../src/xen/emulated/watched-page.js';
import { Page } from '../../../src/xen/page.js';
import headers from '../../golden/xen-headers.json' with { type: 'json' };
import { seededRandom } from '../../support/random.js';

const PAGE = 4096;

/** A ring of an order with fresh pages, seen by who writes it and who reads it. */
function openRing(order: number, start = 0, shared = new Page(new ArrayBuffer(PAGE))) {
  const pages = Array.from(
    { length: ring.ringPages(order) },
    () => new Page(new ArrayBuffer(PAGE)),
  );
  shared.storeIndex(ring.LEFT_CONS, start);
  shared.storeIndex(ring.LEFT_PROD, start);
  const memory = new ring.RingMemory(order, shared, pages);
  const writer = new ring.RingWriter(shared, 'client', memory);
  const reader = new ring.RingReader(shared, 'server', memory);
  return { shared, pages, memory, writer, reader };
}

function bytesFrom(first: number, length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (first + index) * 7 + ((first + index) >> 8));
}

describe('the shared page', () => {
  test('has its fields where Xen’s header has them', () => {
    const { vchan_interface: layout } = headers;
    const own = {
      size: ring.GRANTS,
      left: ring.LEFT_CONS,
      right: ring.RIGHT_CONS,
      'left.cons': ring.LEFT_CONS,
      'left.prod': ring.LEFT_PROD,
      'right.cons': ring.RIGHT_CONS,
      'right.prod': ring.RIGHT_PROD,
      left_order: ring.LEFT_ORDER,
      right_order: ring.RIGHT_ORDER,
      cli_live: ring.CLI_LIVE,
      srv_live: ring.SRV_LIVE,
      cli_notify: ring.CLI_NOTIFY,
      srv_notify: ring.SRV_NOTIFY,
      grants: ring.GRANTS,
    };
    expect(own).toEqual(layout);
    expect(ring.NOTIFY_WRITE).toBe(headers.constants.VCHAN_NOTIFY_WRITE);
    expect(ring.NOTIFY_READ).toBe(headers.constants.VCHAN_NOTIFY_READ);
  });

  test('is written by a server and read by a client', () => {
    const page = new Page(new ArrayBuffer(PAGE));
    const refs = Array.from({ length: 3 }, (_, index) => 0xffff_0000 + index);
    ring.initialisePage(page, { left: 12, right: 13 }, refs);
    expect(ring.readPage(page)).toEqual({
      orders: { left: 12, right: 13 },
      leftRefs: refs.slice(0, 1),
      rightRefs: refs.slice(1),
    });
    expect([...page.bytes.subarray(16, 24)]).toEqual([12, 0, 13, 0, 2, 1, 1, 0]);
  });

  test('takes two rings of a megabyte, and all their grants', () => {
    const page = new Page(new ArrayBuffer(PAGE));
    const refs = Array.from({ length: 512 }, (_, index) => index + 8);
    ring.initialisePage(page, { left: 20, right: 20 }, refs);
    const { leftRefs, rightRefs } = ring.readPage(page);
    expect([...leftRefs, ...rightRefs]).toEqual(refs);
    expect(leftRefs).toHaveLength(256);
  });
});

describe('the sizes of rings', () => {
  test.each([
    [0, 0, 10, 11],
    [1024, 2048, 10, 11],
    [1025, 1024, 11, 10],
    [2048, 2048, 11, 12],
    [1, 4097, 11, 13],
    [4096, 4096, 12, 12],
    [5000, 100, 13, 11],
    [65536, 65536, 16, 16],
    [2 ** 20, 2 ** 20, 20, 20],
  ])('%i and %i bytes take the orders %i and %i', (leftBytes, rightBytes, left, right) => {
    expect(ring.ordersFor(leftBytes, rightBytes)).toEqual({ left, right });
  });

  test('any that we choose are ones that we accept', () => {
    const random = seededRandom(5);
    for (let round = 0; round < 2000; round++) {
      const left = random.below(2 ** (1 + random.below(20)));
      const right = random.below(2 ** (1 + random.below(20)));
      const orders = ring.ordersFor(left, right);
      ring.checkOrders(orders);
      expect(2 ** orders.left).toBeGreaterThanOrEqual(left);
      expect(2 ** orders.right).toBeGreaterThanOrEqual(right);
    }
  });

  test('that no vchan has are refused', () => {
    for (const order of [10, 11]) {
      expect(() => ring.checkOrders({ left: order, right: order })).toThrow(/which no vchan has/);
    }
    for (const order of [0, 9, 21, 31, 32, 0xffff]) {
      expect(() => ring.checkOrders({ left: order, right: 12 })).toThrow(/which no vchan has/);
      expect(() => ring.checkOrders({ left: 12, right: order })).toThrow(/which no vchan has/);
    }
  });

  test('whose grants would lie in a ring are refused', () => {
    ring.checkOrders({ left: 10, right: 19 });
    expect(() => ring.checkOrders({ left: 10, right: 20 })).toThrow(/which no vchan has/);
    ring.checkOrders({ left: 20, right: 11 });
  });
});

describe('a byte ring', () => {
  test.each([10, 11, 12, 14])('of order %i agrees with a queue, over the wrap', (order) => {
    const random = seededRandom(order);
    const { writer, reader } = openRing(order, 2 ** 32 - 3 * 2 ** order - 5);
    const waiting: number[] = [];
    let written = 0;
    for (let round = 0; round < 400; round++) {
      expect(writer.space()).toBe(writer.size - waiting.length);
      const length = random.below(Math.min(writer.space(), 3000) + 1);
      const bytes = bytesFrom(written, length + 3);
      writer.write(bytes, 3, length);
      waiting.push(...bytes.subarray(3));
      written += length;
      expect(reader.available()).toBe(waiting.length);
      const count = random.below(waiting.length + 1);
      const target = new Uint8Array(count + 2);
      reader.read(target, 1, count);
      expect([...target]).toEqual([0, ...waiting.splice(0, count), 0]);
    }
  });

  test('in the shared page touches nothing outside its place', () => {
    for (const order of [10, 11]) {
      const { shared, writer } = openRing(order);
      shared.bytes.fill(0xee, 16);
      writer.write(new Uint8Array(2 ** order), 0, 2 ** order);
      const untouched = [
        ...shared.bytes.subarray(16, 2 ** order),
        ...shared.bytes.subarray(2 ** (order + 1)),
      ];
      expect(untouched.every((byte) => byte === 0xee)).toBe(true);
      expect(shared.bytes.subarray(2 ** order, 2 ** (order + 1)).every((b) => b === 0)).toBe(true);
    }
  });

  test('refuses a producer that is more than a ring ahead, or behind', () => {
    const { shared, reader } = openRing(12, 100);
    shared.storeIndex(ring.LEFT_PROD, 100 + 4096);
    expect(reader.available()).toBe(4096);
    for (const prod of [100 + 4097, 99, 0x8000_0000]) {
      shared.storeIndex(ring.LEFT_PROD, prod);
      expect(() => reader.available()).toThrow(/in a ring of 4096/);
    }
  });

  test('refuses a consumer that is ahead of what was written, or a ring behind', () => {
    const { shared, writer } = openRing(12, 100);
    writer.write(new Uint8Array(50), 0, 50);
    shared.storeIndex(ring.LEFT_CONS, 150);
    expect(writer.space()).toBe(4096);
    for (const cons of [151, 150 - 4097, 0x8000_0000]) {
      shared.storeIndex(ring.LEFT_CONS, cons);
      expect(() => writer.space()).toThrow(/in a ring of 4096/);
    }
  });

  test('never believes the page about an index of our own', () => {
    const { shared, writer, reader } = openRing(10);
    writer.write(bytesFrom(0, 10), 0, 10);
    shared.storeIndex(ring.LEFT_PROD, 12);
    writer.write(bytesFrom(10, 10), 0, 10);
    expect(shared.loadIndex(ring.LEFT_PROD)).toBe(20);
    reader.read(new Uint8Array(4), 0, 4);
    shared.storeIndex(ring.LEFT_CONS, 777);
    const target = new Uint8Array(16);
    reader.read(target, 0, 16);
    expect([...target]).toEqual([...bytesFrom(4, 16)]);
  });

  test('reads an index of the peer’s once for each question', () => {
    const reads: number[] = [];
    const watched = new WatchedPage(new ArrayBuffer(PAGE), 0, 'write', (offset) => {
      reads.push(offset);
    });
    const { writer, reader } = openRing(10, 0, watched);
    reads.length = 0;
    writer.space();
    reader.available();
    expect(reads).toEqual([ring.LEFT_CONS, ring.LEFT_PROD]);
  });

  test('goes on where the page says that it was', () => {
    const { shared, memory, writer } = openRing(10);
    writer.write(bytesFrom(0, 600), 0, 600);
    const reader = new ring.RingReader(shared, 'server', memory);
    reader.read(new Uint8Array(500), 0, 500);
    const next = new ring.RingWriter(shared, 'client', memory);
    next.write(bytesFrom(600, 600), 0, 600);
    const target = new Uint8Array(700);
    new ring.RingReader(shared, 'server', memory).read(target, 0, 700);
    expect([...target]).toEqual([...bytesFrom(500, 700)]);
  });
});

describe('signals', () => {
  test('of one end are read by the other', () => {
    const page = new Page(new ArrayBuffer(PAGE));
    const server = new ring.VchanSignals(page, 'server');
    const client = new ring.VchanSignals(page, 'client');
    server.setLive(1);
    client.setLive(2);
    expect([client.peerLive, server.peerLive]).toEqual([1, 2]);
    server.ask(ring.NOTIFY_READ);
    expect(page.readU8(ring.CLI_NOTIFY)).toBe(ring.NOTIFY_READ);
    expect(client.isAsked(ring.NOTIFY_WRITE)).toBe(false);
    expect(client.isAsked(ring.NOTIFY_READ)).toBe(true);
    expect(client.isAsked(ring.NOTIFY_READ)).toBe(false);
    page.writeU8(ring.SRV_NOTIFY, 0xff);
    client.askAnew();
    expect(server.isAsked(ring.NOTIFY_READ)).toBe(false);
    expect(server.isAsked(ring.NOTIFY_WRITE)).toBe(true);
  });

  test('leave the bits of others as they are', () => {
    const page = new Page(new ArrayBuffer(PAGE));
    page.writeU8(ring.CLI_NOTIFY, 0xf0);
    const server = new ring.VchanSignals(page, 'server');
    const client = new ring.VchanSignals(page, 'client');
    server.ask(ring.NOTIFY_WRITE);
    expect(client.isAsked(ring.NOTIFY_WRITE)).toBe(true);
    expect(page.readU8(ring.CLI_NOTIFY)).toBe(0xf0);
  });
});

import { describe, expect, test } from 'vitest';
import { ProtocolError } from '../../../src/errors.js';
import { BackRing, FrontRing } from '../../../src/ring/shared-ring.js';
import { Page } from '../../../src/xen/page.js';

const SLOT_BYTES = 12;

function pair(start = 0) {
  const page = new Page(new ArrayBuffer(4096));
  const front = new FrontRing(page, SLOT_BYTES);
  // Both indices at `start`, as after that many requests: the way to a wrap is long otherwise.
  page.storeIndex(0, start);
  page.storeIndex(4, start + 1);
  page.storeIndex(8, start);
  page.storeIndex(12, start + 1);
  front.reqProd = start;
  front.rspCons = start;
  front.pushRequests();
  return { page, front, back: new BackRing(page, SLOT_BYTES) };
}

describe('a shared ring', () => {
  test('carries every request and every answer over the wrap at 2^32', () => {
    const { front, back } = pair(0xffffff80);
    let answered = 0;
    for (let round = 0; round < 20; round += 1) {
      const sent = 1 + ((round * 37) % front.freeRequests());
      for (let index = 0; index < sent; index += 1) {
        front.page.writeU32(front.slot(front.reqProd), answered + index);
        front.reqProd = (front.reqProd + 1) >>> 0;
      }
      front.pushRequests();
      expect(back.pendingRequests()).toBe(sent);
      const old = back.rspProd;
      for (let index = 0; index < sent; index += 1) {
        expect(back.page.readU32(back.slot(back.reqCons))).toBe(answered + index);
        back.reqCons = (back.reqCons + 1) >>> 0;
        back.rspProd = (back.rspProd + 1) >>> 0;
      }
      back.pushResponses(old);
      expect(front.pendingResponses()).toBe(sent);
      front.rspCons = (front.rspCons + sent) >>> 0;
      answered += sent;
    }
    expect(front.reqProd).toBeLessThan(0x10000);
    expect(answered).toBeGreaterThan(1000);
  });

  test('notifies when, and only when, the other side asked for this index', () => {
    const { front, back } = pair();
    front.reqProd = 1;
    expect(front.pushRequests()).toBe(true);
    front.reqProd = 2;
    expect(front.pushRequests()).toBe(false);
    back.reqCons = 2;
    expect(back.requestEvent(1)).toBe(0);
    front.reqProd = 3;
    expect(front.pushRequests()).toBe(true);
    back.rspProd = 1;
    expect(back.pushResponses(0)).toBe(true);
    back.rspProd = 2;
    expect(back.pushResponses(1)).toBe(false);
  });

  test('sees a request that came before its wish for an event was visible', () => {
    const { front, back } = pair();
    front.reqProd = 5;
    front.pushRequests();
    back.reqCons = 4;
    expect(back.requestEvent(1)).toBe(1);
  });

  test('refuses a producer that ran past the ring or went backwards', () => {
    for (const reqProd of [257, 0xffffffff, 0x80000000]) {
      const { page, back } = pair();
      page.storeIndex(0, reqProd);
      expect(() => back.pendingRequests()).toThrow(ProtocolError);
    }
    const { page, back } = pair();
    page.storeIndex(0, 256);
    expect(back.pendingRequests()).toBe(256);
  });

  test('refuses answers that nobody asked for', () => {
    const { page, front } = pair();
    front.reqProd = 3;
    front.pushRequests();
    page.storeIndex(8, 4);
    expect(() => front.pendingResponses()).toThrow(ProtocolError);
  });

  test('a second backend goes on where the first stopped', () => {
    const { page, front, back } = pair();
    front.reqProd = 10;
    front.pushRequests();
    back.reqCons = 6;
    back.rspProd = 4;
    back.pushResponses(0);
    const next = new BackRing(page, SLOT_BYTES);
    expect([next.reqCons, next.rspProd, next.pendingRequests()]).toEqual([4, 4, 6]);
  });
});

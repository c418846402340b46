/**
 * A shared ring (xen/io/ring.h) written and read by hand: any index, any word, nothing checked. It
 * has no code in common with src/ring, so that a mistake there is not repeated here.
 *
 *   0 req_prod   4 req_event   8 rsp_prod   12 rsp_event   64 slots
 */
import type { Page } from '../../src/xen/page.js';

export const REQ_PROD = 0;
export const REQ_EVENT = 4;
export const RSP_PROD = 8;
export const RSP_EVENT = 12;
/** `__pad`, and where the slots begin. */
export const PADDING = 16;
export const SLOTS = 64;

/** The three layouts of netif.h: the bytes of a slot and how many slots a page holds. */
export const TX_RING = { slotBytes: 12, slots: 256 };
export const RX_RING = { slotBytes: 8, slots: 256 };
export const CONTROL_RING = { slotBytes: 16, slots: 128 };

/** A slot as little-endian 32-bit words; what is missing at the end is left as it is. */
export type Words = readonly number[];

export class RawRing {
  readonly page: Page;
  readonly slotBytes: number;
  readonly slots: number;
  /** The next request to write. */
  reqProd: number;
  /** The next response to take. */
  rspCons: number;

  /** Sets a ring up in a page with all indices at `start`. */
  constructor(page: Page, layout: { slotBytes: number; slots: number }, start = 0) {
    this.page = page;
    this.slotBytes = layout.slotBytes;
    this.slots = layout.slots;
    this.reqProd = start >>> 0;
    this.rspCons = start >>> 0;
    this.setIndex(REQ_PROD, start);
    this.setIndex(RSP_PROD, start);
    this.setIndex(REQ_EVENT, start + 1);
    this.setIndex(RSP_EVENT, start + 1);
  }

  index(offset: number): number {
    return this.page.loadIndex(offset);
  }

  setIndex(offset: number, value: number): void {
    this.page.storeIndex(offset, value >>> 0);
  }

  /** The offset in the page of the slot of a free-running index. */
  at(index: number): number {
    return 64 + (index % this.slots) * this.slotBytes;
  }

  /** Writes a slot, and no index. */
  put(index: number, words: Words): void {
    for (const [position, word] of words.entries()) {
      this.page.writeU32(this.at(index) + position * 4, word >>> 0);
    }
  }

  /** Writes slots from our producer on and publishes them. Returns the index of the first. */
  push(slots: readonly Words[]): number {
    const first = this.reqProd;
    for (const words of slots) {
      this.put(this.reqProd, words);
      this.reqProd = (this.reqProd + 1) >>> 0;
    }
    this.setIndex(REQ_PROD, this.reqProd);
    return first;
  }

  /** Publishes any producer index. */
  claim(reqProd: number): void {
    this.reqProd = reqProd >>> 0;
    this.setIndex(REQ_PROD, reqProd);
  }

  /** How many responses were written and not taken. */
  get answered(): number {
    return (this.index(RSP_PROD) - this.rspCons) >>> 0;
  }

  /** Takes every response that is there, each as the words of its whole slot. */
  take(): number[][] {
    const taken: number[][] = [];
    while (this.answered > 0) {
      if (taken.length >= this.slots) throw new Error('The backend answered more than a ring.');
      const at = this.at(this.rspCons);
      const count = this.slotBytes / 4;
      taken.push(Array.from({ length: count }, (_, word) => this.page.readU32(at + word * 4)));
      this.rspCons = (this.rspCons + 1) >>> 0;
    }
    this.setIndex(RSP_EVENT, this.rspCons + 1);
    return taken;
  }
}

/**
 * The shared page of a vchan and its two byte rings (xen/io/libxenvchan.h, struct vchan_interface):
 *
 *   0 left.cons   4 left.prod   8 right.cons   12 right.prod
 *   16 left_order   18 right_order   20 cli_live   21 srv_live   22 cli_notify   23 srv_notify
 *   24 grants of the pages of the left ring, then of the right one
 *
 * Left is what the client writes, right is what the server writes. A ring of order 10 lies at byte
 * 1024 of the page and one of order 11 at byte 2048; larger ones have pages of their own.
 *
 * The invariant: an index of our own is kept here and never read back from the page, for the peer can
 * write there; an index of the peer's is read once, checked, and only then used, masked. Orders and
 * grants are read once, when a client attaches.
 */
import { ProtocolError } from '../errors.js';
import type { Page } from '../xen/page.js';
import { PAGE_SIZE } from '../xen/xen.js';

export const LEFT_CONS = 0;
export const LEFT_PROD = 4;
export const RIGHT_CONS = 8;
export const RIGHT_PROD = 12;
export const LEFT_ORDER = 16;
export const RIGHT_ORDER = 18;
export const CLI_LIVE = 20;
export const SRV_LIVE = 21;
export const CLI_NOTIFY = 22;
export const SRV_NOTIFY = 23;
export const GRANTS = 24;

/** VCHAN_NOTIFY_WRITE: tell me when you have written. */
export const NOTIFY_WRITE = 1;
/** VCHAN_NOTIFY_READ: tell me when you have read. */
export const NOTIFY_READ = 2;

/** Values of the two live bytes. */
export const LIVE_GONE = 0;
export const LIVE_CONNECTED = 1;
/** Only of the client's: none has come yet. */
export const LIVE_WAITING = 2;

const ORDER_SMALL = 10;
const ORDER_LARGE = 11;
const ORDER_PAGE = 12;
/** MAX_RING_SHIFT: the grants of two larger rings would not fit into the page. */
const ORDER_MAX = 20;

/** The largest ring, in bytes. */
export const RING_BYTES_MAX = 2 ** ORDER_MAX;

/** The sizes of both rings, as powers of two. */
export interface RingOrders {
  readonly left: number;
  readonly right: number;
}

/**
 * The smallest rings that hold so many bytes, chosen as libxenvchan_server_init chooses them: both in
 * the shared page if they fit, one of them at byte 2048 if only that fits, pages of their own else.
 */
export function ordersFor(leftBytes: number, rightBytes: number): RingOrders {
  if (leftBytes <= 2 ** ORDER_SMALL && rightBytes <= 2 ** ORDER_LARGE) {
    return { left: ORDER_SMALL, right: ORDER_LARGE };
  }
  if (leftBytes <= 2 ** ORDER_LARGE && rightBytes <= 2 ** ORDER_SMALL) {
    return { left: ORDER_LARGE, right: ORDER_SMALL };
  }
  if (leftBytes <= 2 ** ORDER_LARGE) return { left: ORDER_LARGE, right: orderOf(rightBytes) };
  if (rightBytes <= 2 ** ORDER_LARGE) return { left: orderOf(leftBytes), right: ORDER_LARGE };
  return { left: orderOf(leftBytes), right: orderOf(rightBytes) };
}

function orderOf(bytes: number): number {
  let order = ORDER_PAGE;
  while (2 ** order < bytes) order += 1;
  return order;
}

/** How many pages of its own a ring has; none where it lies in the shared page. */
export function ringPages(order: number): number {
  return order < ORDER_PAGE ? 0 : 2 ** (order - ORDER_PAGE);
}

/**
 * @throws ProtocolError VCHAN_ORDERS_INVALID when a size is not allowed, when both rings would lie at
 *   one place of the page, or when the list of grants would run into a ring.
 */
export function checkOrders({ left, right }: RingOrders): void {
  const allowed = [left, right].every((order) => order >= ORDER_SMALL && order <= ORDER_MAX);
  if (!allowed || (left === right && left < ORDER_PAGE)) throw invalidOrders(left, right);
  const grantsEnd = GRANTS + 4 * (ringPages(left) + ringPages(right));
  const ringsStart = Math.min(startInPage(left), startInPage(right));
  if (grantsEnd > ringsStart) throw invalidOrders(left, right);
}

function startInPage(order: number): number {
  return order < ORDER_PAGE ? 2 ** order : PAGE_SIZE;
}

function invalidOrders(left: number, right: number): ProtocolError {
  return new ProtocolError(
    'VCHAN_ORDERS_INVALID',
    `The peer's rings have the orders ${left} and ${right}, which no vchan has.`,
  );
}

/** Writes what stands in a fresh shared page before a client sees it, as libxenvchan does. */
export function initialisePage(page: Page, orders: RingOrders, refs: readonly number[]): void {
  page.writeU16(LEFT_ORDER, orders.left);
  page.writeU16(RIGHT_ORDER, orders.right);
  refs.forEach((ref, index) => {
    page.writeU32(GRANTS + 4 * index, ref);
  });
  page.writeU8(CLI_LIVE, LIVE_WAITING);
  page.writeU8(SRV_LIVE, LIVE_CONNECTED);
  page.writeU8(CLI_NOTIFY, NOTIFY_WRITE);
}

/** What a client takes from the page when it attaches; later changes of it mean nothing. */
export interface PageSnapshot {
  readonly orders: RingOrders;
  readonly leftRefs: readonly number[];
  readonly rightRefs: readonly number[];
}

/** @throws ProtocolError VCHAN_ORDERS_INVALID, as `checkOrders`. */
export function readPage(page: Page): PageSnapshot {
  const orders = { left: page.readU16(LEFT_ORDER), right: page.readU16(RIGHT_ORDER) };
  checkOrders(orders);
  const left = ringPages(orders.left);
  const refs = Array.from({ length: left + ringPages(orders.right) }, (_, index) =>
    page.readU32(GRANTS + 4 * index),
  );
  return { orders, leftRefs: refs.slice(0, left), rightRefs: refs.slice(left) };
}

/** The bytes of one ring: a part of the shared page, or pages of its own. */
export class RingMemory {
  /** A power of two. */
  readonly size: number;
  readonly #pages: readonly Page[];
  /** Where the ring begins in its first page. */
  readonly #start: number;
  /** How many of its bytes lie in one page. */
  readonly #stride: number;

  /** `pages` are the ring's own, as many as `ringPages` says. */
  constructor(order: number, shared: Page, pages: readonly Page[]) {
    this.size = 2 ** order;
    this.#pages = order < ORDER_PAGE ? [shared] : pages;
    this.#start = order < ORDER_PAGE ? 2 ** order : 0;
    this.#stride = Math.min(this.size, PAGE_SIZE);
  }

  /** Copies `length` bytes, at most `size`, from the free-running `index` on into `target`. */
  copyOut(index: number, target: Uint8Array, offset: number, length: number): void {
    for (let done = 0; done < length; ) {
      const place = (index + done) & (this.size - 1);
      const inPage = place % this.#stride;
      const count = Math.min(length - done, this.#stride - inPage);
      const from = this.#start + inPage;
      const { bytes } = this.#pages[(place - inPage) / this.#stride] as Page;
      target.set(bytes.subarray(from, from + count), offset + done);
      done += count;
    }
  }

  /** Copies `length` bytes, at most `size`, of `source` to the free-running `index` and on. */
  copyIn(index: number, source: Uint8Array, offset: number, length: number): void {
    for (let done = 0; done < length; ) {
      const place = (index + done) & (this.size - 1);
      const inPage = place % this.#stride;
      const count = Math.min(length - done, this.#stride - inPage);
      const { bytes } = this.#pages[(place - inPage) / this.#stride] as Page;
      bytes.set(source.subarray(offset + done, offset + done + count), this.#start + inPage);
      done += count;
    }
  }
}

/** Which of the two ends of a vchan. */
export type VchanSide = 'server' | 'client';

/** The ring that we read: the peer produces, we consume. */
export class RingReader {
  readonly #page: Page;
  readonly #memory: RingMemory;
  readonly #consOffset: number;
  readonly #prodOffset: number;
  #cons: number;

  /** Goes on where the page says that the ring was read to: 0 in a fresh one. */
  constructor(page: Page, side: VchanSide, memory: RingMemory) {
    this.#page = page;
    this.#memory = memory;
    this.#consOffset = side === 'server' ? LEFT_CONS : RIGHT_CONS;
    this.#prodOffset = side === 'server' ? LEFT_PROD : RIGHT_PROD;
    this.#cons = page.loadIndex(this.#consOffset);
  }

  get size(): number {
    return this.#memory.size;
  }

  /**
   * How many bytes wait to be read.
   * @throws ProtocolError VCHAN_INDEX_INVALID when the peer claims more than the ring holds.
   */
  available(): number {
    const prod = this.#page.loadIndex(this.#prodOffset);
    const count = (prod - this.#cons) >>> 0;
    if (count <= this.#memory.size) return count;
    throw invalidIndex(`has written ${count} bytes`, this.#memory.size);
  }

  /** Takes `length` bytes, of which `available` has told, and lets the peer write there again. */
  read(target: Uint8Array, offset: number, length: number): void {
    this.#memory.copyOut(this.#cons, target, offset, length);
    this.#cons = (this.#cons + length) >>> 0;
    this.#page.storeIndex(this.#consOffset, this.#cons);
  }
}

/** The ring that we write: we produce, the peer consumes. */
export class RingWriter {
  readonly #page: Page;
  readonly #memory: RingMemory;
  readonly #consOffset: number;
  readonly #prodOffset: number;
  #prod: number;

  /** Goes on where the page says that the ring was written to: 0 in a fresh one. */
  constructor(page: Page, side: VchanSide, memory: RingMemory) {
    this.#page = page;
    this.#memory = memory;
    this.#consOffset = side === 'server' ? RIGHT_CONS : LEFT_CONS;
    this.#prodOffset = side === 'server' ? RIGHT_PROD : LEFT_PROD;
    this.#prod = page.loadIndex(this.#prodOffset);
  }

  get size(): number {
    return this.#memory.size;
  }

  /**
   * How many bytes the peer has not read yet.
   * @throws ProtocolError VCHAN_INDEX_INVALID when it claims to have read what was never written.
   */
  unread(): number {
    const count = (this.#prod - this.#page.loadIndex(this.#consOffset)) >>> 0;
    if (count <= this.#memory.size) return count;
    throw invalidIndex(`has left ${count} bytes unread`, this.#memory.size);
  }

  /** How many bytes can be written now. @throws ProtocolError, as `unread`. */
  space(): number {
    return this.#memory.size - this.unread();
  }

  /** Writes `length` bytes, of which `space` has told, and shows them to the peer at once. */
  write(source: Uint8Array, offset: number, length: number): void {
    this.#memory.copyIn(this.#prod, source, offset, length);
    this.#prod = (this.#prod + length) >>> 0;
    this.#page.storeIndex(this.#prodOffset, this.#prod);
  }
}

function invalidIndex(what: string, size: number): ProtocolError {
  const text = `The peer claims that it ${what} in a ring of ${size}.`;
  return new ProtocolError('VCHAN_INDEX_INVALID', text);
}

/** The bytes of the page by which the two ends tell each other that they live, and when to wake. */
export class VchanSignals {
  readonly #page: Page;
  readonly #ownLive: number;
  readonly #peerLive: number;
  readonly #ownWishes: number;
  readonly #peerWishes: number;

  constructor(page: Page, side: VchanSide) {
    this.#page = page;
    const isServer = side === 'server';
    this.#ownLive = isServer ? SRV_LIVE : CLI_LIVE;
    this.#peerLive = isServer ? CLI_LIVE : SRV_LIVE;
    // Each end reads the wishes of the other in the byte that bears its own name.
    this.#ownWishes = isServer ? CLI_NOTIFY : SRV_NOTIFY;
    this.#peerWishes = isServer ? SRV_NOTIFY : CLI_NOTIFY;
  }

  /** The peer's live byte as it is now. */
  get peerLive(): number {
    return this.#page.readU8(this.#peerLive);
  }

  setLive(value: number): void {
    this.#page.writeU8(this.#ownLive, value);
  }

  /** Asks the peer for an event; what it does from now on is either seen or told. */
  ask(bit: number): void {
    this.#page.fetchOrU8(this.#ownWishes, bit);
  }

  /** As a client that comes: asks for events on writes, whatever was asked before it. */
  askAnew(): void {
    this.#page.writeU8(this.#ownWishes, NOTIFY_WRITE);
  }

  /** Whether the peer wants an event for what we have just done; it must ask again for the next. */
  isAsked(bit: number): boolean {
    return (this.#page.fetchAndU8(this.#peerWishes, ~bit & 0xff) & bit) !== 0;
  }
}

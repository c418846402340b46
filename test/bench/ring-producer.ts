/**
 * A guest that does nothing but send: its frames lie ready in pages that are granted once, and a
 * turn writes requests for as many as the ring has room for. What it costs is a few stores a frame.
 */

import { RX_SLOT_BYTES } from '../../dist/ring/netif-rx.js';
import { TX_SLOT_BYTES, writeTxRequest } from '../../dist/ring/netif-tx.js';
import { FrontRing } from '../../dist/ring/shared-ring.js';
import type { EventChannel, SharedPages, Xen } from '../../dist/xen/xen.js';

export class RingProducer {
  readonly #pages: SharedPages;
  readonly #tx: FrontRing;
  readonly #channel: EventChannel;
  readonly #frameBytes: number;
  readonly #request = { gref: 0, offset: 0, flags: 0, id: 0, size: 0 };
  sent = 0;

  private constructor(pages: SharedPages, tx: FrontRing, channel: EventChannel, bytes: number) {
    this.#pages = pages;
    this.#tx = tx;
    this.#channel = channel;
    this.#frameBytes = bytes;
  }

  /** Does a frontend's part of the handshake for interface 0 of `xen`'s domain. */
  static async connect(xen: Xen, frameBytes: number): Promise<RingProducer> {
    const rings = xen.grants.share(0, 2, 'write');
    const [txPage, rxPage] = rings.pages;
    if (txPage === undefined || rxPage === undefined) throw new Error('No pages.');
    const tx = new FrontRing(txPage, TX_SLOT_BYTES);
    new FrontRing(rxPage, RX_SLOT_BYTES);
    const pages = xen.grants.share(0, tx.size, 'read');
    for (const page of pages.pages) page.bytes.fill(0x5a, 0, frameBytes);
    const channel = xen.events.allocate(0, () => channel.unmask());
    const base = `/local/domain/${xen.domid}/device/vif/0`;
    const nodes = {
      'tx-ring-ref': String(rings.refs[0]),
      'rx-ring-ref': String(rings.refs[1]),
      'event-channel': String(channel.port),
      'request-rx-copy': '1',
      state: '4',
    };
    for (const [name, value] of Object.entries(nodes)) {
      await xen.store.write(`${base}/${name}`, value);
    }
    return new RingProducer(pages, tx, channel, frameBytes);
  }

  /** Fills the ring and rings the bell. Returns how many frames went in. */
  turn(): number {
    const tx = this.#tx;
    tx.rspCons = (tx.rspCons + tx.pendingResponses()) >>> 0;
    const room = tx.freeRequests();
    const request = this.#request;
    request.size = this.#frameBytes;
    for (let index = 0; index < room; index += 1) {
      const id = tx.reqProd & (tx.size - 1);
      request.id = id;
      request.gref = this.#pages.refs[id] as number;
      writeTxRequest(tx.page, tx.slot(tx.reqProd), request);
      tx.reqProd = (tx.reqProd + 1) >>> 0;
    }
    if (room > 0 && tx.pushRequests()) this.#channel.notify();
    this.sent += room;
    return room;
  }
}

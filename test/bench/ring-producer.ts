/**
 * A guest that does nothing but send: its frames lie ready in pages that are granted once, and a
 * turn writes requests for as many as the ring has room for. What it costs is a few stores a frame.
 */

import { RX_SLOT_BYTES } from '../../dist/ring/netif-rx.js';
import { TX_SLOT_BYTES } from '../../dist/ring/netif-tx.js';
import { FrontRing } from '../../dist/ring/shared-ring.js';
import type { EventChannel, SharedPages, Xen } from '../../dist/xen/xen.js';

export class RingProducer {
  readonly #tx: FrontRing;
  readonly #channel: EventChannel;
  /** A request for every slot, as it always is. */
  readonly #requests: Uint32Array;
  sent = 0;
  /** Called when there may be room on the ring. */
  onRoom: () => void = () => undefined;

  private constructor(pages: SharedPages, tx: FrontRing, channel: EventChannel, bytes: number) {
    this.#tx = tx;
    this.#channel = channel;
    this.#requests = new Uint32Array(tx.size * 3);
    for (const [id, ref] of pages.refs.entries()) {
      this.#requests.set([ref, 0, id | (bytes << 16)], id * 3);
    }
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
    const channel = xen.events.allocate(0, () => producer.onRoom());
    const producer = new RingProducer(pages, tx, channel, frameBytes);
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
    return producer;
  }

  /** Fills the ring and rings the bell. Returns how many frames went in. */
  turn(): number {
    const tx = this.#tx;
    tx.rspCons = (tx.rspCons + tx.pendingResponses()) >>> 0;
    const room = tx.freeRequests();
    const first = Math.min(room, tx.size - (tx.reqProd & (tx.size - 1)));
    this.#write(first);
    if (room > first) this.#write(room - first);
    if (room > 0 && tx.pushRequests()) this.#channel.notify();
    this.sent += room;
    return room;
  }

  /** Has `onRoom` called as soon as the backend has answered something. */
  awaitRoom(): void {
    if (this.#tx.requestEvent() > 0) this.onRoom();
    this.#channel.unmask();
  }

  /** Writes the next `count` requests, which lie in one piece. */
  #write(count: number): void {
    const tx = this.#tx;
    const slot = tx.reqProd & (tx.size - 1);
    tx.page.writeWords(tx.slot(tx.reqProd), this.#requests, slot * 3, count * 3);
    tx.reqProd = (tx.reqProd + count) >>> 0;
  }
}

/**
 * A backend played by hand, in a driver domain of its own: it offers what a test says, maps the
 * rings that a frontend of ours announces, and then does with them whatever the test likes.
 */
import { RX_SLOT_BYTES, writeRxResponse } from '../../../../src/ring/netif-rx.js';
import {
  readTxRequest,
  TX_SLOT_BYTES,
  type TxRequest,
  writeTxResponse,
} from '../../../../src/ring/netif-tx.js';
import { BackRing } from '../../../../src/ring/shared-ring.js';
import { CopyBatch } from '../../../../src/xen/copy-batch.js';
import type { EmulatedXen } from '../../../../src/xen/emulated/emulated-xen.js';
import type { Domain } from '../../../../src/xen/emulated/index.js';
import type { EventChannel, MappedPage, Store } from '../../../../src/xen/xen.js';
import { until } from '../../../support/machine.js';

/** What a backend like Linux's offers, apart from queues and a control ring. */
export const EVERYTHING: Readonly<Record<string, string>> = {
  'feature-rx-copy': '1',
  'feature-rx-flip': '0',
  'feature-sg': '1',
  'feature-gso-tcpv4': '1',
  'feature-gso-tcpv6': '1',
  'feature-ipv6-csum-offload': '1',
  'feature-split-event-channels': '1',
};

export interface RawQueue {
  readonly tx: BackRing;
  readonly rx: BackRing;
  /** Events heard from the frontend. */
  events: number;
  notify(): void;
}

/** A TX packet as a backend sees it. */
export interface RawPacket {
  readonly requests: readonly TxRequest[];
  /** The words of each extra. */
  readonly extras: readonly (readonly [number, number])[];
  readonly frame: Buffer;
}

export class RawBackend {
  readonly domain: Domain;
  readonly xen: EmulatedXen;
  guestDomid: number;
  readonly queues: RawQueue[] = [];
  readonly #toolstack: Store;
  readonly #pages: MappedPage[] = [];
  readonly #channels: EventChannel[] = [];

  constructor(toolstack: Store, domain: Domain, xen: EmulatedXen, guestDomid: number) {
    this.#toolstack = toolstack;
    this.domain = domain;
    this.xen = xen;
    this.guestDomid = guestDomid;
  }

  get path(): string {
    return `/local/domain/${this.domain.domid}/backend/vif/${this.guestDomid}/0`;
  }

  get frontendPath(): string {
    return `/local/domain/${this.guestDomid}/device/vif/0`;
  }

  async write(nodes: Readonly<Record<string, string>>): Promise<void> {
    for (const [name, value] of Object.entries(nodes)) {
      await this.xen.store.write(`${this.path}/${name}`, value);
    }
  }

  async state(state: number): Promise<void> {
    await this.write({ state: String(state) });
  }

  /** Reads a node of the frontend's directory, as the backend that may. */
  async frontend(name: string): Promise<string | undefined> {
    return await this.#toolstack.readIfExists(`${this.frontendPath}/${name}`);
  }

  async untilFrontend(state: number): Promise<void> {
    let seen: string | undefined;
    let looking = false;
    await until(`the frontend is in state ${state}`, () => {
      if (!looking) {
        looking = true;
        void this.frontend('state').then((value) => {
          seen = value;
          looking = false;
        });
      }
      return seen === String(state);
    });
  }

  /** Offers, waits for the frontend's keys and connects to its queues. */
  async connect(offer: Readonly<Record<string, string>> = EVERYTHING): Promise<void> {
    await this.write({ ...offer, state: '2' });
    await this.untilFrontend(4);
    await this.mapRings();
    await this.state(4);
  }

  async mapRings(): Promise<void> {
    const count = Number((await this.frontend('multi-queue-num-queues')) ?? '1');
    for (let index = 0; index < count; index += 1) {
      const prefix = count === 1 ? '' : `queue-${index}/`;
      const number = async (name: string) => Number(await this.frontend(`${prefix}${name}`));
      const isSplit = (await this.frontend(`${prefix}event-channel`)) === undefined;
      const queue: RawQueue = {
        tx: new BackRing(this.#map(await number('tx-ring-ref')), TX_SLOT_BYTES),
        rx: new BackRing(this.#map(await number('rx-ring-ref')), RX_SLOT_BYTES),
        events: 0,
        notify: () => {
          for (const channel of channels) channel.notify();
        },
      };
      const names = isSplit ? ['event-channel-tx', 'event-channel-rx'] : ['event-channel'];
      const ports = await Promise.all(names.map(number));
      const channels = ports.map((port) => {
        const channel = this.xen.events.bind(this.guestDomid, port, () => {
          queue.events += 1;
          channel.unmask();
        });
        this.#channels.push(channel);
        return channel;
      });
      this.queues.push(queue);
    }
  }

  /** Lets go of rings and ports. */
  unmap(): void {
    for (const channel of this.#channels.splice(0)) channel.close();
    for (const page of this.#pages.splice(0)) page.unmap();
    this.queues.length = 0;
  }

  /** Lets go, and says so where its directory is still there. */
  async letGo(): Promise<void> {
    this.unmap();
    if ((await this.#toolstack.readIfExists(`${this.path}/state`)) !== undefined) {
      await this.state(6);
    }
  }

  /** Takes the next packet off a TX ring, without an answer; undefined when there is none. */
  take(queue: RawQueue): RawPacket | undefined {
    const ring = queue.tx;
    if (ring.pendingRequests() === 0) return undefined;
    const requests: TxRequest[] = [];
    const extras: [number, number][] = [];
    for (let more = true; more; ) {
      const request = { gref: 0, offset: 0, flags: 0, id: 0, size: 0 };
      const words = new Uint32Array(3);
      ring.readRequests(words, 1);
      readTxRequest(words, 0, request);
      ring.reqCons += 1;
      requests.push(request);
      more = (request.flags & 4) !== 0;
      for (let extra = (request.flags & 8) !== 0; extra; ) {
        const slot = ring.slot(ring.reqCons);
        ring.reqCons += 1;
        const words = [ring.page.readU32(slot), ring.page.readU32(slot + 4)] as [number, number];
        extras.push(words);
        extra = ((words[0] >>> 8) & 1) !== 0;
      }
    }
    return { requests, extras, frame: this.#read(requests) };
  }

  /** Answers a packet in ring order: its first slot, its extras, its other slots. */
  answer(queue: RawQueue, packet: RawPacket, status = 0): void {
    const [first, ...others] = packet.requests;
    if (first === undefined) return;
    this.respondTx(queue, first.id, status);
    for (const _ of packet.extras) this.respondTx(queue, 0x1234, 1);
    for (const { id } of others) this.respondTx(queue, id, status);
    this.pushTx(queue);
  }

  respondTx(queue: RawQueue, id: number, status: number): void {
    const ring = queue.tx;
    writeTxResponse(ring.page, ring.slot(ring.rspProd), id, status);
    ring.rspProd += 1;
  }

  pushTx(queue: RawQueue): void {
    queue.tx.page.storeIndex(8, queue.tx.rspProd);
    queue.notify();
  }

  /** What a whole granted page holds, as a backend can read it. */
  page(gref: number): Buffer {
    return this.#copyIn(gref, 0, 4096);
  }

  /** Fills the next posted buffer and answers it; `pushRx` publishes. */
  fill(queue: RawQueue, data: Uint8Array, flags = 0, offset = 0): void {
    const ring = queue.rx;
    const slot = ring.slot(ring.reqCons);
    const id = ring.page.readU16(slot);
    const gref = ring.page.readU32(slot + 4);
    ring.reqCons += 1;
    if (data.length > 0) this.#copyOut(gref, offset, data);
    this.respondRx(queue, id, offset, flags, data.length);
  }

  respondRx(queue: RawQueue, id: number, offset: number, flags: number, status: number): void {
    const ring = queue.rx;
    writeRxResponse(ring.page, ring.slot(ring.rspProd), id, offset, flags, status);
    ring.rspProd += 1;
  }

  /** Puts an extra where a response would be. */
  extraRx(queue: RawQueue, head: number, tail: number): void {
    const ring = queue.rx;
    const slot = ring.slot(ring.rspProd);
    ring.page.writeU32(slot, head);
    ring.page.writeU32(slot + 4, tail);
    ring.reqCons += 1;
    ring.rspProd += 1;
  }

  pushRx(queue: RawQueue): void {
    queue.rx.page.storeIndex(8, queue.rx.rspProd);
    queue.notify();
  }

  async end(): Promise<void> {
    this.unmap();
    await this.xen.close();
  }

  #map(ref: number) {
    const mapped = this.xen.grants.map(this.guestDomid, ref, 'write');
    this.#pages.push(mapped);
    return mapped.page;
  }

  /** Follows netif.h: the first slot has the size of all, the others have their own. */
  #read(requests: readonly TxRequest[]): Buffer {
    const [first, ...others] = requests;
    if (first === undefined) return Buffer.alloc(0);
    const rest = others.reduce((sum, { size }) => sum + size, 0);
    const parts = [{ ...first, size: first.size - rest }, ...others];
    return Buffer.concat(parts.map(({ gref, offset, size }) => this.#copyIn(gref, offset, size)));
  }

  #copyIn(gref: number, offset: number, length: number): Buffer {
    const region = this.xen.memory.allocate(4096);
    const batch = new CopyBatch(this.xen.memory, 1);
    batch.fromGrant(this.guestDomid, gref, offset, region.offset, length);
    this.xen.grants.copy(batch);
    if (batch.status(0) !== 0) throw new Error(`Grant ${gref} cannot be read.`);
    const start = region.offset;
    const bytes = Buffer.from(this.xen.memory.bytes.subarray(start, start + length));
    region.free();
    return bytes;
  }

  #copyOut(gref: number, offset: number, data: Uint8Array): void {
    const region = this.xen.memory.allocate(4096);
    const batch = new CopyBatch(this.xen.memory, 1);
    this.xen.memory.bytes.set(data, region.offset);
    batch.toGrant(this.guestDomid, gref, offset, region.offset, data.length);
    this.xen.grants.copy(batch);
    region.free();
    if (batch.status(0) !== 0) throw new Error(`Grant ${gref} cannot be written.`);
  }
}

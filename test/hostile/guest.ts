/**
 * A frontend that obeys nobody. It shakes hands as netif.h wants it, or otherwise where told, and
 * then writes what it likes into its rings, its grant table and its part of XenStore. Its memory is
 * the domain's own (see RawGuest), so nothing here stands between a test and the backend.
 */
import type { Domain } from '../../src/xen/emulated/index.js';
import type { ReadHook } from '../../src/xen/emulated/watched-page.js';
import type { Page } from '../../src/xen/page.js';
import type { EventChannel, Xen } from '../../src/xen/xen.js';
import { until } from '../support/machine.js';
import { CONTROL_RING, RawRing, RX_RING, TX_RING, type Words } from './raw-ring.js';
import {
  type ControlResponse,
  controlResponse,
  type RxResponse,
  rxRequest,
  rxResponse,
  type TxResponse,
  txResponse,
} from './slots.js';

/** A value of a node; undefined removes it. */
export type Nodes = Readonly<Record<string, string | Uint8Array | undefined>>;

export interface HandshakeOptions {
  /** How many queues; 1 writes the flat keys. */
  readonly queues?: number;
  /** Own event channels for TX and RX. */
  readonly split?: boolean;
  /** A control ring as well. */
  readonly control?: boolean;
  /** Where the indices of all rings begin. */
  readonly start?: number;
  /** Nodes written over those of the correct handshake. */
  readonly nodes?: Nodes;
  /** Gives for a ring page what shall run after each read of the backend's. */
  readonly watch?: (page: Page, kind: RingKind) => ReadHook | undefined;
}

export type RingKind = 'tx' | 'rx' | 'control';

/** A page of the guest under a grant of the backend's. */
export interface GrantedPage {
  readonly page: Page;
  readonly ref: number;
}

/** One pair of rings. */
export class HostileQueue {
  readonly tx: RawRing;
  readonly rx: RawRing;
  readonly txRef: number;
  readonly rxRef: number;
  readonly txChannel: EventChannel;
  readonly rxChannel: EventChannel;
  txEvents = 0;
  rxEvents = 0;

  constructor(guest: HostileGuest, options: HandshakeOptions) {
    const start = options.start ?? 0;
    const tx = guest.ringPage('tx', options);
    const rx = guest.ringPage('rx', options);
    this.tx = new RawRing(tx, TX_RING, start);
    this.rx = new RawRing(rx, RX_RING, start);
    this.txRef = guest.grant(tx);
    this.rxRef = guest.grant(rx);
    this.txChannel = guest.channel(() => {
      this.txEvents += 1;
    });
    this.rxChannel = options.split
      ? guest.channel(() => {
          this.rxEvents += 1;
        })
      : this.txChannel;
  }

  /** Puts slots on the TX ring, publishes them and shouts. */
  send(slots: readonly Words[]): void {
    this.tx.push(slots);
    this.txChannel.notify();
  }

  /** Waits until `count` responses are there and takes all that are. */
  async answers(count: number): Promise<TxResponse[]> {
    await until(`${count} requests are answered`, () => this.tx.answered >= count);
    return this.takeTx();
  }

  takeTx(): TxResponse[] {
    return this.tx.take().map(txResponse);
  }

  /** Posts RX buffers, ids from `firstId` on, and shouts. */
  post(refs: readonly number[], firstId = 0): void {
    this.rx.push(refs.map((ref, index) => rxRequest((firstId + index) & 0xffff, ref)));
    this.rxChannel.notify();
  }

  /** Waits until `count` buffers are answered and takes all that are. */
  async received(count: number): Promise<RxResponse[]> {
    await until(`${count} buffers are answered`, () => this.rx.answered >= count);
    return this.takeRx();
  }

  takeRx(): RxResponse[] {
    return this.rx.take().map(rxResponse);
  }
}

export class HostileGuest {
  readonly domain: Domain;
  readonly xen: Xen;
  readonly handle: number;
  readonly queues: HostileQueue[] = [];
  control: RawRing | undefined;
  controlChannel: EventChannel | undefined;
  controlEvents = 0;
  readonly #pages: GrantedPage[] = [];
  readonly #channels = new Set<EventChannel>();
  #ended = false;

  constructor(domain: Domain, xen: Xen, handle = 0) {
    this.domain = domain;
    this.xen = xen;
    this.handle = handle;
  }

  get domid(): number {
    return this.domain.domid;
  }

  /** The frontend's directory. */
  get base(): string {
    return `/local/domain/${this.domid}/device/vif/${this.handle}`;
  }

  /** The first queue, which every connected guest has. */
  get queue(): HostileQueue {
    const [queue] = this.queues;
    if (queue === undefined) throw new Error('The guest has no rings yet.');
    return queue;
  }

  /** Makes rings and ports, and writes what tells the backend of them, with state Connected. */
  async shake(options: HandshakeOptions = {}): Promise<void> {
    await this.write({ ...this.offer(options), ...options.nodes });
  }

  /** Makes rings and ports; returns the nodes of a correct handshake. */
  offer(options: HandshakeOptions = {}): Nodes {
    const count = options.queues ?? 1;
    const nodes: Record<string, string | undefined> = {
      'multi-queue-num-queues': count === 1 ? undefined : String(count),
      'request-rx-copy': '1',
      'feature-rx-notify': '1',
      'feature-sg': '1',
      'feature-gso-tcpv4': '1',
      'feature-gso-tcpv6': '1',
      'feature-ipv6-csum-offload': '1',
    };
    for (let index = 0; index < count; index += 1) {
      const queue = new HostileQueue(this, options);
      this.queues.push(queue);
      const prefix = count === 1 ? '' : `queue-${index}/`;
      nodes[`${prefix}tx-ring-ref`] = String(queue.txRef);
      nodes[`${prefix}rx-ring-ref`] = String(queue.rxRef);
      const { split = false } = options;
      nodes[`${prefix}event-channel`] = split ? undefined : String(queue.txChannel.port);
      nodes[`${prefix}event-channel-tx`] = split ? String(queue.txChannel.port) : undefined;
      nodes[`${prefix}event-channel-rx`] = split ? String(queue.rxChannel.port) : undefined;
    }
    if (options.control) Object.assign(nodes, this.#offerControl(options));
    return { ...nodes, state: '4' };
  }

  /** Sends control requests and waits for as many answers. */
  async ask(requests: readonly Words[]): Promise<ControlResponse[]> {
    const { control } = this;
    if (control === undefined) throw new Error('The guest has no control ring.');
    control.push(requests);
    this.controlChannel?.notify();
    await until('the control requests are answered', () => control.answered >= requests.length);
    return control.take().map(controlResponse);
  }

  /** Writes nodes of the frontend's directory in one transaction. */
  async write(nodes: Nodes): Promise<void> {
    await this.xen.store.transaction(async (transaction) => {
      for (const [name, value] of Object.entries(nodes)) {
        if (value === undefined) await transaction.rm(`${this.base}/${name}`);
        else await transaction.write(`${this.base}/${name}`, value);
      }
    });
  }

  async setState(state: string): Promise<void> {
    await this.xen.store.write(`${this.base}/state`, state);
  }

  /** A zeroed page, or one with `content` at its start, under a grant of the backend's. */
  page(content?: Uint8Array, access: 'read' | 'write' = 'write'): GrantedPage {
    const page = this.domain.raw.allocatePage();
    if (content !== undefined) page.bytes.set(content);
    return { page, ref: this.grant(page, access) };
  }

  /** A zeroed page for a ring, watched if the options say so. */
  ringPage(kind: RingKind, options: HandshakeOptions): Page {
    const page = this.domain.raw.allocatePage();
    const hook = options.watch?.(page, kind);
    if (hook !== undefined) this.domain.raw.watchReads(page, hook);
    return page;
  }

  grant(page: Page, access: 'read' | 'write' = 'write', domid = 0): number {
    const ref = this.domain.raw.grantPage(page, domid, access);
    this.#pages.push({ page, ref });
    return ref;
  }

  /** An event channel for the backend; it is unmasked at once after each event. */
  channel(onEvent: () => void = () => undefined): EventChannel {
    const channel: EventChannel = this.xen.events.allocate(0, () => {
      onEvent();
      channel.unmask();
    });
    this.#channels.add(channel);
    return channel;
  }

  close(channel: EventChannel): void {
    this.#channels.delete(channel);
    channel.close();
  }

  /** How often the ring pages of all queues are mapped. */
  get mappings(): number {
    return this.#pages.reduce((sum, { ref }) => sum + this.domain.raw.mappings(ref), 0);
  }

  /** Takes every grant back and closes every port. The pages stay the domain's. */
  forget(): void {
    const granted = this.#pages.splice(0);
    for (const { ref } of granted) {
      if (this.domain.grantTable.entry(ref) !== undefined) this.domain.raw.revoke(ref);
    }
    for (const page of new Set(granted.map(({ page }) => page))) this.domain.raw.freePage(page);
    for (const channel of this.#channels) channel.close();
    this.#channels.clear();
    this.queues.length = 0;
    this.control = undefined;
    this.controlChannel = undefined;
  }

  /** Ends the guest's process; called once, also after the domain has died. */
  async end(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    if (this.domain.alive) {
      this.forget();
      await this.xen.close();
    }
  }

  #offerControl(options: HandshakeOptions): Record<string, string> {
    const page = this.ringPage('control', options);
    this.control = new RawRing(page, CONTROL_RING, options.start);
    this.controlChannel = this.channel(() => {
      this.controlEvents += 1;
    });
    return {
      'ctrl-ring-ref': String(this.grant(page)),
      'event-channel-ctrl': String(this.controlChannel.port),
    };
  }
}

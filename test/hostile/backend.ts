/**
 * A backend that obeys nobody, in a driver domain of its own, against our netfront. It shakes hands
 * as netif.h wants it and then writes into the frontend's rings what it likes.
 */
import { randomUUID } from 'node:crypto';
import { type Logger, pino } from 'pino';
import { plugVif } from '../../src/device/netback/toolstack.js';
import type { NetfrontDevice } from '../../src/device/netfront/device.js';
import { Netfront } from '../../src/device/netfront/index.js';
import type { Domain } from '../../src/xen/emulated/index.js';
import type { EventChannel, MappedPage, Xen } from '../../src/xen/xen.js';
import { type Machine, until } from '../support/machine.js';
import { REQ_EVENT, REQ_PROD, RSP_PROD, RX_RING, TX_RING, type Words } from './raw-ring.js';

/** A ring of the frontend's, from the backend's side, by hand. */
export class BackHalf {
  readonly mapped: MappedPage;
  readonly slotBytes: number;
  rspProd = 0;
  reqCons = 0;

  constructor(mapped: MappedPage, layout: { slotBytes: number }) {
    this.mapped = mapped;
    this.slotBytes = layout.slotBytes;
  }

  get reqProd(): number {
    return this.mapped.page.loadIndex(REQ_PROD);
  }

  get pending(): number {
    return (this.reqProd - this.reqCons) >>> 0;
  }

  /** The words of a request slot. */
  request(index: number): number[] {
    const at = 64 + (index % 256) * this.slotBytes;
    const { page } = this.mapped;
    return Array.from({ length: this.slotBytes / 4 }, (_, word) => page.readU32(at + word * 4));
  }

  /** Takes all requests that are there. */
  take(): number[][] {
    const taken: number[][] = [];
    while (this.pending > 0 && taken.length < 256) {
      taken.push(this.request(this.reqCons));
      this.reqCons = (this.reqCons + 1) >>> 0;
    }
    this.mapped.page.storeIndex(REQ_EVENT, this.reqCons + 1);
    return taken;
  }

  /** Writes responses from our producer on and publishes them. */
  push(responses: readonly Words[]): void {
    const { page } = this.mapped;
    for (const words of responses) {
      const at = 64 + (this.rspProd % 256) * this.slotBytes;
      for (const [position, word] of words.entries()) page.writeU32(at + position * 4, word >>> 0);
      this.rspProd = (this.rspProd + 1) >>> 0;
    }
    page.storeIndex(RSP_PROD, this.rspProd);
  }

  claim(rspProd: number): void {
    this.mapped.page.storeIndex(RSP_PROD, rspProd);
  }
}

/** An RX response as two words. */
export function rxAnswer(id: number, offset: number, flags: number, status: number): Words {
  return [id | (offset << 16), (flags & 0xffff) | ((status & 0xffff) << 16)];
}

/** A TX response as one word. */
export function txAnswer(id: number, status: number): Words {
  return [(id & 0xffff) | ((status & 0xffff) << 16)];
}

export class HostileBackend {
  readonly domain: Domain;
  readonly xen: Xen;
  /** The domain of the frontend. */
  readonly guest: Domain;
  readonly guestXen: Xen;
  readonly netfront: Netfront;
  /** What the frontend logged as an error, by code. */
  readonly audit: string[];
  /** Frames that the frontend received. */
  readonly received: Uint8Array[] = [];
  tx: BackHalf | undefined;
  rx: BackHalf | undefined;
  readonly #channels: EventChannel[] = [];

  private constructor(
    machine: { domain: Domain; xen: Xen; guest: Domain; guestXen: Xen },
    logger: Logger,
    audit: string[],
  ) {
    this.domain = machine.domain;
    this.xen = machine.xen;
    this.guest = machine.guest;
    this.guestXen = machine.guestXen;
    this.audit = audit;
    this.netfront = new Netfront(this.guestXen, logger, (device) => {
      void device.listen((frame) => this.received.push(frame));
    });
  }

  /** A driver domain and a guest whose netfront has found its vif there. */
  static async open(machine: Machine): Promise<HostileBackend> {
    const { hypervisor } = machine;
    const domain = await hypervisor.createDomain({ name: 'driver' });
    const guest = await hypervisor.createDomain({ name: 'victim' });
    const xen = await domain.open({ localMemoryBytes: 1 << 20 });
    const guestXen = await guest.open({ localMemoryBytes: 8 << 20 });
    const audit: string[] = [];
    const logger = pino(
      { level: 'warn' },
      {
        write: (line: string) => {
          const { error, reason, err } = JSON.parse(line) as Record<string, unknown>;
          audit.push(JSON.stringify([reason, error, err]));
        },
      },
    );
    const backend = new HostileBackend({ domain, xen, guest, guestXen }, logger, audit);
    await plugVif(machine.xen.store, {
      backendDomid: domain.domid,
      domid: guest.domid,
      handle: 0,
      mac: '00:16:3e:00:00:01',
      mtu: 1500,
      labels: {},
      uid: randomUUID(),
    });
    await backend.netfront.start();
    await until('netfront finds its vif', () => backend.netfront.get(0) !== undefined);
    return backend;
  }

  get device(): NetfrontDevice {
    const device = this.netfront.get(0);
    if (device === undefined) throw new Error('The guest has no vif.');
    return device;
  }

  /** Our directory. */
  get base(): string {
    return `/local/domain/${this.domain.domid}/backend/vif/${this.guest.domid}/0`;
  }

  get frontend(): string {
    return `/local/domain/${this.guest.domid}/device/vif/0`;
  }

  /** The rings, once connected. */
  get rings(): { tx: BackHalf; rx: BackHalf } {
    if (this.tx === undefined || this.rx === undefined) throw new Error('Not connected.');
    return { tx: this.tx, rx: this.rx };
  }

  async write(nodes: Readonly<Record<string, string>>): Promise<void> {
    await this.xen.store.transaction(async (transaction) => {
      for (const [name, value] of Object.entries(nodes)) {
        await transaction.write(`${this.base}/${name}`, value);
      }
    });
  }

  async setState(state: number): Promise<void> {
    await this.write({ state: String(state) });
  }

  async frontendState(): Promise<string | undefined> {
    return await this.xen.store.readIfExists(`${this.frontend}/state`);
  }

  /** Waits until the frontend has this state. */
  async untilFrontend(...states: string[]): Promise<void> {
    let state: string | undefined;
    const watch = await this.xen.store.watch(`${this.frontend}/state`, () => {
      this.frontendState().then(
        (value) => {
          state = value;
        },
        () => undefined,
      );
    });
    await until(`the frontend has state ${states.join(' or ')}`, () => {
      return state !== undefined && states.includes(state);
    });
    await watch.unwatch();
  }

  /** Offers one queue on one event channel, and connects to what the frontend answers. */
  async connect(features: Readonly<Record<string, string>> = {}): Promise<void> {
    await this.write({
      'feature-sg': '1',
      'feature-rx-copy': '1',
      'multi-queue-max-queues': '1',
      ...features,
      state: '2',
    });
    await this.untilFrontend('4', '3');
    const read = async (key: string) =>
      Number((await this.xen.store.readIfExists(`${this.frontend}/${key}`)) ?? Number.NaN);
    const domid = this.guest.domid;
    const map = async (key: string) => this.xen.grants.map(domid, await read(key), 'write');
    this.tx = new BackHalf(await map('tx-ring-ref'), TX_RING);
    this.rx = new BackHalf(await map('rx-ring-ref'), RX_RING);
    for (const key of ['event-channel', 'event-channel-tx', 'event-channel-rx']) {
      const port = await read(key);
      if (Number.isNaN(port)) continue;
      const channel: EventChannel = this.xen.events.bind(domid, port, () => channel.unmask());
      this.#channels.push(channel);
    }
    await this.setState(4);
    await until('netfront is connected', () => this.device.connected);
  }

  notify(): void {
    for (const channel of this.#channels) channel.notify();
  }

  /** Lets go of the rings, as a backend does that closes. */
  disconnect(): void {
    for (const channel of this.#channels.splice(0)) channel.close();
    this.tx?.mapped.unmap();
    this.rx?.mapped.unmap();
    this.tx = undefined;
    this.rx = undefined;
  }

  /** Closes in order and offers a new handshake; the frontend must come back and work. */
  async reconnect(): Promise<void> {
    await this.setState(5);
    this.disconnect();
    await this.untilFrontend('6', '5');
    await this.setState(6);
    await this.untilFrontend('6');
    await this.device.reconnect();
    await this.connect();
  }

  /** Grants that the guest has given to the driver domain, by reference. */
  grants(): number[] {
    const refs: number[] = [];
    for (let ref = 0; ref < 4096; ref += 1) {
      if (this.guest.grantTable.entry(ref)?.domid === this.domain.domid) refs.push(ref);
    }
    return refs;
  }

  async end(): Promise<void> {
    await this.write({ state: '5', online: '0' }).catch(() => undefined);
    this.disconnect();
    await this.setState(6).catch(() => undefined);
    await this.netfront.stop();
    await this.guestXen.close();
    await this.xen.close();
  }
}

/**
 * Where the vchan cases take place: our end is in domain 0, a hostile guest plays the other end by hand,
 * and two bystanders talk over a vchan of their own beside them. When a case is over the bystanders have
 * lost no byte, and nothing of ours is held.
 */
import { expect, test } from 'vitest';
import { connectVchan, VchanServer, type VchanStream } from '../../src/device/vchan/index.js';
import * as ring from '../../src/ring/vchan-ring.js';
import type { EmulatedXen } from '../../src/xen/emulated/emulated-xen.js';
import { type Domain, Hypervisor } from '../../src/xen/emulated/index.js';
import type { Page } from '../../src/xen/page.js';
import type { EventChannel, MappedPage } from '../../src/xen/xen.js';

/** A client of ours that obeys nobody. */
export class HostileClient {
  readonly page: Page;
  readonly channel: EventChannel;
  readonly #maps: readonly MappedPage[];

  constructor(page: Page, channel: EventChannel, maps: readonly MappedPage[]) {
    this.page = page;
    this.channel = channel;
    this.#maps = maps;
  }

  /** Changes the page, and says that something happened. */
  poke(change: (page: Page) => void): void {
    change(this.page);
    this.channel.notify();
  }

  leave(): void {
    for (const map of this.#maps) map.unmap();
    this.channel.close();
  }
}

/** A server that our client connects to, of raw pages. */
export class HostileServer {
  readonly page: Page;
  readonly rings: readonly Page[];
  readonly channel: EventChannel;

  constructor(page: Page, rings: readonly Page[], channel: EventChannel) {
    this.page = page;
    this.rings = rings;
    this.channel = channel;
  }

  poke(change: (page: Page) => void): void {
    change(this.page);
    this.channel.notify();
  }
}

export class VchanScene {
  readonly hypervisor = new Hypervisor();
  readonly xen: EmulatedXen;
  readonly guest: Domain;
  readonly guestXen: EmulatedXen;
  readonly #bystanders: { xen: EmulatedXen; talk: Promise<void>; stop: () => void };

  private constructor(
    hypervisor: Hypervisor,
    xen: EmulatedXen,
    guest: Domain,
    guestXen: EmulatedXen,
    bystanders: { xen: EmulatedXen; talk: Promise<void>; stop: () => void },
  ) {
    this.hypervisor = hypervisor;
    this.xen = xen;
    this.guest = guest;
    this.guestXen = guestXen;
    this.#bystanders = bystanders;
  }

  static async open(): Promise<VchanScene> {
    const hypervisor = new Hypervisor();
    const xen = await hypervisor.dom0.open({ localMemoryBytes: 4096 });
    const guest = await hypervisor.createDomain();
    const guestXen = await guest.open({ localMemoryBytes: 4096 });
    const third = await hypervisor.createDomain();
    const thirdXen = await third.open({ localMemoryBytes: 4096 });
    const listening = await VchanServer.listen(xen, { domid: third.domid, port: 'bystanders' });
    const [server, client] = await Promise.all([
      listening.accept(),
      connectVchan(thirdXen, { domid: 0, port: 'bystanders' }),
    ]);
    await listening.close();
    let going = true;
    const talk = converse(server, client, () => going);
    talk.catch(() => undefined);
    const stop = () => {
      going = false;
    };
    return new VchanScene(hypervisor, xen, guest, guestXen, { xen: thirdXen, talk, stop });
  }

  /** A server of ours with one page a ring, and the hostile guest at its other end. */
  async serve(ringBytes = 4096): Promise<{ stream: VchanStream; peer: HostileClient }> {
    const { domid } = this.guest;
    const sizes = { readRingBytes: ringBytes, writeRingBytes: ringBytes };
    const server = await VchanServer.listen(this.xen, { domid, port: 'hostile', ...sizes });
    const { store } = this.guestXen;
    const ref = Number(await store.read(`${server.path}/ring-ref`));
    const port = Number(await store.read(`${server.path}/event-channel`));
    const channel = this.guestXen.events.bind(0, port, () => channel.unmask());
    const map = this.guestXen.grants.map(0, ref, 'write');
    const client = new HostileClient(map.page, channel, [map]);
    client.poke((page) => page.writeU8(ring.CLI_LIVE, 1));
    const stream = await server.accept();
    await server.close();
    return { stream, peer: client };
  }

  /** What the hostile guest's server shows: orders, and grants of as many pages as it likes. */
  async offer(orders: ring.RingOrders, pages = 2): Promise<HostileServer> {
    const { guest, guestXen } = this;
    const page = guest.raw.allocatePage();
    const rings = Array.from({ length: pages }, () => guest.raw.allocatePage());
    const refs = rings.map((each) => guest.raw.grantPage(each, 0));
    const channel = guestXen.events.allocate(0, () => channel.unmask());
    ring.initialisePage(page, orders, refs);
    await this.writeNodes(String(guest.raw.grantPage(page, 0)), String(channel.port));
    return new HostileServer(page, rings, channel);
  }

  async writeNodes(ref: string, port: string): Promise<void> {
    const { store } = this.guestXen;
    await store.write(`${this.path}/ring-ref`, ref);
    await store.write(`${this.path}/event-channel`, port);
  }

  /** Where our client looks for the hostile server. */
  get path(): string {
    return `/local/domain/${this.guest.domid}/data/vchan/0/hostile`;
  }

  connect(): Promise<VchanStream> {
    const { domid } = this.guest;
    return connectVchan(this.xen, { domid, port: 'hostile', wait: false });
  }

  /** What our end holds of the hostile guest. */
  held(): string[] {
    const ours = new RegExp(`(of|to|with) domain ${this.guest.domid}$`);
    return this.hypervisor
      .leaks()
      .filter((text) => text.startsWith('domain 0 ') && ours.test(text));
  }

  async end(): Promise<void> {
    this.#bystanders.stop();
    await this.#bystanders.talk;
    expect(this.held()).toEqual([]);
    await this.xen.close();
    await this.hypervisor.shutdown();
  }
}

/** Numbered bytes both ways, each checked, for as long as the case takes. */
async function converse(a: VchanStream, b: VchanStream, going: () => boolean): Promise<void> {
  const talk = async (from: VchanStream, to: VchanStream) => {
    for (let round = 0; round === 0 || going(); round++) {
      const chunk = Buffer.alloc(1 + ((round * 997) % 9000), round & 0xff);
      const received = to.receive(chunk.length);
      await new Promise((resolve) => from.write(chunk, resolve));
      expect((await received)?.equals(chunk)).toBe(true);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  };
  await Promise.all([talk(a, b), talk(b, a)]);
  await Promise.all([a.close(), b.close()]);
}

/** What a stream gave before it ended, and the code of what ended it. */
export async function outcome(stream: VchanStream): Promise<{ bytes: Buffer; code: string }> {
  const chunks: Buffer[] = [];
  let code = 'END';
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  stream.on('error', (error: Error & { code?: string }) => {
    code = error.code ?? error.message;
  });
  if (!stream.closed) await new Promise((resolve) => stream.once('close', resolve));
  return { bytes: Buffer.concat(chunks), code };
}

/** A test of what a hostile end of a vchan may do. */
export function hostileVchan(name: string, body: (scene: VchanScene) => Promise<void>): void {
  test(name, async () => {
    const scene = await VchanScene.open();
    try {
      await body(scene);
    } catch (error) {
      await scene.hypervisor.shutdown();
      throw error;
    }
    await scene.end();
  });
}

/**
 * The fuzz target of the vchan's rings: our client against a server that is written from
 * xen/io/libxenvchan.h alone, a byte at a time, and sends an event only where it was asked for one, so
 * that a wake-up that we forget to ask for is found. The model is two lists of bytes. After a byte of
 * the page was corrupted nothing is expected of the channel but that it harms nobody else.
 */
import assert from 'node:assert/strict';
import { connectVchan, VchanServer, type VchanStream } from '../../src/device/vchan/index.js';
import type { EmulatedXen } from '../../src/xen/emulated/emulated-xen.js';
import { type Domain, Hypervisor } from '../../src/xen/emulated/index.js';
import type { Page } from '../../src/xen/page.js';
import type { EventChannel } from '../../src/xen/xen.js';
import type { SeededRandom } from '../support/random.js';
import { type Count, once, pick, shorter, spin, type Target, turn } from './engine.js';

export type VchanStep =
  | { readonly op: 'write' | 'read' | 'peerWrite' | 'peerRead'; readonly bytes: number }
  | { readonly op: 'ask'; readonly bits: number }
  | { readonly op: 'storm' }
  | { readonly op: 'corrupt'; readonly at: number; readonly value: number }
  | { readonly op: 'leave' };

export interface VchanCase {
  readonly left: number;
  readonly right: number;
  /** Where all four indices begin. */
  readonly start: number;
  readonly steps: readonly VchanStep[];
}

export interface VchanWorld {
  readonly hypervisor: Hypervisor;
  readonly xen: EmulatedXen;
  readonly guest: Domain;
  readonly guestXen: EmulatedXen;
  readonly bystanders: readonly [VchanStream, VchanStream];
}

/** The bytes of our stream, and of the peer's, are numbered: the n-th is this. */
function byteAt(position: number, salt: number): number {
  return (position * 31 + (position >> 8) * 7 + salt) & 0xff;
}

const OURS = 1;
const THEIRS = 99;

/** One ring, a byte at a time. */
class PlainRing {
  readonly size: number;
  readonly #order: number;
  readonly #shared: Page;
  readonly #pages: readonly Page[];

  constructor(order: number, shared: Page, pages: readonly Page[]) {
    this.size = 2 ** order;
    this.#order = order;
    this.#shared = shared;
    this.#pages = pages;
  }

  put(index: number, value: number): void {
    const place = index % this.size;
    if (this.#order < 12) this.#shared.writeU8(this.size + place, value);
    else this.#pages[Math.floor(place / 4096)]?.writeU8(place % 4096, value);
  }

  get(index: number): number | undefined {
    const place = index % this.size;
    if (this.#order < 12) return this.#shared.readU8(this.size + place);
    return this.#pages[Math.floor(place / 4096)]?.readU8(place % 4096);
  }
}

/** The server's side of the page, as the header describes it. */
class PlainServer {
  readonly page: Page;
  readonly channel: EventChannel;
  events = 0;
  /** Bytes that it has read and written so far. */
  read = 0;
  written = 0;
  readonly left: PlainRing;
  readonly right: PlainRing;
  readonly #start: number;
  readonly #guest: Domain;
  readonly #pages: Page[] = [];
  readonly #refs: number[] = [];

  constructor({ guest, guestXen }: VchanWorld, { left, right, start }: VchanCase) {
    this.#guest = guest;
    this.#start = start;
    const allocate = () => {
      const page = guest.raw.allocatePage();
      this.#pages.push(page);
      this.#refs.push(guest.raw.grantPage(page, 0));
      return page;
    };
    this.page = allocate();
    const [leftRing, rightRing] = [left, right].map((order) => {
      const pages = Array.from({ length: order < 12 ? 0 : 2 ** (order - 12) }, allocate);
      return new PlainRing(order, this.page, pages);
    }) as [PlainRing, PlainRing];
    this.left = leftRing;
    this.right = rightRing;
    this.channel = guestXen.events.allocate(0, () => {
      this.events += 1;
      this.channel.unmask();
    });
    for (const index of [0, 4, 8, 12]) this.page.storeIndex(index, start);
    this.page.writeU16(16, left);
    this.page.writeU16(18, right);
    this.page.bytes.set([2, 1, 1, 0], 20);
    this.#refs.slice(1).forEach((ref, index) => {
      this.page.writeU32(24 + 4 * index, ref);
    });
  }

  async publish({ store }: EmulatedXen): Promise<void> {
    const path = `/local/domain/${this.#guest.domid}/data/vchan/0/fuzz`;
    await store.write(`${path}/ring-ref`, String(this.#refs[0]));
    await store.write(`${path}/event-channel`, String(this.channel.port));
  }

  /** Writes as many of `count` bytes as there is room for; an event where one was asked for. */
  write(count: number): void {
    const prod = (this.#start + this.written) >>> 0;
    const room = this.right.size - ((prod - this.page.loadIndex(8)) >>> 0);
    const length = Math.max(0, Math.min(count, room));
    if (length === 0) return;
    for (let index = 0; index < length; index++) {
      this.right.put((prod + index) >>> 0, byteAt(this.written + index, THEIRS));
    }
    this.written += length;
    this.page.storeIndex(12, prod + length);
    if ((this.page.fetchAndU8(23, 0xfe) & 1) !== 0) this.channel.notify();
  }

  /** How many bytes lie in the ring for it. */
  get waiting(): number {
    return (this.page.loadIndex(4) - (this.#start + this.read)) >>> 0;
  }

  /** Reads at most `count` bytes and checks each; an event where one was asked for. */
  take(count: number, check: boolean): void {
    const cons = (this.#start + this.read) >>> 0;
    const length = Math.min(count, this.waiting, this.left.size);
    if (length === 0) return;
    for (let index = 0; check && index < length; index++) {
      const byte = this.left.get((cons + index) >>> 0);
      assert.equal(byte, byteAt(this.read + index, OURS), `byte ${this.read + index} to the peer`);
    }
    this.read += length;
    this.page.storeIndex(0, cons + length);
    if ((this.page.fetchAndU8(23, 0xfd) & 2) !== 0) this.channel.notify();
  }

  /** Gives all pages back; our end must have let go of them. */
  end(): void {
    for (const ref of this.#refs) {
      assert.equal(this.#guest.raw.mappings(ref), 0, 'a page is still mapped');
      this.#guest.raw.revoke(ref);
    }
    for (const page of this.#pages) this.#guest.raw.freePage(page);
    this.channel.close();
  }
}

async function openWorld(): Promise<VchanWorld> {
  const hypervisor = new Hypervisor();
  const xen = await hypervisor.dom0.open({ localMemoryBytes: 4096 });
  const guest = await hypervisor.createDomain();
  const guestXen = await guest.open({ localMemoryBytes: 4096 });
  const { domid } = guest;
  const server = await VchanServer.listen(xen, { domid, port: 'bystanders' });
  const bystanders = await Promise.all([
    server.accept(),
    connectVchan(guestXen, { domid: 0, port: 'bystanders' }),
  ]);
  await server.close();
  return { hypervisor, xen, guest, guestXen, bystanders };
}

/** A case under way: our stream, the peer, and how far both have come. */
class Run {
  readonly #peer: PlainServer;
  readonly #stream: VchanStream;
  readonly #count: Count;
  #written = 0;
  #taken = 0;
  /** How many bytes we want to read in all. */
  #appetite = 0;
  #corrupted = false;
  #left = false;
  #ended: string | undefined;

  constructor(peer: PlainServer, stream: VchanStream, count: Count) {
    this.#peer = peer;
    this.#stream = stream;
    this.#count = count;
    stream.on('error', (error: Error & { code?: string }) => {
      this.#ended = error.code ?? error.message;
    });
    stream.on('close', () => {
      this.#ended ??= 'END';
    });
    stream.on('readable', () => this.#take());
  }

  async step(step: VchanStep): Promise<void> {
    const peer = this.#peer;
    switch (step.op) {
      case 'write':
        this.#write(step.bytes);
        break;
      case 'read':
        this.#appetite += step.bytes;
        this.#take();
        break;
      case 'peerWrite':
        if (!this.#left) peer.write(step.bytes);
        break;
      case 'peerRead':
        if (!this.#left) peer.take(step.bytes, !this.#corrupted);
        break;
      case 'ask':
        await this.#ask(step.bits);
        break;
      case 'storm':
        for (let index = 0; index < 30; index++) peer.channel.notify();
        break;
      case 'corrupt':
        this.#corrupted = true;
        peer.page.writeU8(step.at, step.value);
        peer.channel.notify();
        break;
      case 'leave':
        this.#left = true;
        peer.page.writeU8(21, 0);
        peer.channel.notify();
        break;
    }
    await this.#settle();
  }

  async end(): Promise<void> {
    if (this.#left && !this.#corrupted) {
      this.#appetite = Number.POSITIVE_INFINITY;
      this.#take();
      await spin('the end of the stream', () => this.#ended !== undefined);
      assert.equal(this.#taken, this.#peer.written, 'bytes of a peer that has left');
      this.#count('left');
    }
    if (this.#corrupted) this.#count(`corrupted: ${this.#ended ?? 'went on'}`);
    else if (!this.#left) this.#count('went on');
    this.#stream.destroy();
    await spin('the close', () => this.#stream.closed);
  }

  #write(length: number): void {
    if (this.#stream.destroyed || this.#left) return;
    const first = this.#written;
    const chunk = Buffer.alloc(length);
    for (let index = 0; index < length; index++) chunk[index] = byteAt(first + index, OURS);
    this.#written += length;
    this.#stream.write(chunk);
  }

  #take(): void {
    const wanted = Math.min(this.#appetite - this.#taken, this.#stream.readableLength);
    const chunk: Buffer | null = this.#stream.destroyed ? null : this.#stream.read(wanted);
    if (chunk === null) return;
    for (const [index, byte] of chunk.entries()) {
      if (this.#corrupted) break;
      assert.equal(byte, byteAt(this.#taken + index, THEIRS), `byte ${this.#taken + index} to us`);
    }
    this.#taken += chunk.length;
    if (this.#taken < this.#appetite) this.#take();
  }

  /** The peer asks for an event, and must get one for what we do next. */
  async #ask(bits: number): Promise<void> {
    const peer = this.#peer;
    peer.page.fetchOrU8(22, bits);
    if (this.#corrupted || this.#left) return;
    const { events } = peer;
    const pending = this.#written - peer.read - peer.waiting;
    // We read ahead of our appetite, up to what a stream of Node holds.
    const isRead = (bits & 2) !== 0 && peer.written - this.#taken < 60_000;
    const isWritten = (bits & 1) !== 0 && pending === 0 && peer.waiting < peer.left.size;
    if (isWritten) this.#write(1);
    else if (isRead) peer.write(1);
    else return;
    await spin('the event that was asked for', () => peer.events > events);
    this.#count(isWritten ? 'asked of writes' : 'asked of reads');
  }

  /** Everything that can move has moved: what was read is here, what was written is there. */
  async #settle(): Promise<void> {
    await turn();
    if (this.#corrupted || this.#left) return;
    const peer = this.#peer;
    await spin('what the peer wrote', () => {
      this.#take();
      return this.#taken >= Math.min(this.#appetite, peer.written);
    });
    const due = Math.min(this.#written - peer.read, peer.left.size);
    await spin('what we wrote', () => peer.waiting === due);
  }
}

/** The bystanders still hear each other. */
async function checkBystanders({ bystanders: [a, b] }: VchanWorld): Promise<void> {
  const bytes = Buffer.from('still here');
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    from.write(bytes);
    assert.equal(String(await to.receive(bytes.length)), 'still here');
  }
}

function generate(random: SeededRandom): VchanCase {
  const [left, right] = pick(random, [
    [10, 11],
    [11, 10],
    [10, 12],
    [12, 11],
    [12, 12],
    [13, 12],
  ] as const);
  const start = pick(random, [0, 0, 2 ** 32 - 1, 2 ** 32 - 1500, random.u32()]);
  const steps: VchanStep[] = [];
  for (let count = 1 + random.below(40); count > 0; count--) steps.push(generateStep(random));
  return { left, right, start, steps };
}

function generateStep(random: SeededRandom): VchanStep {
  if (once(random, 60)) {
    return {
      op: 'corrupt',
      at: random.below(once(random, 4) ? 4096 : 32),
      value: random.below(256),
    };
  }
  if (once(random, 80)) return { op: 'leave' };
  if (once(random, 12)) return { op: 'ask', bits: 1 + random.below(3) };
  if (once(random, 30)) return { op: 'storm' };
  const op = pick(random, ['write', 'read', 'peerWrite', 'peerRead'] as const);
  return { op, bytes: pick(random, [1, 1 + random.below(30), 1 + random.below(6000)]) };
}

export const vchanTarget: Target<VchanWorld, VchanCase> = {
  name: 'vchan',
  outcomes: [
    'left',
    'went on',
    'asked of writes',
    'asked of reads',
    'corrupted: VCHAN_INDEX_INVALID',
    'corrupted: went on',
  ],
  casesForAll: 500,
  open: openWorld,
  generate,
  async close({ bystanders, guestXen, hypervisor, xen }, broken) {
    if (!broken) {
      await Promise.all(bystanders.map((stream) => stream.close()));
      await xen.close();
      await guestXen.close();
      hypervisor.assertNoLeaks();
    }
    await hypervisor.shutdown();
  },
  async run(world, fuzzCase, count) {
    const peer = new PlainServer(world, fuzzCase);
    await peer.publish(world.guestXen);
    const address = { domid: world.guest.domid, port: 'fuzz', wait: false };
    const run = new Run(peer, await connectVchan(world.xen, address), count);
    for (const step of fuzzCase.steps) await run.step(step);
    await run.end();
    peer.end();
    await checkBystanders(world);
  },
  *smaller(fuzzCase) {
    for (const steps of shorter(fuzzCase.steps)) yield { ...fuzzCase, steps };
    if (fuzzCase.start !== 0) yield { ...fuzzCase, start: 0 };
  },
};

/**
 * A guest that does nothing but send and receive. Its frames lie ready in pages that are granted once,
 * and a turn writes requests for as many as the ring has room for; what it receives it counts and
 * forgets. What it costs is a few stores a frame.
 */
import { RX_SLOT_BYTES } from '../../dist/ring/netif-rx.js';
import { TX_MORE_DATA, TX_SLOT_BYTES } from '../../dist/ring/netif-tx.js';
import { FrontRing } from '../../dist/ring/shared-ring.js';
import { type EventChannel, PAGE_SIZE, type SharedPages, type Xen } from '../../dist/xen/xen.js';

/** A frame that is longer than a page has its bytes in so many, equal parts. */
const LONG_FRAME_SLOTS = 4;

/** A ring of requests that are always the same. */
class RepeatingRing {
  readonly ring: FrontRing;
  readonly #slotWords: number;
  readonly #requests: Uint32Array;
  readonly #slotsAtOnce: number;

  /** Requests go in by `slotsAtOnce`, which divides the ring. */
  constructor(
    ring: FrontRing,
    slotBytes: number,
    requestOf: (id: number) => number[],
    slotsAtOnce = 1,
  ) {
    this.ring = ring;
    this.#slotsAtOnce = slotsAtOnce;
    this.#slotWords = slotBytes / 4;
    this.#requests = new Uint32Array(ring.size * this.#slotWords);
    for (let id = 0; id < ring.size; id += 1) {
      this.#requests.set(requestOf(id), id * this.#slotWords);
    }
  }

  /** Takes all answers; returns how many there were. */
  takeResponses(): number {
    const { ring } = this;
    const count = ring.pendingResponses();
    ring.rspCons = (ring.rspCons + count) >>> 0;
    return count;
  }

  /** Fills the ring up; returns how many requests went in. */
  fill(): number {
    const { ring } = this;
    const free = ring.freeRequests();
    const room = free - (free % this.#slotsAtOnce);
    const first = Math.min(room, ring.size - (ring.reqProd & (ring.size - 1)));
    this.write(first);
    if (room > first) this.write(room - first);
    return room;
  }

  /** Writes the next `count` requests, which lie in one piece. */
  write(count: number): void {
    const { ring } = this;
    const slot = ring.reqProd & (ring.size - 1);
    const words = this.#slotWords;
    ring.page.writeWords(ring.slot(ring.reqProd), this.#requests, slot * words, count * words);
    ring.reqProd = (ring.reqProd + count) >>> 0;
  }
}

export class RingGuest {
  readonly #frames: SharedPages;
  readonly #tx: RepeatingRing;
  readonly #rx: RepeatingRing;
  readonly #channel: EventChannel;
  readonly #slotsPerFrame: number;
  sent = 0;
  received = 0;
  /** Called when there may be room on the ring for what is sent. */
  onRoom: () => void = () => undefined;

  private constructor(
    frames: SharedPages,
    tx: RepeatingRing,
    rx: RepeatingRing,
    channel: EventChannel,
    slotsPerFrame: number,
  ) {
    this.#slotsPerFrame = slotsPerFrame;
    this.#frames = frames;
    this.#tx = tx;
    this.#rx = rx;
    this.#channel = channel;
  }

  /**
   * Does a frontend's part of the handshake for an interface of `xen`'s domain, 0 unless it says another.
   * Its frames have the lengths `sizes` by turns; those that are longer than a page lie in four of them.
   * Its frames come from station `station`, and go to station 2, or from there to 1, unless it says
   * another. It has as many pages each way as the ring has slots, unless it says fewer, which it uses
   * again and again then.
   */
  static async connect(
    xen: Xen,
    sizes: readonly number[],
    station = 1,
    { handle = 0, pages = Number.POSITIVE_INFINITY, to = station === 2 ? 1 : 2 } = {},
  ): Promise<RingGuest> {
    const rings = xen.grants.share(0, 2, 'write');
    const [txPage, rxPage] = rings.pages;
    if (txPage === undefined || rxPage === undefined) throw new Error('No pages.');
    const front = new FrontRing(txPage, TX_SLOT_BYTES);
    const frames = xen.grants.share(0, Math.min(front.size, pages), 'read');
    const longest = Math.max(...sizes);
    const slots = longest > PAGE_SIZE ? LONG_FRAME_SLOTS : 1;
    for (const page of frames.pages) writeFrame(page.bytes, longest / slots, station, to);
    const requestOf = (id: number) => {
      const size = sizes[Math.floor(id / slots) % sizes.length] ?? 0;
      // The first slot of a frame tells the length of all.
      const isFirst = id % slots === 0;
      const flags = (id + 1) % slots === 0 ? 0 : TX_MORE_DATA;
      return [refOf(frames, id), flags << 16, id | ((isFirst ? size : size / slots) << 16)];
    };
    const tx = new RepeatingRing(front, TX_SLOT_BYTES, requestOf, slots);
    const back = new FrontRing(rxPage, RX_SLOT_BYTES);
    const buffers = xen.grants.share(0, Math.min(back.size, pages), 'write');
    const rx = new RepeatingRing(back, RX_SLOT_BYTES, (id) => [id, refOf(buffers, id)]);
    const channel = xen.events.allocate(0, () => guest.#onEvent());
    const guest = new RingGuest(frames, tx, rx, channel, slots);
    guest.#receive();
    const base = `/local/domain/${xen.domid}/device/vif/${handle}`;
    const nodes = {
      'tx-ring-ref': String(rings.refs[0]),
      'rx-ring-ref': String(rings.refs[1]),
      'event-channel': String(channel.port),
      'request-rx-copy': '1',
      'feature-rx-notify': '1',
      state: '4',
    };
    await Promise.all(
      Object.entries(nodes).map(([name, value]) => xen.store.write(`${base}/${name}`, value)),
    );
    return guest;
  }

  /** Fills the ring and rings the bell. Returns how many frames went in. */
  turn(): number {
    this.#tx.takeResponses();
    const slots = this.#tx.fill();
    const count = slots / this.#slotsPerFrame;
    if (count > 0 && this.#tx.ring.pushRequests()) this.#channel.notify();
    this.sent += count;
    return count;
  }

  /** Sends one frame with a time in it, of CLOCK_MONOTONIC: nanoseconds, as a double behind its type. */
  kick(sentNs = Number(process.hrtime.bigint())): void {
    const { ring } = this.#tx;
    this.#tx.takeResponses();
    const page = this.#frames.pages[ring.reqProd & (ring.size - 1)];
    if (page === undefined) return;
    const { buffer, byteOffset } = page.bytes;
    new DataView(buffer, byteOffset).setFloat64(14, sentNs, true);
    this.#tx.write(1);
    if (ring.pushRequests()) this.#channel.notify();
  }

  /** Has `onRoom` called as soon as the backend has answered something. */
  awaitRoom(): void {
    this.#tx.ring.requestEvent();
    this.#channel.unmask();
  }

  #onEvent(): void {
    this.#receive();
    this.onRoom();
    this.#channel.unmask();
  }

  #receive(): void {
    const { ring } = this.#rx;
    do {
      this.received += this.#rx.takeResponses();
      if (this.#rx.fill() > 0 && ring.pushRequests()) this.#channel.notify();
    } while (ring.requestEvent() > 0);
  }
}

function refOf(pages: SharedPages, index: number): number {
  return pages.refs[index % pages.refs.length] ?? 0;
}

/** A frame from one station to another, of no protocol that anybody knows. */
function writeFrame(page: Uint8Array, frameBytes: number, station: number, to: number): void {
  page.fill(0x5a, 0, frameBytes);
  page.set([...macOf(to), ...macOf(station), 0x88, 0xb5]);
}

function macOf(station: number): number[] {
  return [0, 0x16, 0x3e, 0, station >>> 8, station & 0xff];
}

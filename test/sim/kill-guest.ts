/**
 * A guest that keeps account of everything: each request of its own and its one answer, each buffer and
 * the frame that came in it. It works only when it is told to by an event, as a guest does that sleeps,
 * and writes down every state that its backend goes through.
 */
import type { Domain } from '../../src/xen/emulated/index.js';
import type { StoreWatch, Xen } from '../../src/xen/xen.js';
import {
  type HandshakeOptions,
  HostileGuest,
  type HostileQueue,
  type GrantedPage as Place,
} from '../hostile/guest.js';
import type { Words } from '../hostile/raw-ring.js';
import {
  CSUM_BLANK,
  DATA_VALIDATED,
  EXTRA_INFO,
  gsoExtra,
  MORE_DATA,
  NULL,
  OKAY,
  rxRequest,
  rxResponse,
  txRequest,
  txResponse,
} from '../hostile/slots.js';

const HEADER_BYTES = 54;
const BUFFERS = 200;
const GSO_SIZE = 100;
const TCPV4 = 1;
const RX_EXTRA_INFO = 8;
const RX_MORE_DATA = 4;
const RX_CSUM_BLANK = 2;

/** Frames in one slot and in several, with an extra and without. */
const LAYOUTS = [
  { sizes: [60], isTcp: false },
  { sizes: [60, 200, 40], isTcp: false },
  { sizes: [500], isTcp: true },
  { sizes: [100, 4080, 900], isTcp: false },
  { sizes: [100, 900], isTcp: true },
];

/** A frame that was put on a ring. */
interface Sent {
  readonly number: number;
}

/** A slot that was put on a ring, and what its answer must be. */
interface Slot {
  readonly id: number;
  readonly status: number;
  readonly frame: Sent;
}

interface Side {
  readonly queue: HostileQueue;
  /** Slots in ring order whose answers have not come. */
  readonly slots: Slot[];
  /** Ids of buffers in ring order that were not used yet. */
  readonly buffers: number[];
  readonly bufferPages: Map<number, Place>;
  readonly pages: Map<number, Place>;
  nextId: number;
  nextPage: number;
  nextBuffer: number;
}

export class CountingGuest {
  readonly guest: HostileGuest;
  /** How often each frame of the peer's has arrived, by its number. */
  readonly received = new Map<number, number>();
  /** What was wrong, each with a word about where. Must stay empty. */
  readonly faults: string[] = [];
  /** Every state of the backend's that was seen since the guest connected. */
  readonly states: string[] = [];
  /** Buffers that came back with an error instead of a frame. */
  emptyBuffers = 0;
  readonly #sides: Side[] = [];
  readonly #mac: number;
  #watch: StoreWatch | undefined;
  #nextNumber: number;

  /** `side` is 1 or 2; frames of the two have different numbers and addresses. */
  constructor(domain: Domain, xen: Xen, side: number) {
    this.guest = new HostileGuest(domain, xen);
    this.#mac = side;
    this.#nextNumber = side * 1_000_000;
  }

  async connect(options: HandshakeOptions): Promise<void> {
    await this.guest.shake(options);
    for (const queue of this.guest.queues) {
      const side = {
        queue,
        slots: [],
        buffers: [],
        bufferPages: new Map(),
        pages: new Map(),
        nextId: 0,
        nextPage: 0,
        nextBuffer: 0,
      };
      this.#sides.push(side);
      this.#post(side, BUFFERS);
    }
  }

  /** Writes down every state that the backend has from now on. */
  async watchBackend(): Promise<void> {
    const path = `/local/domain/0/backend/vif/${this.guest.domid}/0/state`;
    const { store } = this.guest.xen;
    this.#watch = await store.watch(path, () => {
      void store.readIfExists(path).then((state = 'none') => this.states.push(state));
    });
  }

  async end(): Promise<void> {
    await this.#watch?.unwatch();
    await this.guest.end();
  }

  /** Whether every request has been answered, and the guest has seen it. */
  get isCalm(): boolean {
    return this.#sides.every(({ slots }) => slots.length === 0);
  }

  /** Numbers of frames whose requests are not all answered on the ring at this moment. */
  inFlight(): number[] {
    const slots = this.#sides.flatMap(({ queue, slots }) => slots.slice(queue.tx.answered));
    return [...new Set(slots.map(({ frame }) => frame.number))];
  }

  /**
   * Puts one frame of each layout on each ring, behind `plain` frames that are as simple as can be, and
   * tells the backend. Returns their numbers.
   */
  send(plain = 0): number[] {
    const numbers: number[] = [];
    for (const side of this.#sides) {
      for (let index = 0; index < plain; index += 1) numbers.push(this.#put(side, [60], false));
      for (const { sizes, isTcp } of LAYOUTS) numbers.push(this.#put(side, sizes, isTcp));
      side.queue.txChannel.notify();
    }
    return numbers;
  }

  /** Does what events have asked for. */
  work(): void {
    for (const side of this.#sides) {
      const { queue } = side;
      if (queue.txEvents > 0) {
        queue.txEvents = 0;
        this.#takeAnswers(side);
        if (queue.rxChannel === queue.txChannel) this.#takeFrames(side);
      }
      if (queue.rxEvents > 0) {
        queue.rxEvents = 0;
        this.#takeFrames(side);
      }
    }
  }

  /** Puts a frame of pieces of these sizes on the ring, without publishing an event. */
  #put(side: Side, sizes: readonly number[], isTcp: boolean): number {
    const number = this.#nextNumber;
    this.#nextNumber += 1;
    const total = sizes.reduce((sum, size) => sum + size, 0);
    const bytes = frameOf(number, total, this.#mac, isTcp);
    const frame: Sent = { number };
    const words: Words[] = [];
    const add = (slot: Words, id: number, status: number) => {
      words.push(slot);
      side.slots.push({ id, status, frame });
    };
    let offset = 0;
    for (const [index, size] of sizes.entries()) {
      const id = side.nextId;
      // Ids are not those of slots, nor in any order that follows from them.
      side.nextId = (side.nextId + 7) % 65_521;
      const place = this.#nextPage(side);
      place.page.bytes.set(bytes.subarray(offset, offset + size), 8);
      const isHead = index === 0;
      const flags =
        (index + 1 < sizes.length ? MORE_DATA : 0) |
        (isHead && isTcp ? EXTRA_INFO | CSUM_BLANK | DATA_VALIDATED : 0);
      const request = { gref: place.ref, offset: 8, flags, id, size: isHead ? total : size };
      add(txRequest(request), id, OKAY);
      if (isHead && isTcp) add(gsoExtra(GSO_SIZE, TCPV4), -1, NULL);
      offset += size;
    }
    side.queue.tx.push(words);
    return number;
  }

  /** A page that no request under way names: a ring has half as many slots as there are pages. */
  #nextPage(side: Side): Place {
    const index = side.nextPage;
    side.nextPage = (index + 1) % 512;
    const place = side.pages.get(index) ?? this.guest.page();
    side.pages.set(index, place);
    return place;
  }

  #takeAnswers(side: Side): void {
    for (const words of side.queue.tx.take()) {
      const { id, status } = txResponse(words);
      const slot = side.slots.shift();
      if (slot === undefined) {
        this.faults.push(`an answer to nothing: id ${id}`);
        continue;
      }
      const isRight = status === slot.status && (slot.status === NULL || id === slot.id);
      if (!isRight) {
        this.faults.push(`answer ${id} ${status} in place of ${slot.id} ${slot.status}`);
      }
    }
  }

  #takeFrames(side: Side): void {
    const answers = side.queue.rx.take();
    const taken = answers.length;
    for (let index = 0; index < taken; index += 1) {
      const pieces: Uint8Array[] = [];
      let more = true;
      let isGso = false;
      for (let first = true; more; first = false, index += 1) {
        const words = answers[index];
        if (words === undefined) {
          this.faults.push('a frame without an end');
          return;
        }
        const { flags, id, offset, status } = rxResponse(words);
        const buffer = side.buffers.shift();
        if (id !== buffer) this.faults.push(`buffer ${id} in place of ${buffer}`);
        more = (flags & RX_MORE_DATA) !== 0;
        if (status < 0) {
          this.emptyBuffers += 1;
          pieces.length = 0;
          if (more || !first) this.faults.push('an error within a frame');
          continue;
        }
        const page = side.bufferPages.get(id);
        pieces.push(page?.page.bytes.slice(offset, offset + status) ?? new Uint8Array());
        if (first && (flags & RX_EXTRA_INFO) !== 0) {
          index += 1;
          side.buffers.shift();
          isGso = (answers[index]?.[0] ?? 0) % 256 === 1 && (flags & RX_CSUM_BLANK) !== 0;
        }
      }
      index -= 1;
      if (pieces.length > 0) this.#takeFrame(Buffer.concat(pieces), isGso);
    }
    this.#post(side, taken);
  }

  #takeFrame(bytes: Uint8Array, isGso: boolean): void {
    const number = new DataView(bytes.buffer, bytes.byteOffset).getUint32(bytes.length - 4);
    const isTcp = bytes[12] === 0x08 && bytes[13] === 0x00;
    const expected = frameOf(number, bytes.length, 3 - this.#mac, isTcp);
    if (Buffer.compare(bytes, expected) !== 0) this.faults.push(`frame ${number} is not as sent`);
    if (isTcp !== isGso) this.faults.push(`frame ${number} has lost its segmentation`);
    this.received.set(number, (this.received.get(number) ?? 0) + 1);
  }

  #post(side: Side, count: number): void {
    const requests: Words[] = [];
    for (let index = 0; index < count; index += 1) {
      const id = side.nextBuffer;
      side.nextBuffer = (side.nextBuffer + 1) % 1024;
      const buffer = side.bufferPages.get(id) ?? this.guest.page();
      side.bufferPages.set(id, buffer);
      side.buffers.push(id);
      requests.push(rxRequest(id, buffer.ref));
    }
    if (count === 0) return;
    side.queue.rx.push(requests);
    side.queue.rxChannel.notify();
  }
}

/** The frame of a number: from one guest to the other, an IPv4 TCP segment where it is to be cut. */
function frameOf(number: number, length: number, from: number, isTcp: boolean): Buffer {
  const bytes = Buffer.alloc(length, number & 0xff);
  bytes.set([0, 0x16, 0x3e, 0, 0, 3 - from, 0, 0x16, 0x3e, 0, 0, from, 0x88, 0xb5]);
  if (isTcp) {
    bytes.fill(0, 12, HEADER_BYTES);
    bytes.set([0x08, 0x00, 0x45], 12);
    bytes.writeUInt16BE(length - 14, 16);
    bytes.set([64, 6], 22);
    bytes.set([10, 0, 0, from, 10, 0, 0, 3 - from], 26);
    bytes.set([0x50, 0x10], 46);
  }
  bytes.writeUInt32BE(number, length - 4);
  return bytes;
}

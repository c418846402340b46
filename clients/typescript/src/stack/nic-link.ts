/**
 * The SDK's remote NIC as a link. Its frames look as on a wire: checksums are in place, and no packet
 * is longer than the MTU.
 */

import { invalid } from './errors.js';
import { FrameArena } from './frame-arena.js';
import type { Link, LinkReceiver } from './link.js';
import { copyBytes } from './wire/bytes.js';
import { parseMac } from './wire/ethernet.js';

const ARENA_BYTES = 256 * 1024;
const FRAMES_MAX = 512;

/** A batch of received frames, walked by offsets. */
export interface NicBatch {
  readonly bytes: Uint8Array;
  readonly count: number;
  offset(index: number): number;
  length(index: number): number;
  checksum(index: number): string;
}

/** What the stack asks of a NIC: `Nic`, which `client.attach` gives, is one. */
export interface FrameNic {
  readonly mac: string;
  readonly mtu: number;
  /** Makes room for a frame and answers where in `placedBytes` it is to be written at once. */
  place(length: number): number;
  readonly placedBytes: Uint8Array;
  batches(): AsyncIterable<NicBatch>;
  disconnect(): Promise<void>;
}

export interface NicLinkOptions {
  /** The address to be at, where the NIC's own is its peer's: a NIC on a vif has the guest's. */
  readonly mac?: string | undefined;
}

export class NicLink implements Link {
  readonly mac: Uint8Array;
  readonly mtu: number;
  readonly bytes = new Uint8Array(ARENA_BYTES);
  readonly largePacketBytes = 0;
  readonly blanksChecksums = false;
  readonly #nic: FrameNic;
  readonly #arena = new FrameArena(this.bytes, 0, ARENA_BYTES, FRAMES_MAX);
  readonly #offsets = new Uint32Array(FRAMES_MAX);
  readonly #lengths = new Uint32Array(FRAMES_MAX);
  #count = 0;
  #receiver: LinkReceiver | undefined;
  #isClosed = false;
  /** Frames that the NIC did not take, for its queue was full or it was gone. */
  droppedFrames = 0;

  /** @throws StackError MAC_INVALID. */
  constructor(nic: FrameNic, options: NicLinkOptions = {}) {
    const text = options.mac ?? nic.mac;
    const mac = parseMac(text);
    if (mac === undefined) throw invalid('MAC_INVALID', `"${text}" is no MAC address.`);
    this.mac = mac;
    this.mtu = nic.mtu;
    this.#nic = nic;
  }

  start(receiver: LinkReceiver): void {
    this.#receiver = receiver;
    this.#read(receiver).then(
      () => this.#lose(undefined),
      (error: unknown) => this.#lose(error instanceof Error ? error : new Error(String(error))),
    );
  }

  reserve(length: number): number {
    return this.#arena.reserve(length);
  }

  commit(offset: number, length: number): void {
    this.#offsets[this.#count] = offset;
    this.#lengths[this.#count] = length;
    this.#count += 1;
    this.#arena.commit(length);
  }

  flush(): void {
    const { wasFull } = this.#arena;
    const count = this.#count;
    let index = 0;
    try {
      for (; index < count; index += 1) {
        const length = this.#lengths[index] as number;
        const place = this.#nic.place(length);
        copyBytes(this.bytes, this.#offsets[index] as number, this.#nic.placedBytes, place, length);
      }
    } catch {
      // The NIC is gone, or has no room: what it does not take now is lost, as on a wire.
      this.droppedFrames += count - index;
    }
    this.#count = 0;
    this.#arena.clear();
    if (wasFull) this.#receiver?.roomAgain();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.flush();
    this.#receiver = undefined;
    await this.#nic.disconnect();
  }

  async #read(receiver: LinkReceiver): Promise<void> {
    for await (const batch of this.#nic.batches()) {
      if (this.#isClosed) return;
      for (let index = 0; index < batch.count; index += 1) {
        const isVerified = batch.checksum(index) !== 'unverified';
        receiver.receive(batch.bytes, batch.offset(index), batch.length(index), isVerified);
      }
      receiver.receiveEnd();
    }
  }

  #lose(error: Error | undefined): void {
    if (!this.#isClosed) this.#receiver?.lost(error);
  }
}

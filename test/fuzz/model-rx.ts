/**
 * What a backend must write into a guest's RX ring and buffers, straight from xen/io/netif.h: the
 * second opinion on the way to the guest.
 */
import { segmentsOf, transportOf, withChecksum } from './model-packet.js';

const PAGE = 4096;
const QUEUE_BYTES = 512 * 1024;
const QUEUE_FRAMES = 1024;
const FRAME_MAX = 65535;
const DATA_VALIDATED = 1;
const CSUM_BLANK = 2;
const MORE_DATA = 4;
const EXTRA_INFO = 8;
const ERROR = -1;

/** What the guest takes. */
export interface RxFeatures {
  readonly scatterGather: boolean;
  readonly gso4: boolean;
  readonly gso6: boolean;
  readonly checksum4: boolean;
  readonly checksum6: boolean;
  /** Multicast is filtered, with an empty list. */
  readonly multicastFilter: boolean;
}

export interface RxFrame {
  readonly bytes: Uint8Array;
  readonly checksumBlank: boolean;
  readonly validated: boolean;
  /** 0, or 1 for TCPv4 and 2 for TCPv6. */
  readonly gsoType: number;
  readonly gsoSize: number;
}

/** A buffer that the guest has posted. `page` is undefined where nothing may be written. */
export interface RxBuffer {
  readonly id: number;
  readonly page: Uint8Array | undefined;
}

export type SendFate = 'sent' | 'too long' | 'filtered' | 'segmented' | 'completed';

export class RxModel {
  /** Buffers that were posted and not used. */
  readonly buffers: RxBuffer[] = [];
  /** Frames that wait for buffers, oldest first. */
  readonly queue: RxFrame[] = [];
  /** Frames that are in the guest's hands, and those lost to a bad buffer. */
  delivered: RxFrame[] = [];
  lost = 0;
  readonly #features: RxFeatures;

  constructor(features: RxFeatures) {
    this.#features = features;
  }

  get queuedBytes(): number {
    return this.queue.reduce((sum, { bytes }) => sum + bytes.length, 0);
  }

  /** What has to be sent for a frame that is written: itself, its segments, or nothing. */
  prepare(frame: RxFrame): { fate: SendFate; frames: RxFrame[] } {
    const { bytes, gsoType, gsoSize, checksumBlank } = frame;
    const isBroadcast = bytes.subarray(0, 6).every((byte) => byte === 0xff);
    const isMulticast = ((bytes[0] ?? 0) & 1) === 1 && !isBroadcast;
    if (this.#features.multicastFilter && isMulticast) return { fate: 'filtered', frames: [] };
    const transport = transportOf(bytes);
    const whole = { checksumBlank: false, validated: true, gsoType: 0, gsoSize: 0 };
    if (gsoType !== 0 && !this.#takesGso(gsoType)) {
      if (transport === undefined) throw new Error('The generator wants no TCP frame cut.');
      const parts = segmentsOf(bytes, transport, gsoSize);
      const frames = parts.map((part) => ({ bytes: part, ...whole }));
      return { fate: 'segmented', frames: frames.filter((part) => this.#slots(part) > 0) };
    }
    if (gsoType === 0 && checksumBlank && transport !== undefined) {
      const { checksum4, checksum6 } = this.#features;
      if (!(transport.version === 4 ? checksum4 : checksum6)) {
        const completed = { bytes: withChecksum(bytes, transport), ...whole };
        const fits = this.#slots(completed) > 0;
        return fits ? { fate: 'completed', frames: [completed] } : { fate: 'too long', frames: [] };
      }
    }
    if (this.#slots(frame) === 0) return { fate: 'too long', frames: [] };
    return { fate: 'sent', frames: [frame] };
  }

  /** Whether a frame may, and whether it must, be refused for the queue is full. */
  fullness(frame: RxFrame): { mayRefuse: boolean; mustRefuse: boolean } {
    const bytes = this.queuedBytes + frame.bytes.length;
    const isTooMany = this.queue.length >= QUEUE_FRAMES;
    // Frames lie in one piece each, so the end of the queue's memory may be left empty.
    return {
      mayRefuse: isTooMany || bytes > QUEUE_BYTES - FRAME_MAX,
      mustRefuse: isTooMany || bytes > QUEUE_BYTES,
    };
  }

  /** Whether the frame that waits longest has all the buffers that it needs. */
  get isReady(): boolean {
    const [first] = this.queue;
    return first !== undefined && this.canTake(first);
  }

  /** Whether there are buffers for a frame, if none waits before it. */
  canTake(frame: RxFrame): boolean {
    return this.buffers.length >= this.#slots(frame);
  }

  /** Fills buffers as long as there are enough; returns the answers, 8 bytes each. */
  deliver(): Uint8Array[] {
    const answers: Uint8Array[] = [];
    while (this.isReady) answers.push(...this.#fill(this.queue.shift() as RxFrame));
    return answers;
  }

  #fill(frame: RxFrame): Uint8Array[] {
    const { bytes, checksumBlank, validated, gsoType, gsoSize } = frame;
    const answers: Uint8Array[] = [];
    let isWhole = true;
    for (let start = 0; start < bytes.length; start += PAGE) {
      const part = bytes.subarray(start, start + PAGE);
      const { id, page } = this.buffers.shift() as RxBuffer;
      page?.set(part);
      isWhole &&= page !== undefined;
      let flags = start + PAGE < bytes.length ? MORE_DATA : 0;
      if (start === 0 && checksumBlank) flags |= CSUM_BLANK | DATA_VALIDATED;
      if (start === 0 && validated) flags |= DATA_VALIDATED;
      if (start === 0 && gsoType !== 0) flags |= EXTRA_INFO;
      answers.push(response(id, flags, page === undefined ? ERROR : part.length));
      if (start > 0 || gsoType === 0) continue;
      // The extra costs a buffer, which stays as it is.
      this.buffers.shift();
      answers.push(Uint8Array.of(1, 0, gsoSize & 0xff, gsoSize >> 8, gsoType, 0, 0, 0));
    }
    if (isWhole) this.delivered.push(frame);
    else this.lost += 1;
    return answers;
  }

  #takesGso(type: number): boolean {
    const { scatterGather, gso4, gso6, checksum4, checksum6 } = this.#features;
    return scatterGather && (type === 1 ? gso4 && checksum4 : gso6 && checksum6);
  }

  /** Buffers that a frame needs; 0 where the guest cannot take it. */
  #slots({ bytes, gsoType }: RxFrame): number {
    const slots = Math.ceil(bytes.length / PAGE);
    if (slots > 1 && !this.#features.scatterGather) return 0;
    return slots + (gsoType === 0 ? 0 : 1);
  }
}

function response(id: number, flags: number, status: number): Uint8Array {
  const bytes = new Uint8Array(8);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, id, true);
  view.setUint16(4, flags, true);
  view.setInt16(6, status, true);
  return bytes;
}

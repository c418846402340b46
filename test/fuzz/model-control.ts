/**
 * What a backend must answer on the control ring, and which queue a frame goes to then, straight
 * from the text of xen/io/netif.h ("Control messages", "Hash types", "Hash algorithms").
 */
import { transportOf } from './model-packet.js';

const KEY_BYTES = 40;
const MAPPING_ENTRIES = 128;
const ALL_TYPES = 15;

export const Status = { success: 0, notSupported: 1, invalid: 2, overflow: 3 } as const;

export interface ControlAnswer {
  readonly status: number;
  readonly data: number;
}

/** Reads the first bytes of a page of the guest's; undefined where it is not granted. */
export type ReadPage = (gref: number, length: number) => Uint8Array | undefined;

/** What is told of a frame: the number of a `_XEN_NETIF_CTRL_HASH_TYPE_*`, and the value. */
export interface ToldHash {
  readonly type: number;
  readonly value: number;
}

export class ControlModel {
  readonly #queues: number;
  readonly #readPage: ReadPage;
  #algorithm = 0;
  #types = 0;
  #key = new Uint8Array(KEY_BYTES);
  #mapping: number[] = [];

  constructor(queues: number, readPage: ReadPage) {
    this.#queues = queues;
    this.#readPage = readPage;
  }

  answer(type: number, data: readonly [number, number, number]): ControlAnswer {
    const [first, second, third] = data;
    switch (type) {
      case 1:
        if (this.#algorithm === 0) return { status: Status.notSupported, data: 0 };
        return { status: Status.success, data: ALL_TYPES };
      case 2:
        return plain(this.#setTypes(first));
      case 3:
        return plain(this.#setKey(first, second));
      case 4:
        return { status: Status.success, data: MAPPING_ENTRIES };
      case 5:
        if (first > MAPPING_ENTRIES) return plain(Status.invalid);
        this.#mapping = new Array<number>(first).fill(0);
        return plain(Status.success);
      case 6:
        return plain(this.#setMapping(first, second, third));
      case 7:
        if (first > 1) return plain(Status.invalid);
        this.#algorithm = first;
        return plain(Status.success);
      default:
        return plain(Status.notSupported);
    }
  }

  /** The queue for a frame, and what is told of it; undefined where the backend may choose. */
  steer(frame: Uint8Array): { queue: number; told: ToldHash | undefined } | undefined {
    if (this.#algorithm === 0 || this.#types === 0) return undefined;
    const told = this.#hash(frame);
    const value = told?.value ?? 0;
    const size = this.#mapping.length;
    const queue = size === 0 ? value % this.#queues : (this.#mapping[value % size] as number);
    return { queue, told };
  }

  #setTypes(types: number): number {
    if (this.#algorithm === 0 || types > ALL_TYPES) return Status.invalid;
    this.#types = types;
    return Status.success;
  }

  #setKey(gref: number, bytes: number): number {
    if (bytes > KEY_BYTES) return Status.overflow;
    const key = bytes === 0 ? new Uint8Array() : this.#readPage(gref, bytes);
    if (key === undefined) return Status.invalid;
    this.#key = new Uint8Array(KEY_BYTES);
    this.#key.set(key);
    return Status.success;
  }

  #setMapping(gref: number, entries: number, offset: number): number {
    if (entries > MAPPING_ENTRIES) return Status.overflow;
    if (offset + entries > this.#mapping.length) return Status.invalid;
    if (entries === 0) return Status.success;
    const page = this.#readPage(gref, entries * 4);
    if (page === undefined) return Status.invalid;
    const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
    const table = Array.from({ length: entries }, (_, index) => view.getUint32(index * 4, true));
    if (table.some((queue) => queue >= this.#queues)) return Status.invalid;
    this.#mapping.splice(offset, entries, ...table);
    return Status.success;
  }

  /** The maximal type of hash that applies. */
  #hash(frame: Uint8Array): ToldHash | undefined {
    const transport = transportOf(frame);
    if (transport === undefined) return undefined;
    const { version, protocol, network, start } = transport;
    const [ip, tcp] = version === 4 ? [0, 1] : [2, 3];
    const addresses =
      version === 4
        ? frame.slice(network + 12, network + 20)
        : frame.slice(network + 8, network + 40);
    if (protocol === 6 && (this.#types & (1 << tcp)) !== 0) {
      const ports = frame.slice(start, start + 4);
      return { type: tcp, value: toeplitz(this.#key, [...addresses, ...ports]) };
    }
    if ((this.#types & (1 << ip)) === 0) return undefined;
    return { type: ip, value: toeplitz(this.#key, [...addresses]) };
  }
}

function plain(status: number): ControlAnswer {
  return { status, data: 0 };
}

/** Bit by bit, as the text has it: the key and the buffer are shift registers. */
function toeplitz(key: Uint8Array, buffer: readonly number[]): number {
  const keyBits = [...key].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  const bits = buffer.map((byte) => byte.toString(2).padStart(8, '0')).join('');
  let value = 0;
  for (let index = 0; index < bits.length; index += 1) {
    if (bits[index] === '0') continue;
    const window = keyBits.slice(index, index + 32).padEnd(32, '0');
    value = (value ^ Number.parseInt(window, 2)) >>> 0;
  }
  return value;
}

/**
 * One frame and its header as two `struct iovec` (sys/uio.h), so that a frame is read into local
 * memory and written out of it where it lies:
 *
 *   0 header: u64 address, u64 length    16 frame: u64 address, u64 length    32 the header itself
 *
 * A call on a TAP never waits and takes less than an asynchronous one costs, so each is made at
 * once. It gets the vector's address as a number: koffi makes no object for that.
 */
import koffi from 'koffi';
import type { LocalMemory } from '../../xen/local-memory.js';
import { libc } from '../../xen/native/library.js';
import { VIRTIO_NET_HEADER_BYTES, VirtioNetHeader } from './virtio-net-header.js';

type VectorCall = (descriptor: number, vector: number, count: number) => number;

const readv: VectorCall = libc.func('long readv(int descriptor, uintptr_t vector, int count)');
const writev: VectorCall = libc.func('long writev(int descriptor, uintptr_t vector, int count)');

const PARTS = 2;
const HEADER = 32;
const BLOCK_BYTES = 64;
const U32_RANGE = 2 ** 32;

export class FrameVector {
  readonly header: VirtioNetHeader;
  /** Kept as long as the addresses in use, for the collector knows nothing of those. */
  readonly #block = new ArrayBuffer(BLOCK_BYTES);
  readonly #memory: LocalMemory;
  readonly #words = new Uint32Array(this.#block);
  readonly #address = Number(koffi.address(this.#block));
  readonly #memoryAddress: number;

  /** A vector for frames of `memory`. */
  constructor(memory: LocalMemory) {
    this.#memory = memory;
    // Not `baseAddress`: in emulated Xen that is an address of the emulated machine.
    this.#memoryAddress = Number(koffi.address(memory.bytes));
    this.header = new VirtioNetHeader(this.#block, HEADER);
    this.#set(0, this.#address + HEADER, VIRTIO_NET_HEADER_BYTES);
  }

  /**
   * Reads a frame to `offset` of local memory, where there is room for `room` bytes, and its header.
   * Returns the frame's length, or a negative errno. A frame that is longer than `room` is cut off.
   */
  read(descriptor: number, offset: number, room: number): number {
    this.#aim(offset, room);
    const bytes = readv(descriptor, this.#address, PARTS);
    return bytes < 0 ? -koffi.errno() : bytes - VIRTIO_NET_HEADER_BYTES;
  }

  /** Writes the frame at `offset` of local memory with `header`. Returns 0, or a negative errno. */
  write(descriptor: number, offset: number, length: number): number {
    this.#aim(offset, length);
    return writev(descriptor, this.#address, PARTS) < 0 ? -koffi.errno() : 0;
  }

  #aim(offset: number, length: number): void {
    if (offset < 0 || offset + length > this.#memory.bytes.length) {
      throw new RangeError(`No ${length} bytes at ${offset} of local memory.`);
    }
    this.#set(1, this.#memoryAddress + offset, length);
  }

  #set(part: number, address: number, length: number): void {
    const words = this.#words;
    words[part * 4] = address % U32_RANGE;
    words[part * 4 + 1] = address / U32_RANGE;
    words[part * 4 + 2] = length;
    words[part * 4 + 3] = 0;
  }
}

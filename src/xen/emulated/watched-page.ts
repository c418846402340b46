/**
 * A page that tells of each read: on a real machine a guest runs beside us and may change a field
 * between any two of our reads. The hook runs right after a read and may change what was read, so
 * that whoever reads a field twice gets two values.
 */
import { Page } from '../page.js';

/** Told where in the page a read was and how many bytes it took, after it was made. */
export type ReadHook = (offset: number, bytes: number) => void;

export class WatchedPage extends Page {
  readonly #onRead: ReadHook;

  constructor(
    memory: ArrayBufferLike,
    byteOffset: number,
    access: 'read' | 'write',
    onRead: ReadHook,
  ) {
    super(memory, byteOffset, access);
    this.#onRead = onRead;
  }

  override loadIndex(offset: number): number {
    const value = super.loadIndex(offset);
    this.#onRead(offset, 4);
    return value;
  }

  override readU32(offset: number): number {
    const value = super.readU32(offset);
    this.#onRead(offset, 4);
    return value;
  }

  override readU16(offset: number): number {
    const value = super.readU16(offset);
    this.#onRead(offset, 2);
    return value;
  }

  override readI16(offset: number): number {
    const value = super.readI16(offset);
    this.#onRead(offset, 2);
    return value;
  }

  override readWords(offset: number, target: Uint32Array, start: number, count: number): void {
    for (let word = 0; word < count; word += 1) {
      target[start + word] = this.readU32(offset + word * 4);
    }
  }

  override readU8(offset: number): number {
    const value = super.readU8(offset);
    this.#onRead(offset, 1);
    return value;
  }

  override fetchOrU8(offset: number, bits: number): number {
    const value = super.fetchOrU8(offset, bits);
    this.#onRead(offset, 1);
    return value;
  }

  override fetchAndU8(offset: number, bits: number): number {
    const value = super.fetchAndU8(offset, bits);
    this.#onRead(offset, 1);
    return value;
  }
}

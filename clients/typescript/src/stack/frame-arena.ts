/**
 * Memory for frames that wait for a flush, and where each lies: what the adapters of NICs share. While
 * a flush goes on, frames that it brought about are put behind those that are being sent.
 */
import { ETHERNET_HEADER_BYTES } from './wire/ethernet.js';

/** A frame starts two bytes off a multiple of four, so that what follows Ethernet is aligned. */
const PADDING = 2;
const ALIGNMENT_MASK = 3;

export class FrameArena {
  readonly bytes: Uint8Array;
  readonly #start: number;
  readonly #end: number;
  readonly #framesMax: number;
  #next: number;
  #count = 0;
  #wasFull = false;

  /** Manages `bytes[start .. start + length)`; `start` is a multiple of four. */
  constructor(bytes: Uint8Array, start: number, length: number, framesMax: number) {
    this.bytes = bytes;
    this.#start = start;
    this.#end = start + length;
    this.#framesMax = framesMax;
    this.#next = start + PADDING;
  }

  /** Whether `reserve` found no room since the last `clear`. */
  get wasFull(): boolean {
    return this.#wasFull;
  }

  /** Where a frame goes; -1: there is no room. */
  reserve(length: number): number {
    if (this.#count < this.#framesMax && this.#next + length <= this.#end) return this.#next;
    this.#wasFull = true;
    return -1;
  }

  /** Keeps what was written at the place reserved last. */
  commit(length: number): void {
    this.#count += 1;
    const end = this.#next + Math.max(length, ETHERNET_HEADER_BYTES) - PADDING;
    this.#next = ((end + ALIGNMENT_MASK) & ~ALIGNMENT_MASK) + PADDING;
  }

  clear(): void {
    this.#next = this.#start + PADDING;
    this.#count = 0;
    this.#wasFull = false;
  }
}

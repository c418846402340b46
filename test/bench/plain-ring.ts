/**
 * The plainest ring: requests that are read off it, and frames that are copied with `copyWithin` to where
 * they are sent from, each behind its tag and length. No device and no checks.
 */

/** What a ring holds of frames that are no longer than a page. */
const SLOTS = 256;
const PAGE = 4096;
/** A message is full with so many bytes... */
const MESSAGE_BYTES = 64 * 1024;
export const MESSAGES = 34;
/** ... and a ring full of the longest frames goes into no more messages than this. */
export const MESSAGES_PER_RING = 17;

/** Where messages begin in memory, and how much each may take. */
const MESSAGES_AT = (SLOTS + 1) * PAGE;
const MESSAGE_ROOM = MESSAGE_BYTES + 4 * PAGE;
export const PLAIN_RING_BYTES = MESSAGES_AT + MESSAGES * MESSAGE_ROOM;

/** Where message `index` begins. */
export function messageAt(index: number): number {
  return MESSAGES_AT + index * MESSAGE_ROOM;
}

export class PlainRing {
  readonly #bytes: Uint8Array;
  readonly #ring: Uint32Array;
  readonly #sizes: readonly number[];
  readonly #pagesPerFrame: number;
  readonly #onFull: (start: number, end: number) => number;
  #message: number;
  #place: number;

  /**
   * A ring in `memory` with frames that have the lengths `sizes` by turns. `onFull` is told where a message
   * lies, and answers where the next one begins.
   */
  constructor(
    memory: ArrayBuffer,
    sizes: readonly number[],
    first: number,
    onFull: (start: number, end: number) => number,
  ) {
    this.#bytes = new Uint8Array(memory);
    this.#ring = new Uint32Array(memory, 0, SLOTS * 3);
    this.#sizes = sizes;
    // Frames that are longer than a page take four slots each.
    this.#pagesPerFrame = Math.max(...sizes) > PAGE ? 4 : 1;
    this.#onFull = onFull;
    this.#message = first;
    this.#place = first;
    this.#bytes.fill(0x5a, PAGE, MESSAGES_AT);
  }

  /** What a guest does, and then what a backend does with it, for all slots of the ring. */
  turn(): void {
    const bytes = this.#bytes;
    const ring = this.#ring;
    const sizes = this.#sizes;
    const pagesPerFrame = this.#pagesPerFrame;
    const frames = SLOTS / pagesPerFrame;
    for (let slot = 0; slot < frames; slot += 1) {
      ring[slot * 3] = slot * pagesPerFrame + 1;
      ring[slot * 3 + 1] = 0;
      ring[slot * 3 + 2] = slot | ((sizes[slot % sizes.length] as number) << 16);
    }
    let place = this.#place;
    for (let slot = 0; slot < frames; slot += 1) {
      const source = (ring[slot * 3] as number) * PAGE;
      const idAndSize = ring[slot * 3 + 2] as number;
      const size = idAndSize >>> 16;
      bytes[place] = 0x0a;
      if (size < 0x80) {
        bytes[place + 1] = size;
        place += 2;
      } else {
        bytes[place + 1] = (size & 0x7f) | 0x80;
        bytes[place + 2] = size >>> 7;
        place += 3;
      }
      bytes.copyWithin(place, source, source + size);
      place += size;
      ring[slot * 3] = idAndSize & 0xffff;
      if (place - this.#message >= MESSAGE_BYTES) {
        place = this.#onFull(this.#message, place);
        this.#message = place;
      }
    }
    this.#place = place;
  }
}

/**
 * Local memory for what clients send: frames of a message that was received into it go to a guest by a
 * grant copy from where they lie. There is little of it, for it is to stay in the processor's cache; a
 * client for whom there is none has its frames copied once more.
 */
import type { MessageMemory } from '@xenvif/client/message-receiver';
import type { LocalMemory, LocalRegion } from '../xen/local-memory.js';
import { PAGE_SIZE } from '../xen/xen.js';

/** A message as clients make them, 64 KiB of frames with tags and lengths, and some of the next one. */
const REGION_BYTES = 96 * 1024;
const REGIONS = 16;

export class MessagePool {
  readonly memory: LocalMemory;
  readonly #spare: LocalRegion[] = [];
  #isOpen = true;

  /** @throws GrantError where there is no memory. */
  constructor(memory: LocalMemory) {
    this.memory = memory;
    for (let made = 0; made < REGIONS; made += 1) this.#spare.push(memory.allocate(REGION_BYTES));
  }

  borrow(): LocalRegion | undefined {
    return this.#spare.pop();
  }

  giveBack(region: LocalRegion): void {
    if (this.#isOpen) this.#spare.push(region);
    else region.free();
  }

  /** Gives all memory back, what is borrowed when it is given back. */
  free(): void {
    this.#isOpen = false;
    for (const region of this.#spare) region.free();
    this.#spare.length = 0;
  }
}

/** What one client has of a pool. */
export class BorrowedMemory implements MessageMemory {
  readonly #pool: MessagePool;
  /** By where they start in local memory. */
  readonly #borrowed = new Map<number, LocalRegion>();

  constructor(pool: MessagePool) {
    this.#pool = pool;
  }

  take(byteCount: number): Buffer | undefined {
    if (byteCount > REGION_BYTES) return undefined;
    const region = this.#pool.borrow();
    if (region === undefined) return undefined;
    this.#borrowed.set(region.offset, region);
    const { buffer, byteOffset } = this.#pool.memory.bytes;
    return Buffer.from(buffer, byteOffset + region.offset, REGION_BYTES);
  }

  /** A message begins in the first page of its region. */
  takeBack({ buffer, byteOffset }: Buffer): boolean {
    const { bytes } = this.#pool.memory;
    if (buffer !== bytes.buffer) return false;
    const offset = byteOffset - bytes.byteOffset;
    this.#giveBack(offset - (offset % PAGE_SIZE));
    return true;
  }

  /** Gives everything back: nobody looks at it any more, and nothing is written to it. */
  giveAllBack(): void {
    for (const offset of this.#borrowed.keys()) this.#giveBack(offset);
  }

  #giveBack(offset: number): void {
    const region = this.#borrowed.get(offset);
    if (region === undefined) return;
    this.#borrowed.delete(offset);
    this.#pool.giveBack(region);
  }
}

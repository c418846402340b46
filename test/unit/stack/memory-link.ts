/** A wire whose other end is the test: what the stack sends is kept, what it receives is said. */
import { FrameArena, type Link, type LinkReceiver } from '@xenvif/client/stack';
import { parseMac } from '../../../clients/typescript/src/stack/wire/ethernet.js';

const ARENA_BYTES = 256 * 1024;

export class MemoryLink implements Link {
  readonly mac: Uint8Array;
  readonly mtu: number;
  readonly bytes = new Uint8Array(ARENA_BYTES);
  readonly largePacketBytes = 0;
  readonly blanksChecksums = false;
  /** Frames sent, oldest first. */
  sent: Buffer[] = [];
  /** Where frames go besides. */
  onSent: (frame: Buffer) => void = () => undefined;
  receiver: LinkReceiver | undefined;
  isClosed = false;
  readonly #arena = new FrameArena(this.bytes, 0, ARENA_BYTES, 256);
  #committed: Buffer[] = [];

  constructor(mac = '02:00:00:00:00:01', mtu = 1500) {
    this.mac = parseMac(mac) as Uint8Array;
    this.mtu = mtu;
  }

  start(receiver: LinkReceiver): void {
    this.receiver = receiver;
  }

  reserve(length: number): number {
    return this.#arena.reserve(length);
  }

  commit(offset: number, length: number): void {
    this.#committed.push(Buffer.from(this.bytes.slice(offset, offset + length)));
    this.#arena.commit(length);
  }

  flush(): void {
    const { wasFull } = this.#arena;
    const frames = this.#committed;
    this.#committed = [];
    this.#arena.clear();
    for (const frame of frames) {
      this.sent.push(frame);
      this.onSent(frame);
    }
    if (wasFull) this.receiver?.roomAgain();
  }

  async close(): Promise<void> {
    this.flush();
    this.isClosed = true;
  }

  /** Has the stack receive frames that came together. */
  receives(...frames: Uint8Array[]): void {
    for (const frame of frames) {
      // In the middle of something larger, as frames are.
      const around = new Uint8Array(frame.length + 8).fill(0xee);
      around.set(frame, 3);
      this.receiver?.receive(around, 3, frame.length, false);
    }
    this.receiver?.receiveEnd();
  }

  /** What was sent since the last call. */
  take(): Buffer[] {
    return this.sent.splice(0);
  }
}

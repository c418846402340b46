/** A bad wire between two stacks in a time of its own: the same seed gives the same story. */
import { Stack, type StackOptions } from '@xenvif/client/stack';
import type { SeededRandom } from '../support/random.js';
import { MemoryLink } from '../unit/stack/memory-link.js';
import { settle, VirtualClock } from '../unit/stack/virtual-clock.js';

/** What the wire does to frames, both ways; shares are of a thousand. */
export interface WireFaults {
  readonly loss: number;
  readonly duplicate: number;
  readonly corrupt: number;
  readonly delayMs: number;
  readonly jitterMs: number;
}

const SETTLING_TURNS = 20;
const ETHERTYPE_IPV4 = 0x0800;

export class StackWire {
  readonly clock = new VirtualClock();
  readonly left: Stack;
  readonly right: Stack;
  /** Frames that were put on the wire. */
  frames = 0;
  #faults: WireFaults;
  readonly #random: SeededRandom;

  constructor(
    random: SeededRandom,
    faults: WireFaults,
    options: readonly [StackOptions['tcp'], StackOptions['tcp']],
    mtu = 1500,
  ) {
    this.#random = random;
    this.#faults = faults;
    const links = [
      new MemoryLink('02:00:00:00:00:01', mtu),
      new MemoryLink('02:00:00:00:00:02', mtu),
    ] as const;
    this.#carry(links[0], links[1]);
    this.#carry(links[1], links[0]);
    const { clock } = this;
    const stackOf = (index: 0 | 1) =>
      Stack.connect(links[index], {
        ...{ clock, random, cidr: `10.0.0.${index + 1}/24`, tcp: options[index] },
      });
    this.left = stackOf(0);
    this.right = stackOf(1);
  }

  setFaults(faults: WireFaults): void {
    this.#faults = faults;
  }

  /** Lets time pass until `isDone`; false when nothing is left to wait for, or it takes too long. */
  async run(isDone: () => boolean, virtualMs: number): Promise<boolean> {
    const endMs = this.clock.nowMs() + virtualMs;
    await settle();
    while (!isDone()) {
      if (!this.clock.step(endMs)) {
        // Readers may need some turns of the event loop before they ask for more time.
        for (let turn = 0; turn < SETTLING_TURNS && this.clock.pending === 0; turn += 1) {
          await settle();
        }
        if (isDone()) return true;
        if (!this.clock.step(endMs)) return false;
      }
      await settle();
    }
    return true;
  }

  async end(): Promise<void> {
    await this.left.disconnect();
    await this.right.disconnect();
  }

  #carry(from: MemoryLink, to: MemoryLink): void {
    from.onSent = (frame) => {
      from.take();
      this.frames += 1;
      const { loss, duplicate, corrupt } = this.#faults;
      if (this.#random.below(1000) < loss) return;
      const isGuarded = frame.readUInt16BE(12) === ETHERTYPE_IPV4;
      if (this.#random.below(1000) < corrupt && isGuarded) {
        // MAC addresses and ARP have no checksum but Ethernet's, which is not here.
        const bit = 14 * 8 + this.#random.below((frame.length - 14) * 8);
        frame[bit >> 3] = (frame[bit >> 3] as number) ^ (1 << (bit & 7));
      }
      this.#deliver(frame, to);
      if (this.#random.below(1000) < duplicate) this.#deliver(Buffer.from(frame), to);
    };
  }

  #deliver(frame: Buffer, to: MemoryLink): void {
    const { delayMs, jitterMs } = this.#faults;
    const jitter = jitterMs === 0 ? 0 : this.#random.below(jitterMs * 1000) / 1000;
    this.clock.wake(delayMs + jitter, () => to.receives(frame));
  }
}

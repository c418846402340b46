/**
 * Makes the wire of a NIC as bad as one likes, each direction for itself. A write is done when the
 * injector has the frame: what becomes of it then, its writer hears no more than on a real wire.
 */
import type { LocalMemory } from '../../xen/local-memory.js';
import { FRAME_BYTES_MAX, FRAME_BYTES_MIN, type FrameBatch } from '../frame-batch.js';
import { type Network, WriteOutcome } from '../network.js';
import { writeStaged } from '../single-frame.js';
import { type FaultClock, type FaultCounts, type Faults, FaultyPath } from './faulty-path.js';
import { type FrameDirection, NetworkWrapper } from './network-wrapper.js';

export type { FaultClock, FaultCounts, Faults } from './faulty-path.js';

export interface FaultInjectorOptions {
  /** Memory that the NIC that is wrapped can send from. */
  readonly memory: LocalMemory;
  /** The same seed, and the same frames at the same times, have the same fate. */
  readonly seed: number;
  /** What becomes of frames that are sent. Default: they pass. */
  readonly sent?: Faults;
  /** What becomes of frames that are received. Default: they pass. */
  readonly received?: Faults;
  /** Default: the monotonic clock. */
  readonly clock?: FaultClock;
}

const monotonicClock: FaultClock = {
  nowMs: () => performance.now(),
  wake: (delayMs, run) => {
    const timer = setTimeout(run, delayMs);
    return () => clearTimeout(timer);
  },
};

export class FaultInjector extends NetworkWrapper {
  readonly #memory: LocalMemory;
  readonly #paths: Readonly<Record<FrameDirection, FaultyPath>>;
  #isOver = false;

  /** @throws InvalidArgumentError FAULTS_INVALID. */
  constructor(inner: Network, options: FaultInjectorOptions) {
    super(inner);
    const { memory, seed, clock = monotonicClock } = options;
    this.#memory = memory;
    // Each direction has numbers of its own: what happens in one changes nothing in the other.
    this.#paths = {
      sent: new FaultyPath(memory, seed * 2, clock, (batch) => inner.writeBatch(batch)),
      received: new FaultyPath(memory, seed * 2 + 1, clock, (batch) => void this.deliver(batch)),
    };
    this.setFaults('sent', options.sent ?? {});
    this.setFaults('received', options.received ?? {});
  }

  /** What happened in a direction so far. */
  counts(direction: FrameDirection): FaultCounts {
    return this.#paths[direction].counts;
  }

  /** Frames that are on their way. */
  waiting(direction: FrameDirection): number {
    return this.#paths[direction].waiting;
  }

  /** What becomes of frames from now on. @throws InvalidArgumentError FAULTS_INVALID. */
  setFaults(direction: FrameDirection, faults: Faults): void {
    this.#paths[direction].setFaults(faults);
  }

  async writev(parts: readonly Uint8Array[]): Promise<void> {
    this.checkNotGivenUp();
    writeStaged(this, this.#memory, parts);
  }

  writeBatch(batch: FrameBatch, outcomes?: Uint8Array): number {
    if (this.#isOver) {
      outcomes?.fill(WriteOutcome.notConnected, 0, batch.count);
      return 0;
    }
    return this.#pass('sent', batch, outcomes);
  }

  /** What is on its way is lost. */
  override async disconnect(): Promise<void> {
    this.#isOver = true;
    this.#paths.sent.close();
    this.#paths.received.close();
    await super.disconnect();
  }

  protected received(batch: FrameBatch): void {
    if (!this.#isOver) this.#pass('received', batch, undefined);
  }

  #pass(direction: FrameDirection, batch: FrameBatch, outcomes: Uint8Array | undefined): number {
    const path = this.#paths[direction];
    let accepted = 0;
    for (let index = 0; index < batch.count; index += 1) {
      const outcome = passOn(path, batch, index);
      if (outcome === WriteOutcome.accepted) accepted += 1;
      if (outcomes !== undefined) outcomes[index] = outcome;
    }
    path.flush();
    return accepted;
  }
}

function passOn(path: FaultyPath, batch: FrameBatch, index: number): WriteOutcome {
  const length = batch.length(index);
  if (length < FRAME_BYTES_MIN || length > FRAME_BYTES_MAX) return WriteOutcome.tooLong;
  return path.push(batch, index) ? WriteOutcome.accepted : WriteOutcome.queueFull;
}

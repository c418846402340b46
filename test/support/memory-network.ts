/**
 * A NIC in memory: the test is its station. `sends` puts frames on the wire towards whoever listens,
 * in one batch; `received` has copies of what was written to it.
 */
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  FRAME_BYTES_MAX,
  FrameBatch,
} from '../../src/device/frame-batch.js';
import { type NetworkStats, WriteOutcome } from '../../src/device/network.js';
import { NetworkBase, type PatientListener } from '../../src/device/network-base.js';
import { writeStaged } from '../../src/device/single-frame.js';
import type { LocalMemory } from '../../src/xen/local-memory.js';

export interface ReceivedFrame {
  readonly data: Buffer;
  readonly flags: number;
}

export class MemoryNetwork extends NetworkBase {
  readonly mac = '02:00:00:00:00:00';
  readonly mtu = FRAME_BYTES_MAX - 14;
  readonly stats: NetworkStats = { rxBytes: 0n, rxPackets: 0n, txBytes: 0n, txPackets: 0n };
  received: ReceivedFrame[] = [];
  /** How many frames each `writeBatch` had. */
  readonly writes: number[] = [];
  /** What happens to each frame that is written; by default it is accepted. */
  outcomeOf: (index: number) => WriteOutcome = () => WriteOutcome.accepted;
  /** Called at each `writeBatch`, before anything else. */
  onWrite: (batch: FrameBatch) => void = () => undefined;
  /** Completes blank checksums in place, as a netback does for a guest that cannot. */
  completesChecksums = false;
  readonly #memory: LocalMemory;
  #listenerCount = 0;

  constructor(memory: LocalMemory) {
    super();
    this.#memory = memory;
  }

  get isListenedTo(): boolean {
    return this.#listenerCount > 0;
  }

  /** Sends frames as one batch; `flags` holds for all of them. Returns what is known of them after. */
  sends(frames: readonly Uint8Array[], flags = 0): number[] {
    const bytes = frames.reduce((sum, frame) => sum + frame.length, 0);
    const region = this.#memory.allocate(Math.max(1, bytes));
    const batch = new FrameBatch(this.#memory.bytes, Math.max(1, frames.length));
    let offset = region.offset;
    for (const frame of frames) {
      this.#memory.bytes.set(frame, offset);
      batch.add(offset, frame.length, flags);
      offset += frame.length;
    }
    try {
      this.carry(batch);
      return Array.from(batch.flags);
    } finally {
      region.free();
    }
  }

  /** Hands a batch to the listeners as it is. */
  carry(batch: FrameBatch): void {
    void this.deliver(batch);
  }

  /** What was received since the last call. */
  take(): Buffer[] {
    const frames = this.received.map(({ data }) => data);
    this.received = [];
    return frames;
  }

  writeBatch(batch: FrameBatch, outcomes?: Uint8Array): number {
    this.onWrite(batch);
    this.writes.push(batch.count);
    let accepted = 0;
    for (let index = 0; index < batch.count; index += 1) {
      const outcome = this.outcomeOf(index);
      if (outcomes !== undefined) outcomes[index] = outcome;
      if (outcome !== WriteOutcome.accepted) continue;
      accepted += 1;
      this.#receive(batch, index);
    }
    return accepted;
  }

  async writev(parts: readonly Uint8Array[]): Promise<void> {
    writeStaged(this, this.#memory, parts);
  }

  async disconnect(): Promise<void> {
    this.endListening();
  }

  resetStats(): void {}

  protected override addListener(listener: PatientListener): () => void {
    const end = super.addListener(listener);
    this.#listenerCount += 1;
    return () => {
      this.#listenerCount -= 1;
      end();
    };
  }

  #receive(batch: FrameBatch, index: number): void {
    const offset = batch.offset(index);
    const length = batch.length(index);
    if (this.completesChecksums && (batch.flag(index) & CHECKSUM_BLANK) !== 0) {
      // The last byte stands for the checksum.
      batch.bytes[offset + length - 1] = 0xcc;
      batch.flags[index] = (batch.flag(index) & ~CHECKSUM_BLANK) | DATA_VALIDATED;
    }
    const data = Buffer.from(batch.bytes.subarray(offset, offset + length));
    this.received.push({ data, flags: batch.flag(index) });
  }
}

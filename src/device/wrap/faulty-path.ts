/**
 * One direction of a bad wire: every frame waits in a line until its time, which may put it behind
 * a later one, and may be lost, doubled or damaged on the way. Which frames, the seed says: each
 * frame costs the same number of random numbers, whatever happens to it.
 */
import { InvalidArgumentError } from '../../errors.js';
import { completeChecksum } from '../../wire/checksum-offload.js';
import type { LocalMemory } from '../../xen/local-memory.js';
import { BatchCopy } from '../batch-copy.js';
import { frameTimeNs } from '../clock.js';
import { CHECKSUM_BLANK, DATA_VALIDATED, type FrameBatch, gsoTypeOf } from '../frame-batch.js';
import { SeededRandom } from './seeded-random.js';

const REORDER_DELAY_MS = 10;
const QUEUE_BYTES = 1024 * 1024;
const QUEUE_FRAMES = 4096;

/** What a direction does to frames; what is left out it does not do. Shares are from 0 to 1. */
export interface Faults {
  /** The share of frames that vanish. */
  readonly loss?: number;
  /** The share of frames that arrive twice. */
  readonly duplicate?: number;
  /**
   * The share of frames in which one bit is turned. Their checksum counts as not verified; a frame
   * that is still to be segmented vanishes, for its segments would get checksums that fit.
   */
  readonly corrupt?: number;
  /** The share of frames that are held back by `reorderDelayMs`, so that others pass them. */
  readonly reorder?: number;
  /** In milliseconds. Default: 10. */
  readonly reorderDelayMs?: number;
  /** How long each frame takes, in milliseconds. */
  readonly delayMs?: number;
  /** Up to so many milliseconds more, evenly spread; frames may overtake each other by it. */
  readonly jitterMs?: number;
  /** What passes in a second; frames wait for their turn. */
  readonly bytesPerSecond?: number;
  /** What may wait, in bytes (default 1 MiB) and frames (4096); what comes beyond is dropped. */
  readonly queueBytes?: number;
  readonly queueFrames?: number;
}

/** What happened to frames of a direction. */
export interface FaultCounts {
  readonly passed: number;
  readonly lost: number;
  readonly duplicated: number;
  readonly corrupted: number;
  readonly reordered: number;
  /** Dropped because too much waited. */
  readonly overflowed: number;
}

/** Time as the injector knows it; a test may have one of its own. */
export interface FaultClock {
  /** Milliseconds from anywhere, never going back. */
  nowMs(): number;
  /** Calls `run` after `delayMs`; what it returns forbids it. */
  wake(delayMs: number, run: () => void): () => void;
}

interface DelayedFrame {
  readonly bytes: Uint8Array;
  readonly flags: number;
  readonly dueMs: number;
}

export class FaultyPath {
  readonly #memory: LocalMemory;
  readonly #random: SeededRandom;
  readonly #clock: FaultClock;
  readonly #release: (batch: FrameBatch) => void;
  readonly #counts = {
    passed: 0,
    lost: 0,
    duplicated: 0,
    corrupted: 0,
    reordered: 0,
    overflowed: 0,
  };
  #faults: Faults = {};
  /** In the order in which they are due; those that are due together, in that of their coming. */
  #line: DelayedFrame[] = [];
  #bytes = 0;
  /** When the wire has sent all that it was given. */
  #freeAtMs = 0;
  #out: BatchCopy | undefined;
  #isReleasing = false;
  #sleep: (() => void) | undefined;
  #isClosed = false;

  constructor(
    memory: LocalMemory,
    seed: number,
    clock: FaultClock,
    release: (batch: FrameBatch) => void,
  ) {
    this.#memory = memory;
    this.#random = new SeededRandom(seed);
    this.#clock = clock;
    this.#release = release;
  }

  get counts(): FaultCounts {
    return { ...this.#counts };
  }

  /** Frames that wait. */
  get waiting(): number {
    return this.#line.length;
  }

  /** Takes effect for frames that come from now on. @throws InvalidArgumentError FAULTS_INVALID. */
  setFaults(faults: Faults): void {
    checkFaults(faults);
    this.#faults = faults;
  }

  /** Takes a frame; false when there is no room for it. Those that are due go with `flush`. */
  push(batch: FrameBatch, index: number): boolean {
    const { loss = 0, duplicate = 0, corrupt = 0, reorder = 0 } = this.#faults;
    const random = this.#random;
    const isLost = random.next() < loss;
    const isDoubled = random.next() < duplicate;
    const isCorrupt = random.next() < corrupt;
    const isReordered = random.next() < reorder;
    const bit = random.next();
    const jitters = [random.next(), random.next()] as const;
    if (isLost || (isCorrupt && gsoTypeOf(batch.flag(index)) !== 0)) {
      this.#counts.lost += 1;
      return true;
    }
    const offset = batch.offset(index);
    const bytes = batch.bytes.slice(offset, offset + batch.length(index));
    const flags = isCorrupt ? this.#corrupt(bytes, batch.flag(index), bit) : batch.flag(index);
    if (!this.#delay(bytes, flags, jitters[0], isReordered)) return false;
    if (isReordered) this.#counts.reordered += 1;
    if (isDoubled && this.#delay(bytes, flags, jitters[1], false)) this.#counts.duplicated += 1;
    return true;
  }

  /** Lets go what is due, and sees to it that the rest is let go in time. */
  flush(): void {
    if (this.#isReleasing || this.#isClosed) return;
    this.#isReleasing = true;
    try {
      // What comes in while these go waits for the next turn, lest two that talk never pause.
      let left = this.#line.length;
      while (left > 0 && this.#isDue()) left -= this.#releaseDue();
    } finally {
      this.#isReleasing = false;
      this.#sleep?.();
      this.#sleep = undefined;
      const next = this.#line[0];
      if (next !== undefined && !this.#isClosed) {
        const delayMs = Math.max(0, next.dueMs - this.#clock.nowMs());
        this.#sleep = this.#clock.wake(delayMs, () => this.flush());
      }
    }
  }

  /** Forgets what waits and gives memory back. */
  close(): void {
    this.#isClosed = true;
    this.#sleep?.();
    this.#line = [];
    this.#bytes = 0;
    if (!this.#isReleasing) this.#freeOut();
  }

  #isDue(): boolean {
    const first = this.#line[0];
    return first !== undefined && first.dueMs <= this.#clock.nowMs();
  }

  #releaseDue(): number {
    this.#out ??= new BatchCopy(this.#memory);
    const out = this.#out;
    out.clear();
    const nowMs = this.#clock.nowMs();
    let count = 0;
    for (const { bytes, flags, dueMs } of this.#line) {
      if (dueMs > nowMs || !out.add(bytes, 0, bytes.length, flags)) break;
      count += 1;
    }
    this.#line.splice(0, count);
    this.#bytes -= out.batch.totalBytes;
    this.#counts.passed += count;
    out.batch.timeNs = frameTimeNs();
    this.#release(out.batch);
    if (this.#isClosed) this.#freeOut();
    return count;
  }

  #freeOut(): void {
    this.#out?.free();
    this.#out = undefined;
  }

  #delay(bytes: Uint8Array, flags: number, jitter: number, isReordered: boolean): boolean {
    const { queueBytes = QUEUE_BYTES, queueFrames = QUEUE_FRAMES } = this.#faults;
    if (this.#line.length >= queueFrames || this.#bytes + bytes.length > queueBytes) {
      this.#counts.overflowed += 1;
      return false;
    }
    const { delayMs = 0, jitterMs = 0, reorderDelayMs = REORDER_DELAY_MS } = this.#faults;
    const heldMs = isReordered ? reorderDelayMs : 0;
    const dueMs = this.#sentAtMs(bytes.length) + delayMs + jitter * jitterMs + heldMs;
    let place = this.#line.length;
    while (place > 0 && (this.#line[place - 1]?.dueMs ?? 0) > dueMs) place -= 1;
    this.#line.splice(place, 0, { bytes, flags, dueMs });
    this.#bytes += bytes.length;
    return true;
  }

  /** When the wire will have sent a frame that it is given now. */
  #sentAtMs(bytes: number): number {
    const { bytesPerSecond } = this.#faults;
    const nowMs = this.#clock.nowMs();
    if (bytesPerSecond === undefined) return nowMs;
    this.#freeAtMs = Math.max(nowMs, this.#freeAtMs) + (bytes * 1000) / bytesPerSecond;
    return this.#freeAtMs;
  }

  /** Turns a bit of a frame and returns its flags: whoever gets it has to verify it. */
  #corrupt(bytes: Uint8Array, flags: number, where: number): number {
    this.#counts.corrupted += 1;
    // A checksum that is made later would fit the damage.
    if ((flags & CHECKSUM_BLANK) !== 0) completeChecksum(bytes, 0, bytes.length);
    const bit = Math.floor(where * bytes.length * 8);
    const index = bit >>> 3;
    bytes[index] = (bytes[index] as number) ^ (1 << (bit & 7));
    return flags & ~CHECKSUM_BLANK & ~DATA_VALIDATED;
  }
}

function checkFaults(faults: Faults): void {
  const { loss, duplicate, corrupt, reorder, ...amounts } = faults;
  for (const [field, share] of Object.entries({ loss, duplicate, corrupt, reorder })) {
    if (share === undefined || (share >= 0 && share <= 1)) continue;
    throw invalid(field, `A share lies between 0 and 1; ${share} does not.`);
  }
  for (const [field, amount] of Object.entries(amounts)) {
    if (amount === undefined || (Number.isFinite(amount) && amount >= 0)) continue;
    throw invalid(field, `${amount} is no such amount.`);
  }
  if (faults.bytesPerSecond === 0) throw invalid('bytesPerSecond', 'Nothing would ever pass.');
}

function invalid(field: string, text: string): InvalidArgumentError {
  return new InvalidArgumentError('FAULTS_INVALID', field, text);
}

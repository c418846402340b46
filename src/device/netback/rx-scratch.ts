/**
 * What one call of an RX queue works with. Queues of a vif are filled side by side, so each queue
 * index has its own; queues of different vifs never are, so vifs share them.
 */
import { CopyBatch } from '../../xen/copy-batch.js';
import type { LocalMemory } from '../../xen/local-memory.js';
import { FrameBatch } from '../frame-batch.js';

/** Slots of the ring, and so the most that one call can fill. */
export const SLOTS_MAX = 256;

export class RxScratch {
  readonly copies: CopyBatch;
  readonly sent: FrameBatch;
  /** What of a batch goes to this queue where there are several, and which frames of it those are. */
  readonly share: FrameBatch;
  readonly shareIndices = new Uint16Array(SLOTS_MAX);
  /** Requests as they were on the ring, and then their responses, two words each. */
  readonly words = new Uint32Array(SLOTS_MAX * 2);
  /** What each slot is answered with: a piece of a frame, or an extra. */
  readonly slotKinds = new Uint8Array(SLOTS_MAX);
  readonly slotIds = new Uint16Array(SLOTS_MAX);
  readonly slotLengths = new Uint16Array(SLOTS_MAX);
  readonly slotFlags = new Uint16Array(SLOTS_MAX);
  /** The copy that fills the slot. */
  readonly slotSegments = new Uint16Array(SLOTS_MAX);
  readonly frameSlots = new Uint16Array(SLOTS_MAX);
  readonly frameOffsets = new Uint32Array(SLOTS_MAX);
  readonly frameLengths = new Uint32Array(SLOTS_MAX);
  readonly frameFlags = new Uint32Array(SLOTS_MAX);
  readonly frameHashTypes = new Uint8Array(SLOTS_MAX);
  readonly frameHashes = new Uint32Array(SLOTS_MAX);

  constructor(memory: LocalMemory) {
    this.copies = new CopyBatch(memory, SLOTS_MAX);
    this.sent = new FrameBatch(memory.bytes, SLOTS_MAX);
    this.share = new FrameBatch(memory.bytes, SLOTS_MAX);
  }
}

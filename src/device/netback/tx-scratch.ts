/**
 * What a batch of TX requests is parsed into. It is used within one call of `TxQueue.consume`, so
 * one serves every queue of the daemon.
 */
import { emptyExtra } from '../../ring/netif-extra.js';
import type { TxRequest } from '../../ring/netif-tx.js';
import { CopyBatch } from '../../xen/copy-batch.js';
import type { LocalMemory, LocalRegion } from '../../xen/local-memory.js';
import { FrameBatch } from '../frame-batch.js';
import { RunPool } from '../run-storage.js';

/** Slots of the ring, and so the most that one batch can take. */
export const TX_SLOTS_MAX = 256;
/** Fragments that are an honest mistake of a guest; one more and the chain is an attack. */
export const FRAGMENTS_TOLERATED = 20;
/** Staging for one batch: room for a ring of 1514 bytes each beside one frame of the longest. */
const STAGING_BYTES = 512 * 1024;

export class TxScratch {
  readonly copies: CopyBatch;
  readonly batch: FrameBatch;
  readonly staging: LocalRegion;
  /** Where plain frames go, so that they can be sent on from there. */
  readonly runs: RunPool;
  /** The requests as they were on the ring, three words each: all parsing is of this copy. */
  readonly requests = new Uint32Array(TX_SLOTS_MAX * 3);
  /** Answers to plain requests. The words that an answer does not use are and stay zero. */
  readonly answers = new Uint32Array(TX_SLOTS_MAX * 3);
  /** The same with the end of the request, which has its id, behind each. */
  readonly tailedAnswers = new Uint32Array(TX_SLOTS_MAX * 3);
  readonly slotIds = new Uint16Array(TX_SLOTS_MAX);
  readonly slotKinds = new Uint8Array(TX_SLOTS_MAX);
  readonly packetSlots = new Uint16Array(TX_SLOTS_MAX);
  readonly packetFirstSegment = new Uint16Array(TX_SLOTS_MAX);
  readonly packetSegments = new Uint16Array(TX_SLOTS_MAX);
  readonly packetOffset = new Uint32Array(TX_SLOTS_MAX);
  readonly packetLength = new Uint32Array(TX_SLOTS_MAX);
  readonly packetFlags = new Uint32Array(TX_SLOTS_MAX);
  /** The status that the packet's data slots are answered with. */
  readonly packetStatus = new Int8Array(TX_SLOTS_MAX);
  readonly packetFault: (string | undefined)[] = new Array(TX_SLOTS_MAX);
  readonly head: TxRequest = { gref: 0, offset: 0, flags: 0, id: 0, size: 0 };
  readonly fragment: TxRequest = { gref: 0, offset: 0, flags: 0, id: 0, size: 0 };
  readonly extra = emptyExtra();
  readonly fragmentRefs = new Uint32Array(FRAGMENTS_TOLERATED);
  readonly fragmentOffsets = new Uint16Array(FRAGMENTS_TOLERATED);
  readonly fragmentSizes = new Uint16Array(FRAGMENTS_TOLERATED);

  constructor(memory: LocalMemory) {
    this.copies = new CopyBatch(memory, TX_SLOTS_MAX);
    this.batch = new FrameBatch(memory.bytes, TX_SLOTS_MAX);
    this.staging = memory.allocate(STAGING_BYTES);
    this.runs = new RunPool(memory);
  }

  free(): void {
    this.staging.free();
    this.runs.free();
  }
}

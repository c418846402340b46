/**
 * Fills the buffers that a guest posted on an RX ring. Frames go straight from where they lie in
 * local memory into the buffers, a whole batch by one copy call; every buffer taken is answered, in
 * the slot of its request, by a piece of a frame or by an extra.
 */
import { GrantError } from '../../errors.js';
import { AnswerLog } from '../../ring/answer-log.js';
import { HASH_ALGORITHM_TOEPLITZ } from '../../ring/netif-ctrl.js';
import { EXTRA_FLAG_MORE, writeGsoExtra, writeHashExtra } from '../../ring/netif-extra.js';
import {
  RX_EXTRA_INFO,
  RX_MORE_DATA,
  RX_SLOT_BYTES,
  readRxRequestGref,
  readRxRequestId,
  writeRxResponse,
} from '../../ring/netif-rx.js';
import { RSP_ERROR } from '../../ring/netif-tx.js';
import { BackRing } from '../../ring/shared-ring.js';
import type { NetifHash } from '../../wire/toeplitz.js';
import { GNTST_OKAY } from '../../xen/copy-batch.js';
import type { Page } from '../../xen/page.js';
import { type Grants, PAGE_SIZE } from '../../xen/xen.js';
import { frameTimeNs } from '../clock.js';
import {
  DIRECTION_TO_GUEST,
  FRAME_BYTES_MAX,
  type FrameBatch,
  gsoSizeOf,
  gsoTypeOf,
  METADATA_MASK,
} from '../frame-batch.js';
import type { QueueMetrics } from '../metrics.js';
import type { BatchListener } from '../network.js';
import { finishRxAnswers } from './answer-recovery.js';
import { checksumFlags } from './rx-checksum.js';
import { fillPlain } from './rx-plain.js';
import type { RxScratch } from './rx-scratch.js';

/** `RxScratch.slotKinds`. */
const DATA_SLOT = 0;
const GSO_SLOT = 1;
const HASH_SLOT = 2;

export interface RxFillerOptions {
  /** The guest takes frames that span several slots. */
  readonly scatterGather: boolean;
  readonly domid: number;
  /** A daemon before us served the ring. */
  readonly adopted: boolean;
  readonly notify: () => void;
  /** Gets the frames that are in the guest's hands; undefined while nobody looks. */
  readonly observer: () => BatchListener | undefined;
}

export class RxFiller {
  readonly ring: BackRing;
  readonly #grants: Grants;
  readonly #scratch: RxScratch;
  readonly #metrics: QueueMetrics;
  readonly #options: RxFillerOptions;
  readonly #log: AnswerLog;
  #slots = 0;
  #frames = 0;
  #available = 0;

  constructor(
    page: Page,
    grants: Grants,
    scratch: RxScratch,
    metrics: QueueMetrics,
    options: RxFillerOptions,
  ) {
    this.ring = new BackRing(page, RX_SLOT_BYTES);
    this.#log = new AnswerLog(page);
    if (options.adopted) finishRxAnswers(this.ring, this.#log);
    else this.#log.reset(this.ring.rspProd);
    this.#grants = grants;
    this.#scratch = scratch;
    this.#metrics = metrics;
    this.#options = options;
  }

  /** How many buffers there are that no frame was placed in. */
  get available(): number {
    return this.#available;
  }

  /** Slots that a frame needs, extras included; 0 when the guest cannot take it. */
  slotsFor(length: number, flags: number, hashType: number): number {
    if (length > FRAME_BYTES_MAX) return 0;
    const slots = Math.ceil(length / PAGE_SIZE);
    if (slots > 1 && !this.#options.scatterGather) return 0;
    return slots + (gsoTypeOf(flags) === 0 ? 0 : 1) + (hashType === 0 ? 0 : 1);
  }

  /**
   * Sends all of a batch at once for which nothing has to be done but to copy it. False, and nothing has happened, where that cannot be.
   * @throws ProtocolError when the ring makes no sense.
   */
  sendPlain(batch: FrameBatch): boolean {
    const { ring } = this;
    const oldRspProd = ring.rspProd;
    const { domid, notify, observer } = this.#options;
    if (!fillPlain(ring, this.#log, this.#grants, this.#scratch, batch, domid)) return false;
    const isWhole = this.#scratch.copies.allOkay;
    const observe = observer();
    if (isWhole && observe === undefined) {
      this.#metrics.rx.count(batch.count, batch.totalBytes);
    } else {
      const { sent } = this.#scratch;
      this.#gatherSent(batch);
      sent.isRun = isWhole && batch.isRun;
      this.#metrics.rx.count(sent.count, sent.totalBytes);
      const failed = batch.count - sent.count;
      if (failed > 0) this.#metrics.rx.drop('rx-ring', 'BAD_GRANT', failed);
      if (sent.count > 0) observe?.(sent);
    }
    if (ring.pushResponses(oldRspProd)) notify();
    return true;
  }

  /** Makes `sent` of what of a plain batch is in the guest's buffers. */
  #gatherSent(batch: FrameBatch): void {
    const { copies, sent } = this.#scratch;
    sent.clear();
    sent.timeNs = frameTimeNs();
    for (let index = 0; index < batch.count; index += 1) {
      if (copies.status(index) !== GNTST_OKAY) continue;
      const flags = (batch.flag(index) & METADATA_MASK) | DIRECTION_TO_GUEST;
      sent.add(batch.offset(index), batch.length(index), flags);
    }
  }

  /** Begins a batch. @throws ProtocolError when the ring makes no sense. */
  begin(): void {
    this.#scratch.copies.clear();
    this.#slots = 0;
    this.#frames = 0;
    this.#available = this.ring.pendingRequests();
  }

  /** Takes buffers for a frame and adds its copies; the caller has seen that there are enough. */
  place(offset: number, length: number, flags: number, hash: NetifHash): void {
    const scratch = this.#scratch;
    const first = this.#slots;
    const hasExtra = gsoTypeOf(flags) !== 0 || hash.type !== 0;
    for (let done = 0; done < length; done += PAGE_SIZE) {
      const bytes = Math.min(PAGE_SIZE, length - done);
      const slot = this.#takeSlot(DATA_SLOT);
      const gref = readRxRequestGref(this.ring.page, this.ring.slot(this.ring.reqCons + slot));
      scratch.slotSegments[slot] = scratch.copies.toGrant(
        this.#options.domid,
        gref,
        0,
        offset + done,
        bytes,
      );
      scratch.slotLengths[slot] = bytes;
      scratch.slotFlags[slot] =
        (done === 0 ? checksumFlags(flags) | (hasExtra ? RX_EXTRA_INFO : 0) : 0) |
        (done + bytes < length ? RX_MORE_DATA : 0);
      if (done > 0) continue;
      if (gsoTypeOf(flags) !== 0) this.#takeSlot(GSO_SLOT);
      if (hash.type !== 0) this.#takeSlot(HASH_SLOT);
    }
    const frame = this.#frames;
    scratch.frameSlots[frame] = this.#slots - first;
    scratch.frameOffsets[frame] = offset;
    scratch.frameLengths[frame] = length;
    scratch.frameFlags[frame] = flags;
    scratch.frameHashTypes[frame] = hash.type;
    scratch.frameHashes[frame] = hash.hash;
    this.#frames += 1;
    this.#available -= this.#slots - first;
  }

  /** Takes the next buffer, for a piece of a frame or for an extra that is written in its place. */
  #takeSlot(kind: number): number {
    const slot = this.#slots;
    const { ring } = this;
    this.#scratch.slotIds[slot] = readRxRequestId(ring.page, ring.slot(ring.reqCons + slot));
    this.#scratch.slotKinds[slot] = kind;
    this.#slots = slot + 1;
    return slot;
  }

  /** Runs the copies, answers every slot taken, and tells who looks. Returns whether any was. */
  commit(): boolean {
    if (this.#slots === 0) return false;
    const scratch = this.#scratch;
    let failed = false;
    try {
      this.#grants.copy(scratch.copies);
    } catch (error) {
      if (!(error instanceof GrantError)) throw error;
      failed = true;
    }
    const { ring } = this;
    const oldRspProd = ring.rspProd;
    const { sent } = scratch;
    sent.clear();
    let slot = 0;
    this.#log.begin((oldRspProd + this.#slots) >>> 0, oldRspProd);
    for (let frame = 0; frame < this.#frames; frame += 1) {
      const end = slot + (scratch.frameSlots[frame] as number);
      this.#logFrame(slot, frame);
      let whole = !failed;
      for (; slot < end; slot += 1) whole = this.#answer(slot, frame, failed) && whole;
      if (!whole) {
        this.#metrics.rx.drop('rx-ring', 'BAD_GRANT');
        continue;
      }
      const flags = (scratch.frameFlags[frame] as number) & METADATA_MASK;
      sent.add(
        scratch.frameOffsets[frame] as number,
        scratch.frameLengths[frame] as number,
        flags | DIRECTION_TO_GUEST,
      );
    }
    this.#log.reached(ring.rspProd);
    ring.reqCons = (ring.reqCons + this.#slots) >>> 0;
    this.#slots = 0;
    this.#metrics.rx.count(sent.count, sent.totalBytes);
    const observer = this.#options.observer();
    if (observer !== undefined && sent.count > 0) {
      sent.timeNs = frameTimeNs();
      observer(sent);
    }
    if (ring.pushResponses(oldRspProd)) this.#options.notify();
    return true;
  }

  /** Notes which frame is written next, with the ids that its extras are written over. */
  #logFrame(slot: number, frame: number): void {
    const scratch = this.#scratch;
    this.#log.reached(this.ring.rspProd);
    const hasGso = gsoTypeOf(scratch.frameFlags[frame] as number) !== 0;
    const hasHash = scratch.frameHashTypes[frame] !== 0;
    if (!hasGso && !hasHash) return;
    const ids =
      (scratch.slotIds[slot + 1] as number) | ((scratch.slotIds[slot + 2] as number) << 16);
    this.#log.noteExtras((this.ring.rspProd + 1) >>> 0, Number(hasGso) + Number(hasHash), ids);
  }

  /** Writes the next response; false when the copy into its buffer failed. */
  #answer(slot: number, frame: number, failed: boolean): boolean {
    const scratch = this.#scratch;
    const { ring } = this;
    const place = ring.slot(ring.rspProd);
    ring.rspProd = (ring.rspProd + 1) >>> 0;
    const kind = scratch.slotKinds[slot];
    const hashType = scratch.frameHashTypes[frame] as number;
    if (kind === GSO_SLOT) {
      const flags = scratch.frameFlags[frame] as number;
      const more = hashType === 0 ? 0 : EXTRA_FLAG_MORE;
      writeGsoExtra(ring.page, place, more, gsoSizeOf(flags), gsoTypeOf(flags));
      return true;
    }
    if (kind === HASH_SLOT) {
      const hash = scratch.frameHashes[frame] as number;
      const type = Math.log2(hashType);
      writeHashExtra(ring.page, place, 0, type, HASH_ALGORITHM_TOEPLITZ, hash);
      return true;
    }
    const segment = scratch.slotSegments[slot] as number;
    const okay = !failed && scratch.copies.status(segment) === GNTST_OKAY;
    writeRxResponse(
      ring.page,
      place,
      scratch.slotIds[slot] as number,
      0,
      scratch.slotFlags[slot] as number,
      okay ? (scratch.slotLengths[slot] as number) : RSP_ERROR,
    );
    return okay;
  }
}

/** The hash of a frame of which nothing is told. */
export const NO_HASH: NetifHash = { hash: 0, type: 0 };

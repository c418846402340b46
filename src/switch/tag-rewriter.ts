/**
 * VLAN tags put in and taken out (IEEE 802.1Q, clause 9.6). The bytes of a frame are everybody's
 * who gets it, so the other form of it is a copy; one copy serves all ports that want that form.
 * For each frame of a chunk there are so three places: the original's, and one for either form.
 */
import { readU16, writeU16 } from '@xenvif/client/wire';
import { FRAME_BYTES_MAX, type FrameBatch } from '../device/frame-batch.js';
import { ETHERTYPE_VLAN } from '../wire/packet-layout.js';
import type { LocalMemory, LocalRegion } from '../xen/local-memory.js';
import { FRAME_TOO_LONG, VLAN_TAGGED } from './drop-tally.js';
import { FrameForm } from './vlan-membership.js';

const SCRATCH_BYTES = 512 * 1024;
const TAG_OFFSET = 12;
const TAG_BYTES = 4;
const TAG_END = TAG_OFFSET + TAG_BYTES;
const VID_MASK = 0xfff;
const NOT_MADE = 0xffff_ffff;
/** IPv4 headers stay aligned as in a frame that starts two bytes off a multiple of four. */
const ALIGNMENT = 4;
const PADDING = 2;

/** Copies of both forms of a frame need no more than this. */
export function scratchNeeded(length: number): number {
  return 2 * (length + TAG_BYTES + ALIGNMENT + PADDING);
}

/** The bytes that the frames of a chunk may need, both forms taken together. */
export const SCRATCH_LIMIT = SCRATCH_BYTES;

export class TagRewriter {
  /** After `place`: where the form is, how long it is, and what is known of it. */
  offset = 0;
  length = 0;
  flags = 0;
  readonly #bytes: Uint8Array;
  readonly #scratch: LocalRegion;
  #used = 0;
  readonly #untaggedAt: Uint32Array;
  readonly #taggedAt: Uint32Array;
  readonly #untaggedFlags: Uint32Array;
  readonly #taggedFlags: Uint32Array;

  /** For chunks of at most `frames`. @throws GrantError when local memory is short. */
  constructor(memory: LocalMemory, frames: number) {
    this.#bytes = memory.bytes;
    this.#scratch = memory.allocate(SCRATCH_BYTES);
    this.#untaggedAt = new Uint32Array(frames);
    this.#taggedAt = new Uint32Array(frames);
    this.#untaggedFlags = new Uint32Array(frames);
    this.#taggedFlags = new Uint32Array(frames);
  }

  free(): void {
    this.#scratch.free();
  }

  /** Forgets all copies. */
  begin(frames: number): void {
    this.#used = 0;
    this.#untaggedAt.fill(NOT_MADE, 0, frames);
    this.#taggedAt.fill(NOT_MADE, 0, frames);
  }

  /**
   * Finds frame `index` of `batch`, number `frame` of the chunk and of VLAN `vlan`, in the form
   * `wanted`, which is not its own, `form`. Returns 0, or -1 less the cause to drop it for.
   */
  place(
    batch: FrameBatch,
    index: number,
    frame: number,
    form: FrameForm,
    wanted: FrameForm,
    vlan: number,
  ): number {
    return wanted === FrameForm.untagged
      ? this.#untagged(batch, index, frame)
      : this.#tagged(batch, index, frame, form, vlan);
  }

  /** Takes over what is known of a copy after a network had it, which may have completed it. */
  keepFlags(frame: number, wanted: FrameForm, flags: number): void {
    if (wanted === FrameForm.untagged) this.#untaggedFlags[frame] = flags;
    else this.#taggedFlags[frame] = flags;
  }

  #untagged(batch: FrameBatch, index: number, frame: number): number {
    const bytes = this.#bytes;
    const source = batch.offset(index);
    // Who gets untagged frames would take the inner tag for the VLAN's.
    if (readU16(bytes, source + TAG_END) === ETHERTYPE_VLAN) return -1 - VLAN_TAGGED;
    this.length = batch.length(index) - TAG_BYTES;
    if (this.#untaggedAt[frame] === NOT_MADE) {
      const target = this.#take(this.length);
      bytes.copyWithin(target, source, source + TAG_OFFSET);
      const rest = source + TAG_END;
      bytes.copyWithin(target + TAG_OFFSET, rest, source + batch.length(index));
      this.#untaggedAt[frame] = target;
      this.#untaggedFlags[frame] = batch.flag(index);
    }
    this.offset = this.#untaggedAt[frame] as number;
    this.flags = this.#untaggedFlags[frame] as number;
    return 0;
  }

  #tagged(batch: FrameBatch, index: number, frame: number, form: FrameForm, vlan: number): number {
    const length = batch.length(index);
    this.length = form === FrameForm.priority ? length : length + TAG_BYTES;
    if (this.length > FRAME_BYTES_MAX) return -1 - FRAME_TOO_LONG;
    if (this.#taggedAt[frame] === NOT_MADE) {
      this.#taggedAt[frame] = this.#copyTagged(batch.offset(index), length, form, vlan);
      this.#taggedFlags[frame] = batch.flag(index);
    }
    this.offset = this.#taggedAt[frame] as number;
    this.flags = this.#taggedFlags[frame] as number;
    return 0;
  }

  /** A priority tag keeps its priority; where there was none, it is 0. */
  #copyTagged(source: number, length: number, form: FrameForm, vlan: number): number {
    const bytes = this.#bytes;
    const target = this.#take(this.length);
    const control = target + TAG_OFFSET + 2;
    if (form === FrameForm.priority) {
      bytes.copyWithin(target, source, source + length);
      writeU16(bytes, control, (readU16(bytes, control) & ~VID_MASK) | vlan);
    } else {
      bytes.copyWithin(target, source, source + TAG_OFFSET);
      bytes.copyWithin(target + TAG_END, source + TAG_OFFSET, source + length);
      writeU16(bytes, target + TAG_OFFSET, ETHERTYPE_VLAN);
      writeU16(bytes, control, vlan);
    }
    return target;
  }

  /** Room for a copy; the caller's chunk is no longer than `SCRATCH_LIMIT` allows. */
  #take(length: number): number {
    const used = this.#used + PADDING;
    this.#used = Math.ceil((used + length) / ALIGNMENT) * ALIGNMENT;
    return this.#scratch.offset + used;
  }
}

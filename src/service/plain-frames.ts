/**
 * What a guest sends, for a client that is a plain NIC at the other end: frames that the guest left
 * to be segmented are cut here, so that none is longer than the MTU. The segments lie in a region of
 * our own until the stream has copied them, within the call, so one serves every stream.
 */
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  FRAME_BYTES_MAX,
  FrameBatch,
  GSO_MASK,
  gsoSizeOf,
  gsoTypeOf,
} from '../device/frame-batch.js';
import { SEGMENT_HEADER_BYTES_MAX, Segmenter } from '../wire/segmentation.js';
import type { LocalMemory, LocalRegion } from '../xen/local-memory.js';
import type { FrameStream } from './frame-stream.js';

/** Segments that are pushed at once: all of a frame of the longest, at common sizes. */
const SEGMENTS_BATCH = 128;
/** What that many segments of one frame have at most: its bytes once, and each its headers. */
const SEGMENTS_BYTES = FRAME_BYTES_MAX + SEGMENTS_BATCH * SEGMENT_HEADER_BYTES_MAX;

export class PlainFrames {
  readonly #region: LocalRegion;
  readonly #segments: FrameBatch;
  readonly #segmenter = new Segmenter();

  /** @throws GrantError when memory is short. */
  constructor(memory: LocalMemory) {
    this.#region = memory.allocate(SEGMENTS_BYTES);
    this.#segments = new FrameBatch(memory.bytes, SEGMENTS_BATCH);
  }

  free(): void {
    this.#region.free();
  }

  /**
   * Pushes the frames of `batch` to `stream` in their order, those with segmentation in packets of
   * at most `mtu` bytes. One that cannot be cut goes as it is, with its flags.
   */
  push(batch: FrameBatch, mtu: number, stream: FrameStream, vifIndex: number): void {
    let first = 0;
    for (let index = 0; index < batch.count; index += 1) {
      const flags = batch.flag(index);
      if (gsoTypeOf(flags) === 0) continue;
      const offset = batch.offset(index);
      const length = batch.length(index);
      const count = this.#segmenter.begin(batch.bytes, offset, length, gsoSizeOf(flags), mtu);
      if (count === 0) continue;
      if (first < index) stream.push(batch, vifIndex, first, index);
      this.#pushSegments(batch, flags, stream, vifIndex);
      first = index + 1;
    }
    if (first < batch.count) stream.push(batch, vifIndex, first, batch.count);
  }

  /** Pushes all segments of the frame that the segmenter has begun. */
  #pushSegments(batch: FrameBatch, flags: number, stream: FrameStream, vifIndex: number): void {
    const segments = this.#segments;
    const segmenter = this.#segmenter;
    const metadata = (flags & ~GSO_MASK & ~CHECKSUM_BLANK) | DATA_VALIDATED;
    segments.clear();
    segments.timeNs = batch.timeNs;
    let place = this.#region.offset;
    for (;;) {
      const length = segmenter.next(batch.bytes, place);
      if (length === 0) break;
      segments.add(place, length, metadata);
      place += length;
      if (segments.count < SEGMENTS_BATCH) continue;
      stream.push(segments, vifIndex);
      segments.clear();
      place = this.#region.offset;
    }
    if (segments.count > 0) stream.push(segments, vifIndex);
  }
}

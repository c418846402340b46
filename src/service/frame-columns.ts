/**
 * What a message says of its frames beside their bytes: all of FrameBatch in frame_service.proto but
 * its first field. Protobuf has no order of fields, so it may stand behind the frames or before them.
 */
import { FrameBatch } from '../gen/xenvif/v1/frame_service.js';
import { RunColumn, varintBytes, writeVarint } from './run-column.js';

/** `FrameBatch.base_time_ns`: field 2, 64 bits. */
const TAG_BASE_TIME = 0x11;
/** `FrameBatch.time_delta_ns`, `original_length`, `vif_index` and `flags`: fields 3 to 6, packed. */
const TAG_TIME_DELTA = 0x1a;
const TAG_ORIGINAL_LENGTH = 0x22;
const TAG_VIF_INDEX = 0x2a;
const TAG_FLAGS = 0x32;
/** `FrameBatch.first_sequence`: field 7, varint. */
const TAG_FIRST_SEQUENCE = 0x38;

/** The most that a frame takes in all columns. */
export const COLUMN_BYTES_PER_FRAME = 5 + 3 + 3 + 5;
/** What there is beside: the fixed fields and the columns' tags and lengths. */
export const COLUMN_BYTES_FIXED = 9 + 11 + 4 * 5;
const TIME_DELTA_MAX = 0xffffffffn;

export class FrameColumns {
  readonly deltas = new RunColumn();
  /** Filled only where a frame was cut; whoever cuts one notes those before it. */
  readonly originals = new RunColumn();
  readonly vifs = new RunColumn();
  readonly flags = new RunColumn();
  firstSequence = 0;
  baseTimeNs = 0n;

  /** Begins with a frame of this number and time. */
  begin(sequence: number, timeNs: bigint): void {
    this.deltas.clear();
    this.originals.clear();
    this.vifs.clear();
    this.flags.clear();
    this.firstSequence = sequence;
    this.baseTimeNs = timeNs;
  }

  /** Whether the time of a frame can be told beside that of the first. */
  takes(timeNs: bigint): boolean {
    return timeNs - this.baseTimeNs <= TIME_DELTA_MAX;
  }

  /** Notes `times` frames that are alike. */
  append(timeNs: bigint, vifIndex: number, flags: number, times: number): void {
    const delta = timeNs === this.baseTimeNs ? 0 : Number(timeNs - this.baseTimeNs);
    this.deltas.append(delta, times);
    this.vifs.append(vifIndex, times);
    this.flags.append(flags, times);
  }

  /** Takes what there is of the first frames out, into a message that has `frames` for them. */
  takeFront(frames: Buffer[]): FrameBatch | undefined {
    const count = frames.length;
    if (count === 0) return undefined;
    const part = FrameBatch.fromPartial({
      frames,
      baseTimeNs: this.baseTimeNs,
      timeDeltaNs: this.deltas.takeFront(count),
      originalLength: this.originals.takeFront(count),
      vifIndex: this.vifs.takeFront(count),
      flags: this.flags.takeFront(count),
      firstSequence: BigInt(this.firstSequence),
    });
    this.firstSequence += count;
    return part;
  }

  /** How many bytes `write` writes. */
  get byteLength(): number {
    return (
      9 +
      (this.deltas.isNeeded ? this.deltas.byteLength : 0) +
      (this.originals.isNeeded ? this.originals.byteLength : 0) +
      (this.vifs.isNeeded ? this.vifs.byteLength : 0) +
      this.flags.byteLength +
      1 +
      varintBytes(this.firstSequence)
    );
  }

  /** Writes all there is at `position`; returns where it ends. */
  write(bytes: Uint8Array, position: number): number {
    let end = writeFixed64(bytes, TAG_BASE_TIME, position, this.baseTimeNs);
    if (this.deltas.isNeeded) end = this.deltas.write(bytes, TAG_TIME_DELTA, end);
    if (this.originals.isNeeded) end = this.originals.write(bytes, TAG_ORIGINAL_LENGTH, end);
    if (this.vifs.isNeeded) end = this.vifs.write(bytes, TAG_VIF_INDEX, end);
    end = this.flags.write(bytes, TAG_FLAGS, end);
    bytes[end] = TAG_FIRST_SEQUENCE;
    return writeVarint(bytes, end + 1, this.firstSequence);
  }
}

/** Writes a tag and 64 bits, little-endian; returns where they end. */
function writeFixed64(bytes: Uint8Array, tag: number, position: number, value: bigint): number {
  bytes[position] = tag;
  const low = Number(value & 0xffffffffn);
  const high = Number(value >> 32n);
  for (let byte = 0; byte < 4; byte += 1) {
    bytes[position + 1 + byte] = (low >>> (byte * 8)) & 0xff;
    bytes[position + 5 + byte] = (high >>> (byte * 8)) & 0xff;
  }
  return position + 9;
}

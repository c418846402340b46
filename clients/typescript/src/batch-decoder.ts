/**
 * The hand-written decoder of `xenvif.v1.FrameBatch`: one pass that notes where each frame lies in
 * the message instead of copying it. A generated decoder makes an object for every frame and takes
 * several times as long.
 */
import { type FrameBatchColumns, FrameBatchView } from './frame-batch-view.js';
import {
  malformedMessage,
  WIRE_BYTES,
  WIRE_FIXED64,
  WIRE_VARINT,
  WireReader,
} from './wire-reader.js';

/** Fields of FrameBatch in frame_service.proto. */
const FRAMES = 1;
const BASE_TIME_NS = 2;
const TIME_DELTA_NS = 3;
const FLAGS = 6;
const FIRST_SEQUENCE = 7;

const FRAMES_TAG = (FRAMES << 3) | WIRE_BYTES;

/** Numbers that are gathered before their count is known; the memory serves batch after batch. */
class Column {
  readonly name: string;
  values = new Uint32Array(4096);
  count = 0;

  constructor(name: string) {
    this.name = name;
  }

  push(value: number): void {
    if (this.count === this.values.length) this.grow();
    this.values[this.count++] = value;
  }

  grow(): void {
    const grown = new Uint32Array(this.values.length * 2);
    grown.set(this.values);
    this.values = grown;
  }
}

const offsets = new Column('offsets');
const lengths = new Column('lengths');
/** The fields 3 to 6, in this order. */
const columns = [
  new Column('time_delta_ns'),
  new Column('original_length'),
  new Column('vif_index'),
  new Column('flags'),
] as const;

/**
 * Decodes the FrameBatch that is `bytes[start .. end)`. The batch points into `bytes`, which must
 * not change while the batch is in use.
 * @throws XenvifClientError RESPONSE_MALFORMED
 */
export function decodeFrameBatch(bytes: Buffer, start = 0, end = bytes.length): FrameBatchView {
  const reader = new WireReader(bytes, start, end);
  offsets.count = 0;
  lengths.count = 0;
  for (const column of columns) column.count = 0;
  let baseTimeNs = 0n;
  let firstSequence = 0n;
  let byteCount = 0;
  while (reader.pos < end) {
    if (bytes[reader.pos] === FRAMES_TAG) {
      byteCount += readFrames(reader);
      continue;
    }
    const tag = reader.varint32();
    const field = tag >>> 3;
    const wireType = tag & 7;
    const column = field >= TIME_DELTA_NS && field <= FLAGS ? columns[field - TIME_DELTA_NS] : null;
    if (column && wireType === WIRE_BYTES) readPacked(reader, column);
    else if (column && wireType === WIRE_VARINT) column.push(reader.varint32());
    else if (field === BASE_TIME_NS && wireType === WIRE_FIXED64) baseTimeNs = reader.fixed64();
    else if (field === FIRST_SEQUENCE && wireType === WIRE_VARINT) {
      firstSequence = reader.varint64();
    } else reader.skip(field, wireType);
  }
  return gather(bytes, { byteCount, baseTimeNs, firstSequence });
}

/** Notes a run of frames; answers their bytes. All throughput depends on this loop: it works on local variables only. */
function readFrames(reader: WireReader): number {
  const { bytes, end } = reader;
  let { pos } = reader;
  let { count, values: starts } = offsets;
  let sizes = lengths.values;
  let byteCount = 0;
  while (pos < end && bytes[pos] === FRAMES_TAG) {
    // Lengths below 16384 take one or two bytes; everything else goes the slow way, checks and all.
    const first = pos + 1 < end ? (bytes[pos + 1] as number) : 0xff;
    const second = pos + 2 < end ? (bytes[pos + 2] as number) : 0xff;
    let length = first;
    if (first < 0x80) pos += 2;
    else if (second < 0x80) {
      length = (first & 0x7f) | (second << 7);
      pos += 3;
    } else {
      reader.pos = pos + 1;
      length = reader.contentEnd() - reader.pos;
      pos = reader.pos;
    }
    if (length > end - pos) throw malformedMessage('a frame reaches beyond its message');
    if (count === starts.length) {
      offsets.grow();
      lengths.grow();
      starts = offsets.values;
      sizes = lengths.values;
    }
    starts[count] = pos;
    sizes[count] = length;
    byteCount += length;
    count += 1;
    pos += length;
  }
  offsets.count = count;
  lengths.count = count;
  reader.pos = pos;
  return byteCount;
}

function readPacked(reader: WireReader, column: Column): void {
  const { bytes } = reader;
  const end = reader.contentEnd();
  let { pos } = reader;
  // A number takes a byte at least: room for this many is room for all.
  while (column.values.length < column.count + end - pos) column.grow();
  let { count } = column;
  const { values } = column;
  while (pos < end) {
    let value = bytes[pos++] as number;
    if (value >= 0x80) {
      // Up to three bytes here: a flag, and the distance in time of 2 ms.
      const second = pos < end ? (bytes[pos] as number) : 0xff;
      const third = pos + 1 < end ? (bytes[pos + 1] as number) : 0xff;
      if (second < 0x80) {
        value = (value & 0x7f) | (second << 7);
        pos += 1;
      } else if (third < 0x80) {
        value = (value & 0x7f) | ((second & 0x7f) << 7) | (third << 14);
        pos += 2;
      } else {
        reader.pos = pos - 1;
        value = reader.varint32();
        pos = reader.pos;
      }
    }
    values[count++] = value;
  }
  if (pos > end) throw malformedMessage('a number reaches beyond its column');
  column.count = count;
  reader.pos = end;
}

/**
 * Memory for the columns of many batches: an array of its own for each would cost more than all the
 * rest of a small batch. It lives as long as a batch in it does.
 */
let slab = new Uint32Array(0);
let slabUsed = 0;
const SLAB_CELLS = 64 * 1024;

type Scalars = Pick<FrameBatchColumns, 'byteCount' | 'baseTimeNs' | 'firstSequence'>;

/** Copies what was noted into memory of the batch's own. */
function gather(bytes: Buffer, { byteCount, baseTimeNs, firstSequence }: Scalars): FrameBatchView {
  const { count } = offsets;
  let present = 2;
  for (const column of columns) {
    // A column has an entry for each frame, or none at all where all would be zero.
    if (column.count === 0) continue;
    if (column.count !== count) {
      const counts = `${column.count} entries for ${count} frames`;
      throw malformedMessage(`the column ${column.name} has ${counts}`);
    }
    present += 1;
  }
  if (slabUsed + present * count > slab.length) {
    slab = new Uint32Array(Math.max(SLAB_CELLS, present * count));
    slabUsed = 0;
  }
  return new FrameBatchView({
    bytes,
    count,
    byteCount,
    baseTimeNs,
    firstSequence,
    cells: slab,
    offsets: place(offsets),
    lengths: place(lengths),
    timeDeltas: place(columns[0]),
    originalLengths: place(columns[1]),
    vifIndices: place(columns[2]),
    flags: place(columns[3]),
  });
}

/** Copies a column into the slab; answers where it starts there, -1 for one that is absent. */
function place({ values, count }: Column): number {
  if (count === 0) return -1;
  const cells = slab;
  const start = slabUsed;
  for (let index = 0; index < count; index += 1) cells[start + index] = values[index] as number;
  slabUsed = start + count;
  return start;
}

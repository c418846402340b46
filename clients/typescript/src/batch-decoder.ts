/**
 * The hand-written decoder of `xenvif.v1.FrameBatch`: one pass that notes where each frame lies in
 * the message instead of copying it. A generated decoder makes an object for every frame and takes
 * several times as long. Columns are decoded when they are first looked at.
 */
import { FrameBatchView } from './frame-batch-view.js';
import { ABSENT_COLUMN, readPacked, wrongCount } from './packed-column.js';
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

/** The fields 3 to 6, in this order. */
const COLUMN_NAMES = ['time_delta_ns', 'original_length', 'vif_index', 'flags'] as const;

/**
 * Memory for the places of frames, offset and length by turns: an array of its own for each batch
 * would cost more than all the rest of a small one. It lives as long as a batch in it does.
 */
const SLAB_CELLS = 64 * 1024;
let slab = new Uint32Array(SLAB_CELLS);
let slabUsed = 0;

/** What has been found of a column: nothing, one packed piece that waits, or numbers. */
interface ColumnState {
  start: number;
  end: number;
  values: number[] | undefined;
}

const columns: readonly ColumnState[] = COLUMN_NAMES.map(() => {
  return { start: -1, end: -1, values: undefined };
});

/**
 * Decodes the FrameBatch that is `bytes[start .. end)`. The batch points into `bytes`, which must
 * not change while the batch is in use. A column whose numbers are not as many as the frames may
 * come to light only when it is first looked at.
 * @throws XenvifClientError RESPONSE_MALFORMED
 */
export function decodeFrameBatch(
  bytes: Buffer,
  start = 0,
  end = bytes.length,
  recycle?: (message: Buffer) => void,
): FrameBatchView {
  const reader = new WireReader(bytes, start, end);
  const places = new FramePlaces();
  for (const column of columns) {
    column.start = -1;
    column.values = undefined;
  }
  let baseTimeNs = 0n;
  let firstSequence = 0n;
  while (reader.pos < end) {
    if (bytes[reader.pos] === FRAMES_TAG) {
      places.read(reader);
      continue;
    }
    const tag = reader.varint32();
    const field = tag >>> 3;
    const wireType = tag & 7;
    const column = field >= TIME_DELTA_NS && field <= FLAGS ? columns[field - TIME_DELTA_NS] : null;
    if (column && wireType === WIRE_BYTES) takePacked(reader, column);
    else if (column && wireType === WIRE_VARINT) {
      numbersOf(bytes, column).push(reader.varint32());
    } else if (field === BASE_TIME_NS && wireType === WIRE_FIXED64) baseTimeNs = reader.fixed64();
    else if (field === FIRST_SEQUENCE && wireType === WIRE_VARINT) {
      firstSequence = reader.varint64();
    } else reader.skip(field, wireType);
  }
  const { cells, count, end: lastCell, firstCell } = places;
  slabUsed = lastCell;
  return new FrameBatchView({
    bytes,
    count,
    byteCount: places.byteCount,
    baseTimeNs,
    firstSequence,
    cells,
    firstCell,
    columns: columns.map((column, index) => finishColumn(bytes, column, index, count)),
    recycle:
      recycle &&
      ((message) => {
        // The places noted last can be noted over; of the others there is no account.
        if (cells === slab && lastCell === slabUsed) slabUsed = firstCell;
        recycle(message);
      }),
  });
}

/** Where the frames of one batch lie. */
class FramePlaces {
  cells = slab;
  firstCell = slabUsed;
  /** The cell behind the last. */
  end = slabUsed;
  byteCount = 0;

  get count(): number {
    return (this.end - this.firstCell) >>> 1;
  }

  /** Notes a run of frames. All throughput depends on this loop: it works on local variables only. */
  read(reader: WireReader): void {
    const { bytes, end } = reader;
    let { cells, end: cell } = this;
    let { pos } = reader;
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
      if (cell + 2 > cells.length) {
        this.end = cell;
        this.#move();
        cells = this.cells;
        cell = this.end;
      }
      cells[cell] = pos;
      cells[cell + 1] = length;
      cell += 2;
      byteCount += length;
      pos += length;
    }
    this.end = cell;
    this.byteCount += byteCount;
    reader.pos = pos;
  }

  /** Goes on in a new slab, with room for as much again as there is. */
  #move(): void {
    const used = this.end - this.firstCell;
    const cells = new Uint32Array(Math.max(SLAB_CELLS, used * 2));
    cells.set(this.cells.subarray(this.firstCell, this.end));
    slab = cells;
    this.cells = cells;
    this.firstCell = 0;
    this.end = used;
  }
}

/** Takes a packed piece: the first of a column waits to be looked at. */
function takePacked(reader: WireReader, column: ColumnState): void {
  const end = reader.contentEnd();
  const { bytes, pos } = reader;
  reader.pos = end;
  // In a column that is whole, the last byte ends a number.
  if (end > pos && (bytes[end - 1] as number) >= 0x80) {
    throw malformedMessage('a number reaches beyond its column');
  }
  if (column.start < 0 && column.values === undefined) {
    column.start = pos;
    column.end = end;
  } else {
    pushPacked(bytes, pos, end, numbersOf(bytes, column));
  }
}

/** The numbers of a column that comes in several pieces. */
function numbersOf(bytes: Buffer, column: ColumnState): number[] {
  column.values ??= [];
  if (column.start >= 0) {
    pushPacked(bytes, column.start, column.end, column.values);
    column.start = -1;
  }
  return column.values;
}

function pushPacked(bytes: Buffer, start: number, end: number, values: number[]): void {
  const piece = new Uint32Array(end - start);
  const count = readPacked(bytes, start, end, piece, 0);
  for (const value of piece.subarray(0, count)) values.push(value);
}

/** A column as the batch keeps it: numbers, or where they wait. */
function finishColumn(
  bytes: Buffer,
  { start, end, values }: ColumnState,
  index: number,
  count: number,
): Uint32Array | Buffer {
  const name = COLUMN_NAMES[index] ?? '';
  if (start >= 0 && end > start) {
    if (end - start < count) throw wrongCount(name, end - start, count);
    return bytes.subarray(start, end);
  }
  // A column has an entry for each frame, or none at all where all would be zero.
  if (values === undefined || values.length === 0) return ABSENT_COLUMN;
  if (values.length !== count) throw wrongCount(name, values.length, count);
  return Uint32Array.from(values);
}

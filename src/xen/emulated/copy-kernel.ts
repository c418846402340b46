/**
 * What Xen's gnttab_copy does with segments that are in order, by machine code as in Xen itself: it
 * looks each grant up, checks it and copies. In JavaScript a frame's copy costs several times what all
 * else costs that is done for a small one. The code is WebAssembly and so short that it stands here
 * instruction by instruction; `kernel` below says what it does.
 *
 * It judges nothing: at the first segment that is not in order, or that leads elsewhere than it was
 * told of, it stops, and grants.ts looks at that one. It reaches only the machine's memory, at whose
 * end it traps.
 */
import { UnavailableError } from '../../errors.js';
import { DESTINATION_IS_GRANT, SEGMENT_SIZE, SOURCE_IS_GRANT } from '../copy-batch.js';
import { PAGE_SIZE } from '../xen.js';

/** Memory that the kernel can reach. */
export interface KernelMemory {
  readonly buffer: ArrayBuffer;
}

type Run = (
  first: number,
  end: number,
  table: number,
  refs: number,
  domid: number,
  own: number,
  from: number,
  until: number,
) => number;

/** What is used of WebAssembly, which Node has and its types do not tell of. */
interface Wasm {
  readonly Memory: new (pages: { initial: number; maximum: number }) => KernelMemory;
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (
    module: object,
    imports: { readonly m: { readonly m: KernelMemory } },
  ) => { readonly exports: { readonly c: Run } };
}

const wasm = Reflect.get(globalThis, 'WebAssembly') as Wasm;
/** Memory for WebAssembly comes in such pages. */
const WASM_PAGE_SIZE = 64 * 1024;

/**
 * Zeroed memory of at least `bytes`, which keeps its size and its place.
 * @throws UnavailableError for more than WebAssembly has addresses for, 4 GiB, or the system gives.
 */
export function allocateKernelMemory(bytes: number): KernelMemory {
  const initial = Math.ceil(bytes / WASM_PAGE_SIZE);
  try {
    return new wasm.Memory({ initial, maximum: initial });
  } catch (error) {
    const text = `No ${bytes} bytes of memory for an emulated machine; 4 GiB is the most it may have.`;
    throw new UnavailableError('XEN_UNAVAILABLE', text, {}, { cause: error });
  }
}

/** Where the segments of a call lie: at the start of the memory, which no domain ever gets. */
export const LIST_BYTES = 4 * PAGE_SIZE;
const SEGMENT_WORDS = SEGMENT_SIZE / 4;
const SEGMENTS_MAX = Math.floor(LIST_BYTES / SEGMENT_SIZE);

/** An entry of a grant table as the kernel reads it: where the page is (0: nowhere), and the rights. */
export const TABLE_ENTRY_BYTES = 8;
/** The bit of an entry's rights above the domid that has them. */
export const READ_ONLY = 1 << 16;

/** What one load or store of a vector moves. */
const VECTOR_BYTES = 16;
/** Copies longer than this go by the instruction for bulk memory, which costs a call. */
const SHORT_BYTES_MAX = 512;

/** Parameters of the function, and its locals. */
const [NEXT, LIST_END, TABLE, REFS, DOMID, OWN, FROM, UNTIL] = [0, 1, 2, 3, 4, 5, 6, 7];
const [IS_SOURCE, GRANT, LOCAL, LENGTH, PLACE, SOURCE, TARGET, LAST] = [
  8, 9, 10, 11, 12, 13, 14, 15,
];
const PARAMETERS = 8;
const LOCALS = 8;

const I32 = 0x7f;
const NO_RESULT = 0x40;
const END = 0x0b;
const get = (local: number) => [0x20, local];
const set = (local: number) => [0x21, local];
const constant = (value: number) => [0x41, ...signedLeb128(value)];
const block = [0x02, NO_RESULT];
const loop = [0x03, NO_RESULT];
const when = [0x04, NO_RESULT];
const otherwise = 0x05;
/** Jumps out of the block, or to the start of the loop, that encloses so many others within it. */
const jump = (depth: number) => [0x0c, depth];
const jumpIf = (depth: number) => [0x0d, depth];
const select = [0x1b];
const isZero = [0x45];
const isEqual = [0x46];
const isOther = [0x47];
const isBelow = [0x49];
const isAbove = [0x4b];
const isNotAbove = [0x4d];
const isNotBelow = [0x4f];
const plus = [0x6a];
const minus = [0x6b];
const times = [0x6c];
const or = [0x72];
const load16 = (offset: number) => [0x2f, 1, offset];
const load32 = (offset: number) => [0x28, 2, offset];
/** Sixteen bytes at any address. */
const load128 = (offset: number) => [0xfd, 0, 0, offset];
const store128 = (offset: number) => [0xfd, 0x0b, 0, offset];
const copyBulk = [0xfc, 0x0a, 0, 0];

const advance = (local: number, bytes: number) => [
  ...get(local),
  ...constant(bytes),
  ...plus,
  ...set(local),
];
const copy16 = (offset: number) => [
  ...[...get(TARGET), ...get(SOURCE), ...load128(offset), ...store128(offset)],
];

/** Leaves the outermost block, which ends the run; `depth` others are between. */
const stop = (depth: number) => jumpIf(depth);

/** Which side of the segment is the grant's, and which is ours. */
const sides = [
  ...[...get(NEXT), ...load16(18), ...constant(SOURCE_IS_GRANT), ...isEqual, ...set(IS_SOURCE)],
  ...[...get(IS_SOURCE), ...when],
  ...[...get(NEXT), ...set(GRANT), ...get(NEXT), ...constant(8), ...plus, ...set(LOCAL)],
  otherwise,
  ...[...get(NEXT), ...load16(18), ...constant(DESTINATION_IS_GRANT), ...isOther, ...stop(2)],
  ...[...get(NEXT), ...constant(8), ...plus, ...set(GRANT), ...get(NEXT), ...set(LOCAL)],
  END,
];

/** Stops unless our side is in [FROM, UNTIL) and the grant's is of DOMID, and within a page. */
const checks = [
  ...[...get(NEXT), ...load16(16), ...set(LENGTH), ...get(LENGTH), ...isZero, ...stop(1)],
  ...[...get(GRANT), ...load16(6), ...get(DOMID), ...isOther, ...stop(1)],
  ...[...get(LOCAL), ...load32(4), ...stop(1)],
  ...[...get(LOCAL), ...load32(0), ...set(LOCAL)],
  ...[...get(LOCAL), ...get(FROM), ...isBelow, ...stop(1)],
  ...[...get(LOCAL), ...get(UNTIL), ...isAbove, ...stop(1)],
  ...[...get(LENGTH), ...get(UNTIL), ...get(LOCAL), ...minus, ...isAbove, ...stop(1)],
  ...[...get(GRANT), ...load16(4), ...get(LENGTH), ...plus, ...constant(PAGE_SIZE)],
  ...[...isAbove, ...stop(1)],
];

/** Stops unless the grant is there and OWN may do with it what the segment does. */
const grant = [
  ...[...get(GRANT), ...load32(0), ...get(REFS), ...isNotBelow, ...stop(1)],
  ...[...get(GRANT), ...load32(0), ...constant(TABLE_ENTRY_BYTES), ...times],
  ...[...get(TABLE), ...plus, ...set(PLACE)],
  ...[...get(PLACE), ...load32(4), ...get(OWN), ...isOther, ...when],
  ...[...get(IS_SOURCE), ...isZero, ...stop(2)],
  ...[...get(PLACE), ...load32(4), ...get(OWN), ...constant(READ_ONLY), ...or],
  ...[...isOther, ...stop(2)],
  END,
  ...[...get(PLACE), ...load32(0), ...set(PLACE), ...get(PLACE), ...isZero, ...stop(1)],
  ...[...get(PLACE), ...get(GRANT), ...load16(4), ...plus, ...set(PLACE)],
];

/** Copies LENGTH bytes; the two sides never overlap. */
const copy = [
  ...[...get(PLACE), ...get(LOCAL), ...get(IS_SOURCE), ...select, ...set(SOURCE)],
  ...[...get(LOCAL), ...get(PLACE), ...get(IS_SOURCE), ...select, ...set(TARGET)],
  // A shorter one underflows and looks long.
  ...[...get(LENGTH), ...constant(VECTOR_BYTES), ...minus],
  ...[...constant(SHORT_BYTES_MAX - VECTOR_BYTES), ...isAbove, ...when],
  ...[...get(TARGET), ...get(SOURCE), ...get(LENGTH), ...copyBulk, ...jump(1), END],
  // The last sixteen bytes first, whatever they overlap with; then as many at a time up to them.
  ...[...get(SOURCE), ...get(LENGTH), ...plus, ...constant(16), ...minus, ...set(LAST)],
  ...[...get(TARGET), ...get(LENGTH), ...plus, ...constant(16), ...minus],
  ...[...get(LAST), ...load128(0), ...store128(0)],
  ...loop,
  ...[...get(SOURCE), ...constant(64), ...plus, ...get(LAST), ...isNotAbove, ...when],
  ...[...copy16(0), ...copy16(16), ...copy16(32), ...copy16(48)],
  ...[...advance(SOURCE, 64), ...advance(TARGET, 64), ...jump(1), END],
  END,
  ...loop,
  ...[...get(SOURCE), ...get(LAST), ...isBelow, ...when],
  ...[...copy16(0), ...advance(SOURCE, 16), ...advance(TARGET, 16), ...jump(1), END],
  END,
];

/** Carries segments out from NEXT to LIST_END; its result is the first that it left. */
const kernel = [
  ...block,
  ...loop,
  ...[...get(NEXT), ...get(LIST_END), ...isNotBelow, ...stop(1)],
  ...sides,
  ...checks,
  ...grant,
  ...advance(NEXT, SEGMENT_SIZE),
  ...copy,
  ...jump(0),
  END,
  END,
  ...get(NEXT),
  END,
];

function section(id: number, content: readonly number[]): number[] {
  return [id, ...leb128(content.length), ...content];
}

/** Imports `m.m`, a memory, and exports `c`, the kernel (WebAssembly Core Specification, 5.5). */
const code = [1, LOCALS, I32, ...kernel];
const parameters = new Array<number>(PARAMETERS).fill(I32);
const wasmModule = new wasm.Module(
  Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, [1, 0x60, PARAMETERS, ...parameters, 1, I32]),
    ...section(2, [1, 1, 0x6d, 1, 0x6d, 2, 0, 1]),
    ...section(3, [1, 0]),
    ...section(7, [1, 1, 0x63, 0, 0]),
    ...section(10, [1, ...leb128(code.length), ...code]),
  ]),
);

/** What the segments of a run must have in common. Addresses are offsets in the machine's memory. */
export interface CopyBounds {
  /** Whose grants they are, where its table is, and how many entries that has. */
  domid: number;
  table: number;
  refs: number;
  /** Who copies, and the memory of theirs that may be copied from and to: [from, until). */
  own: number;
  from: number;
  until: number;
}

export class CopyKernel {
  readonly #words: Uint32Array;
  readonly #run: Run;

  /** All that is copied lies in `memory`, whose first LIST_BYTES are the kernel's. */
  constructor(memory: KernelMemory) {
    this.#words = new Uint32Array(memory.buffer, 0, LIST_BYTES / 4);
    this.#run = new wasm.Instance(wasmModule, { m: { m: memory } }).exports.c;
  }

  /**
   * Carries out segments [first, end) of `segments`, whose words they are, as copy-batch.ts lays them
   * out, up to one that is not in order or not within the bounds. Returns the first that it left;
   * statuses are the caller's to write.
   */
  run(segments: Uint32Array, first: number, end: number, bounds: CopyBounds): number {
    let next = first;
    while (next < end) {
      const count = Math.min(end - next, SEGMENTS_MAX);
      this.#words.set(segments.subarray(next * SEGMENT_WORDS, (next + count) * SEGMENT_WORDS));
      const { domid, from, own, refs, table, until } = bounds;
      const left = this.#run(0, count * SEGMENT_SIZE, table, refs, domid, own, from, until);
      const done = left / SEGMENT_SIZE;
      next += done;
      if (done < count) break;
    }
    return next;
  }
}

function leb128(value: number): number[] {
  const rest = value >>> 7;
  return rest === 0 ? [value] : [(value & 0x7f) | 0x80, ...leb128(rest)];
}

function signedLeb128(value: number): number[] {
  const rest = value >> 7;
  const isLast = (rest === 0 && (value & 0x40) === 0) || (rest === -1 && (value & 0x40) !== 0);
  return isLast ? [value & 0x7f] : [(value & 0x7f) | 0x80, ...signedLeb128(rest)];
}

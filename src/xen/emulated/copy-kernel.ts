/**
 * Copies inside the machine's memory, many by one call, by machine code as in Xen itself: a call of
 * `copyWithin` costs more than all else that is done for a small frame. The code is WebAssembly and
 * so short that it stands here instruction by instruction; `kernel` below says what it does.
 *
 * It checks nothing: its user has checked every address. What it could reach beyond is only the
 * machine's memory, at whose end it traps.
 */

/** Memory that the kernel can reach. */
export interface KernelMemory {
  readonly buffer: ArrayBuffer;
}

/** What is used of WebAssembly, which Node has and its types do not tell of. */
interface Wasm {
  readonly Memory: new (pages: { initial: number; maximum: number }) => KernelMemory;
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (
    module: object,
    imports: { readonly m: { readonly m: KernelMemory } },
  ) => { readonly exports: { readonly c: (start: number, end: number) => void } };
}

const wasm = Reflect.get(globalThis, 'WebAssembly') as Wasm;
/** Memory for WebAssembly comes in such pages. */
const WASM_PAGE_SIZE = 64 * 1024;

/** Zeroed memory of at least `bytes`, which keeps its size and its place. */
export function allocateKernelMemory(bytes: number): KernelMemory {
  const initial = Math.ceil(bytes / WASM_PAGE_SIZE);
  return new wasm.Memory({ initial, maximum: initial });
}

/** Where the list of copies lies: in the first page, which no domain ever gets. */
const LIST_BYTES = 4096;
/** Source, target and length, each of 32 bits. */
const ENTRY_WORDS = 3;
const ENTRIES_MAX = Math.floor(LIST_BYTES / (ENTRY_WORDS * 4));

/** Copies longer than this go by the instruction for bulk memory, which costs a call. */
const SHORT_BYTES_MAX = 256;

/** Locals of the function; the first two are its parameters. */
const [ENTRY, LIST_END, SOURCE, TARGET, LENGTH, LAST] = [0, 1, 2, 3, 4, 5];

const I32 = 0x7f;
const NO_RESULT = 0x40;
const END = 0x0b;
const get = (local: number) => [0x20, local];
const set = (local: number) => [0x21, local];
const constant = (value: number) => [0x41, ...signedLeb128(value)];
const block = [0x02, NO_RESULT];
const loop = [0x03, NO_RESULT];
const when = [0x04, NO_RESULT];
/** Jumps out of the block, or to the start of the loop, that encloses so many others within it. */
const jump = (depth: number) => [0x0c, depth];
const jumpIf = (depth: number) => [0x0d, depth];
const isBelow = [0x49];
const isAbove = [0x4b];
const isNotBelow = [0x4f];
const plus = [0x6a];
const minus = [0x6b];
const load32 = (offset: number) => [0x28, 2, offset];
/** Eight bytes at any address. */
const load64 = [0x29, 0, 0];
const store64 = [0x37, 0, 0];
const copyBulk = [0xfc, 0x0a, 0, 0];

const copyLong = [...get(TARGET), ...get(SOURCE), ...get(LENGTH), ...copyBulk];
const advance = (local: number, bytes: number) => [
  ...get(local),
  ...constant(bytes),
  ...plus,
  ...set(local),
];

/** For each entry from ENTRY to LIST_END: copies LENGTH bytes from SOURCE to TARGET. */
const kernel = [
  ...block,
  ...loop,
  ...[...get(ENTRY), ...get(LIST_END), ...isNotBelow, ...jumpIf(1)],
  ...[...get(ENTRY), ...load32(0), ...set(SOURCE)],
  ...[...get(ENTRY), ...load32(4), ...set(TARGET)],
  ...[...get(ENTRY), ...load32(8), ...set(LENGTH)],
  ...advance(ENTRY, ENTRY_WORDS * 4),
  ...[...get(LENGTH), ...constant(SHORT_BYTES_MAX), ...isAbove],
  ...[...when, ...copyLong, ...jump(1), END],
  ...[...get(LENGTH), ...constant(8), ...isBelow],
  ...[...when, ...copyLong, ...jump(1), END],
  // The last eight bytes first, whatever they overlap with; then eight at a time up to them.
  ...[...get(SOURCE), ...get(LENGTH), ...plus, ...constant(8), ...minus, ...set(LAST)],
  ...[...get(TARGET), ...get(LENGTH), ...plus, ...constant(8), ...minus],
  ...[...get(LAST), ...load64, ...store64],
  ...loop,
  ...[...get(SOURCE), ...get(LAST), ...isBelow],
  ...[...when, ...get(TARGET), ...get(SOURCE), ...load64, ...store64],
  ...[...advance(SOURCE, 8), ...advance(TARGET, 8), ...jump(1), END],
  END,
  ...jump(0),
  END,
  END,
  END,
];

function section(id: number, content: readonly number[]): number[] {
  return [id, ...leb128(content.length), ...content];
}

/** Imports `m.m`, a memory, and exports `c`, the kernel (WebAssembly Core Specification, 5.5). */
const code = [1, 4, I32, ...kernel];
const wasmModule = new wasm.Module(
  Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, [1, 0x60, 2, I32, I32, 0]),
    ...section(2, [1, 1, 0x6d, 1, 0x6d, 2, 0, 1]),
    ...section(3, [1, 0]),
    ...section(7, [1, 1, 0x63, 0, 0]),
    ...section(10, [1, ...leb128(code.length), ...code]),
  ]),
);

/** A list of copies, filled and run again and again. */
export class CopyList {
  readonly #words: Uint32Array;
  readonly #run: (start: number, end: number) => void;
  #used = 0;

  /** The source and the target of a copy are offsets in `memory`, whose first page is the list's. */
  constructor(memory: KernelMemory) {
    this.#words = new Uint32Array(memory.buffer, 0, ENTRIES_MAX * ENTRY_WORDS);
    this.#run = new wasm.Instance(wasmModule, { m: { m: memory } }).exports.c;
  }

  clear(): void {
    this.#used = 0;
  }

  /** Adds a copy of bytes that do not overlap with where they go; a full list is run. */
  add(source: number, target: number, length: number): void {
    if (this.#used === ENTRIES_MAX * ENTRY_WORDS) this.run();
    const used = this.#used;
    this.#words[used] = source;
    this.#words[used + 1] = target;
    this.#words[used + 2] = length;
    this.#used = used + ENTRY_WORDS;
  }

  /** Makes the copies of the list, in order, and clears it. */
  run(): void {
    this.#run(0, this.#used * 4);
    this.#used = 0;
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

/**
 * A column of a message, kept as runs of equal numbers: frames that come together are mostly alike in
 * time, direction and vif, so that a batch costs as much as a frame. It is written as protobuf's
 * `repeated uint32`, packed.
 */
/** Most messages are made of a few batches. */
const RUNS_AT_FIRST = 16;

export class RunColumn {
  /** Room for more runs is made when it is needed, and kept. */
  #values = new Uint32Array(RUNS_AT_FIRST);
  /** The index behind the last entry of each run. */
  #ends = new Uint32Array(RUNS_AT_FIRST);
  #runs = 0;
  /** Whether any entry is not zero. */
  isNeeded = false;

  get count(): number {
    return this.#runs === 0 ? 0 : (this.#ends[this.#runs - 1] as number);
  }

  clear(): void {
    this.#runs = 0;
    this.isNeeded = false;
  }

  append(value: number, times: number): void {
    const last = this.#runs - 1;
    const end = this.count + times;
    if (last >= 0 && this.#values[last] === value) {
      this.#ends[last] = end;
      return;
    }
    if (this.#runs === this.#values.length) this.#grow();
    this.#values[this.#runs] = value;
    this.#ends[this.#runs] = end;
    this.#runs += 1;
    if (value !== 0) this.isNeeded = true;
  }

  /** Takes the first `count` entries out. */
  takeFront(count: number): number[] {
    const all = this.#expand();
    this.clear();
    for (const value of all.slice(count)) this.append(value, 1);
    return all.slice(0, count);
  }

  /** How many bytes `write` writes. */
  get byteLength(): number {
    const length = this.#entryBytes();
    return 1 + varintBytes(length) + length;
  }

  /** Writes tag, length and entries at `position`; returns where they end. */
  write(bytes: Uint8Array, tag: number, position: number): number {
    bytes[position] = tag;
    let place = writeVarint(bytes, position + 1, this.#entryBytes());
    let start = 0;
    for (let run = 0; run < this.#runs; run += 1) {
      const end = this.#ends[run] as number;
      place = writeRepeated(bytes, place, this.#values[run] as number, end - start);
      start = end;
    }
    return place;
  }

  #entryBytes(): number {
    let length = 0;
    let start = 0;
    for (let run = 0; run < this.#runs; run += 1) {
      const end = this.#ends[run] as number;
      length += (end - start) * varintBytes(this.#values[run] as number);
      start = end;
    }
    return length;
  }

  #grow(): void {
    const values = new Uint32Array(this.#values.length * 4);
    values.set(this.#values);
    this.#values = values;
    const ends = new Uint32Array(values.length);
    ends.set(this.#ends);
    this.#ends = ends;
  }

  #expand(): number[] {
    const all: number[] = [];
    for (let run = 0; run < this.#runs; run += 1) {
      while (all.length < (this.#ends[run] as number)) all.push(this.#values[run] as number);
    }
    return all;
  }
}

/** Writes a number `times` times and returns where the last one ends. */
function writeRepeated(bytes: Uint8Array, position: number, value: number, times: number): number {
  const size = varintBytes(value);
  const end = position + size * times;
  if (size === 1) {
    bytes.fill(value, position, end);
    return end;
  }
  writeVarint(bytes, position, value);
  // What is there is doubled, so that a long run takes a few copies.
  for (let done = position + size; done < end; ) {
    const more = Math.min(done - position, end - done);
    bytes.copyWithin(done, position, position + more);
    done += more;
  }
  return end;
}

/** Writes an unsigned number below 2^53 and returns where it ends. */
export function writeVarint(bytes: Uint8Array, position: number, value: number): number {
  let rest = value;
  let end = position;
  while (rest > 0x7f) {
    bytes[end] = (rest % 128) | 0x80;
    rest = rest > 0xffffffff ? Math.floor(rest / 128) : rest >>> 7;
    end += 1;
  }
  bytes[end] = rest;
  return end + 1;
}

/** How many bytes a number below 2^53 takes. */
export function varintBytes(value: number): number {
  if (value < 0x80) return 1;
  if (value < 0x4000) return 2;
  if (value < 0x200000) return 3;
  if (value < 0x10000000) return 4;
  return 4 + varintBytes(Math.floor(value / 0x10000000));
}

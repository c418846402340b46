/**
 * What is in flight: one record for each segment that was sent and is not acknowledged, in the order
 * of the sequence space, as columns of a ring. A record is sacked (it arrived, RFC 2018), lost (it is
 * to be sent again), or neither, and then it is in flight.
 */
import { distance, isBefore } from './sequence.js';

const FIRST_RECORDS = 32;
export const RECORDS_MAX = 16_384;

const SACKED = 1;
const LOST = 2;
const RETRANSMITTED = 4;

/** Told of each segment that is known to have arrived. */
export interface DeliveryObserver {
  delivered(end: number, sentMs: number, wasRetransmitted: boolean): void;
}

export class SentSegments {
  #sequences = new Int32Array(FIRST_RECORDS);
  #lengths = new Int32Array(FIRST_RECORDS);
  #sentMs = new Float64Array(FIRST_RECORDS);
  #flags = new Uint8Array(FIRST_RECORDS);
  #mask = FIRST_RECORDS - 1;
  /** Numbers of records run freely; their place is their low bits. */
  #first = 0;
  #end = 0;
  /** No record before this one is lost. */
  #lostHint = 0;
  outstandingBytes = 0;
  sackedBytes = 0;
  sackedCount = 0;
  lostBytes = 0;
  lostCount = 0;

  get first(): number {
    return this.#first;
  }

  get end(): number {
    return this.#end;
  }

  get count(): number {
    return this.#end - this.#first;
  }

  get isFull(): boolean {
    return this.count >= RECORDS_MAX;
  }

  /** Bytes that are thought to be on their way. */
  get inFlightBytes(): number {
    return this.outstandingBytes - this.sackedBytes - this.lostBytes;
  }

  sequence(record: number): number {
    return this.#sequences[record & this.#mask] as number;
  }

  length(record: number): number {
    return this.#lengths[record & this.#mask] as number;
  }

  sentMs(record: number): number {
    return this.#sentMs[record & this.#mask] as number;
  }

  endOf(record: number): number {
    return (this.sequence(record) + this.length(record)) | 0;
  }

  isInFlight(record: number): boolean {
    return (this.#flagsOf(record) & (SACKED | LOST)) === 0;
  }

  isSacked(record: number): boolean {
    return (this.#flagsOf(record) & SACKED) !== 0;
  }

  wasRetransmitted(record: number): boolean {
    return (this.#flagsOf(record) & RETRANSMITTED) !== 0;
  }

  /** A segment was sent for the first time. */
  push(sequence: number, length: number, nowMs: number): void {
    if (this.count > this.#mask) this.#grow();
    const place = this.#end & this.#mask;
    this.#sequences[place] = sequence;
    this.#lengths[place] = length;
    this.#sentMs[place] = nowMs;
    this.#flags[place] = 0;
    this.#end += 1;
    this.outstandingBytes += length;
  }

  /** Everything before `acknowledged` arrived. */
  acknowledge(acknowledged: number, observer: DeliveryObserver): void {
    while (this.#first < this.#end) {
      const record = this.#first;
      const covered = distance(this.sequence(record), acknowledged);
      if (covered <= 0) return;
      if (covered < this.length(record)) {
        this.#shorten(record, covered);
        return;
      }
      if (!this.isSacked(record)) this.#tell(record, observer);
      this.#forget(record);
      this.#first += 1;
    }
  }

  /** The receiver has the bytes from `left` to `right`. Answers how many of them are news. */
  sack(left: number, right: number, observer: DeliveryObserver): number {
    let news = 0;
    for (let record = this.#find(left); record < this.#end; record += 1) {
      if (isBefore(right, this.endOf(record))) break;
      if (this.isSacked(record)) continue;
      const length = this.length(record);
      this.#clearLost(record);
      this.#setFlag(record, SACKED);
      this.sackedBytes += length;
      this.sackedCount += 1;
      news += length;
      this.#tell(record, observer);
    }
    return news;
  }

  markLost(record: number): void {
    if (!this.isInFlight(record)) return;
    this.#setFlag(record, LOST);
    this.lostBytes += this.length(record);
    this.lostCount += 1;
    this.#lostHint = Math.min(this.#lostHint, record);
  }

  /** Nothing was heard: all that did not arrive is lost. */
  markAllLost(): void {
    for (let record = this.#first; record < this.#end; record += 1) this.markLost(record);
  }

  /** What was thought to be lost, and was not sent again yet, may be on its way after all. */
  forgetLosses(): void {
    for (let record = this.#first; this.lostCount > 0 && record < this.#end; record += 1) {
      this.#clearLost(record);
    }
  }

  /** The receiver may have thrown away what it said it had (RFC 2018, section 8). */
  forgetSacks(): void {
    for (let record = this.#first; record < this.#end; record += 1) {
      if (!this.isSacked(record)) continue;
      this.#flags[record & this.#mask] = this.#flagsOf(record) & ~SACKED;
    }
    this.sackedBytes = 0;
    this.sackedCount = 0;
  }

  /** The first record that is lost; -1: none is. */
  firstLost(): number {
    if (this.lostCount === 0) return -1;
    let record = Math.max(this.#lostHint, this.#first);
    while (record < this.#end && (this.#flagsOf(record) & LOST) === 0) record += 1;
    this.#lostHint = record;
    return record < this.#end ? record : -1;
  }

  markRetransmitted(record: number, nowMs: number): void {
    this.#clearLost(record);
    this.#setFlag(record, RETRANSMITTED);
    this.#sentMs[record & this.#mask] = nowMs;
  }

  /** Cuts records so that none is longer than `bytes`, and has all that is cut sent again. */
  resegment(bytes: number): void {
    const { first, end } = this;
    const old = { sequences: this.#sequences, lengths: this.#lengths, sentMs: this.#sentMs };
    const mask = this.#mask;
    const isSacked = (record: number) => ((flags[record & mask] as number) & SACKED) !== 0;
    const flags = this.#flags;
    this.clear();
    for (let record = first; record < end; record += 1) {
      const sequence = old.sequences[record & mask] as number;
      const length = old.lengths[record & mask] as number;
      const sentMs = old.sentMs[record & mask] as number;
      for (let from = 0; from < length; from += bytes) {
        const piece = Math.min(bytes, length - from);
        this.push((sequence + from) | 0, piece, sentMs);
        const added = this.#end - 1;
        if (isSacked(record)) {
          this.#setFlag(added, SACKED);
          this.sackedBytes += piece;
          this.sackedCount += 1;
        } else if (length > bytes) this.markLost(added);
      }
    }
  }

  clear(): void {
    this.#sequences = new Int32Array(FIRST_RECORDS);
    this.#lengths = new Int32Array(FIRST_RECORDS);
    this.#sentMs = new Float64Array(FIRST_RECORDS);
    this.#flags = new Uint8Array(FIRST_RECORDS);
    this.#mask = FIRST_RECORDS - 1;
    this.#first = 0;
    this.#end = 0;
    this.#lostHint = 0;
    this.outstandingBytes = 0;
    this.sackedBytes = 0;
    this.sackedCount = 0;
    this.lostBytes = 0;
    this.lostCount = 0;
  }

  #flagsOf(record: number): number {
    return this.#flags[record & this.#mask] as number;
  }

  #setFlag(record: number, flag: number): void {
    this.#flags[record & this.#mask] = this.#flagsOf(record) | flag;
  }

  #clearLost(record: number): void {
    if ((this.#flagsOf(record) & LOST) === 0) return;
    this.#flags[record & this.#mask] = this.#flagsOf(record) & ~LOST;
    this.lostBytes -= this.length(record);
    this.lostCount -= 1;
  }

  #tell(record: number, observer: DeliveryObserver): void {
    observer.delivered(this.endOf(record), this.sentMs(record), this.wasRetransmitted(record));
  }

  /** Takes a record out of the account. */
  #forget(record: number): void {
    const length = this.length(record);
    this.#clearLost(record);
    if (this.isSacked(record)) {
      this.sackedBytes -= length;
      this.sackedCount -= 1;
    }
    this.outstandingBytes -= length;
  }

  /** The first `covered` bytes of a record are acknowledged. */
  #shorten(record: number, covered: number): void {
    const place = record & this.#mask;
    const flags = this.#flagsOf(record);
    if ((flags & SACKED) !== 0) this.sackedBytes -= covered;
    if ((flags & LOST) !== 0) this.lostBytes -= covered;
    this.outstandingBytes -= covered;
    this.#sequences[place] = (this.sequence(record) + covered) | 0;
    this.#lengths[place] = this.length(record) - covered;
  }

  /** The first record that does not begin before `sequence`. */
  #find(sequence: number): number {
    let low = this.#first;
    let high = this.#end;
    while (low < high) {
      const middle = low + ((high - low) >>> 1);
      if (isBefore(this.sequence(middle), sequence)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #grow(): void {
    const size = (this.#mask + 1) * 2;
    const sequences = new Int32Array(size);
    const lengths = new Int32Array(size);
    const sentMs = new Float64Array(size);
    const flags = new Uint8Array(size);
    for (let record = this.#first; record < this.#end; record += 1) {
      const [from, to] = [record & this.#mask, record & (size - 1)];
      sequences[to] = this.#sequences[from] as number;
      lengths[to] = this.#lengths[from] as number;
      sentMs[to] = this.#sentMs[from] as number;
      flags[to] = this.#flags[from] as number;
    }
    this.#sequences = sequences;
    this.#lengths = lengths;
    this.#sentMs = sentMs;
    this.#flags = flags;
    this.#mask = size - 1;
  }
}

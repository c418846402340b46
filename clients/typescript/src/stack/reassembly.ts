/**
 * Puts fragments together (RFC 791, section 3.2; RFC 815). Fragments that overlap others are nobody's
 * honest traffic: as RFC 5722 has it for IPv6 the whole packet is dropped then, but for a fragment
 * that is all there already, which a network may well have doubled; the bytes that came first stay.
 */
import type { Clock } from './clock.js';
import { REASSEMBLIES_MAX, REASSEMBLIES_PER_SOURCE, REASSEMBLY_TIMEOUT_MS } from './limits.js';
import { copyBytes } from './wire/bytes.js';
import {
  IPV4_HEADER_BYTES,
  IPV4_PACKET_BYTES_MAX,
  type Ipv4Header,
  PROTOCOL_TCP,
} from './wire/ipv4.js';

/** Offsets count in these. */
const UNIT_BYTES = 8;
const PAYLOAD_BYTES_MAX = IPV4_PACKET_BYTES_MAX - IPV4_HEADER_BYTES;
const UNITS_MAX = Math.ceil(PAYLOAD_BYTES_MAX / UNIT_BYTES);
const BUFFER_BYTES_FIRST = 4096;

/** What became of a fragment. */
export type FragmentOutcome = 'waiting' | 'complete' | 'duplicate' | 'invalid' | 'overlap';

export class Reassembly {
  readonly source: number;
  readonly destination: number;
  readonly protocol: number;
  readonly identification: number;
  readonly startedMs: number;
  /** Set once the whole is there: `bytes[0 .. totalBytes)` is the payload. */
  bytes = new Uint8Array(BUFFER_BYTES_FIRST);
  /** Bytes of the whole; -1 while the last fragment is missing. */
  totalBytes = -1;
  /** Whether the beginning is there, which an ICMP error would quote. */
  hasStart = false;
  readonly #present = new Uint8Array(UNITS_MAX);
  #unitsPresent = 0;
  #endSeen = 0;

  constructor(header: Ipv4Header, startedMs: number) {
    this.source = header.source;
    this.destination = header.destination;
    this.protocol = header.protocol;
    this.identification = header.identification;
    this.startedMs = startedMs;
  }

  add(header: Ipv4Header, packet: Uint8Array): FragmentOutcome {
    const start = header.fragmentOffset;
    const length = header.payloadBytes;
    const end = start + length;
    if (!isPlausible(header)) return 'invalid';
    if (this.totalBytes >= 0 && end > this.totalBytes) return 'overlap';
    if (!header.moreFragments) {
      if (this.#endSeen > end || (this.totalBytes >= 0 && this.totalBytes !== end))
        return 'overlap';
    }
    const firstUnit = start / UNIT_BYTES;
    const endUnit = Math.ceil(end / UNIT_BYTES);
    const known = this.#countPresent(firstUnit, endUnit);
    if (known === endUnit - firstUnit) return 'duplicate';
    if (known > 0) return 'overlap';
    if (!header.moreFragments) this.totalBytes = end;
    this.#endSeen = Math.max(this.#endSeen, end);
    this.#reserve(end);
    copyBytes(packet, header.payloadOffset, this.bytes, start, length);
    this.#present.fill(1, firstUnit, endUnit);
    this.#unitsPresent += endUnit - firstUnit;
    if (start === 0) this.hasStart = true;
    const isWhole =
      this.totalBytes >= 0 && this.#unitsPresent === Math.ceil(this.totalBytes / UNIT_BYTES);
    return isWhole ? 'complete' : 'waiting';
  }

  #countPresent(first: number, end: number): number {
    let count = 0;
    for (let unit = first; unit < end; unit += 1) count += this.#present[unit] as number;
    return count;
  }

  #reserve(end: number): void {
    if (end <= this.bytes.length) return;
    let length = this.bytes.length;
    while (length < end) length *= 2;
    const larger = new Uint8Array(length);
    larger.set(this.bytes);
    this.bytes = larger;
  }
}

/**
 * Whether a fragment can be part of a packet: not too long, whole units but at the end, and no TCP
 * header cut in two to hide its flags (RFC 1858, RFC 3128).
 */
function isPlausible(header: Ipv4Header): boolean {
  const { fragmentOffset, payloadBytes, moreFragments, protocol } = header;
  if (payloadBytes === 0 || fragmentOffset + payloadBytes > PAYLOAD_BYTES_MAX) return false;
  if (moreFragments && payloadBytes % UNIT_BYTES !== 0) return false;
  if (protocol !== PROTOCOL_TCP) return true;
  const cutsHeader = fragmentOffset === 0 && moreFragments && payloadBytes < 20;
  return !cutsHeader && fragmentOffset !== UNIT_BYTES;
}

export class ReassemblyCache {
  readonly #clock: Clock;
  readonly #onExpired: (reassembly: Reassembly) => void;
  /** In the order in which they began. */
  readonly #byKey = new Map<string, Reassembly>();
  #cancelWake: (() => void) | undefined;
  readonly counts = { complete: 0, expired: 0, evicted: 0, invalid: 0, overlap: 0, duplicate: 0 };

  /** `onExpired` gets what was never completed, when its time is over. */
  constructor(clock: Clock, onExpired: (reassembly: Reassembly) => void = () => undefined) {
    this.#clock = clock;
    this.#onExpired = onExpired;
  }

  get size(): number {
    return this.#byKey.size;
  }

  /** Takes the fragment whose header was parsed from `packet`; answers the whole when it is complete. */
  add(header: Ipv4Header, packet: Uint8Array): Reassembly | undefined {
    const { source, destination, protocol, identification } = header;
    const key = `${source}/${destination}/${protocol}/${identification}`;
    let reassembly = this.#byKey.get(key);
    if (reassembly === undefined) {
      this.#makeRoom(source);
      reassembly = new Reassembly(header, this.#clock.nowMs());
      this.#byKey.set(key, reassembly);
      this.#arm();
    }
    const outcome = reassembly.add(header, packet);
    if (outcome !== 'waiting') this.counts[outcome] += 1;
    if (outcome === 'complete' || outcome === 'overlap') this.#byKey.delete(key);
    return outcome === 'complete' ? reassembly : undefined;
  }

  clear(): void {
    this.#cancelWake?.();
    this.#cancelWake = undefined;
    this.#byKey.clear();
  }

  #makeRoom(source: number): void {
    let ofSource = 0;
    let oldestOfSource: string | undefined;
    for (const [key, reassembly] of this.#byKey) {
      if (reassembly.source !== source) continue;
      ofSource += 1;
      oldestOfSource ??= key;
    }
    if (ofSource >= REASSEMBLIES_PER_SOURCE) this.#evict(oldestOfSource);
    else if (this.#byKey.size >= REASSEMBLIES_MAX) this.#evict(this.#byKey.keys().next().value);
  }

  #evict(key: string | undefined): void {
    if (key !== undefined && this.#byKey.delete(key)) this.counts.evicted += 1;
  }

  /** Wakes when the time of the oldest is over. */
  #arm(): void {
    const oldest = this.#byKey.values().next().value;
    if (this.#cancelWake !== undefined || oldest === undefined) return;
    const delayMs = oldest.startedMs + REASSEMBLY_TIMEOUT_MS - this.#clock.nowMs();
    const run = () => this.#expire();
    this.#cancelWake = this.#clock.wake(Math.max(0, delayMs), run, false);
  }

  #expire(): void {
    this.#cancelWake = undefined;
    const beforeMs = this.#clock.nowMs() - REASSEMBLY_TIMEOUT_MS;
    for (const [key, reassembly] of this.#byKey) {
      if (reassembly.startedMs > beforeMs) break;
      this.#byKey.delete(key);
      this.counts.expired += 1;
      this.#onExpired(reassembly);
    }
    this.#arm();
  }
}

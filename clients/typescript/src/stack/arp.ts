/**
 * ARP (RFC 826) with conflict detection (RFC 5227): asks for neighbours and answers for our address,
 * probes an address before it is used, announces it, and defends it. What others claim without being
 * asked changes only what is known of neighbours that we have to do with.
 */
import { type Clock, DeadlineTimer, pause } from './clock.js';
import type { Link } from './link.js';
import { type Neighbour, NeighbourTable, type WaitingFrame } from './neighbours.js';
import type { RandomSource } from './random.js';
import { ARP_BYTES, ARP_REPLY, ARP_REQUEST, ArpPacket, parseArp, writeArp } from './wire/arp.js';
import {
  BROADCAST_MAC,
  ETHERNET_FRAME_BYTES_MIN,
  ETHERNET_HEADER_BYTES,
  ETHERTYPE_ARP,
  formatMac,
  isGroupMac,
  sameMac,
  writeEthernet,
} from './wire/ethernet.js';

const RETRY_MS = 1_000;
const ATTEMPTS_MAX = 3;
/** RFC 5227, section 1.1. */
const PROBE_WAIT_MS = 1_000;
const PROBES = 3;
const PROBE_MIN_MS = 1_000;
const PROBE_MAX_MS = 2_000;
const ANNOUNCE_WAIT_MS = 2_000;
const ANNOUNCEMENTS = 2;
const ANNOUNCE_INTERVAL_MS = 2_000;
const DEFEND_INTERVAL_MS = 10_000;

const NO_MAC = new Uint8Array(6);

export interface ArpOptions {
  readonly link: Link;
  readonly clock: Clock;
  readonly random: RandomSource;
  /** Sends what was committed to the link soon. */
  readonly flushSoon: () => void;
  /** Nobody answers for an address. */
  readonly onUnreachable: (address: number) => void;
  /** Somebody else, whose MAC address this is, uses our address. */
  readonly onConflict: (mac: string) => void;
}

export class Arp {
  readonly neighbours: NeighbourTable;
  /** Our address; 0: none yet. */
  address = 0;
  readonly #options: ArpOptions;
  readonly #packet = new ArpPacket();
  readonly #timer: DeadlineTimer;
  #defendedMs = Number.NEGATIVE_INFINITY;
  /** Called when somebody uses or probes the address that is being probed. */
  #probing: { readonly address: number; readonly onConflict: () => void } | undefined;
  #announcementsLeft = 0;
  #cancelAnnouncing: (() => void) | undefined;

  constructor(options: ArpOptions) {
    this.#options = options;
    this.neighbours = new NeighbourTable(options.clock);
    this.#timer = new DeadlineTimer(options.clock, () => this.#onTimer());
  }

  /** Takes an ARP packet that was received: `bytes[offset .. offset + length)`. */
  receive(bytes: Uint8Array, offset: number, length: number): void {
    const packet = this.#packet;
    if (!parseArp(bytes, offset, length, packet)) return;
    const { senderMac, senderIp, targetIp, operation } = packet;
    if (isGroupMac(senderMac, 0) || sameMac(senderMac, 0, this.#options.link.mac)) return;
    this.#detectConflict(packet);
    const isForUs = this.address !== 0 && targetIp === this.address;
    if (senderIp !== 0 && senderIp !== this.address) this.#hear(senderIp, senderMac, isForUs);
    if (operation === ARP_REQUEST && isForUs && senderIp !== this.address) {
      this.#send(ARP_REPLY, senderMac, this.address, senderMac, senderIp);
    }
  }

  /** Has a packet wait for the neighbour's address, and asks for it. False: it was dropped. */
  enqueue(neighbour: Neighbour, frame: WaitingFrame): boolean {
    if (!neighbour.isPending) {
      if (!this.neighbours.mayAsk) return false;
      this.#ask(neighbour);
    }
    return neighbour.enqueue(frame);
  }

  /** What is known of a neighbour in use is old: asks again, while it is used as it is. */
  refresh(neighbour: Neighbour): void {
    if (!neighbour.isPending && this.neighbours.mayAsk) this.#ask(neighbour);
  }

  /**
   * Asks whether anybody uses `address`, as RFC 5227 says, in 4 to 7 seconds; true when nobody does.
   * One address at a time.
   */
  async probe(address: number, signal?: AbortSignal): Promise<boolean> {
    const { clock, random } = this.#options;
    const conflict = new AbortController();
    const over = signal ? AbortSignal.any([signal, conflict.signal]) : conflict.signal;
    this.#probing = { address, onConflict: () => conflict.abort() };
    try {
      await pause(clock, random.u32() % PROBE_WAIT_MS, over);
      for (let sent = 1; sent <= PROBES && !over.aborted; sent += 1) {
        this.#send(ARP_REQUEST, BROADCAST_MAC, 0, NO_MAC, address);
        const spread = PROBE_MIN_MS + (random.u32() % (PROBE_MAX_MS - PROBE_MIN_MS));
        await pause(clock, sent === PROBES ? ANNOUNCE_WAIT_MS : spread, over);
      }
      return !conflict.signal.aborted;
    } finally {
      this.#probing = undefined;
    }
  }

  /** Tells everybody that our address is ours, now and once more. */
  announce(): void {
    this.#cancelAnnouncing?.();
    this.#announcementsLeft = ANNOUNCEMENTS;
    this.#announceOnce();
  }

  stop(): void {
    this.#cancelAnnouncing?.();
    this.#cancelAnnouncing = undefined;
    this.#timer.stop();
    this.neighbours.clear();
  }

  #announceOnce(): void {
    this.#cancelAnnouncing = undefined;
    if (this.address === 0 || this.#announcementsLeft === 0) return;
    this.#announcementsLeft -= 1;
    this.#send(ARP_REQUEST, BROADCAST_MAC, this.address, NO_MAC, this.address);
    if (this.#announcementsLeft === 0) return;
    const { clock } = this.#options;
    const again = () => this.#announceOnce();
    this.#cancelAnnouncing = clock.wake(ANNOUNCE_INTERVAL_MS, again, false);
  }

  #detectConflict({ senderIp, senderMac, targetIp, operation }: ArpPacket): void {
    const probing = this.#probing;
    if (probing !== undefined) {
      const isProbe = operation === ARP_REQUEST && senderIp === 0 && targetIp === probing.address;
      if (senderIp === probing.address || isProbe) probing.onConflict();
    }
    if (this.address === 0 || senderIp !== this.address) return;
    this.#options.onConflict(formatMac(senderMac));
    const nowMs = this.#options.clock.nowMs();
    if (nowMs - this.#defendedMs < DEFEND_INTERVAL_MS) return;
    this.#defendedMs = nowMs;
    this.#send(ARP_REQUEST, BROADCAST_MAC, this.address, NO_MAC, this.address);
  }

  #hear(address: number, mac: Uint8Array, isForUs: boolean): void {
    const neighbours = this.neighbours;
    const neighbour = isForUs ? neighbours.ensure(address) : neighbours.find(address);
    if (neighbour === undefined) return;
    neighbours.learn(neighbour, mac);
    this.#sendWaiting(neighbour);
  }

  #sendWaiting(neighbour: Neighbour): void {
    const { link, flushSoon } = this.#options;
    const frames = neighbour.takeWaiting();
    for (const { bytes, isBlank, segmentBytes } of frames) {
      const offset = link.reserve(bytes.length);
      if (offset < 0) break;
      link.bytes.set(bytes, offset);
      link.bytes.set(neighbour.mac, offset);
      link.commit(offset, bytes.length, isBlank, segmentBytes);
    }
    if (frames.length > 0) flushSoon();
  }

  #ask(neighbour: Neighbour): void {
    neighbour.attempts += 1;
    neighbour.nextAttemptMs = this.#options.clock.nowMs() + RETRY_MS;
    // One that is known is asked itself first: a broadcast disturbs everybody.
    const isUnicast = neighbour.isKnown && neighbour.attempts < ATTEMPTS_MAX;
    const to = isUnicast ? neighbour.mac : BROADCAST_MAC;
    this.#send(ARP_REQUEST, to, this.address, NO_MAC, neighbour.address);
    this.#rearm();
  }

  #onTimer(): void {
    const nowMs = this.#options.clock.nowMs();
    for (const neighbour of [...this.neighbours.pending()]) {
      if (neighbour.nextAttemptMs > nowMs) continue;
      if (neighbour.attempts < ATTEMPTS_MAX) {
        this.#ask(neighbour);
        continue;
      }
      this.neighbours.forget(neighbour);
      this.#options.onUnreachable(neighbour.address);
    }
    this.#rearm();
  }

  #rearm(): void {
    let next = Number.POSITIVE_INFINITY;
    for (const { nextAttemptMs } of this.neighbours.pending()) next = Math.min(next, nextAttemptMs);
    this.#timer.set(next);
  }

  #send(
    operation: number,
    to: Uint8Array,
    senderIp: number,
    targetMac: Uint8Array,
    targetIp: number,
  ): void {
    const { link, flushSoon } = this.#options;
    const offset = link.reserve(ETHERNET_FRAME_BYTES_MIN);
    if (offset < 0) return;
    const packet = new ArpPacket();
    packet.operation = operation;
    packet.senderMac.set(link.mac);
    packet.senderIp = senderIp;
    packet.targetMac.set(targetMac);
    packet.targetIp = targetIp;
    link.bytes.fill(0, offset, offset + ETHERNET_FRAME_BYTES_MIN);
    writeEthernet(link.bytes, offset, to, link.mac, ETHERTYPE_ARP);
    writeArp(link.bytes, offset + ETHERNET_HEADER_BYTES, packet);
    link.commit(offset, ETHERNET_HEADER_BYTES + ARP_BYTES, false, 0);
    flushSoon();
  }
}

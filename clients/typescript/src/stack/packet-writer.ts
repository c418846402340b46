/**
 * The way out of IPv4: from a payload to frames on the link. `begin` and `finish` are the fast way, for
 * a payload that is written where the frame lies and fits the path; `send` takes a payload from anywhere
 * and fragments it where it must. A packet for a neighbour whose address is not known waits at ARP.
 */
import { BROADCAST_ADDRESS, isMulticast } from './address.js';
import type { Arp } from './arp.js';
import type { Clock } from './clock.js';
import { invalid, StackError } from './errors.js';
import { LOOPBACK_PACKETS_MAX } from './limits.js';
import type { Link } from './link.js';
import { Neighbour } from './neighbours.js';
import type { PathMtuCache } from './path-mtu.js';
import type { RandomSource } from './random.js';
import { copyBytes } from './wire/bytes.js';
import {
  BROADCAST_MAC,
  ETHERNET_HEADER_BYTES,
  ETHERTYPE_IPV4,
  writeEthernet,
} from './wire/ethernet.js';
import {
  FLAG_DONT_FRAGMENT,
  FLAG_MORE_FRAGMENTS,
  IPV4_HEADER_BYTES,
  IPV4_PACKET_BYTES_MAX,
  IPV4_TTL_DEFAULT,
  writeIpv4,
} from './wire/ipv4.js';

export const FRAME_HEADERS_BYTES = ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES;

export interface PacketWriterOptions {
  readonly link: Link;
  readonly clock: Clock;
  readonly random: RandomSource;
  readonly arp: Arp;
  readonly pathMtus: PathMtuCache;
  /** The neighbour's address on the way to a destination; undefined where none leads there. */
  readonly nextHop: (destination: number) => number | undefined;
  /** Whether an address is ours, and whether it is our network's broadcast address. */
  readonly isOurs: (address: number) => boolean;
  readonly isBroadcast: (address: number) => boolean;
  readonly flushSoon: () => void;
  /** Gets a packet to ourselves, in a turn of its own. */
  readonly onLoopback: (packet: Uint8Array) => void;
}

/** How a packet travels. */
export interface PacketOptions {
  /** 1 to 255; default 64. */
  readonly ttl?: number | undefined;
  readonly dontFragment?: boolean | undefined;
}

/** What became of a packet. */
export type SendOutcome = 'sent' | 'no-route' | 'no-room' | 'too-long';

export class PacketWriter {
  readonly #options: PacketWriterOptions;
  /** Stands for us: packets to it go nowhere near the link. */
  readonly #loopback = new Neighbour(0);
  readonly #groups = new Map<number, Neighbour>();
  readonly #broadcast = new Neighbour(BROADCAST_ADDRESS);
  readonly #looped: Uint8Array[] = [];
  #identification: number;
  readonly counts = { sent: 0, fragments: 0, noRoute: 0, noRoom: 0 };

  constructor(options: PacketWriterOptions) {
    this.#options = options;
    this.#identification = options.random.u32() & 0xffff;
    this.#broadcast.mac.set(BROADCAST_MAC);
    this.#broadcast.isKnown = true;
    this.#broadcast.heardMs = Number.POSITIVE_INFINITY;
  }

  /** Who gets packets to `destination`; undefined where no route leads there. */
  route(destination: number): Neighbour | undefined {
    const { isOurs, isBroadcast, nextHop, arp } = this.#options;
    if (isOurs(destination)) return this.#loopback;
    if (isBroadcast(destination)) return this.#broadcast;
    if (isMulticast(destination)) return this.#group(destination);
    const hop = nextHop(destination);
    return hop === undefined ? undefined : arp.neighbours.ensure(hop);
  }

  /** The largest packet, header included, that travels to `destination` in one piece. */
  pathMtu(destination: number): number {
    return this.#options.pathMtus.lookUp(destination, this.#options.link.mtu);
  }

  /** Where in `link.bytes` a payload of so many bytes goes; -1: there is no room now. */
  begin(payloadBytes: number): number {
    const offset = this.#options.link.reserve(FRAME_HEADERS_BYTES + payloadBytes);
    return offset < 0 ? -1 : offset + FRAME_HEADERS_BYTES;
  }

  /** Sends the payload that was written at `payloadOffset`, which is where `begin` said. */
  finish(
    neighbour: Neighbour,
    payloadOffset: number,
    payloadBytes: number,
    protocol: number,
    source: number,
    destination: number,
    isBlank: boolean,
    segmentBytes: number,
  ): void {
    const identification = this.#takeIdentification(1 + Math.floor(payloadBytes / 1024));
    this.#complete(
      neighbour,
      payloadOffset - FRAME_HEADERS_BYTES,
      payloadBytes,
      identification,
      FLAG_DONT_FRAGMENT,
      IPV4_TTL_DEFAULT,
      protocol,
      source,
      destination,
      isBlank,
      segmentBytes,
    );
  }

  /**
   * Sends `payload` as one packet or, where the path is too narrow, in fragments.
   * @throws StackError PACKET_TOO_LONG, TTL_INVALID.
   */
  send(
    protocol: number,
    source: number,
    destination: number,
    payload: Uint8Array,
    { ttl = IPV4_TTL_DEFAULT, dontFragment = false }: PacketOptions = {},
  ): SendOutcome {
    checkPacket(payload.length, ttl);
    const neighbour = this.route(destination);
    if (neighbour === undefined) {
      this.counts.noRoute += 1;
      return 'no-route';
    }
    const mtu = this.pathMtu(destination);
    if (payload.length + IPV4_HEADER_BYTES > mtu && dontFragment) return 'too-long';
    const identification = this.#takeIdentification(1);
    const pieceBytes = Math.floor((mtu - IPV4_HEADER_BYTES) / 8) * 8;
    const isWhole = payload.length + IPV4_HEADER_BYTES <= mtu;
    for (let start = 0; start === 0 || start < payload.length; start += pieceBytes) {
      const length = isWhole ? payload.length : Math.min(pieceBytes, payload.length - start);
      const offset = this.begin(length);
      if (offset < 0) {
        this.counts.noRoom += 1;
        return 'no-room';
      }
      copyBytes(payload, start, this.#options.link.bytes, offset, length);
      const isLast = start + length >= payload.length;
      const fragment =
        (start >> 3) | (isLast ? 0 : FLAG_MORE_FRAGMENTS) | (dontFragment ? FLAG_DONT_FRAGMENT : 0);
      const frame = offset - FRAME_HEADERS_BYTES;
      this.#complete(
        neighbour,
        frame,
        length,
        identification,
        fragment,
        ttl,
        protocol,
        source,
        destination,
        false,
        0,
      );
      if (!isWhole) this.counts.fragments += 1;
      if (isLast) break;
    }
    return 'sent';
  }

  /** Writes both headers and hands the frame on. */
  #complete(
    neighbour: Neighbour,
    frame: number,
    payloadBytes: number,
    identification: number,
    fragment: number,
    ttl: number,
    protocol: number,
    source: number,
    destination: number,
    isBlank: boolean,
    segmentBytes: number,
  ): void {
    const { link } = this.#options;
    const packet = frame + ETHERNET_HEADER_BYTES;
    const totalBytes = IPV4_HEADER_BYTES + payloadBytes;
    writeIpv4(
      link.bytes,
      packet,
      totalBytes,
      identification,
      fragment,
      ttl,
      protocol,
      source,
      destination,
    );
    this.counts.sent += 1;
    this.#transmit(neighbour, frame, ETHERNET_HEADER_BYTES + totalBytes, isBlank, segmentBytes);
  }

  /** Sends a frame whose packet is written, with the Ethernet header that belongs to it. */
  #transmit(
    neighbour: Neighbour,
    frame: number,
    length: number,
    isBlank: boolean,
    segmentBytes: number,
  ): void {
    const { link, clock, arp, flushSoon } = this.#options;
    if (neighbour === this.#loopback) {
      this.#loop(link.bytes.slice(frame + ETHERNET_HEADER_BYTES, frame + length));
      return;
    }
    writeEthernet(link.bytes, frame, neighbour.mac, link.mac, ETHERTYPE_IPV4);
    if (neighbour.isKnown) {
      const nowMs = clock.nowMs();
      neighbour.usedMs = nowMs;
      link.commit(frame, length, isBlank, segmentBytes);
      flushSoon();
      if (neighbour.isStale(nowMs)) arp.refresh(neighbour);
      return;
    }
    const bytes = link.bytes.slice(frame, frame + length);
    if (!arp.enqueue(neighbour, { bytes, isBlank, segmentBytes })) this.counts.noRoom += 1;
  }

  /** Sends a packet whose header its writer has filled in: see `Ipv4.write`. */
  sendFrame(parts: readonly Uint8Array[], destination: number): SendOutcome {
    const neighbour = this.route(destination);
    if (neighbour === undefined) return 'no-route';
    const { link } = this.#options;
    let length = 0;
    for (const part of parts) length += part.length;
    const frame = link.reserve(length);
    if (frame < 0) return 'no-room';
    let position = frame;
    for (const part of parts) {
      link.bytes.set(part, position);
      position += part.length;
    }
    this.counts.sent += 1;
    this.#transmit(neighbour, frame, length, false, 0);
    return 'sent';
  }

  /** A number for a packet that no other in flight to the same place has. */
  #takeIdentification(count: number): number {
    const identification = this.#identification;
    this.#identification = (identification + count) & 0xffff;
    return identification;
  }

  #loop(packet: Uint8Array): void {
    if (this.#looped.length >= LOOPBACK_PACKETS_MAX) {
      this.counts.noRoom += 1;
      return;
    }
    this.#looped.push(packet);
    if (this.#looped.length === 1) this.#options.clock.wake(0, () => this.#deliverLooped());
  }

  #deliverLooped(): void {
    for (const packet of this.#looped.splice(0)) this.#options.onLoopback(packet);
  }

  #group(address: number): Neighbour {
    const known = this.#groups.get(address);
    if (known !== undefined) return known;
    const neighbour = new Neighbour(address);
    // 01:00:5e and the low 23 bits (RFC 1112, section 6.4).
    neighbour.mac.set([1, 0, 0x5e, (address >>> 16) & 0x7f, (address >>> 8) & 255, address & 255]);
    neighbour.isKnown = true;
    neighbour.heardMs = Number.POSITIVE_INFINITY;
    // Only our own programs choose groups; they are few, or not worth remembering.
    if (this.#groups.size < 64) this.#groups.set(address, neighbour);
    return neighbour;
  }
}

function checkPacket(payloadBytes: number, ttl: number): void {
  if (payloadBytes > IPV4_PACKET_BYTES_MAX - IPV4_HEADER_BYTES) {
    throw new StackError('PACKET_TOO_LONG', `A packet has no room for ${payloadBytes} bytes.`);
  }
  if (!Number.isInteger(ttl) || ttl < 1 || ttl > 255) {
    throw invalid('TTL_INVALID', `The time to live is 1 to 255, not ${ttl}.`);
  }
}

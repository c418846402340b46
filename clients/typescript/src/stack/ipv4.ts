/**
 * IPv4 over a link, with the face that Mirage's IPV4 has: connect, disconnect, input with a callback
 * for TCP, for UDP and for every other protocol, allocate_frame, write, writev, and the address,
 * netmask and gateways with their setters. Beside them is what the stack itself uses: `use`, which
 * registers a protocol, and `output`.
 *
 * Packets for others are dropped: a host is no router. What no honest host sends is dropped too: our
 * own address or a group's as the source (RFC 1122, section 3.2.1.3).
 */
import {
  ANY_ADDRESS,
  BROADCAST_ADDRESS,
  formatAddress,
  isUnusableSource,
  maskOf,
  prefixBitsOf,
  requireAddress,
} from './address.js';
import { Arp } from './arp.js';
import { type Clock, monotonicClock } from './clock.js';
import { disconnected, StackError } from './errors.js';
import type { Link } from './link.js';
import { FRAME_HEADERS_BYTES, PacketWriter } from './packet-writer.js';
import { PathMtuCache } from './path-mtu.js';
import { type RandomSource, unguessable } from './random.js';
import { type Reassembly, ReassemblyCache } from './reassembly.js';
import { type Route, RouteTable } from './routes.js';
import { readU32, writeU16 } from './wire/bytes.js';
import { internetChecksum } from './wire/checksum.js';
import {
  ETHERNET_HEADER_BYTES,
  ETHERTYPE_ARP,
  ETHERTYPE_IPV4,
  isGroupMac,
  readEthertype,
  sameMac,
  writeEthernet,
} from './wire/ethernet.js';
import {
  IPV4_HEADER_BYTES,
  IPV4_PACKET_BYTES_MAX,
  IPV4_TTL_DEFAULT,
  Ipv4Header,
  PROTOCOL_ICMP,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  parseIpv4,
  writeIpv4,
} from './wire/ipv4.js';

/** All hosts on the link (RFC 1112): the only group that every host is in. */
const ALL_HOSTS = 0xe000_0001;

/** Takes the payload of a packet, which is lent for the call. */
export type Ipv4Callback = (source: string, destination: string, payload: Uint8Array) => void;

/** Where `input` takes packets to: Mirage's `~tcp ~udp ~default`. */
export interface Ipv4Handlers {
  readonly tcp: Ipv4Callback;
  readonly udp: Ipv4Callback;
  /** Any other protocol, by its number. */
  readonly default: (protocol: number) => Ipv4Callback;
}

/** Takes a whole packet: its payload is `bytes[offset .. offset + length)`, lent for the call. */
export type PacketHandler = (
  header: Ipv4Header,
  bytes: Uint8Array,
  offset: number,
  length: number,
  isVerified: boolean,
) => void;

/** A frame that `allocateFrame` made, and how much of it is headers. */
export interface AllocatedFrame {
  readonly frame: Uint8Array;
  readonly headerBytes: number;
}

export interface Ipv4Options {
  readonly clock?: Clock | undefined;
  readonly random?: RandomSource | undefined;
  /** Somebody else, whose MAC address this is, uses our address. */
  readonly onConflict?: ((mac: string) => void) | undefined;
  /** The NIC is gone; the error that ended it, where one did. */
  readonly onLost?: ((error: Error | undefined) => void) | undefined;
}

export class Ipv4 {
  readonly link: Link;
  readonly clock: Clock;
  readonly random: RandomSource;
  readonly arp: Arp;
  readonly output: PacketWriter;
  readonly pathMtus: PathMtuCache;
  /** What was received, and what was dropped of it by cause. */
  readonly counts = { received: 0, notOurs: 0, malformed: 0, badSource: 0, fragments: 0 };
  readonly reassembly: ReassemblyCache;
  /** Counts changes of address and routes: what was looked up before may be wrong. */
  generation = 0;
  readonly #handlers = new Map<number, PacketHandler>();
  #defaultHandler: PacketHandler | undefined;
  readonly #onBatchEnd = new Set<() => void>();
  readonly #onRoom = new Set<() => void>();
  readonly #onUnreachable = new Set<(destination: number) => void>();
  readonly #onReassemblyExpired = new Set<(reassembly: Reassembly) => void>();
  readonly #header = new Ipv4Header();
  readonly #routes = new RouteTable();
  #address = ANY_ADDRESS;
  #prefixBits = 32;
  #gateways: readonly number[] = [];
  #extraRoutes: readonly Route[] = [];
  #isReceiving = false;
  #flushIsDue = false;
  #isOver = false;
  readonly #flush = () => this.#flushNow();

  private constructor(link: Link, options: Ipv4Options) {
    this.link = link;
    this.clock = options.clock ?? monotonicClock;
    this.random = options.random ?? unguessable;
    const { clock, random } = this;
    const flushSoon = () => this.flushSoon();
    this.pathMtus = new PathMtuCache(clock);
    this.reassembly = new ReassemblyCache(clock, (expired) => {
      for (const run of this.#onReassemblyExpired) run(expired);
    });
    this.arp = new Arp({
      link,
      clock,
      random,
      flushSoon,
      onUnreachable: (address) => {
        for (const run of this.#onUnreachable) run(address);
      },
      onConflict: (mac) => options.onConflict?.(mac),
    });
    this.output = new PacketWriter({
      link,
      clock,
      random,
      arp: this.arp,
      pathMtus: this.pathMtus,
      nextHop: (destination) => this.#routes.nextHop(destination),
      isOurs: (address) => address === this.#address && address !== ANY_ADDRESS,
      isBroadcast: (address) => this.isBroadcast(address),
      flushSoon,
      onLoopback: (packet) => this.#receiveLooped(packet),
    });
    link.start({
      receive: (bytes, offset, length, isVerified) =>
        this.#receive(bytes, offset, length, isVerified),
      receiveEnd: () => this.#receiveEnd(),
      roomAgain: () => {
        for (const run of this.#onRoom) run();
      },
      lost: (error) => options.onLost?.(error),
    });
  }

  /** Mirage's `connect`: IPv4 over a link, without an address yet. */
  static connect(link: Link, options: Ipv4Options = {}): Ipv4 {
    return new Ipv4(link, options);
  }

  /** Gives the link up. Never fails; a second call does nothing. */
  async disconnect(): Promise<void> {
    if (this.#isOver) return;
    this.#flushNow();
    this.#isOver = true;
    this.arp.stop();
    this.reassembly.clear();
    await this.link.close();
  }

  /** Our address; 0.0.0.0: none yet. */
  get ip(): string {
    return formatAddress(this.#address);
  }

  /** @throws StackError ADDRESS_INVALID. */
  setIp(text: string): void {
    const address = requireAddress(text);
    if (address !== ANY_ADDRESS && isUnusableSource(address)) {
      throw new StackError('ADDRESS_INVALID', `No host can have the address ${text}.`);
    }
    this.#address = address;
    this.arp.address = address;
    this.#rebuildRoutes();
    if (address !== ANY_ADDRESS) this.arp.announce();
  }

  get netmask(): string {
    return formatAddress(maskOf(this.#prefixBits));
  }

  /** @throws StackError ADDRESS_INVALID, NETMASK_INVALID. */
  setNetmask(text: string): void {
    this.#prefixBits = prefixBitsOf(requireAddress(text));
    this.#rebuildRoutes();
  }

  get gateways(): readonly string[] {
    return this.#gateways.map(formatAddress);
  }

  /** The first is the default router. @throws StackError ADDRESS_INVALID. */
  setGateways(texts: readonly string[]): void {
    this.#gateways = texts.map(requireAddress);
    this.#rebuildRoutes();
  }

  /** Routes beside those that follow from address, netmask and gateways. */
  setRoutes(routes: readonly Route[]): void {
    this.#extraRoutes = routes;
    this.#rebuildRoutes();
  }

  get routes(): readonly Route[] {
    return this.#routes.routes;
  }

  /** Our address as a number. */
  get address(): number {
    return this.#address;
  }

  get prefixBits(): number {
    return this.#prefixBits;
  }

  /** Whether an address means everybody on our network. */
  isBroadcast(address: number): boolean {
    if (address === BROADCAST_ADDRESS) return true;
    if (this.#address === ANY_ADDRESS || this.#prefixBits >= 31) return false;
    const hostBits = ~maskOf(this.#prefixBits) >>> 0;
    return address === (this.#address | hostBits) >>> 0;
  }

  /**
   * Mirage's `input`: takes one packet (its header first) to the callback of its protocol. What is
   * damaged, for somebody else, or a fragment that completes nothing goes to none.
   */
  input(handlers: Ipv4Handlers, packet: Uint8Array): void {
    this.#accept(packet, 0, packet.length, false, (header, bytes, offset, length) => {
      const callback = callbackOf(handlers, header.protocol);
      const payload = bytes.subarray(offset, offset + length);
      callback(formatAddress(header.source), formatAddress(header.destination), payload);
    });
  }

  /**
   * Mirage's `allocate_frame`: a frame with room for as much payload as the path to `destination`
   * takes, and its Ethernet and IPv4 headers. Give the first `headerBytes` of it to `write`.
   * @throws StackError ADDRESS_INVALID, EHOSTUNREACH.
   */
  allocateFrame(protocol: number | 'icmp' | 'tcp' | 'udp', destination: string): AllocatedFrame {
    const address = requireAddress(destination);
    const neighbour = this.output.route(address);
    if (neighbour === undefined) throw unreachable(destination);
    const mtu = this.output.pathMtu(address);
    const frame = new Uint8Array(ETHERNET_HEADER_BYTES + mtu);
    writeEthernet(frame, 0, neighbour.mac, this.link.mac, ETHERTYPE_IPV4);
    const number = typeof protocol === 'number' ? protocol : PROTOCOL_NUMBERS[protocol];
    const identification = this.random.u32() & 0xffff;
    writeIpv4(
      frame,
      ETHERNET_HEADER_BYTES,
      mtu,
      identification,
      0,
      IPV4_TTL_DEFAULT,
      number,
      this.#address,
      address,
    );
    return { frame, headerBytes: FRAME_HEADERS_BYTES };
  }

  /** Mirage's `write`: sends a header frame and what belongs behind it as one frame. As `writev`. */
  write(frame: Uint8Array, payload: Uint8Array): Promise<void> {
    return this.writev(frame, [payload]);
  }

  /**
   * Mirage's `writev`: sends the headers in `frame` and the parts as one packet, in fragments where
   * the path is too narrow. Length, checksum and the neighbour's MAC address are filled in.
   * Settles when the packet was handed to the link, or waits for the neighbour's address.
   * @throws StackError FRAME_INVALID, PACKET_TOO_LONG, EHOSTUNREACH, ENOBUFS, DISCONNECTED.
   */
  async writev(frame: Uint8Array, parts: readonly Uint8Array[]): Promise<void> {
    if (this.#isOver) throw disconnected();
    if (frame.length < FRAME_HEADERS_BYTES || readEthertype(frame) !== ETHERTYPE_IPV4) {
      throw new StackError('FRAME_INVALID', 'The frame has no Ethernet and IPv4 header.');
    }
    const head = frame.slice();
    const payloadBytes = parts.reduce((sum, part) => sum + part.length, 0);
    const totalBytes = frame.length - ETHERNET_HEADER_BYTES + payloadBytes;
    if (totalBytes > IPV4_PACKET_BYTES_MAX) {
      throw new StackError('PACKET_TOO_LONG', `A packet has no room for ${totalBytes} bytes.`);
    }
    const destination = readU32(head, ETHERNET_HEADER_BYTES + 16);
    if (totalBytes > this.output.pathMtu(destination)) {
      this.#writeLong(head, parts, destination);
      return;
    }
    const packet = ETHERNET_HEADER_BYTES;
    writeU16(head, packet + 2, totalBytes);
    writeU16(head, packet + 10, 0);
    writeU16(head, packet + 10, internetChecksum(head, packet, packet + IPV4_HEADER_BYTES));
    this.#checkSent(this.output.sendFrame([head, ...parts], destination), destination);
  }

  /** Has `handler` take the packets of a protocol. */
  use(protocol: number, handler: PacketHandler): void {
    this.#handlers.set(protocol, handler);
  }

  /** Has `handler` take the packets of protocols that nobody uses. */
  useDefault(handler: PacketHandler): void {
    this.#defaultHandler = handler;
  }

  /** Has `run` called when all packets that came together have been taken. */
  onBatchEnd(run: () => void): void {
    this.#onBatchEnd.add(run);
  }

  /** Has `run` called when there is room on the link again after there was none. */
  onRoom(run: () => void): void {
    this.#onRoom.add(run);
  }

  /** Has `run` called with the address of a neighbour that does not answer. */
  onUnreachable(run: (neighbour: number) => void): void {
    this.#onUnreachable.add(run);
  }

  onReassemblyExpired(run: (reassembly: Reassembly) => void): void {
    this.#onReassemblyExpired.add(run);
  }

  /** Sends what was committed at the end of the batch being received, or of this turn. */
  flushSoon(): void {
    if (this.#flushIsDue) return;
    this.#flushIsDue = true;
    if (!this.#isReceiving) queueMicrotask(this.#flush);
  }

  #flushNow(): void {
    this.#flushIsDue = false;
    if (!this.#isOver) this.link.flush();
  }

  #receive(bytes: Uint8Array, offset: number, length: number, isVerified: boolean): void {
    if (this.#isOver || length < ETHERNET_HEADER_BYTES) return;
    this.#isReceiving = true;
    if (!isGroupMac(bytes, offset) && !sameMac(bytes, offset, this.link.mac)) {
      this.counts.notOurs += 1;
      return;
    }
    const type = readEthertype(bytes, offset);
    const start = offset + ETHERNET_HEADER_BYTES;
    const packetBytes = length - ETHERNET_HEADER_BYTES;
    if (type === ETHERTYPE_ARP) this.arp.receive(bytes, start, packetBytes);
    else if (type === ETHERTYPE_IPV4) {
      this.#accept(bytes, start, packetBytes, isVerified, this.#dispatch);
    }
  }

  #receiveEnd(): void {
    for (const run of this.#onBatchEnd) run();
    this.#isReceiving = false;
    if (this.#flushIsDue) this.#flushNow();
  }

  #receiveLooped(packet: Uint8Array): void {
    if (this.#isOver) return;
    if (parseIpv4(packet, 0, packet.length, this.#header) === undefined) {
      this.#take(packet, true, this.#dispatch);
    }
    for (const run of this.#onBatchEnd) run();
  }

  /** Checks a packet and hands it on. */
  #accept(
    bytes: Uint8Array,
    offset: number,
    length: number,
    isVerified: boolean,
    handler: PacketHandler,
  ): void {
    const header = this.#header;
    if (parseIpv4(bytes, offset, length, header) !== undefined) {
      this.counts.malformed += 1;
      return;
    }
    this.counts.received += 1;
    if (!this.#isForUs(header.destination)) {
      this.counts.notOurs += 1;
      return;
    }
    if (!this.#isGoodSource(header.source)) {
      this.counts.badSource += 1;
      return;
    }
    this.#take(bytes, isVerified, handler);
  }

  /** Takes the packet that `#header` describes. */
  #take(bytes: Uint8Array, isVerified: boolean, handler: PacketHandler): void {
    const header = this.#header;
    if (!header.isFragment) {
      handler(header, bytes, header.payloadOffset, header.payloadBytes, isVerified);
      return;
    }
    this.counts.fragments += 1;
    const whole = this.reassembly.add(header, bytes);
    if (whole === undefined) return;
    header.totalBytes = header.headerBytes + whole.totalBytes;
    handler(header, whole.bytes, 0, whole.totalBytes, false);
  }

  readonly #dispatch: PacketHandler = (header, bytes, offset, length, isVerified) => {
    const handler = this.#handlers.get(header.protocol) ?? this.#defaultHandler;
    handler?.(header, bytes, offset, length, isVerified);
  };

  #isForUs(destination: number): boolean {
    if (destination === this.#address) return true;
    // Before there is an address, what comes to our MAC address may be the answer that brings one.
    if (this.#address === ANY_ADDRESS) return true;
    return destination === ALL_HOSTS || this.isBroadcast(destination);
  }

  #isGoodSource(source: number): boolean {
    // A host that has no address yet may send from none.
    if (source === ANY_ADDRESS) return true;
    return !isUnusableSource(source) && source !== this.#address && !this.isBroadcast(source);
  }

  #rebuildRoutes(): void {
    this.generation += 1;
    const routes: Route[] = [...this.#extraRoutes];
    if (this.#address !== ANY_ADDRESS) {
      const prefix = (this.#address & maskOf(this.#prefixBits)) >>> 0;
      routes.push({ prefix, prefixBits: this.#prefixBits, gateway: 0 });
    }
    for (const gateway of this.#gateways) routes.push({ prefix: 0, prefixBits: 0, gateway });
    this.#routes.replace(routes);
  }

  #writeLong(head: Uint8Array, parts: readonly Uint8Array[], destination: number): void {
    const payload = Buffer.concat([head.subarray(FRAME_HEADERS_BYTES), ...parts]);
    const packet = ETHERNET_HEADER_BYTES;
    const protocol = head[packet + 9] as number;
    const ttl = head[packet + 8] as number;
    const source = readU32(head, packet + 12);
    this.#checkSent(this.output.send(protocol, source, destination, payload, { ttl }), destination);
  }

  #checkSent(outcome: string, destination: number): void {
    if (outcome === 'no-route') throw unreachable(formatAddress(destination));
    if (outcome !== 'sent') throw new StackError('ENOBUFS', 'There is no room on the link now.');
  }
}

const PROTOCOL_NUMBERS = { icmp: PROTOCOL_ICMP, tcp: PROTOCOL_TCP, udp: PROTOCOL_UDP } as const;

function callbackOf(handlers: Ipv4Handlers, protocol: number): Ipv4Callback {
  if (protocol === PROTOCOL_TCP) return handlers.tcp;
  return protocol === PROTOCOL_UDP ? handlers.udp : handlers.default(protocol);
}

/** No route leads there, or nobody answers. */
export function unreachable(address: string): StackError {
  return new StackError('EHOSTUNREACH', `There is no way to ${address}.`);
}

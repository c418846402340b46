/**
 * UDP (RFC 768): which socket a datagram is for. A port that nobody has is told to the sender as
 * unreachable (RFC 1122, section 4.1.3.1).
 */
import { invalid, StackError } from './errors.js';
import type { Icmp, IcmpError } from './icmp.js';
import type { Ipv4 } from './ipv4.js';
import { UDP_SOCKETS_MAX } from './limits.js';
import type { PacketOptions, SendOutcome } from './packet-writer.js';
import { readU16 } from './wire/bytes.js';
import { ICMP_UNREACHABLE, UNREACHABLE_FRAGMENTATION, UNREACHABLE_PORT } from './wire/icmp.js';
import { type Ipv4Header, PROTOCOL_UDP } from './wire/ipv4.js';
import { parseUdp, UDP_HEADER_BYTES, UdpHeader, writeUdp } from './wire/udp.js';

/** Ports that are given out where none was asked for (RFC 6335). */
export const EPHEMERAL_PORT_FIRST = 49152;
export const EPHEMERAL_PORTS = 65536 - EPHEMERAL_PORT_FIRST;

/** What a socket is for UDP. */
export interface UdpReceiver {
  /** The payload is lent for the call. */
  receive(source: number, sourcePort: number, payload: Uint8Array): void;
  /** A datagram to `destination` could not be delivered. */
  refused(error: IcmpError, destinationPort: number): void;
}

export class Udp {
  readonly #ipv4: Ipv4;
  readonly #icmp: Icmp;
  readonly #receivers = new Map<number, UdpReceiver>();
  readonly #header = new UdpHeader();
  readonly counts = { received: 0, sent: 0, malformed: 0, noPort: 0 };

  constructor(ipv4: Ipv4, icmp: Icmp) {
    this.#ipv4 = ipv4;
    this.#icmp = icmp;
    ipv4.use(PROTOCOL_UDP, (header, bytes, offset, length, isVerified) =>
      this.#receive(header, bytes, offset, length, isVerified),
    );
    icmp.onError(PROTOCOL_UDP, (error) => this.#takeError(error));
  }

  /**
   * Has `receiver` take what comes to a port; 0: to one that is free. Answers the port.
   * @throws StackError PORT_INVALID, EADDRINUSE.
   */
  bind(port: number, receiver: UdpReceiver): number {
    checkPort(port, 0);
    const chosen = port === 0 ? this.#freePort() : port;
    if (this.#receivers.has(chosen)) {
      throw new StackError('EADDRINUSE', `The UDP port ${chosen} is in use.`);
    }
    this.#receivers.set(chosen, receiver);
    return chosen;
  }

  release(port: number): void {
    this.#receivers.delete(port);
  }

  /** Sends a datagram. @throws StackError PACKET_TOO_LONG, TTL_INVALID. */
  send(
    sourcePort: number,
    destination: number,
    destinationPort: number,
    payload: Uint8Array,
    options: PacketOptions,
  ): SendOutcome {
    const { output, address } = this.#ipv4;
    const length = UDP_HEADER_BYTES + payload.length;
    const datagram = new Uint8Array(length);
    datagram.set(payload, UDP_HEADER_BYTES);
    writeUdp(datagram, 0, length, address, destination, sourcePort, destinationPort);
    const outcome = output.send(PROTOCOL_UDP, address, destination, datagram, options);
    if (outcome === 'sent') this.counts.sent += 1;
    return outcome;
  }

  #receive(
    ip: Ipv4Header,
    bytes: Uint8Array,
    offset: number,
    length: number,
    isVerified: boolean,
  ): void {
    const header = this.#header;
    if (!parseUdp(bytes, offset, length, ip.source, ip.destination, isVerified, header)) {
      this.counts.malformed += 1;
      return;
    }
    const receiver = this.#receivers.get(header.destinationPort);
    if (receiver === undefined) {
      this.counts.noPort += 1;
      this.#icmp.sendError(ICMP_UNREACHABLE, UNREACHABLE_PORT, ip, bytes, offset, length);
      return;
    }
    this.counts.received += 1;
    const { payloadOffset, payloadBytes, sourcePort } = header;
    const payload = bytes.subarray(payloadOffset, payloadOffset + payloadBytes);
    receiver.receive(ip.source, sourcePort, payload);
  }

  #takeError(error: IcmpError): void {
    const receiver = this.#receivers.get(readU16(error.bytes, error.offset));
    // Who quotes a datagram from a port that we use must have seen one: that much is believed.
    if (receiver === undefined) return;
    if (error.type === ICMP_UNREACHABLE && error.code === UNREACHABLE_FRAGMENTATION) {
      this.#icmp.learnPathMtu(error);
      return;
    }
    receiver.refused(error, readU16(error.bytes, error.offset + 2));
  }

  #freePort(): number {
    if (this.#receivers.size >= UDP_SOCKETS_MAX) {
      throw new StackError('EADDRINUSE', 'There are too many UDP sockets.');
    }
    const start = this.#ipv4.random.u32() % EPHEMERAL_PORTS;
    for (let step = 0; step < EPHEMERAL_PORTS; step += 1) {
      const port = EPHEMERAL_PORT_FIRST + ((start + step) % EPHEMERAL_PORTS);
      if (!this.#receivers.has(port)) return port;
    }
    throw new StackError('EADDRINUSE', 'No UDP port is free.');
  }
}

/** @throws StackError PORT_INVALID. */
export function checkPort(port: number, first = 1): void {
  if (Number.isInteger(port) && port >= first && port <= 65535) return;
  throw invalid('PORT_INVALID', `A port is ${first} to 65535, not ${port}.`);
}

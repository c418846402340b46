/**
 * ICMP (RFC 792, RFC 1122 section 3.2.2): answers echoes, tells senders what could not be delivered,
 * and takes what routers tell us to whoever sent the packet in question. What it says about others'
 * packets is limited in rate, and never said about errors, fragments but the first, or groups.
 */
import { ANY_ADDRESS, isMulticast, isUnusableSource } from './address.js';
import type { Ipv4 } from './ipv4.js';
import { ICMP_ERRORS_PER_SECOND } from './limits.js';
import { RateLimit } from './rate-limit.js';
import type { Reassembly } from './reassembly.js';
import { readU16, readU32 } from './wire/bytes.js';
import {
  EXCEEDED_REASSEMBLY,
  ICMP_ECHO_REPLY,
  ICMP_ECHO_REQUEST,
  ICMP_HEADER_BYTES,
  ICMP_TIME_EXCEEDED,
  ICMP_UNREACHABLE,
  IcmpMessage,
  isIcmpError,
  parseIcmp,
  UNREACHABLE_FRAGMENTATION,
  UNREACHABLE_PROTOCOL,
  writeIcmp,
} from './wire/icmp.js';
import { IPV4_HEADER_BYTES, type Ipv4Header, PROTOCOL_ICMP, writeIpv4 } from './wire/ipv4.js';

/** How much of the payload an error quotes: RFC 792 has 8 bytes, RFC 1812 as much as fits in 576. */
const QUOTED_PAYLOAD_BYTES = 512;
/** Of a packet whose header is gone. */
const TTL_GUESSED = 64;

/** An error that somebody sent about a packet of ours. */
export interface IcmpError {
  readonly type: number;
  readonly code: number;
  /** Who says so. */
  readonly from: number;
  /** Where our packet went, and what it was. */
  readonly destination: number;
  readonly protocol: number;
  /** What the next link takes, where the packet was too large for it (RFC 1191). */
  readonly mtu: number;
  /** The beginning of our packet's payload: `bytes[offset .. offset + length)`, at least 8 bytes. */
  readonly bytes: Uint8Array;
  readonly offset: number;
  readonly length: number;
}

/** What came back for an echo request. */
export interface EchoAnswer {
  readonly type: 'reply' | 'error';
  readonly from: number;
  readonly ttl: number;
  /** The data of a reply. */
  readonly data: Uint8Array;
  /** Of an error. */
  readonly icmpType: number;
  readonly icmpCode: number;
}

export class Icmp {
  readonly #ipv4: Ipv4;
  readonly #message = new IcmpMessage();
  readonly #errorsAllowed: RateLimit;
  readonly #onError = new Map<number, (error: IcmpError) => void>();
  readonly #echoes = new Map<number, (answer: EchoAnswer) => void>();
  readonly #identifier: number;
  #lastSequence = 0;
  readonly counts = { received: 0, malformed: 0, echoes: 0, errorsSent: 0, errorsHeld: 0 };

  constructor(ipv4: Ipv4) {
    this.#ipv4 = ipv4;
    this.#identifier = ipv4.random.u32() & 0xffff;
    this.#errorsAllowed = new RateLimit(ipv4.clock, ICMP_ERRORS_PER_SECOND);
    ipv4.use(PROTOCOL_ICMP, (header, bytes, offset, length) =>
      this.#receive(header, bytes, offset, length),
    );
    ipv4.useDefault((header, bytes, offset, length) =>
      this.sendError(ICMP_UNREACHABLE, UNREACHABLE_PROTOCOL, header, bytes, offset, length),
    );
    ipv4.onReassemblyExpired((expired) => this.#tellExpired(expired));
  }

  /** Has `run` take errors about packets of a protocol that we sent. */
  onError(protocol: number, run: (error: IcmpError) => void): void {
    this.#onError.set(protocol, run);
  }

  /**
   * Sends an echo request and has `onAnswer` called with what comes back, until `stop` is called.
   * @throws StackError PACKET_TOO_LONG, TTL_INVALID.
   */
  sendEcho(
    destination: number,
    data: Uint8Array,
    options: { readonly ttl?: number | undefined; readonly dontFragment?: boolean | undefined },
    onAnswer: (answer: EchoAnswer) => void,
  ): { readonly outcome: string; readonly stop: () => void } {
    this.#lastSequence = (this.#lastSequence + 1) & 0xffff;
    const sequence = this.#lastSequence;
    const message = new Uint8Array(ICMP_HEADER_BYTES + data.length);
    message.set(data, ICMP_HEADER_BYTES);
    writeIcmp(message, 0, message.length, ICMP_ECHO_REQUEST, 0, this.#identifier, sequence);
    const { output, address } = this.#ipv4;
    this.#echoes.set(sequence, onAnswer);
    const outcome = output.send(PROTOCOL_ICMP, address, destination, message, options);
    return { outcome, stop: () => this.#echoes.delete(sequence) };
  }

  /** Tells the sender of a packet why it was not delivered, where that may be told. */
  sendError(
    type: number,
    code: number,
    header: Ipv4Header,
    bytes: Uint8Array,
    payloadOffset: number,
    payloadBytes: number,
  ): void {
    const { source, destination, protocol } = header;
    const isAboutError =
      protocol === PROTOCOL_ICMP && payloadBytes > 0 && isIcmpError(bytes[payloadOffset] as number);
    if (isAboutError || isMulticast(destination) || this.#ipv4.isBroadcast(destination)) return;
    if (isUnusableSource(source) || this.#ipv4.isBroadcast(source)) return;
    const payloadEnd = payloadOffset + Math.min(payloadBytes, QUOTED_PAYLOAD_BYTES);
    // A packet that came in one piece is quoted as it came; of one in fragments the first header is gone.
    const isWhole = payloadOffset === header.payloadOffset;
    const quoted = isWhole
      ? bytes.subarray(header.headerOffset, payloadEnd)
      : rebuilt(header, bytes.subarray(payloadOffset, payloadEnd), payloadBytes);
    this.#tell(type, code, source, quoted);
  }

  #receive(header: Ipv4Header, bytes: Uint8Array, offset: number, length: number): void {
    const message = this.#message;
    if (!parseIcmp(bytes, offset, length, message)) {
      this.counts.malformed += 1;
      return;
    }
    this.counts.received += 1;
    if (message.type === ICMP_ECHO_REQUEST && message.code === 0) {
      this.#answerEcho(header, bytes, message);
    } else if (message.type === ICMP_ECHO_REPLY) this.#takeReply(header, bytes, message);
    else if (isIcmpError(message.type)) this.#takeError(header, bytes, message);
  }

  /** Echoes to groups are not answered, so that none can be made to flood a victim. */
  #answerEcho(header: Ipv4Header, bytes: Uint8Array, message: IcmpMessage): void {
    const { address, output } = this.#ipv4;
    if (header.destination !== address || isUnusableSource(header.source)) return;
    this.counts.echoes += 1;
    const start = message.dataOffset - ICMP_HEADER_BYTES;
    const reply = bytes.slice(start, start + ICMP_HEADER_BYTES + message.dataBytes);
    writeIcmp(reply, 0, reply.length, ICMP_ECHO_REPLY, 0, message.high, message.low);
    output.send(PROTOCOL_ICMP, address, header.source, reply);
  }

  #takeReply(header: Ipv4Header, bytes: Uint8Array, message: IcmpMessage): void {
    if (message.high !== this.#identifier) return;
    const { dataOffset, dataBytes } = message;
    this.#echoes.get(message.low)?.({
      type: 'reply',
      from: header.source,
      ttl: header.ttl,
      data: bytes.slice(dataOffset, dataOffset + dataBytes),
      icmpType: message.type,
      icmpCode: message.code,
    });
  }

  /** Finds whose packet is quoted. What was not sent by us is nobody's. */
  #takeError(header: Ipv4Header, bytes: Uint8Array, message: IcmpMessage): void {
    const { dataOffset: quoted, dataBytes, type, code } = message;
    if (dataBytes < IPV4_HEADER_BYTES + 8) return;
    const headerBytes = ((bytes[quoted] as number) & 15) * 4;
    const isWhole = headerBytes >= IPV4_HEADER_BYTES && dataBytes >= headerBytes + 8;
    if ((bytes[quoted] as number) >> 4 !== 4 || !isWhole) return;
    if (readU32(bytes, quoted + 12) !== this.#ipv4.address) return;
    // Only the first fragment has what tells whose packet it was.
    if ((readU16(bytes, quoted + 6) & 0x1fff) !== 0) return;
    const error: IcmpError = {
      type,
      code,
      from: header.source,
      destination: readU32(bytes, quoted + 16),
      protocol: bytes[quoted + 9] as number,
      mtu: message.low,
      bytes,
      offset: quoted + headerBytes,
      length: dataBytes - headerBytes,
    };
    if (error.protocol === PROTOCOL_ICMP) this.#takeEchoError(error, header.ttl);
    this.#onError.get(error.protocol)?.(error);
  }

  /** Believes a router that a path is narrow. True where that is news. */
  learnPathMtu({ destination, mtu }: IcmpError): boolean {
    return this.#ipv4.pathMtus.learn(destination, mtu, this.#ipv4.link.mtu);
  }

  #takeEchoError(error: IcmpError, ttl: number): void {
    const { bytes, offset, from, type, code } = error;
    if (bytes[offset] !== ICMP_ECHO_REQUEST) return;
    if (readU16(bytes, offset + 4) !== this.#identifier) return;
    // Whoever quotes an echo request of ours has seen it.
    if (type === ICMP_UNREACHABLE && code === UNREACHABLE_FRAGMENTATION) this.learnPathMtu(error);
    const onAnswer = this.#echoes.get(readU16(bytes, offset + 6));
    const data = new Uint8Array(0);
    onAnswer?.({ type: 'error', from, ttl, data, icmpType: type, icmpCode: code });
  }

  #tellExpired(expired: Reassembly): void {
    const { source, destination, protocol, hasStart } = expired;
    if (!hasStart || isUnusableSource(source) || destination !== this.#ipv4.address) return;
    const first = expired.bytes.subarray(0, 8);
    if (protocol === PROTOCOL_ICMP && isIcmpError(first[0] as number)) return;
    const quoted = rebuilt(expired, first, first.length);
    this.#tell(ICMP_TIME_EXCEEDED, EXCEEDED_REASSEMBLY, source, quoted);
  }

  #tell(type: number, code: number, to: number, quoted: Uint8Array): void {
    // Who has no address has nothing to say yet.
    if (this.#ipv4.address === ANY_ADDRESS) return;
    if (!this.#errorsAllowed.take()) {
      this.counts.errorsHeld += 1;
      return;
    }
    this.counts.errorsSent += 1;
    const message = new Uint8Array(ICMP_HEADER_BYTES + quoted.length);
    message.set(quoted, ICMP_HEADER_BYTES);
    writeIcmp(message, 0, message.length, type, code, 0, 0);
    this.#ipv4.output.send(PROTOCOL_ICMP, this.#ipv4.address, to, message);
  }
}

/** The beginning of a packet whose header is not there any more. */
function rebuilt(
  about: Pick<Ipv4Header, 'source' | 'destination' | 'protocol' | 'identification'>,
  payload: Uint8Array,
  payloadBytes: number,
): Uint8Array {
  const { source, destination, protocol, identification } = about;
  const packet = new Uint8Array(IPV4_HEADER_BYTES + payload.length);
  const totalBytes = IPV4_HEADER_BYTES + payloadBytes;
  writeIpv4(packet, 0, totalBytes, identification, 0, TTL_GUESSED, protocol, source, destination);
  packet.set(payload, IPV4_HEADER_BYTES);
  return packet;
}

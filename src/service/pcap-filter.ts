/**
 * pcap-filter expressions, compiled and run by libpcap, so that they mean what they mean to
 * tcpdump. libpcap would look names up, and block the whole daemon while it asks a name server; so
 * an expression may hold keywords, numbers and addresses, and no names.
 */
import koffi from 'koffi';
import { FailedPreconditionError, InvalidArgumentError } from '../errors.js';
import type { LocalMemory } from '../xen/local-memory.js';

const EXPRESSION_MAX = 1024;
/** `DLT_EN10MB`. */
const LINKTYPE_ETHERNET = 1;
const SNAPLEN = 65535;
const NETMASK_UNKNOWN = 0xffffffff;
/** `struct bpf_program`: u32 length, padding, pointer to the instructions. */
const PROGRAM_BYTES = 16;

const NUMBER = /^(0x[0-9a-f]+|\d+(-\d+)?)$/i;
const IPV4 = /^\d+(\.\d+){0,3}(\/\d+)?$/;
/** IPv6 and MAC addresses; a name of a host cannot hold a colon. */
const WITH_COLONS = /^[0-9a-f.]*:[0-9a-f:.]*(\/\d+)?$/i;
const KEYWORDS = new Set(
  `and or not host net port portrange src dst ra ta gateway broadcast multicast mask less greater len
  ether link ip ip6 arp rarp tcp udp sctp icmp icmp6 igmp igrp pim ah esp vrrp carp proto protochain
  vlan mpls pppoed pppoes geneve stp lldp iso ipx netbeui
  tcpflags tcp-fin tcp-syn tcp-rst tcp-push tcp-ack tcp-urg tcp-ece tcp-cwr
  icmptype icmpcode icmp-echo icmp-echoreply icmp-unreach icmp-redirect icmp-timxceed icmp-paramprob
  icmp6type icmp6code icmp6-echo icmp6-echoreply icmp6-neighborsolicit icmp6-neighboradvert
  icmp6-routersolicit icmp6-routeradvert`.split(/\s+/),
);

function load() {
  const pcap = koffi.load('libpcap.so.0.8');
  return {
    openDead: pcap.func('void *pcap_open_dead(int linktype, int snaplen)'),
    close: pcap.func('void pcap_close(void *pcap)'),
    compile: pcap.func(
      'int pcap_compile(void *pcap, _Out_ uint8_t *program, const char *expression, int optimize, uint32_t netmask)',
    ),
    lastError: pcap.func('const char *pcap_geterr(void *pcap)'),
    freeCode: pcap.func('void pcap_freecode(uint8_t *program)'),
    run: pcap.func(
      'uint32_t bpf_filter(const void *program, const void *packet, uint32_t length, uint32_t captured)',
    ),
  };
}

let library: ReturnType<typeof load> | undefined;

/** @throws FailedPreconditionError FILTER_UNAVAILABLE. */
function libpcap(): ReturnType<typeof load> {
  try {
    library ??= load();
    return library;
  } catch {
    const text = 'Filters need libpcap on the daemon’s machine: install libpcap0.8.';
    throw new FailedPreconditionError('FILTER_UNAVAILABLE', text);
  }
}

export class PcapFilter {
  readonly #program: Buffer;
  readonly #instructions: bigint;
  readonly #memoryAddress: bigint;
  readonly #run: ReturnType<typeof load>['run'];

  private constructor(program: Buffer, memory: LocalMemory) {
    this.#program = program;
    this.#instructions = program.readBigUInt64LE(8);
    this.#memoryAddress = koffi.address(memory.bytes);
    this.#run = libpcap().run;
  }

  /** @throws InvalidArgumentError FILTER_INVALID, with libpcap's own words where it has any. */
  static compile(expression: string, memory: LocalMemory, field: string): PcapFilter {
    checkWords(expression, field);
    const pcap = libpcap();
    const handle: unknown = pcap.openDead(LINKTYPE_ETHERNET, SNAPLEN);
    try {
      const program = Buffer.alloc(PROGRAM_BYTES);
      if (pcap.compile(handle, program, expression, 1, NETMASK_UNKNOWN) !== 0) {
        throw invalid(field, String(pcap.lastError(handle)));
      }
      return new PcapFilter(program, memory);
    } finally {
      pcap.close(handle);
    }
  }

  /** Whether the frame of `length` bytes at `offset` of local memory matches. */
  matches(offset: number, length: number): boolean {
    const packet = this.#memoryAddress + BigInt(offset);
    return this.#run(this.#instructions, packet, length, length) !== 0;
  }

  /** Gives the program back; the filter must not be used afterwards. */
  free(): void {
    libpcap().freeCode(this.#program);
  }
}

function checkWords(expression: string, field: string): void {
  if (expression.length > EXPRESSION_MAX) {
    throw invalid(field, `it is longer than ${EXPRESSION_MAX} characters`);
  }
  for (const word of expression.split(/[\s()[\]!&|=<>+*^%,]+/)) {
    if (word === '' || word === '/' || word === '-') continue;
    if (KEYWORDS.has(word) || NUMBER.test(word) || IPV4.test(word)) continue;
    if (WITH_COLONS.test(word) || word.split(':').every((part) => isTerm(part))) continue;
    throw invalid(field, `"${word.slice(0, 64)}" is no keyword, number or address`);
  }
}

/** A part of an accessor such as `tcp[12:2]` or `ip[0]`. */
function isTerm(part: string): boolean {
  return KEYWORDS.has(part) || NUMBER.test(part);
}

function invalid(field: string, why: string): InvalidArgumentError {
  return new InvalidArgumentError('FILTER_INVALID', field, `The filter does not compile: ${why}.`);
}

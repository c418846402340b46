/**
 * Just enough of a host for living traffic: it answers ARP and ping for one address, and can ping
 * another. Every frame of it goes through a real netfront.
 */
import type { Network } from '../device/network.js';
import { ARP_REPLY, ARP_REQUEST, emitArp, parseArp } from '../wire/arp.js';
import {
  BROADCAST_MAC,
  ETHERTYPE_ARP,
  ETHERTYPE_IPV4,
  parseMac,
  readEthertype,
} from '../wire/ethernet.js';
import { emitIcmpEcho, ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, parseIcmpEcho } from '../wire/icmp.js';
import { PROTOCOL_ICMP, parseIpv4 } from '../wire/ipv4.js';

const NO_MAC = new Uint8Array(6);
const PING_BYTES = 56;
const PINGS_PER_ARP = 4;
/** Tells the pings of one host from those of another. */
const IDENTIFIER_BASE = 0x7800;

export class Host {
  readonly #network: Network;
  readonly #mac: Uint8Array;
  readonly #ip: Uint8Array;
  /** Neighbours by address. Only addresses that were asked for get in, so it cannot grow. */
  readonly #neighbours = new Map<string, Uint8Array>();
  #pinger: NodeJS.Timeout | undefined;
  #sequence = 0;
  /** Echo replies received for our own requests. */
  repliesReceived = 0;

  constructor(network: Network, ip: Uint8Array) {
    this.#network = network;
    this.#ip = ip;
    this.#mac = parseMac(network.mac) ?? NO_MAC;
    void network.listen((frame) => this.#receive(frame));
  }

  /** Pings `target` every `intervalMs` until `stop`. */
  startPinging(target: Uint8Array, intervalMs: number): void {
    this.#pinger = setInterval(() => this.#ping(target), intervalMs);
  }

  stop(): void {
    clearInterval(this.#pinger);
  }

  #ping(target: Uint8Array): void {
    const mac = this.#neighbours.get(target.join('.')) ?? NO_MAC;
    this.#neighbours.set(target.join('.'), mac);
    // A neighbour is asked for anew now and then, as hosts do, for it may have moved.
    if (mac === NO_MAC || this.#sequence % PINGS_PER_ARP === 0) this.#askFor(target);
    if (mac === NO_MAC) return;
    this.#sequence = (this.#sequence + 1) & 0xffff;
    const echo = {
      type: ICMP_ECHO_REQUEST,
      identifier: IDENTIFIER_BASE + (this.#ip[3] ?? 0),
      sequence: this.#sequence,
      data: Uint8Array.from({ length: PING_BYTES }, (_, index) => index),
    };
    this.#send(emitIcmpEcho({ mac: this.#mac, ip: this.#ip }, { mac, ip: target }, echo));
  }

  #askFor(target: Uint8Array): void {
    this.#send(
      emitArp(BROADCAST_MAC, {
        operation: ARP_REQUEST,
        senderMac: this.#mac,
        senderIp: this.#ip,
        targetMac: NO_MAC,
        targetIp: target,
      }),
    );
  }

  #receive(frame: Uint8Array): void {
    const ethertype = readEthertype(frame);
    if (ethertype === ETHERTYPE_ARP) this.#receiveArp(frame);
    else if (ethertype === ETHERTYPE_IPV4) this.#receiveIpv4(frame);
  }

  #receiveArp(frame: Uint8Array): void {
    const arp = parseArp(frame);
    if (arp === undefined || !sameBytes(arp.targetIp, this.#ip)) return;
    const sender = arp.senderIp.join('.');
    if (this.#neighbours.has(sender)) this.#neighbours.set(sender, arp.senderMac.slice());
    if (arp.operation !== ARP_REQUEST) return;
    this.#send(
      emitArp(arp.senderMac, {
        operation: ARP_REPLY,
        senderMac: this.#mac,
        senderIp: this.#ip,
        targetMac: arp.senderMac,
        targetIp: arp.senderIp,
      }),
    );
  }

  #receiveIpv4(frame: Uint8Array): void {
    const packet = parseIpv4(frame);
    if (packet === undefined || packet.protocol !== PROTOCOL_ICMP) return;
    if (!sameBytes(packet.destination, this.#ip)) return;
    const echo = parseIcmpEcho(packet.payload);
    if (echo === undefined) return;
    if (echo.type === ICMP_ECHO_REPLY) {
      this.repliesReceived += 1;
      return;
    }
    const source = { mac: this.#mac, ip: this.#ip };
    const destination = { mac: frame.subarray(6, 12), ip: packet.source };
    this.#send(emitIcmpEcho(source, destination, { ...echo, type: ICMP_ECHO_REPLY }));
  }

  #send(frame: Uint8Array): void {
    // A host whose wire is gone loses what it sends, as on any wire.
    this.#network.write(frame).catch(() => undefined);
  }
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}

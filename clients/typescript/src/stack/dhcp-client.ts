/**
 * A DHCP client (RFC 2131, section 4.4): discovers, requests, and keeps its lease by renewing it at
 * T1 with its server and at T2 with any. An address that somebody else has is declined. When a lease
 * is over, or refused, the address is given up at once and another is sought.
 */
import {
  ANY_ADDRESS,
  BROADCAST_ADDRESS,
  formatAddress,
  isUnusableSource,
  maskOf,
  prefixBitsOf,
} from './address.js';
import { pause } from './clock.js';
import { StackError, throwIfAborted } from './errors.js';
import type { Ipv4 } from './ipv4.js';
import type { Udp } from './udp.js';
import { readU32 } from './wire/bytes.js';
import {
  addressOption,
  DHCP_ACK,
  DHCP_CLIENT_PORT,
  DHCP_DECLINE,
  DHCP_DISCOVER,
  DHCP_NAK,
  DHCP_OFFER,
  DHCP_RELEASE,
  DHCP_REQUEST,
  DHCP_SERVER_PORT,
  type DhcpAnswer,
  emitDhcp,
  OPTION_LEASE,
  OPTION_NAME_SERVERS,
  OPTION_NETMASK,
  OPTION_PARAMETERS,
  OPTION_REBINDING,
  OPTION_RENEWAL,
  OPTION_REQUESTED,
  OPTION_ROUTERS,
  OPTION_SERVER,
  optionNumber,
  parseDhcp,
} from './wire/dhcp.js';

/** Section 4.1: 4 seconds at first, twice as long each time, give or take one second. */
const RETRY_FIRST_MS = 4_000;
const RETRY_MAX_MS = 64_000;
const RETRY_SPREAD_MS = 1_000;
const REQUESTS_MAX = 4;
/** After an address that somebody has; section 3.1. */
const DECLINE_WAIT_MS = 10_000;
/** Leases shorter than this would keep everybody busy; longer ones are for ever. */
const LEASE_SECONDS_MIN = 10;
const LEASE_FOR_EVER = 0xffff_ffff;
/** Renewals that nobody answers are tried again after half the time left, but no sooner (4.4.5). */
const RENEWAL_RETRY_MIN_MS = 60_000;

/** Timers of Node go no further than 24 days. */
const PAUSE_MAX_MS = 24 * 3600 * 1000;

export interface DhcpLease {
  /** Address and prefix, such as `10.0.0.9/24`. */
  readonly cidr: string;
  readonly gateways: readonly string[];
  readonly nameServers: readonly string[];
  readonly server: string;
  /** How long it holds, in seconds; infinity: for ever. */
  readonly seconds: number;
}

export interface DhcpOptions {
  /** Ends it all: the lease is given back. */
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds until the first lease; default: as long as it takes. */
  readonly timeoutMs?: number | undefined;
  /** Ask whether somebody has the address, which takes some 6 seconds. Default true. */
  readonly probe?: boolean | undefined;
  /** Called with each lease, and with undefined when one is lost. */
  readonly onLease?: ((lease: DhcpLease | undefined) => void) | undefined;
}

interface Granted {
  readonly address: number;
  readonly server: number;
  readonly lease: DhcpLease;
  readonly renewMs: number;
  readonly rebindMs: number;
  readonly endMs: number;
}

export class DhcpClient {
  readonly #ipv4: Ipv4;
  readonly #udp: Udp;
  readonly #options: DhcpOptions;
  readonly #ending = new AbortController();
  readonly #signal: AbortSignal;
  /** Who waits for an answer. */
  #onAnswer: (answer: DhcpAnswer) => void = () => undefined;
  #granted: Granted | undefined;
  #isBound = false;

  constructor(ipv4: Ipv4, udp: Udp, options: DhcpOptions = {}) {
    this.#ipv4 = ipv4;
    this.#udp = udp;
    this.#options = options;
    const { signal } = options;
    this.#signal = signal ? AbortSignal.any([signal, this.#ending.signal]) : this.#ending.signal;
  }

  get lease(): DhcpLease | undefined {
    return this.#granted?.lease;
  }

  /**
   * Gets a lease, configures the stack by it, and keeps it until `stop`.
   * @throws StackError ETIMEDOUT, EADDRINUSE (another client runs); AbortError.
   */
  async start(): Promise<DhcpLease> {
    this.#udp.bind(DHCP_CLIENT_PORT, {
      receive: (_, port, payload) => this.#receive(port, payload),
      refused: () => undefined,
    });
    this.#isBound = true;
    const { timeoutMs = Number.POSITIVE_INFINITY } = this.#options;
    try {
      const granted = await this.#acquire(this.#ipv4.clock.nowMs() + timeoutMs);
      this.#keep(granted).catch(() => undefined);
      return granted.lease;
    } catch (error) {
      this.#unbind();
      throw error;
    }
  }

  /** Gives the lease back. A second call does nothing. */
  stop(): void {
    if (this.#ending.signal.aborted) return;
    this.#ending.abort();
    this.#giveBack();
    this.#unbind();
  }

  #unbind(): void {
    if (this.#isBound) this.#udp.release(DHCP_CLIENT_PORT);
    this.#isBound = false;
  }

  #giveBack(): void {
    const granted = this.#granted;
    if (granted === undefined) return;
    const options = new Map([[OPTION_SERVER, addressOption(granted.server)]]);
    this.#send(DHCP_RELEASE, granted.address, granted.server, options);
    this.#lose();
  }

  #lose(): void {
    this.#granted = undefined;
    this.#ipv4.setIp(formatAddress(ANY_ADDRESS));
    this.#options.onLease?.(undefined);
  }

  /** From nothing to a lease: section 3.1. */
  async #acquire(deadlineMs: number): Promise<Granted> {
    const { clock } = this.#ipv4;
    for (let waitMs = RETRY_FIRST_MS; ; waitMs = Math.min(RETRY_MAX_MS, waitMs * 2)) {
      throwIfAborted(this.#signal);
      const leftMs = deadlineMs - clock.nowMs();
      if (leftMs <= 0) throw new StackError('ETIMEDOUT', 'No DHCP server has answered.');
      const offer = await this.#ask(
        DHCP_DISCOVER,
        new Map([PARAMETERS]),
        Math.min(leftMs, this.#spread(waitMs)),
        (answer) => answer.type === DHCP_OFFER && isUsable(answer),
      );
      const granted = offer === undefined ? undefined : await this.#request(offer);
      if (granted === undefined) continue;
      if (await this.#isFree(granted)) {
        this.#take(granted);
        return granted;
      }
      await pause(clock, DECLINE_WAIT_MS, this.#signal);
    }
  }

  async #request(offer: DhcpAnswer): Promise<Granted | undefined> {
    const server = optionNumber(offer, OPTION_SERVER) ?? 0;
    const options = new Map([
      [OPTION_REQUESTED, addressOption(offer.address)],
      [OPTION_SERVER, addressOption(server)],
      PARAMETERS,
    ]);
    let waitMs = RETRY_FIRST_MS;
    for (let sent = 0; sent < REQUESTS_MAX && !this.#signal.aborted; sent += 1) {
      // The server knows its offer by the number that was asked with (section 4.4.1, table 5).
      const answer = await this.#ask(DHCP_REQUEST, options, this.#spread(waitMs), isVerdict, {
        transaction: offer.transaction,
      });
      if (answer?.type === DHCP_NAK) return undefined;
      if (answer !== undefined) return this.#grantOf(answer, server);
      waitMs *= 2;
    }
    return undefined;
  }

  async #isFree({ address, server }: Granted): Promise<boolean> {
    if (this.#options.probe === false) return true;
    const isFree = await this.#ipv4.arp.probe(address, this.#signal);
    throwIfAborted(this.#signal);
    if (isFree) return true;
    const options = new Map([
      [OPTION_REQUESTED, addressOption(address)],
      [OPTION_SERVER, addressOption(server)],
    ]);
    this.#send(DHCP_DECLINE, ANY_ADDRESS, BROADCAST_ADDRESS, options);
    return false;
  }

  #take(granted: Granted): void {
    const isNew = this.#granted?.address !== granted.address;
    this.#granted = granted;
    const ipv4 = this.#ipv4;
    const bits = Number(granted.lease.cidr.split('/')[1]);
    if (isNew) {
      ipv4.setNetmask(formatAddress(maskOf(bits)));
      ipv4.setIp(formatAddress(granted.address));
    }
    ipv4.setGateways(granted.lease.gateways);
    // The lease may have to be given back at once, when there is no time to ask where the server is.
    const server = ipv4.output.route(granted.server);
    if (server?.isKnown === false) ipv4.arp.refresh(server);
    this.#options.onLease?.(granted.lease);
  }

  /** Renews the lease for as long as anybody lets us: section 4.4.5. */
  async #keep(first: Granted): Promise<void> {
    const { clock } = this.#ipv4;
    let granted = first;
    while (!this.#signal.aborted) {
      if (granted.endMs === Number.POSITIVE_INFINITY) {
        await new Promise((resolve) => this.#signal.addEventListener('abort', resolve));
        break;
      }
      while (clock.nowMs() < granted.renewMs && !this.#signal.aborted) {
        const leftMs = granted.renewMs - clock.nowMs();
        await pause(clock, Math.min(PAUSE_MAX_MS, leftMs), this.#signal);
      }
      const renewed = await this.#renew(granted);
      if (this.#signal.aborted) break;
      if (renewed === undefined) {
        this.#lose();
        granted = await this.#acquire(Number.POSITIVE_INFINITY);
      } else {
        this.#take(renewed);
        granted = renewed;
      }
    }
    this.stop();
  }

  /** Undefined: the lease is over, or was refused. */
  async #renew(granted: Granted): Promise<Granted | undefined> {
    const { clock } = this.#ipv4;
    while (!this.#signal.aborted && clock.nowMs() < granted.endMs) {
      const isRebinding = clock.nowMs() >= granted.rebindMs;
      const untilMs = isRebinding ? granted.endMs : granted.rebindMs;
      const leftMs = untilMs - clock.nowMs();
      const waitMs = Math.min(leftMs, Math.max(RENEWAL_RETRY_MIN_MS, leftMs / 2));
      const to = isRebinding ? BROADCAST_ADDRESS : granted.server;
      const options = new Map([PARAMETERS]);
      const answer = await this.#ask(DHCP_REQUEST, options, waitMs, isVerdict, {
        clientAddress: granted.address,
        to,
      });
      if (answer?.type === DHCP_NAK) return undefined;
      if (answer !== undefined) return this.#grantOf(answer, granted.server);
    }
    return undefined;
  }

  /** What a server grants; undefined where it makes no sense. */
  #grantOf(answer: DhcpAnswer, offeredBy: number): Granted | undefined {
    if (!isUsable(answer)) return undefined;
    const nowMs = this.#ipv4.clock.nowMs();
    const server = optionNumber(answer, OPTION_SERVER) ?? offeredBy;
    const told = optionNumber(answer, OPTION_LEASE) ?? LEASE_FOR_EVER;
    const isForEver = told === LEASE_FOR_EVER;
    const seconds = isForEver ? Number.POSITIVE_INFINITY : Math.max(LEASE_SECONDS_MIN, told);
    const timeOf = (kind: number, share: number) =>
      nowMs + 1000 * Math.min(seconds * share, optionNumber(answer, kind) ?? seconds * share);
    const { address } = answer;
    return {
      address,
      server,
      lease: {
        cidr: `${formatAddress(address)}/${prefixBits(answer)}`,
        gateways: addressesOf(answer, OPTION_ROUTERS),
        nameServers: addressesOf(answer, OPTION_NAME_SERVERS),
        server: formatAddress(server),
        seconds,
      },
      renewMs: timeOf(OPTION_RENEWAL, 0.5),
      rebindMs: timeOf(OPTION_REBINDING, 0.875),
      endMs: nowMs + 1000 * seconds,
    };
  }

  /** Says something, and waits for an answer of a kind. */
  async #ask(
    type: number,
    options: ReadonlyMap<number, Uint8Array>,
    waitMs: number,
    isWanted: (answer: DhcpAnswer) => boolean,
    how: {
      readonly clientAddress?: number;
      readonly to?: number;
      readonly transaction?: number;
    } = {},
  ): Promise<DhcpAnswer | undefined> {
    const { clientAddress = ANY_ADDRESS, to = BROADCAST_ADDRESS } = how;
    const { transaction = this.#ipv4.random.u32() } = how;
    const answered = new AbortController();
    let found: DhcpAnswer | undefined;
    this.#send(type, clientAddress, to, options, transaction);
    this.#onAnswer = (answer) => {
      if (answer.transaction !== transaction || found !== undefined || !isWanted(answer)) return;
      found = answer;
      answered.abort();
    };
    await pause(this.#ipv4.clock, waitMs, AbortSignal.any([this.#signal, answered.signal]));
    this.#onAnswer = () => undefined;
    return found;
  }

  #send(
    type: number,
    clientAddress: number,
    to: number,
    options: ReadonlyMap<number, Uint8Array>,
    transaction = this.#ipv4.random.u32(),
  ): void {
    const { link } = this.#ipv4;
    const message = emitDhcp({ type, transaction, mac: link.mac, clientAddress, options });
    this.#udp.send(DHCP_CLIENT_PORT, to, DHCP_SERVER_PORT, message, {});
  }

  #receive(port: number, payload: Uint8Array): void {
    if (port !== DHCP_SERVER_PORT) return;
    const answer = parseDhcp(payload, this.#ipv4.link.mac);
    if (answer !== undefined) this.#onAnswer(answer);
  }

  #spread(waitMs: number): number {
    return waitMs - RETRY_SPREAD_MS + (this.#ipv4.random.u32() % (2 * RETRY_SPREAD_MS));
  }
}

const PARAMETERS: [number, Uint8Array] = [
  OPTION_PARAMETERS,
  Uint8Array.of(OPTION_NETMASK, OPTION_ROUTERS, OPTION_NAME_SERVERS, OPTION_LEASE),
];

function isVerdict({ type }: DhcpAnswer): boolean {
  return type === DHCP_ACK || type === DHCP_NAK;
}

/** Whether the address is one that a host can have. */
function isUsable(answer: DhcpAnswer): boolean {
  return !isUnusableSource(answer.address) && prefixBits(answer) !== undefined;
}

/** Undefined where the netmask is none; 24 where none is told. */
function prefixBits(answer: DhcpAnswer): number | undefined {
  try {
    return prefixBitsOf(optionNumber(answer, OPTION_NETMASK) ?? maskOf(24));
  } catch {
    return undefined;
  }
}

function addressesOf(answer: DhcpAnswer, kind: number): string[] {
  const value = answer.options.get(kind) ?? new Uint8Array(0);
  const count = Math.floor(value.length / 4);
  return Array.from({ length: count }, (_, index) => formatAddress(readU32(value, index * 4)));
}

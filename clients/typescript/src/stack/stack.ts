/** A host: IPv4 over a link with ICMP, UDP, TCP and what programs use of them. */
import { formatAddress, maskOf, requireAddress, requireCidr } from './address.js';
import { DhcpClient, type DhcpLease, type DhcpOptions } from './dhcp-client.js';
import { StackError } from './errors.js';
import { Icmp } from './icmp.js';
import { Ipv4, type Ipv4Options } from './ipv4.js';
import type { Link } from './link.js';
import {
  type PingOptions,
  type PingResult,
  ping,
  type TracerouteOptions,
  type TracerouteProbe,
  traceroute,
} from './ping.js';
import type { TcpSettings } from './tcp/control-block.js';
import { Tcp, type TcpCounts } from './tcp/tcp.js';
import { TcpServer, type TcpServerOptions } from './tcp-server.js';
import { type TcpConnectOptions, TcpSocket } from './tcp-socket.js';
import { Udp } from './udp.js';
import { UdpSocket, type UdpSocketOptions } from './udp-socket.js';

export interface StackRoute {
  /** Such as `10.1.0.0/16`. */
  readonly destination: string;
  /** The router's address. Default: the destination is on the link. */
  readonly gateway?: string | undefined;
}

export interface StackOptions extends Ipv4Options {
  /** Address and prefix, such as `10.0.0.9/24`. Default: none yet; see `configure`. */
  readonly cidr?: string | undefined;
  /** The default router. */
  readonly gateway?: string | undefined;
  readonly routes?: readonly StackRoute[] | undefined;
  /** What TCP offers and how much it keeps. */
  readonly tcp?: Partial<TcpSettings> | undefined;
}

const TCP_DEFAULTS: TcpSettings = {
  sendBufferBytes: 1024 * 1024,
  receiveBufferBytes: 1024 * 1024,
  timeWaitMs: 60_000,
  ackDelayMs: 40,
  sack: true,
  timestamps: true,
  windowScaling: true,
};

export interface StackCounts {
  readonly ip: Readonly<Ipv4['counts']>;
  readonly output: Readonly<Ipv4['output']['counts']>;
  readonly reassembly: Readonly<Ipv4['reassembly']['counts']>;
  readonly icmp: Readonly<Icmp['counts']>;
  readonly udp: Readonly<Udp['counts']>;
  readonly tcp: Readonly<TcpCounts>;
}

export class Stack {
  readonly ipv4: Ipv4;
  readonly #icmp: Icmp;
  readonly #udp: Udp;
  readonly #tcp: Tcp;
  readonly #udpSockets = new Set<UdpSocket>();
  readonly #servers = new Set<TcpServer>();
  #dhcp: DhcpClient | undefined;
  #ending: Promise<void> | undefined;

  private constructor(link: Link, options: StackOptions) {
    this.ipv4 = Ipv4.connect(link, options);
    this.#icmp = new Icmp(this.ipv4);
    this.#udp = new Udp(this.ipv4, this.#icmp);
    this.#tcp = new Tcp(this.ipv4, this.#icmp, { ...TCP_DEFAULTS, ...options.tcp });
  }

  /**
   * Becomes a host on a link.
   * @throws StackError CIDR_INVALID, ADDRESS_INVALID.
   */
  static connect(link: Link, options: StackOptions = {}): Stack {
    const { cidr, gateway, routes = [] } = options;
    const parsed = routes.map(({ destination, gateway: router }) => {
      const { address, prefixBits } = requireCidr(destination);
      const prefix = (address & maskOf(prefixBits)) >>> 0;
      return { prefix, prefixBits, gateway: router === undefined ? 0 : requireAddress(router) };
    });
    const stack = new Stack(link, options);
    stack.ipv4.setRoutes(parsed);
    if (cidr !== undefined) stack.configure(cidr, gateway);
    return stack;
  }

  /**
   * Takes an address, which is announced, and a default router.
   * @throws StackError CIDR_INVALID, ADDRESS_INVALID.
   */
  configure(cidr: string, gateway?: string): void {
    const { address, prefixBits } = requireCidr(cidr);
    this.ipv4.setNetmask(formatAddress(maskOf(prefixBits)));
    this.ipv4.setGateways(gateway === undefined ? [] : [gateway]);
    this.ipv4.setIp(formatAddress(address));
  }

  /**
   * As `configure`, when nobody else has answered for the address in some 6 seconds (RFC 5227).
   * @throws StackError ADDRESS_IN_USE, CIDR_INVALID, ADDRESS_INVALID; AbortError.
   */
  async probeAndConfigure(cidr: string, gateway?: string, signal?: AbortSignal): Promise<void> {
    const { address } = requireCidr(cidr);
    const isFree = await this.ipv4.arp.probe(address, signal);
    signal?.throwIfAborted();
    if (!isFree) {
      throw new StackError('ADDRESS_IN_USE', `Somebody else uses ${formatAddress(address)}.`);
    }
    this.configure(cidr, gateway);
  }

  /**
   * Gets address, prefix and routers by DHCP, and keeps the lease until the stack is disconnected.
   * @throws StackError ETIMEDOUT, EADDRINUSE (the client's port is in use); AbortError.
   */
  async configureByDhcp(options: DhcpOptions = {}): Promise<DhcpLease> {
    this.#dhcp?.stop();
    this.#dhcp = new DhcpClient(this.ipv4, this.#udp, options);
    return await this.#dhcp.start();
  }

  /** The lease that the stack has by DHCP. */
  get lease(): DhcpLease | undefined {
    return this.#dhcp?.lease;
  }

  get counts(): StackCounts {
    const { counts: ip, output, reassembly } = this.ipv4;
    return {
      ip: { ...ip },
      output: { ...output.counts },
      reassembly: { ...reassembly.counts },
      icmp: { ...this.#icmp.counts },
      udp: { ...this.#udp.counts },
      tcp: { ...this.#tcp.counts },
    };
  }

  ping(host: string, options?: PingOptions): AsyncGenerator<PingResult, void, undefined> {
    return ping(this.ipv4, this.#icmp, host, options);
  }

  traceroute(
    host: string,
    options?: TracerouteOptions,
  ): AsyncGenerator<TracerouteProbe, void, undefined> {
    return traceroute(this.ipv4, this.#icmp, host, options);
  }

  /** A UDP socket, without a port yet. */
  createUdpSocket(options?: UdpSocketOptions): UdpSocket {
    const onClosed = (socket: UdpSocket) => this.#udpSockets.delete(socket);
    const socket = new UdpSocket(this.#udp, this.ipv4, onClosed, options);
    this.#udpSockets.add(socket);
    return socket;
  }

  /** A TCP server, which does not listen yet. */
  createServer(
    options: TcpServerOptions = {},
    onConnection?: (socket: TcpSocket) => void,
  ): TcpServer {
    const onClosed = (closed: TcpServer) => this.#servers.delete(closed);
    const server = new TcpServer(this.#tcp, this.ipv4, onClosed, options);
    if (onConnection !== undefined) server.on('connection', onConnection);
    this.#servers.add(server);
    return server;
  }

  /**
   * Opens a TCP connection, as `net.connect` does: `connect` or `error` follows.
   * @throws StackError ADDRESS_INVALID, PORT_INVALID, EHOSTUNREACH, EADDRNOTAVAIL, EADDRINUSE,
   *   ECONNLIMIT.
   */
  connect(options: TcpConnectOptions, onConnect?: () => void): TcpSocket {
    const socket = TcpSocket.connect(this.#tcp, options);
    if (onConnect !== undefined) socket.once('connect', onConnect);
    return socket;
  }

  /** TCP connections in all states, and those that are shaking hands with a server of ours. */
  get tcpConnections(): { readonly total: number; readonly halfOpen: number } {
    return { total: this.#tcp.connectionCount, halfOpen: this.#tcp.halfOpenCount };
  }

  /** Closes everything and gives the link up. Never fails; a second call does nothing more. */
  disconnect(): Promise<void> {
    this.#ending ??= this.#end();
    return this.#ending;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.disconnect();
  }

  async #end(): Promise<void> {
    for (const socket of [...this.#udpSockets]) socket.close();
    for (const server of [...this.#servers]) server.close();
    this.#tcp.stop();
    this.#dhcp?.stop();
    await this.ipv4.disconnect();
  }
}

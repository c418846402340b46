/** The client: one connection to one daemon, and everything that can be asked of it. */
import type { ChannelCredentials, ClientOptions } from '@grpc/grpc-js';
import { defaultAddress, parseAddress } from './address.js';
import type { CallOptions } from './call.js';
import { type Connection, closeConnection, openConnection } from './connection.js';
import { XenvifClientError } from './errors.js';
import { checkHealth, type Health } from './health.js';
import { HostInfo } from './host.js';
import { Nic } from './nic.js';
import type { AttachOptions } from './nic-options.js';
import { BatchObservation, FrameObservation, type ObserveOptions } from './observation.js';
import { Stats } from './stats.js';
import { Switches } from './switches.js';
import { Vchan, type VchanOptions } from './vchan.js';
import { Vifs } from './vifs.js';

export interface ClientConfig {
  /** `unix:/path`, `/path` or `host:port`. Default: see `defaultAddress`. */
  readonly address?: string | undefined;
  /** TLS, for a daemon that asks for it. Default: none. */
  readonly credentials?: ChannelCredentials | undefined;
  /** Settings of grpc-js that override the SDK's. */
  readonly channelOptions?: ClientOptions | undefined;
}

export interface ConnectOptions extends ClientConfig, CallOptions {}

export class XenvifClient {
  /** Where the daemon is: `unix:/path` or `host:port`. */
  readonly address: string;
  /** Creates, shows, lists, changes, removes and watches vifs. */
  readonly vifs: Vifs;
  /** Creates, shows, lists and removes switches, and plugs things into them. */
  readonly switches: Switches;
  /** Shows, resets and streams counters. */
  readonly stats: Stats;
  /** Tells of the daemon and the domains it can see. */
  readonly host: HostInfo;
  readonly #connection: Connection;

  /**
   * Makes a client that connects at its first call.
   * @throws XenvifClientError ADDRESS_INVALID
   */
  constructor(config: ClientConfig = {}) {
    const { address, credentials, channelOptions } = config;
    this.address = address === undefined ? defaultAddress() : parseAddress(address);
    this.#connection = openConnection(this.address, credentials, channelOptions);
    this.vifs = new Vifs(this.#connection);
    this.switches = new Switches(this.#connection);
    this.stats = new Stats(this.#connection);
    this.host = new HostInfo(this.#connection);
  }

  /**
   * Makes a client and sees that the daemon answers.
   * @throws XenvifClientError ADDRESS_INVALID, DAEMON_UNREACHABLE, DEADLINE_EXCEEDED
   */
  static async connect(options: ConnectOptions = {}): Promise<XenvifClient> {
    const client = new XenvifClient(options);
    const { signal, timeoutMs } = options;
    try {
      await client.health('', { signal, timeoutMs });
    } catch (error) {
      // A daemon that answers, be it with a refusal, has been reached.
      if (error instanceof XenvifClientError && REFUSALS.has(error.grpcStatus)) return client;
      client.close();
      throw error;
    }
    return client;
  }

  /** Asks whether a service (default: the daemon) can be used. @throws XenvifClientError */
  health(service = '', options: CallOptions = {}): Promise<Health> {
    return checkHealth(this.#connection, service, options);
  }

  /**
   * Observes the frames of one or more vifs (`vifs/1.0`, `1.0`), of one port of a switch
   * (`switches/lan/ports/tap0`, `lan/tap0`) or of all a switch (`switches/lan`: each frame once, as it
   * comes in), frame by frame. At a port `from-guest` is what comes into the switch there, and
   * `to-guest` what goes out of it. Starts at once.
   * @throws XenvifClientError VIF_NAME_INVALID, SWITCH_NAME_INVALID, PORT_NAME_INVALID, PORT_NOT_ALONE,
   *   CREDIT_TOO_SMALL; the loop over it whatever the daemon refuses it for.
   */
  observe(vifs: string | readonly string[], options: ObserveOptions = {}): FrameObservation {
    return new FrameObservation(this.#connection, vifs, options);
  }

  /** Observes in batches, walked by offsets without an object for a frame. Else as `observe`. */
  observeBatches(vifs: string | readonly string[], options: ObserveOptions = {}): BatchObservation {
    return new BatchObservation(this.#connection, vifs, options);
  }

  /**
   * Becomes a NIC: the one at the other end of a vif (`vifs/1.0`, `1.0`), or a port of a switch
   * (`switches/default`).
   * @throws XenvifClientError VIF_NOT_FOUND, VIF_ATTACHED, VIF_NAME_INVALID, SWITCH_NOT_FOUND,
   *   SWITCH_NAME_INVALID, PORT_EXISTS, PORT_ID_INVALID, MAC_INVALID
   */
  attach(target: string, options: AttachOptions = {}): Promise<Nic> {
    return Nic.attach(this.#connection, target, options);
  }

  /**
   * Opens a vchan to a program in another domain, and resolves when that is there.
   * @throws XenvifClientError VCHAN_PORT_INVALID, DOMAIN_NOT_FOUND, VCHAN_NOT_FOUND, VCHAN_SERVED,
   *   PATH_NOT_ALLOWED, PEER_GONE, TOO_MANY_VCHANS
   */
  vchan(options: VchanOptions): Promise<Vchan> {
    return Vchan.open(this.#connection, options);
  }

  /** Closes the connection. Calls that are under way end with CANCELLED. */
  close(): void {
    closeConnection(this.#connection);
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }
}

const REFUSALS: ReadonlySet<string> = new Set([
  'UNIMPLEMENTED',
  'PERMISSION_DENIED',
  'UNAUTHENTICATED',
]);

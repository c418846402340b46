/**
 * The daemon put together over a Xen: netback, hub and gRPC server, started in the order in which
 * they need each other and stopped in the other. Which Xen it is, main.ts decides.
 */
import type { Logger } from 'pino';
import type { Config } from './config.js';
import { KeptCounters } from './device/kept-counters.js';
import { Netback } from './device/netback/index.js';
import { checkTcpAddress, claimSocket, listenOnSocket } from './service/listen.js';
import { portPolicyOf } from './service/port-policy.js';
import type { GrpcServer } from './service/server.js';
import { SwitchFile } from './switch/switch-file.js';
import { Switches } from './switch/switches.js';
import type { Xen } from './xen/xen.js';

/** How long a guest may take to close where --close-devices asks it to. */
const CLOSE_TIMEOUT_MS = 5000;

export interface DaemonOptions {
  readonly xen: Xen;
  readonly config: Config;
  readonly logger: Logger;
  /** The Unix socket, or undefined for none. */
  readonly socket: string | undefined;
  /** Emulated Xen only: starts a program in a domain, for clients that want to be one. */
  readonly openDomain?: (domid: number) => Promise<Xen>;
  /** Where switches are kept over a start of the machine; undefined: in XenStore alone. */
  readonly stateFile?: string | undefined;
  /** Where counters are kept over a restart; undefined: nowhere. */
  readonly countersFile?: string | undefined;
}

export class Daemon {
  /** Where the daemon listens, as clients name it. */
  readonly addresses: readonly string[];
  readonly netback: Netback;
  readonly switches: Switches;
  readonly #server: GrpcServer;
  readonly #config: Config;
  readonly #logger: Logger;

  private constructor(
    netback: Netback,
    switches: Switches,
    server: GrpcServer,
    options: DaemonOptions,
    addresses: readonly string[],
  ) {
    this.netback = netback;
    this.switches = switches;
    this.#server = server;
    this.#config = options.config;
    this.#logger = options.logger;
    this.addresses = addresses;
  }

  /** @throws StartupError; whatever was started is stopped again then. */
  static async start(options: DaemonOptions): Promise<Daemon> {
    const { config, countersFile, logger, openDomain, socket, stateFile, xen } = options;
    const tcp = config.tcp === 'off' ? undefined : checkTcpAddress(config.tcp);
    if (socket !== undefined) await claimSocket(socket);
    // Devices first: guests that were left connected wait for us, and clients do not yet. Loading
    // the gRPC stack takes longer than all else, so it is loaded behind them.
    const counters =
      countersFile === undefined ? undefined : new KeptCounters(countersFile, logger);
    const { queuesPerVif: queuesMax } = config.limits;
    const netback = new Netback(xen, logger, { queuesMax, counters });
    const file = stateFile === undefined ? undefined : new SwitchFile(stateFile, logger);
    const switches = new Switches({ xen, netback, logger, policyOf: portPolicyOf, file, counters });
    const stopDevices = async () => {
      await netback.stop({ closeDevices: false, closeTimeoutMs: 0 });
      await switches.stop();
    };
    let server: GrpcServer | undefined;
    const addresses: string[] = [];
    try {
      await counters?.load();
      await switches.start();
      await netback.start();
      const service = await import('./service/server.js');
      server = new service.GrpcServer(xen, netback, switches, config, logger, openDomain);
      if (tcp !== undefined) {
        const port = await server.listen(tcp);
        addresses.push(`${tcp.slice(0, tcp.lastIndexOf(':'))}:${port}`);
      }
      if (socket !== undefined) {
        await listenOnSocket(server, socket, config.socketMode);
        addresses.unshift(`unix:${socket}`);
      }
    } catch (error) {
      await server?.stop();
      await stopDevices();
      throw error;
    }
    server.ready();
    return new Daemon(netback, switches, server, options, addresses);
  }

  /** Stops in order. Connected guests stay connected unless the configuration says otherwise. */
  async stop(): Promise<void> {
    const { closeDevices } = this.#config;
    this.#logger.info({ closeDevices }, 'stopping');
    await this.#server.stop();
    await this.netback.stop({ closeDevices, closeTimeoutMs: CLOSE_TIMEOUT_MS });
    await this.switches.stop();
  }
}

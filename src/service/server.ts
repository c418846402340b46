/**
 * The gRPC server: every service on it, where it listens, and how it ends. The numbers are grpc-js
 * channel options; each bounds what one client can hold or cost.
 */
import { logVerbosity, Server, ServerCredentials, setLogVerbosity } from '@grpc/grpc-js';
import { HealthImplementation } from 'grpc-health-check';
import type { Logger } from 'pino';
import type { Config } from '../config.js';
import type { Netback } from '../device/netback/index.js';
import { StartupError } from '../errors.js';
import { HostServiceService } from '../gen/xenvif/v1/host_service.js';
import { StatsServiceService } from '../gen/xenvif/v1/stats_service.js';
import { SwitchServiceService } from '../gen/xenvif/v1/switch_service.js';
import { VchanServiceService } from '../gen/xenvif/v1/vchan_service.js';
import { VifServiceService } from '../gen/xenvif/v1/vif_service.js';
import type { Switches } from '../switch/switches.js';
import type { Xen } from '../xen/xen.js';
import { FrameService, frameServiceDefinition } from './frame-service.js';
import { HostService } from './host-service.js';
import { MESSAGE_BYTES_MAX } from './message-reader.js';
import { reflectionService } from './reflection.js';
import { StatsService } from './stats-service.js';
import { SwitchService } from './switch-service.js';
import { widenConnections, widenStreams } from './upload-window.js';
import { type OpenDomain, VchanService } from './vchan-service.js';
import { VifRegistry } from './vif-registry.js';
import { VifService } from './vif-service.js';

const MIB = 1024 * 1024;
/** How long calls under way may take to end when the daemon stops. */
const SHUTDOWN_TIMEOUT_MS = 2000;

const SERVER_OPTIONS = {
  'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
  'grpc.max_send_message_length': MIB,
  'grpc.max_concurrent_streams': 100,
  'grpc.keepalive_time_ms': 30_000,
  'grpc.keepalive_timeout_ms': 10_000,
  'grpc.max_connection_idle_ms': 300_000,
  'grpc.max_connection_age_ms': 3_600_000,
  'grpc.max_connection_age_grace_ms': 30_000,
  'grpc.enable_channelz': 0,
};

export class GrpcServer {
  readonly registry: VifRegistry;
  readonly #server = new Server(SERVER_OPTIONS);
  readonly #health = new HealthImplementation({ '': 'NOT_SERVING' });
  readonly frames: FrameService;
  readonly #logger: Logger;

  readonly vchans: VchanService;

  constructor(
    xen: Xen,
    netback: Netback,
    switches: Switches,
    config: Config,
    logger: Logger,
    openDomain?: OpenDomain,
  ) {
    // grpc-js writes to the console by itself what its callers are told anyway.
    setLogVerbosity(logVerbosity.NONE);
    this.#logger = logger;
    this.registry = new VifRegistry(
      netback,
      (device) => switches.switchOf(device),
      config.limits.watchHistory,
    );
    this.frames = new FrameService(xen, this.registry, switches, logger, config.limits);
    const vifs = new VifService(xen, this.registry, logger, config.limits.watchQueue);
    const stats = new StatsService(this.registry, logger);
    const host = new HostService(xen, this.registry, logger, () => this.frames.streams);
    this.#server.addService(VifServiceService, vifs.handlers());
    this.#server.addService(frameServiceDefinition, this.frames.handlers());
    this.#server.addService(StatsServiceService, stats.handlers());
    this.#server.addService(SwitchServiceService, new SwitchService(switches, logger).handlers());
    const channelsMax = config.limits.vchans;
    this.vchans = new VchanService({ xen, logger, channelsMax, openDomain });
    this.#server.addService(VchanServiceService, this.vchans.handlers());
    this.#server.addService(HostServiceService, host.handlers());
    widenStreams(this.#server);
    this.#health.addToServer(this.#server);
    reflectionService().addToServer(this.#server);
  }

  /** Listens on `address` (`unix:/path` or `host:port`); returns the port, 0 for a socket. */
  async listen(address: string): Promise<number> {
    return await new Promise<number>((resolve, reject) => {
      this.#server.bindAsync(address, ServerCredentials.createInsecure(), (error, port) => {
        if (error === null) {
          widenConnections(this.#server);
          resolve(port);
        } else
          reject(
            new StartupError(
              'ADDRESS_IN_USE',
              `Cannot listen on ${address}.`,
              {},
              { cause: error },
            ),
          );
      });
    });
  }

  /** Says by the health service that calls are welcome. */
  ready(): void {
    this.#health.setStatus('', 'SERVING');
  }

  /** Ends every stream and call, at the latest after `SHUTDOWN_TIMEOUT_MS`. */
  async stop(): Promise<void> {
    this.#health.setStatus('', 'NOT_SERVING');
    this.frames.stop();
    await this.vchans.stop();
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => {
        this.#logger.warn('calls were still under way; ending them');
        this.#server.forceShutdown();
        resolve();
      }, SHUTDOWN_TIMEOUT_MS);
      this.#server.tryShutdown(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }
}

/**
 * VchanService: opens vchans for clients without privileges. What they may reach is bounded here: so
 * many at once, nodes in XenStore only where guests keep their own data, one server at one place.
 */
import type { Logger } from 'pino';
import { connectVchan, VchanServer, type VchanStream } from '../device/vchan/index.js';
import { vchanPath } from '../device/vchan/path.js';
import {
  AlreadyExistsError,
  InvalidArgumentError,
  ResourceExhaustedError,
  UnavailableError,
} from '../errors.js';
import {
  type OpenVchan,
  VchanRole,
  type VchanServiceServer,
} from '../gen/xenvif/v1/vchan_service.js';
import type { Xen } from '../xen/xen.js';
import { failCall } from './calls.js';
import { type OpenedVchan, VchanSession } from './vchan-session.js';

/** Where a client may have nodes: below a domain's `data`, which is the guest's own to write. */
const ALLOWED_PATH = /^(\/local\/domain\/\d{1,5}\/)?data\/./;

/** Starts a program in a domain of an emulated machine; there is none on a real one. */
export type OpenDomain = (domid: number) => Promise<Xen>;

export interface VchanServiceOptions {
  readonly xen: Xen;
  readonly logger: Logger;
  /** Channels at once, those included that wait for their peer. */
  readonly channelsMax: number;
  readonly openDomain?: OpenDomain | undefined;
}

export class VchanService {
  readonly #options: VchanServiceOptions;
  readonly #sessions = new Map<VchanSession, Promise<void>>();
  /** Where a server of ours waits for its client. */
  readonly #served = new Set<string>();

  constructor(options: VchanServiceOptions) {
    this.#options = options;
  }

  /** Channels that are open now, or wait for their peer. */
  get channels(): number {
    return this.#sessions.size;
  }

  handlers(): VchanServiceServer {
    const { channelsMax, logger } = this.#options;
    return {
      connect: (call) => {
        if (this.#sessions.size >= channelsMax) {
          const text = `All ${channelsMax} vchans are in use.`;
          failCall(call, new ResourceExhaustedError('TOO_MANY_VCHANS', text), logger);
          return;
        }
        const session = new VchanSession(call);
        const run = session
          .run((open, signal, listening) => this.#open(open, signal, listening))
          .then(
            () => void call.end(),
            (error: unknown) => failCall(call, error, logger),
          )
          .finally(() => this.#sessions.delete(session));
        this.#sessions.set(session, run);
      },
    };
  }

  /** Ends every channel, and gives back what they held. */
  async stop(): Promise<void> {
    const runs = [...this.#sessions].map(([session, run]) => {
      session.stop(new UnavailableError('DAEMON_STOPPING', 'The daemon is stopping.'));
      return run;
    });
    await Promise.all(runs);
  }

  async #open(
    open: OpenVchan,
    signal: AbortSignal,
    listening: (path: string) => void,
  ): Promise<OpenedVchan> {
    const { domid, noWait, ringBytes, role } = open;
    if (role === VchanRole.UNSPECIFIED) {
      const text = 'A channel is opened with role VCHAN_ROLE_SERVER or VCHAN_ROLE_CLIENT.';
      throw new InvalidArgumentError('ROLE_MISSING', 'open.role', text);
    }
    checkPath(open.basePath);
    const port = open.port === '' && open.basePath !== '' ? undefined : open.port;
    const address = { domid, port, path: open.basePath === '' ? undefined : open.basePath };
    const { xen, leave } = await this.#enter(open.asDomid);
    try {
      if (role === VchanRole.CLIENT) {
        const stream = await connectVchan(xen, { ...address, wait: !noWait, signal });
        return { stream, leave };
      }
      const place = `${xen.domid} ${vchanPath(address, xen.domid, domid)}`;
      const rings = ringBytes === 0 ? {} : { readRingBytes: ringBytes, writeRingBytes: ringBytes };
      const stream = await this.#serve(xen, { ...address, ...rings }, place, signal, listening);
      return { stream, leave };
    } catch (error) {
      await leave();
      throw error;
    }
  }

  async #serve(
    xen: Xen,
    options: Parameters<typeof VchanServer.listen>[1],
    place: string,
    signal: AbortSignal,
    listening: (path: string) => void,
  ): Promise<VchanStream> {
    if (this.#served.has(place)) {
      const text = 'Another client serves this vchan, and waits for its peer.';
      throw new AlreadyExistsError('VCHAN_SERVED', text);
    }
    this.#served.add(place);
    try {
      const server = await VchanServer.listen(xen, options);
      try {
        listening(server.path);
        return await server.accept(signal);
      } finally {
        await server.close();
      }
    } finally {
      this.#served.delete(place);
    }
  }

  /** The Xen that the channel is opened with, and what to do when it is done. */
  async #enter(asDomid: number | undefined): Promise<{ xen: Xen; leave: () => Promise<void> }> {
    const { openDomain, xen } = this.#options;
    if (asDomid === undefined) return { xen, leave: async () => undefined };
    if (openDomain === undefined) {
      const text = 'Only on an emulated Xen can one be a program of another domain.';
      throw new InvalidArgumentError('NOT_EMULATED', 'open.as_domid', text);
    }
    const own = await openDomain(asDomid);
    return { xen: own, leave: () => own.close() };
  }
}

function checkPath(path: string): void {
  if (path === '' || (ALLOWED_PATH.test(path) && !path.includes('//'))) return;
  const text = "A channel's path lies below the `data` directory of a domain.";
  throw new InvalidArgumentError('PATH_NOT_ALLOWED', 'open.base_path', text);
}

/** HostService: the daemon and the domains it can see. */
import { type CallOptions, callUnary } from './call.js';
import type { Connection } from './connection.js';
import { XenvifClientError } from './errors.js';
import {
  HostServiceService,
  type Domain as WireDomain,
  type Host as WireHost,
  XenKind,
} from './gen/xenvif/v1/host_service.js';
import { type WordOf, wordOf } from './words.js';

/** A domain of the machine: `domid`, `name` (empty where it may not be read) and `vifs`. */
export type Domain = Readonly<WireDomain>;

/** What the daemon is, and on what it runs. `memoryBytes` is its resident set. */
export interface Host extends Readonly<Omit<WireHost, 'xenKind' | 'startTime'>> {
  readonly startTime?: Date;
  /** `native`: the hypervisor of the machine. `emulated`: one inside the daemon. */
  readonly xenKind: WordOf<typeof XenKind>;
}

export interface ListDomainsOptions extends CallOptions {
  /** Domains to ask for in one request, 1 to 1000. Default 100. The iterator yields all pages. */
  readonly pageSize?: number | undefined;
}

/** `client.host`. Every method throws `XenvifClientError`. */
export class HostInfo {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** The daemon at this moment. */
  async get(options: CallOptions = {}): Promise<Host> {
    const { host } = await callUnary(this.#connection, HostServiceService.getHost, {}, options);
    if (host === undefined) {
      const message = 'The daemon answered without the host.';
      throw new XenvifClientError('RESPONSE_MALFORMED', 'INTERNAL', message);
    }
    const { startTime, xenKind, ...rest } = host;
    return { ...rest, ...(startTime && { startTime }), xenKind: wordOf(XenKind, xenKind) };
  }

  /** Yields the domains in the order of their ids; asks for the next page when one is used up. */
  async *domains(options: ListDomainsOptions = {}): AsyncGenerator<Domain, void, undefined> {
    let pageToken = '';
    do {
      const request = { pageSize: options.pageSize ?? 0, pageToken };
      const method = HostServiceService.listDomains;
      const page = await callUnary(this.#connection, method, request, options);
      yield* page.domains;
      pageToken = page.nextPageToken;
    } while (pageToken !== '');
  }
}

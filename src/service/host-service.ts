/** HostService: what the daemon is, and which domains it can see. */
import type { Logger } from 'pino';
import type { NetbackDevice } from '../device/netback/device.js';
import {
  GetHostResponse,
  type HostServiceServer,
  type ListDomainsRequest,
  ListDomainsResponse,
  XenKind,
} from '../gen/xenvif/v1/host_service.js';
import { VERSION } from '../version.js';
import type { Xen } from '../xen/xen.js';
import { unary } from './calls.js';
import { numberKey, pageOf } from './pages.js';
import { checkPageSize } from './validate.js';
import type { VifRegistry } from './vif-registry.js';

export class HostService {
  readonly #xen: Xen;
  readonly #registry: VifRegistry;
  readonly #logger: Logger;
  readonly #frameStreams: () => number;
  readonly #startTime = new Date();

  constructor(xen: Xen, registry: VifRegistry, logger: Logger, frameStreams: () => number) {
    this.#xen = xen;
    this.#registry = registry;
    this.#logger = logger;
    this.#frameStreams = frameStreams;
  }

  handlers(): HostServiceServer {
    return {
      getHost: unary(this.#logger, () => this.#getHost()),
      listDomains: unary(this.#logger, (request) => this.#listDomains(request)),
    };
  }

  #getHost(): GetHostResponse {
    return GetHostResponse.fromPartial({
      host: {
        version: VERSION,
        bootId: this.#registry.bootId,
        startTime: this.#startTime,
        xenKind: this.#xen.kind === 'native' ? XenKind.NATIVE : XenKind.EMULATED,
        domid: this.#xen.domid,
        storeConnected: this.#xen.store.connected,
        nodeVersion: process.version,
        vifs: this.#registry.netback.list().length,
        frameStreams: this.#frameStreams(),
        memoryBytes: BigInt(process.memoryUsage.rss()),
      },
    });
  }

  async #listDomains(request: ListDomainsRequest): Promise<ListDomainsResponse> {
    const { store } = this.#xen;
    const pageSize = checkPageSize(request.pageSize);
    const names = await store.directory('/local/domain');
    const domids = names.map(Number).sort((a, b) => a - b);
    const { items, nextPageToken } = pageOf(domids, numberKey, pageSize, request.pageToken);
    const devices = this.#registry.netback.list();
    const domains = await Promise.all(
      items.map(async (domid) => ({
        domid,
        // A driver domain may see that a domain is there and still not be allowed its name.
        name: (await store.readIfExists(`/local/domain/${domid}/name`).catch(() => '')) ?? '',
        vifs: countOf(devices, domid),
      })),
    );
    return ListDomainsResponse.fromPartial({ domains, nextPageToken });
  }
}

function countOf(devices: readonly NetbackDevice[], domid: number): number {
  return devices.filter((device) => device.domid === domid).length;
}

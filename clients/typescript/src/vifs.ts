/** VifService: vifs are created, shown, listed, changed, removed and watched. */
import { randomUUID } from 'node:crypto';
import { type CallOptions, callUnary, DEFAULT_TIMEOUT_MS } from './call.js';
import type { Connection } from './connection.js';
import { durationFromMs } from './duration.js';
import { XenvifClientError } from './errors.js';
import type { Vif as WireVif } from './gen/xenvif/v1/vif.js';
import { type CreateVifRequest, VifServiceService } from './gen/xenvif/v1/vif_service.js';
import { retrying } from './retry.js';
import {
  changesToWire,
  maskOf,
  specToWire,
  type Vif,
  type VifChanges,
  type VifSpecInput,
  vifFromWire,
} from './vif.js';
import { vifName } from './vif-name.js';
import { VifWatch, type WatchOptions } from './vif-watch.js';

/** How long the daemon waits for a guest where the request does not say (the contract's default). */
const DAEMON_WAIT_MS = 10_000;

/** What to create, and how. */
export interface CreateVifOptions extends CallOptions, VifSpecInput {
  /** Which interface of the guest, 0 to 65535. Default: the lowest that is free. */
  readonly handle?: number | undefined;
  readonly labels?: Readonly<Record<string, string>> | undefined;
  /**
   * Milliseconds to wait for the guest to connect; 0: answer at once. Default 10 s. A vif whose
   * guest did not connect in time stays, and the call fails with VIF_NOT_CONNECTED.
   */
  readonly waitMs?: number | undefined;
  /** At most 128 characters; makes the call safe to repeat. Default: a random UUID. */
  readonly requestId?: string | undefined;
}

/** Which vifs. */
export interface VifFilter {
  /** Only vifs of this guest. */
  readonly domid?: number | undefined;
  /** Only vifs that have all of these labels. */
  readonly labels?: Readonly<Record<string, string>> | undefined;
}

export interface ListVifsOptions extends CallOptions, VifFilter {
  /** Vifs to ask for in one request, 1 to 1000. Default 100. The iterator yields all pages. */
  readonly pageSize?: number | undefined;
}

export interface UpdateVifOptions extends CallOptions {
  /** Change the vif only if its etag is this. */
  readonly etag?: string | undefined;
}

export interface DeleteVifOptions extends CallOptions {
  /** No error when there is no such vif. */
  readonly allowMissing?: boolean | undefined;
  /** Delete only if the vif's etag is this. */
  readonly etag?: string | undefined;
  /** Milliseconds that the guest may take to close its side. Default 10 s. */
  readonly closeTimeoutMs?: number | undefined;
}

/** `client.vifs`. Every method throws `XenvifClientError`. */
export class Vifs {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /**
   * Plugs a vif into guest `domid`. Repeated after a lost connection: the request id keeps a second
   * vif from being made.
   * @throws XenvifClientError DOMAIN_NOT_FOUND, HANDLE_BUSY, MAC_INVALID, MTU_OUT_OF_RANGE,
   *   LABEL_INVALID, VIF_NOT_CONNECTED, XENSTORE_UNAVAILABLE
   */
  async create(domid: number, options: CreateVifOptions = {}): Promise<Vif> {
    const { waitMs, signal } = options;
    const request: CreateVifRequest = {
      domid,
      handle: options.handle,
      spec: specToWire(options),
      labels: { ...options.labels },
      requestId: options.requestId ?? randomUUID(),
      waitTimeout: waitMs === undefined ? undefined : durationFromMs(waitMs),
    };
    const timeoutMs = options.timeoutMs ?? (waitMs ?? DAEMON_WAIT_MS) + DEFAULT_TIMEOUT_MS;
    const call = { signal, timeoutMs };
    const response = await retrying(signal, () =>
      callUnary(this.#connection, VifServiceService.createVif, request, call),
    );
    return present(response.vif);
  }

  /** Shows the vif `name` (`vifs/1.0` or `1.0`). @throws XenvifClientError VIF_NOT_FOUND */
  async get(name: string, options: CallOptions = {}): Promise<Vif> {
    const request = { name: vifName(name) };
    const response = await callUnary(this.#connection, VifServiceService.getVif, request, options);
    return present(response.vif);
  }

  /** Yields vifs in the order of their names; asks for the next page when one is used up. */
  async *list(options: ListVifsOptions = {}): AsyncGenerator<Vif, void, undefined> {
    let pageToken = '';
    do {
      const request = {
        pageSize: options.pageSize ?? 0,
        pageToken,
        domid: options.domid,
        labels: { ...options.labels },
      };
      const page = await callUnary(this.#connection, VifServiceService.listVifs, request, options);
      for (const vif of page.vifs) yield vifFromWire(vif);
      pageToken = page.nextPageToken;
    } while (pageToken !== '');
  }

  /**
   * Changes the vif `name` while frames flow. What `changes` leaves out stays; null clears.
   * @throws XenvifClientError VIF_NOT_FOUND, ETAG_MISMATCH, UPDATE_MASK_MISSING (nothing to change), and
   *   what `create` throws for each field.
   */
  async update(name: string, changes: VifChanges, options: UpdateVifOptions = {}): Promise<Vif> {
    const vif = changesToWire(vifName(name), options.etag ?? '', changes);
    const request = { vif, updateMask: maskOf(changes) };
    const method = VifServiceService.updateVif;
    const response = await callUnary(this.#connection, method, request, options);
    return present(response.vif);
  }

  /**
   * Unplugs the vif `name`.
   * @throws XenvifClientError VIF_NOT_FOUND (unless `allowMissing`), ETAG_MISMATCH
   */
  async delete(name: string, options: DeleteVifOptions = {}): Promise<void> {
    const { closeTimeoutMs, signal } = options;
    const request = {
      name: vifName(name),
      allowMissing: options.allowMissing ?? false,
      etag: options.etag ?? '',
      closeTimeout: closeTimeoutMs === undefined ? undefined : durationFromMs(closeTimeoutMs),
    };
    const timeoutMs = options.timeoutMs ?? (closeTimeoutMs ?? DAEMON_WAIT_MS) + DEFAULT_TIMEOUT_MS;
    const call = { signal, timeoutMs };
    await callUnary(this.#connection, VifServiceService.deleteVif, request, call);
  }

  /** Yields every vif, then the marker `synced`, then each change. See `VifWatch`. */
  watch(options: WatchOptions = {}): VifWatch {
    return new VifWatch(this.#connection, options);
  }
}

/** The contract promises the vif in every answer; a daemon that leaves it out is broken. */
function present(vif: WireVif | undefined): Vif {
  if (vif !== undefined) return vifFromWire(vif);
  const message = 'The daemon answered without the vif.';
  throw new XenvifClientError('RESPONSE_MALFORMED', 'INTERNAL', message);
}

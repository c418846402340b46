/** VifService: vifs made, shown, watched and removed through gRPC. */
import { randomUUID } from 'node:crypto';
import type { ServerWritableStream } from '@grpc/grpc-js';
import type { Logger } from 'pino';
import type { NetbackDevice } from '../device/netback/device.js';
import { checkMayUnplug, plugVif, removeVif, requestUnplug } from '../device/netback/toolstack.js';
import { NotFoundError, ResourceExhaustedError, TimeoutError } from '../errors.js';
import type { Vif, VifSpec } from '../gen/xenvif/v1/vif.js';
import {
  CreateVifRequest,
  CreateVifResponse,
  type DeleteVifRequest,
  DeleteVifResponse,
  GetVifResponse,
  type ListVifsRequest,
  ListVifsResponse,
  type UpdateVifRequest,
  UpdateVifResponse,
  type VifServiceServer,
  type WatchVifsRequest,
  type WatchVifsResponse,
} from '../gen/xenvif/v1/vif_service.js';
import { DEFAULT_SWITCH } from '../switch/switches.js';
import type { Xen } from '../xen/xen.js';
import { XenbusState } from '../xen/xenbus.js';
import { serverStream, unary } from './calls.js';
import { checkEtag } from './etag.js';
import { numberKey, pageOf } from './pages.js';
import { checkPortPolicy } from './port-policy.js';
import { type RepeatableRequest, RepeatableRequests } from './requests.js';
import {
  checkDomid,
  checkDurationMs,
  checkHandle,
  checkLabels,
  checkMac,
  checkMtu,
  checkPageSize,
  checkRate,
  matchesLabels,
  parseSwitchName,
  parseVifName,
  randomMac,
} from './validate.js';
import { checkChanges } from './vif-changes.js';
import type { VifChange, VifRegistry } from './vif-registry.js';

/** libxl gives a device 10 s to connect and to close. */
const DEVICE_TIMEOUT = { unset: 10_000, min: 0, max: 300_000 };

type WatchCall = ServerWritableStream<WatchVifsRequest, WatchVifsResponse>;

export class VifService {
  readonly #xen: Xen;
  readonly #registry: VifRegistry;
  readonly #logger: Logger;
  readonly #watchQueueMax: number;
  readonly #requests = new RepeatableRequests<CreateVifResponse>();

  constructor(xen: Xen, registry: VifRegistry, logger: Logger, watchQueueMax: number) {
    this.#xen = xen;
    this.#registry = registry;
    this.#logger = logger;
    this.#watchQueueMax = watchQueueMax;
  }

  handlers(): VifServiceServer {
    const logger = this.#logger;
    return {
      createVif: unary(logger, (request, signal) => this.#createOnce(request, signal)),
      getVif: unary(logger, ({ name }) =>
        GetVifResponse.fromPartial({ vif: this.#registry.toVif(this.#registry.find(name)) }),
      ),
      listVifs: unary(logger, (request) => this.#list(request)),
      updateVif: unary(logger, (request) => this.#update(request)),
      deleteVif: unary(logger, (request) => this.#delete(request)),
      watchVifs: serverStream(logger, async (call, signal) => {
        await this.#watch(call, signal);
      }),
    };
  }

  async #createOnce(request: CreateVifRequest, signal: AbortSignal): Promise<CreateVifResponse> {
    const content = CreateVifRequest.encode(request).finish();
    return await this.#requests.once(request.requestId, content, (repeatable) =>
      // A caller that repeats the call may have lost the first one: its end must not end the work.
      this.#create(request, repeatable, repeatable ? new AbortController().signal : signal),
    );
  }

  /** Makes both halves in XenStore and returns the vif's name. */
  async #plug(
    request: CreateVifRequest,
    repeatable: RepeatableRequest | undefined,
  ): Promise<string> {
    const domid = checkDomid(request.domid);
    const spec = checkSpec(request.spec);
    const handle = await plugVif(this.#xen.store, {
      backendDomid: this.#xen.domid,
      domid,
      handle: checkHandle(request.handle),
      mac: spec.mac,
      mtu: spec.mtu,
      rate: spec.rate,
      bridge: spec.bridge,
      policy: spec.policy,
      linkDown: spec.linkDown,
      labels: checkLabels(request.labels),
      uid: randomUUID(),
      request: repeatable?.text,
    });
    return `vifs/${domid}.${handle}`;
  }

  async #create(
    request: CreateVifRequest,
    repeatable: RepeatableRequest | undefined,
    signal: AbortSignal,
  ): Promise<CreateVifResponse> {
    const timeoutMs = checkDurationMs(request.waitTimeout, 'wait_timeout', DEVICE_TIMEOUT);
    // A daemon before us may have made it, and died before it could say so.
    const made = this.#registry.netback.list().find((vif) => repeatable?.isOf(vif.request));
    const name = made?.name ?? (await this.#plug(request, repeatable));
    const done = (device: NetbackDevice) =>
      device.status.phase === 'connected' || device.status.phase === 'failed';
    await this.#until(name, (device) => device !== undefined, DEVICE_TIMEOUT.unset, signal);
    const finished =
      timeoutMs === 0 ||
      (await this.#until(
        name,
        (device) => device !== undefined && done(device),
        timeoutMs,
        signal,
      ));
    if (!finished) {
      throw new TimeoutError(
        'VIF_NOT_CONNECTED',
        `${name} was made, but the guest did not connect within ${timeoutMs / 1000} s. The vif stays.`,
        { vif: name },
      );
    }
    return CreateVifResponse.fromPartial({ vif: this.#registry.toVif(this.#registry.find(name)) });
  }

  #list(request: ListVifsRequest): ListVifsResponse {
    const devices = this.#registry.netback
      .list()
      .filter((device) => request.domid === undefined || device.domid === request.domid)
      .filter((device) => matchesLabels(device.labels, request.labels));
    const { items, nextPageToken } = pageOf(
      devices,
      ({ domid, handle }) => `${numberKey(domid)}.${numberKey(handle)}`,
      checkPageSize(request.pageSize),
      request.pageToken,
    );
    return ListVifsResponse.fromPartial({
      vifs: items.map((device) => this.#registry.toVif(device)),
      nextPageToken,
    });
  }

  async #delete(request: DeleteVifRequest): Promise<DeleteVifResponse> {
    const timeoutMs = checkDurationMs(request.closeTimeout, 'close_timeout', DEVICE_TIMEOUT);
    let device: NetbackDevice;
    try {
      device = this.#registry.find(request.name);
    } catch (error) {
      if (request.allowMissing && error instanceof NotFoundError) return DeleteVifResponse.create();
      throw error;
    }
    checkEtag('vif', device.name, this.#registry.toVif(device).etag, request.etag);
    const { domid, handle } = device;
    const { store } = this.#xen;
    checkMayUnplug(this.#xen.domid, domid, handle);
    await requestUnplug(store, this.#xen.domid, domid, handle);
    const closed = (found: NetbackDevice | undefined) =>
      found === undefined || found.status.backendState === XenbusState.closed;
    if (!(await this.#until(request.name, closed, timeoutMs, new AbortController().signal))) {
      this.#logger.warn(
        { vif: request.name },
        'the guest did not close its side; removing the vif',
      );
    }
    await removeVif(store, this.#xen.domid, domid, handle);
    await this.#until(
      request.name,
      (found) => found === undefined || found.uid !== device.uid,
      DEVICE_TIMEOUT.unset,
      new AbortController().signal,
    );
    return DeleteVifResponse.create();
  }

  async #update(request: UpdateVifRequest): Promise<UpdateVifResponse> {
    const wanted = request.vif;
    const device = this.#registry.find(wanted?.name ?? '', 'vif.name');
    checkEtag('vif', device.name, this.#registry.toVif(device).etag, wanted?.etag ?? '');
    const changes = checkChanges(wanted, request.updateMask ?? []);
    if (!(await device.change(changes))) {
      throw new NotFoundError('VIF_NOT_FOUND', `There is no vif ${device.name} any more.`);
    }
    this.#registry.netback.touch(device);
    return UpdateVifResponse.fromPartial({ vif: this.#registry.toVif(device) });
  }

  /** Waits until a vif is as wanted; false when the time passes or the caller goes. */
  async #until(
    name: string,
    wanted: (device: NetbackDevice | undefined) => boolean,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<boolean> {
    const { domid, handle } = parseVifName(name);
    const find = () => this.#registry.netback.get(domid, handle);
    if (wanted(find())) return true;
    return await new Promise<boolean>((resolve) => {
      const finish = (result: boolean) => {
        clearTimeout(timer);
        end();
        signal.removeEventListener('abort', giveUp);
        resolve(result);
      };
      const giveUp = () => finish(false);
      const timer = setTimeout(giveUp, timeoutMs);
      const end = this.#registry.onChange((change) => {
        if (change.vif.name === name && wanted(find())) finish(true);
      });
      signal.addEventListener('abort', giveUp);
    });
  }

  async #watch(call: WatchCall, signal: AbortSignal): Promise<void> {
    const { request } = call;
    const wanted = (vif: Vif) =>
      (request.domid === undefined || vif.name.startsWith(`vifs/${request.domid}.`)) &&
      matchesLabels(vif.labels, request.labels);
    const resumeToken = this.#registry.tokenOf(this.#registry.sequence);
    const send = (change: VifChange) => {
      if (wanted(change.vif)) call.write(this.#toResponse(change));
    };
    if (request.resumeToken === '') {
      for (const device of this.#registry.netback.list()) {
        const vif = this.#registry.toVif(device);
        if (!wanted(vif)) continue;
        call.write({ event: { $case: 'updated', value: vif }, resumeToken });
      }
    } else {
      for (const change of this.#registry.changesAfter(request.resumeToken)) send(change);
    }
    call.write({ event: { $case: 'synced', value: {} }, resumeToken });
    await this.#follow(call, send, signal);
  }

  /** Sends changes until the client goes; one that lets them pile up is cut off. */
  async #follow(
    call: WatchCall,
    send: (change: VifChange) => void,
    signal: AbortSignal,
  ): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const end = this.#registry.onChange((change) => {
        send(change);
        if (call.writableLength <= this.#watchQueueMax) return;
        end();
        const text = 'The changes were not read fast enough.';
        reject(new ResourceExhaustedError('WATCHER_TOO_SLOW', text));
      });
      const finish = () => {
        end();
        resolve();
      };
      if (signal.aborted) finish();
      signal.addEventListener('abort', finish, { once: true });
    });
  }

  #toResponse(change: VifChange): WatchVifsResponse {
    return {
      event: { $case: change.event, value: change.vif },
      resumeToken: this.#registry.tokenOf(change.sequence),
    };
  }
}

/** @throws InvalidArgumentError for a field that breaks a rule. */
function checkSpec(spec: VifSpec | undefined) {
  const mac = spec?.mac ?? '';
  return {
    mac: mac === '' ? randomMac() : checkMac(mac),
    mtu: checkMtu(spec?.mtu ?? 0),
    rate: checkRate(spec?.rate),
    bridge: parseSwitchName(spec?.switch ?? '', 'spec.switch') ?? DEFAULT_SWITCH,
    policy: checkPortPolicy(spec?.portPolicy, 'spec.port_policy'),
    linkDown: spec?.linkDown ?? false,
  };
}

/**
 * A daemon of the contract's shape for tests of the SDK: it answers what a test tells it to, can be
 * stopped and started again on the same address, and keeps what it was asked.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  Metadata,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerWritableStream,
  status,
} from '@grpc/grpc-js';
import {
  BadRequest,
  ErrorInfo,
} from '../../../clients/typescript/src/gen/google/rpc/error_details.js';
import { Status } from '../../../clients/typescript/src/gen/google/rpc/status.js';
import {
  type FrameBatch,
  FrameServiceService,
  type FramesOpened,
  type OpenFrames,
  type StreamFramesRequest,
  type StreamFramesResponse,
} from '../../../clients/typescript/src/gen/xenvif/v1/frame_service.js';
import {
  HostServiceService,
  XenKind,
} from '../../../clients/typescript/src/gen/xenvif/v1/host_service.js';
import {
  StatsServiceService,
  type StreamStatsRequest,
  type StreamStatsResponse,
  type VifStats,
} from '../../../clients/typescript/src/gen/xenvif/v1/stats_service.js';
import {
  type CreatePortRequest,
  type CreateSwitchRequest,
  type DeletePortRequest,
  type DeleteSwitchRequest,
  type ForwardingEntry,
  type ListForwardingEntriesRequest,
  Port,
  PortKind,
  Switch,
  SwitchServiceService,
  type UpdatePortRequest,
} from '../../../clients/typescript/src/gen/xenvif/v1/switch_service.js';
import { Vif, VifPhase, XenbusState } from '../../../clients/typescript/src/gen/xenvif/v1/vif.js';
import {
  type CreateVifRequest,
  type DeleteVifRequest,
  type ListVifsRequest,
  type UpdateVifRequest,
  VifServiceService,
  type WatchVifsRequest,
  type WatchVifsResponse,
} from '../../../clients/typescript/src/gen/xenvif/v1/vif_service.js';

export type FramesCall = ServerDuplexStream<StreamFramesRequest, StreamFramesResponse>;
export type WatchCall = ServerWritableStream<WatchVifsRequest, WatchVifsResponse>;
export type StatsCall = ServerDuplexStream<StreamStatsRequest, StreamStatsResponse>;

/** An error as the daemon's service makes it: a status with google.rpc details. */
export function failure(
  code: status,
  reason: string,
  message: string,
  fields: Record<string, string> = {},
): { code: status; details: string; metadata: Metadata } {
  const details = [
    {
      typeUrl: 'type.googleapis.com/google.rpc.ErrorInfo',
      value: Buffer.from(
        ErrorInfo.encode({ reason, domain: 'xenvif', metadata: { vif: 'vifs/9.0' } }).finish(),
      ),
    },
  ];
  if (Object.keys(fields).length > 0) {
    const fieldViolations = Object.entries(fields).map(([field, description]) => ({
      field,
      description,
      reason: '',
      localizedMessage: undefined,
    }));
    details.push({
      typeUrl: 'type.googleapis.com/google.rpc.BadRequest',
      value: Buffer.from(BadRequest.encode({ fieldViolations }).finish()),
    });
  }
  const metadata = new Metadata();
  const encoded = Status.encode({ code, message, details }).finish();
  metadata.set('grpc-status-details-bin', Buffer.from(encoded));
  return { code, details: message, metadata };
}

/** A vif that is connected. */
export function aVif(name: string): Vif {
  return Vif.fromPartial({
    name,
    uid: `uid-${name}`,
    etag: 'e1',
    labels: { role: 'test' },
    spec: { mac: '00:16:3e:00:00:01', mtu: 1500 },
    status: {
      phase: VifPhase.CONNECTED,
      backendState: XenbusState.CONNECTED,
      frontendState: XenbusState.CONNECTED,
      reason: 'CONNECTED',
      message: 'Frames flow.',
      since: new Date(1_700_000_000_000),
      queues: 1,
      connects: 1n,
    },
  });
}

/** A switch with two ports. */
export function aSwitch(id: string): Switch {
  return Switch.fromPartial({
    name: `switches/${id}`,
    uid: `uid-${id}`,
    etag: 'e1',
    labels: { role: 'test' },
    status: { ports: ['vif-1.0', 'tap0'], forwardingEntries: 2 },
  });
}

/** A port of the switch `switches/default` with a TAP. */
export function aPort(id: string, kind: PortKind = PortKind.TAP): Port {
  return Port.fromPartial({
    name: `switches/default/ports/${id}`,
    kind,
    device: id,
    mac: '00:16:3e:00:00:aa',
    mtu: 1400,
    received: { packets: 5n, bytes: 500n, drops: [] },
  });
}

export function someStats(name: string, packets: bigint): VifStats {
  const counters = { packets, bytes: packets * 100n, drops: [] };
  const time = new Date();
  return { name, uid: `uid-${name}`, time, since: time, tx: counters, rx: counters, queues: [] };
}

/** The first message of a stream of frames. */
export function opened(vifs: readonly string[], bootId = 'boot-1'): StreamFramesResponse {
  const value: FramesOpened = {
    bootId,
    vifs: vifs.map(aVif),
    limits: { queueBytes: 4n << 20n, frames: 0n },
    batching: { bytes: 65536, frames: 2048, lingerUs: 0 },
    port: undefined,
    clock: new Date(),
  };
  return { message: { $case: 'opened', value } };
}

/** The answer to an open message for a switch: the port that was asked for, or one that is made up. */
export function openedPort({ port }: OpenFrames, bootId = 'boot-1'): StreamFramesResponse {
  const answer = opened([], bootId);
  if (answer.message?.$case !== 'opened') throw new Error('opened() answers something else');
  const made = aPort(port?.portId || 'client-7', PortKind.CLIENT);
  answer.message.value.port = { ...made, mac: port?.mac || made.mac };
  return answer;
}

/** A message with `frames`, all from the guest. */
export function framesMessage(
  frames: readonly Buffer[],
  firstSequence: bigint,
): StreamFramesResponse {
  const value: FrameBatch = {
    frames: [...frames],
    baseTimeNs: 1_700_000_000_000_000_000n,
    timeDeltaNs: frames.map((_, index) => index * 1000),
    originalLength: [],
    vifIndex: [],
    flags: frames.map(() => 1),
    firstSequence,
  };
  return { message: { $case: 'frames', value } };
}

export class FakeDaemon {
  readonly directory = mkdtempSync(join(tmpdir(), 'xenvif-fake-'));
  readonly address = `unix:${join(this.directory, 'xenvifd.sock')}`;
  vifs = [aVif('vifs/1.0'), aVif('vifs/2.0'), aVif('vifs/3.0')];
  /** What CreateVif was asked, and how often it fails first. */
  readonly creates: CreateVifRequest[] = [];
  createFailures = 0;
  readonly deletes: DeleteVifRequest[] = [];
  readonly lists: ListVifsRequest[] = [];
  /** What UpdateVif was asked, and how often the vif has changed meanwhile. */
  readonly updates: UpdateVifRequest[] = [];
  updateFailures = 0;
  /** What SwitchService was asked, and what it has learnt. */
  readonly switchCreates: CreateSwitchRequest[] = [];
  readonly switchDeletes: DeleteSwitchRequest[] = [];
  readonly portCreates: CreatePortRequest[] = [];
  readonly portUpdates: UpdatePortRequest[] = [];
  readonly portDeletes: DeletePortRequest[] = [];
  readonly entryLists: ListForwardingEntriesRequest[] = [];
  entries: ForwardingEntry[] = [];
  onFrames: (call: FramesCall) => void = (call) => call.end();
  onWatch: (call: WatchCall) => void = (call) => call.end();
  onStats: (call: StatsCall) => void = (call) => call.end();
  #server: Server | undefined;

  async start(): Promise<void> {
    const server = new Server({ 'grpc.max_receive_message_length': 1 << 20 });
    server.addService(VifServiceService, this.#vifService());
    server.addService(StatsServiceService, this.#statsService());
    server.addService(FrameServiceService, {
      streamFrames: (call: FramesCall) => this.onFrames(call),
    });
    server.addService(SwitchServiceService, this.#switchService());
    server.addService(HostServiceService, this.#hostService());
    await new Promise<void>((resolve, reject) => {
      server.bindAsync(this.address, ServerCredentials.createInsecure(), (error) =>
        error === null ? resolve() : reject(error),
      );
    });
    this.#server = server;
  }

  /** Ends every connection at once, as a crash would. */
  stop(): void {
    this.#server?.forceShutdown();
    this.#server = undefined;
  }

  dispose(): void {
    this.stop();
    rmSync(this.directory, { recursive: true, force: true });
  }

  #vifService(): Parameters<Server['addService']>[1] {
    const notFound = failure(status.NOT_FOUND, 'VIF_NOT_FOUND', 'There is no vif vifs/9.0.');
    const service: import('../../../clients/typescript/src/gen/xenvif/v1/vif_service.js').VifServiceServer =
      {
        createVif: (call, respond) => {
          this.creates.push(call.request);
          if (this.creates.length <= this.createFailures) {
            respond(failure(status.UNAVAILABLE, 'XENSTORE_UNAVAILABLE', 'XenStore is away.'));
            return;
          }
          if (call.request.spec?.mac === 'bad') {
            const fields = { 'spec.mac': 'Not a MAC address.' };
            respond(failure(status.INVALID_ARGUMENT, 'MAC_INVALID', 'Bad request.', fields));
            return;
          }
          respond(null, { vif: aVif(`vifs/${call.request.domid}.${call.request.handle ?? 0}`) });
        },
        getVif: (call, respond) => {
          const vif = this.vifs.find(({ name }) => name === call.request.name);
          if (vif === undefined) respond(notFound);
          else respond(null, { vif });
        },
        listVifs: (call, respond) => {
          this.lists.push(call.request);
          const first = Number(call.request.pageToken || '0');
          const size = call.request.pageSize || 100;
          const vifs = this.vifs.slice(first, first + size);
          const more = first + size < this.vifs.length;
          respond(null, { vifs, nextPageToken: more ? String(first + size) : '' });
        },
        updateVif: (call, respond) => {
          this.updates.push(call.request);
          const { vif, updateMask = [] } = call.request;
          if (vif?.etag === 'stale' || this.updates.length <= this.updateFailures) {
            respond(failure(status.ABORTED, 'ETAG_MISMATCH', 'The vif has changed.'));
            return;
          }
          const spec = { ...aVif('vifs/1.0').spec, ...vif?.spec };
          respond(null, {
            vif: { ...aVif(vif?.name ?? ''), ...(updateMask.length && { spec }) } as Vif,
          });
        },
        deleteVif: (call, respond) => {
          this.deletes.push(call.request);
          if (call.request.name === 'vifs/9.0' && !call.request.allowMissing) respond(notFound);
          else respond(null, {});
        },
        watchVifs: (call) => this.onWatch(call),
      };
    return service;
  }

  #statsService(): Parameters<Server['addService']>[1] {
    const service: import('../../../clients/typescript/src/gen/xenvif/v1/stats_service.js').StatsServiceServer =
      {
        getStats: (call, respond) => {
          const names = call.request.names.length > 0 ? call.request.names : ['vifs/1.0'];
          respond(null, { stats: names.map((name) => someStats(name, 7n)) });
        },
        resetStats: (call, respond) => respond(null, { stats: someStats(call.request.name, 7n) }),
        streamStats: (call) => this.onStats(call),
      };
    return service;
  }

  #switchService(): Parameters<Server['addService']>[1] {
    const switches = ['alpha', 'beta', 'default'].map(aSwitch);
    const notFound = failure(status.NOT_FOUND, 'SWITCH_NOT_FOUND', 'There is no such switch.');
    const service: import('../../../clients/typescript/src/gen/xenvif/v1/switch_service.js').SwitchServiceServer =
      {
        createSwitch: (call, respond) => {
          this.switchCreates.push(call.request);
          if (this.switchCreates.length <= this.createFailures) {
            respond(failure(status.UNAVAILABLE, 'XENSTORE_UNAVAILABLE', 'XenStore is away.'));
          } else respond(null, { switch: aSwitch(call.request.switchId) });
        },
        getSwitch: (call, respond) => {
          const found = switches.find(({ name }) => name === call.request.name);
          if (found === undefined) respond(notFound);
          else respond(null, { switch: found });
        },
        listSwitches: (call, respond) => {
          const first = Number(call.request.pageToken || '0');
          const size = call.request.pageSize || 100;
          const nextPageToken = first + size < switches.length ? String(first + size) : '';
          respond(null, { switches: switches.slice(first, first + size), nextPageToken });
        },
        deleteSwitch: (call, respond) => {
          this.switchDeletes.push(call.request);
          respond(null, {});
        },
        listForwardingEntries: (call, respond) => {
          this.entryLists.push(call.request);
          const first = Number(call.request.pageToken || '0');
          const size = call.request.pageSize || 1000;
          const nextPageToken = first + size < this.entries.length ? String(first + size) : '';
          respond(null, { entries: this.entries.slice(first, first + size), nextPageToken });
        },
        createPort: (call, respond) => {
          this.portCreates.push(call.request);
          const { device, mirror, policy, portId } = call.request;
          const kind = device?.$case === 'netfront' ? PortKind.NETFRONT : PortKind.TAP;
          respond(null, { port: { ...aPort(portId || 'tap0', kind), mirror, policy } });
        },
        listPorts: (_call, respond) =>
          respond(null, { ports: ['tap0', 'tap1'].map((id) => aPort(id)) }),
        updatePort: (call, respond) => {
          this.portUpdates.push(call.request);
          respond(null, { port: { ...aPort('tap0'), policy: call.request.policy } });
        },
        deletePort: (call, respond) => {
          this.portDeletes.push(call.request);
          respond(null, {});
        },
      };
    return service;
  }

  #hostService(): Parameters<Server['addService']>[1] {
    const service: import('../../../clients/typescript/src/gen/xenvif/v1/host_service.js').HostServiceServer =
      {
        getHost: (_call, respond) => {
          const host = {
            version: '0.1.0',
            bootId: 'boot-1',
            startTime: new Date(1_700_000_000_000),
            xenKind: XenKind.EMULATED,
            domid: 0,
            storeConnected: true,
            nodeVersion: process.version,
            vifs: this.vifs.length,
            frameStreams: 0,
            memoryBytes: 1n << 20n,
          };
          respond(null, { host });
        },
        listDomains: (_call, respond) => {
          respond(null, { domains: [{ domid: 1, name: 'alpha', vifs: 1 }], nextPageToken: '' });
        },
      };
    return service;
  }
}

/** SwitchService: switches and their ports made, shown and removed through gRPC. */
import type { Logger } from 'pino';
import { InvalidArgumentError, NotFoundError } from '../errors.js';
import {
  type CreatePortRequest,
  CreatePortResponse,
  CreateSwitchRequest,
  CreateSwitchResponse,
  type DeletePortRequest,
  DeletePortResponse,
  type DeleteSwitchRequest,
  DeleteSwitchResponse,
  GetSwitchResponse,
  type ListForwardingEntriesRequest,
  ListForwardingEntriesResponse,
  ListPortsResponse,
  type ListSwitchesRequest,
  ListSwitchesResponse,
  Switch,
  type SwitchServiceServer,
  type UpdatePortRequest,
  UpdatePortResponse,
} from '../gen/xenvif/v1/switch_service.js';
import type { PortDevice } from '../switch/switch-records.js';
import type { JoinedSwitch, Switches } from '../switch/switches.js';
import { unary } from './calls.js';
import { checkEtag, etagOf } from './etag.js';
import { pageOf } from './pages.js';
import { checkPortPolicy } from './port-policy.js';
import { RepeatableRequests } from './requests.js';
import { toPort } from './switch-ports.js';
import {
  checkHandle,
  checkLabels,
  checkMtu,
  checkPageSize,
  matchesLabels,
  parsePortName,
  parseSwitchName,
} from './validate.js';

const SWITCH_ID = /^[A-Za-z0-9._-]{1,15}$/;
const PORT_ID = /^[A-Za-z0-9._-]{1,32}$/;
const AGEING_DEFAULT_SECONDS = 300;
const AGEING_MAX_SECONDS = 1_000_000;
const ENTRIES_DEFAULT = 1024;
const ENTRIES_MAX = 65_536;
const ENTRIES_PAGE = { unset: 1000, max: 10_000 };

export class SwitchService {
  readonly #switches: Switches;
  readonly #logger: Logger;
  readonly #requests = new RepeatableRequests<CreateSwitchResponse>();

  constructor(switches: Switches, logger: Logger) {
    this.#switches = switches;
    this.#logger = logger;
  }

  handlers(): SwitchServiceServer {
    const logger = this.#logger;
    return {
      createSwitch: unary(logger, (request) => {
        const content = CreateSwitchRequest.encode(request).finish();
        return this.#requests.once(request.requestId, content, () => this.#create(request));
      }),
      getSwitch: unary(logger, ({ name }) =>
        GetSwitchResponse.fromPartial({ switch: toSwitch(this.#find(name)) }),
      ),
      listSwitches: unary(logger, (request) => this.#list(request)),
      deleteSwitch: unary(logger, (request) => this.#delete(request)),
      listForwardingEntries: unary(logger, (request) => this.#listEntries(request)),
      createPort: unary(logger, (request) => this.#createPort(request)),
      listPorts: unary(logger, ({ switch: name }) => {
        const found = this.#find(name, 'switch');
        const ports = [...found.ports.values()].map((port) => toPort(found.id, port));
        return ListPortsResponse.fromPartial({ ports });
      }),
      updatePort: unary(logger, (request) => this.#updatePort(request)),
      deletePort: unary(logger, (request) => this.#deletePort(request)),
    };
  }

  #find(name: string, field = 'name'): JoinedSwitch {
    return this.#switches.get(requiredSwitch(name, field));
  }

  async #create(request: CreateSwitchRequest): Promise<CreateSwitchResponse> {
    const { switchId, spec } = request;
    if (!SWITCH_ID.test(switchId)) {
      const text = 'An id is 1 to 15 letters, digits, ".", "_" and "-".';
      throw new InvalidArgumentError('SWITCH_ID_INVALID', 'switch_id', text);
    }
    const wanted = {
      ageingSeconds: bounded(spec?.ageingSeconds, AGEING_DEFAULT_SECONDS, AGEING_MAX_SECONDS, {
        field: 'spec.ageing_seconds',
      }),
      entriesPerPort: bounded(spec?.entriesPerPort, ENTRIES_DEFAULT, ENTRIES_MAX, {
        field: 'spec.entries_per_port',
      }),
      hub: spec?.hub ?? false,
    };
    const made = await this.#switches.create(switchId, wanted, checkLabels(request.labels));
    return CreateSwitchResponse.fromPartial({ switch: toSwitch(made) });
  }

  #list(request: ListSwitchesRequest): ListSwitchesResponse {
    const found = this.#switches
      .list()
      .filter(({ record }) => matchesLabels(record.labels, request.labels));
    const { items, nextPageToken } = pageOf(
      found,
      ({ id }) => id,
      checkPageSize(request.pageSize),
      request.pageToken,
    );
    return ListSwitchesResponse.fromPartial({ switches: items.map(toSwitch), nextPageToken });
  }

  async #delete(request: DeleteSwitchRequest): Promise<DeleteSwitchResponse> {
    const id = requiredSwitch(request.name, 'name');
    try {
      const { etag } = toSwitch(this.#switches.get(id));
      checkEtag('switch', request.name, etag, request.etag);
      await this.#switches.delete(id);
    } catch (error) {
      if (!request.allowMissing || !(error instanceof NotFoundError)) throw error;
    }
    return DeleteSwitchResponse.create();
  }

  #listEntries(request: ListForwardingEntriesRequest): ListForwardingEntriesResponse {
    const found = this.#find(request.switch, 'switch');
    const size = checkPageSize(request.pageSize, ENTRIES_PAGE.unset, ENTRIES_PAGE.max);
    const entries = found.switch.forwardingEntries();
    const { items, nextPageToken } = pageOf(
      entries,
      ({ mac, vlan }) => `${String(vlan).padStart(4, '0')} ${mac}`,
      size,
      request.pageToken,
    );
    return ListForwardingEntriesResponse.fromPartial({
      entries: items.map(({ mac, vlan, port, lastSeenMs }) => ({
        mac,
        vlan,
        port: port.name,
        lastSeen: new Date(lastSeenMs),
      })),
      nextPageToken,
    });
  }

  async #createPort(request: CreatePortRequest): Promise<CreatePortResponse> {
    const id = requiredSwitch(request.switch, 'switch');
    if (request.portId !== '') checkPortId(request.portId);
    const joined = await this.#switches.createPort(id, request.portId, {
      device: checkDevice(request),
      policy: checkPortPolicy(request.policy, 'policy') ?? '',
      mirror: request.mirror,
    });
    return CreatePortResponse.fromPartial({ port: toPort(id, joined) });
  }

  async #updatePort(request: UpdatePortRequest): Promise<UpdatePortResponse> {
    const { switchId, portId } = parsePortName(request.name, 'name');
    const policy = checkPortPolicy(request.policy, 'policy') ?? '';
    const joined = await this.#switches.updatePort(switchId, portId, policy);
    return UpdatePortResponse.fromPartial({ port: toPort(switchId, joined) });
  }

  async #deletePort(request: DeletePortRequest): Promise<DeletePortResponse> {
    const { switchId, portId } = parsePortName(request.name, 'name');
    try {
      await this.#switches.deletePort(switchId, portId);
    } catch (error) {
      if (!request.allowMissing || !(error instanceof NotFoundError)) throw error;
    }
    return DeletePortResponse.create();
  }
}

/** @throws InvalidArgumentError PORT_ID_INVALID. */
export function checkPortId(id: string): string {
  if (PORT_ID.test(id)) return id;
  const text = 'A port is named by 1 to 32 letters, digits, ".", "_" and "-".';
  throw new InvalidArgumentError('PORT_ID_INVALID', 'port_id', text);
}

function requiredSwitch(name: string, field: string): string {
  const id = parseSwitchName(name, field);
  if (id !== undefined) return id;
  throw new InvalidArgumentError('SWITCH_NAME_INVALID', field, 'A switch must be named.');
}

function checkDevice({ device }: CreatePortRequest): PortDevice {
  switch (device?.$case) {
    case 'tap': {
      const { interface: name, mtu, owner, persist } = device.value;
      const base = { kind: 'tap', interface: name, mtu: checkMtu(mtu), persist } as const;
      return owner === undefined ? base : { ...base, owner };
    }
    case 'netfront':
      return { kind: 'netfront', handle: checkHandle(device.value.handle) ?? 0 };
    default:
      throw new InvalidArgumentError('DEVICE_MISSING', 'device', 'Nothing is to be plugged in.');
  }
}

/** 0 and absent stand for `unset`. */
function bounded(
  value: number | undefined,
  unset: number,
  max: number,
  { field }: { field: string },
): number {
  if (value === undefined || value === 0) return unset;
  if (value <= max) return value;
  throw new InvalidArgumentError('OUT_OF_RANGE', field, `${field} is at most ${max}.`);
}

function toSwitch(found: JoinedSwitch): Switch {
  const { id, record } = found;
  const shown = Switch.fromPartial({
    name: `switches/${id}`,
    uid: record.uid,
    labels: record.labels,
    spec: record.spec,
  });
  return {
    ...shown,
    etag: etagOf(Switch.encode(shown).finish()),
    status: {
      ports: [...found.ports.keys()],
      forwardingEntries: found.switch.forwardingEntryCount,
    },
  };
}

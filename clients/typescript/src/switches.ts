/** SwitchService: switches are created, shown, listed and removed, and things plugged into them. */
import { randomUUID } from 'node:crypto';
import { type CallOptions, callUnary } from './call.js';
import type { Connection } from './connection.js';
import { XenvifClientError } from './errors.js';
import { type CreatePortRequest, SwitchServiceService } from './gen/xenvif/v1/switch_service.js';
import { type MirrorInput, mirrorToWire } from './mirror.js';
import { type PortPolicyInput, policyToWire } from './port-policy.js';
import { retrying } from './retry.js';
import {
  entryFromWire,
  type ForwardingEntry,
  type Port,
  portFromWire,
  type Switch,
  switchFromWire,
} from './switch.js';
import { portName, switchId, switchName } from './switch-name.js';

export interface CreateSwitchOptions extends CallOptions {
  /** Seconds until a forwarding entry that is not used is forgotten. Default 300. */
  readonly ageingSeconds?: number | undefined;
  /** Forwarding entries that one port may hold. Default 1024. */
  readonly entriesPerPort?: number | undefined;
  /** Send every frame to every port and learn nothing. */
  readonly hub?: boolean | undefined;
  readonly labels?: Readonly<Record<string, string>> | undefined;
  /** At most 128 characters; makes the call safe to repeat. Default: a random UUID. */
  readonly requestId?: string | undefined;
}

export interface ListSwitchesOptions extends CallOptions {
  /** Only switches that have all of these labels. */
  readonly labels?: Readonly<Record<string, string>> | undefined;
  /** Switches to ask for in one request, 1 to 1000. Default 100. The iterator yields all pages. */
  readonly pageSize?: number | undefined;
}

export interface DeleteSwitchOptions extends CallOptions {
  /** No error when there is no such switch. */
  readonly allowMissing?: boolean | undefined;
  /** Delete only if the switch's etag is this. */
  readonly etag?: string | undefined;
}

export interface ForwardingEntriesOptions extends CallOptions {
  /** Entries to ask for in one request, 1 to 10000. Default 1000. The iterator yields all pages. */
  readonly pageSize?: number | undefined;
}

/** What every port that is made takes. */
export interface CreatePortOptions extends CallOptions {
  /** The last part of the port's name. Default: the name of what is plugged in. */
  readonly portId?: string | undefined;
  /** What the port allows. Default: everything. */
  readonly policy?: PortPolicyInput | undefined;
  /** Makes the port a mirror, which hears copies of other ports' frames and sends nothing. */
  readonly mirror?: MirrorInput | undefined;
}

export interface CreateTapOptions extends CreatePortOptions {
  /** The interface's name, 1 to 15 characters. Default: the kernel chooses. */
  readonly interface?: string | undefined;
  /** 68 to 65521. Default 1500. */
  readonly mtu?: number | undefined;
  /** The interface stays when the port goes and when the daemon ends. */
  readonly persist?: boolean | undefined;
  /** The uid of the user who may take the interface up. Default: root. */
  readonly owner?: number | undefined;
}

export interface DeletePortOptions extends CallOptions {
  /** No error when there is no such port. */
  readonly allowMissing?: boolean | undefined;
}

/** `client.switches`. Switches and ports go by their full names or their short ones (`default`,
 * `default/tap0`). Every method throws `XenvifClientError`. */
export class Switches {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /**
   * Makes the switch `switches/<id>`. Repeated after a lost connection: the request id makes that safe.
   * @param id 1 to 15 characters of [A-Za-z0-9._-].
   * @throws XenvifClientError SWITCH_ID_INVALID, SWITCH_EXISTS, LABEL_INVALID
   */
  async create(id: string, options: CreateSwitchOptions = {}): Promise<Switch> {
    const request = {
      switchId: switchId(id),
      spec: {
        ageingSeconds: options.ageingSeconds ?? 0,
        entriesPerPort: options.entriesPerPort ?? 0,
        hub: options.hub ?? false,
      },
      labels: { ...options.labels },
      requestId: options.requestId ?? randomUUID(),
    };
    const response = await retrying(options.signal, () =>
      callUnary(this.#connection, SwitchServiceService.createSwitch, request, options),
    );
    return switchFromWire(present(response.switch, 'switch'));
  }

  /** Shows the switch `name`. @throws XenvifClientError SWITCH_NOT_FOUND */
  async get(name: string, options: CallOptions = {}): Promise<Switch> {
    const request = { name: switchName(name) };
    const method = SwitchServiceService.getSwitch;
    const response = await callUnary(this.#connection, method, request, options);
    return switchFromWire(present(response.switch, 'switch'));
  }

  /** Yields switches in the order of their names; asks for the next page when one is used up. */
  async *list(options: ListSwitchesOptions = {}): AsyncGenerator<Switch, void, undefined> {
    const labels = { ...options.labels };
    let pageToken = '';
    do {
      const request = { pageSize: options.pageSize ?? 0, pageToken, labels };
      const method = SwitchServiceService.listSwitches;
      const page = await callUnary(this.#connection, method, request, options);
      for (const found of page.switches) yield switchFromWire(found);
      pageToken = page.nextPageToken;
    } while (pageToken !== '');
  }

  /**
   * Removes the switch `name`, which has no ports but mirrors.
   * @throws XenvifClientError SWITCH_NOT_FOUND (unless `allowMissing`), SWITCH_IN_USE,
   *   SWITCH_IS_DEFAULT, ETAG_MISMATCH
   */
  async delete(name: string, options: DeleteSwitchOptions = {}): Promise<void> {
    const { allowMissing = false, etag = '' } = options;
    const request = { name: switchName(name), allowMissing, etag };
    await callUnary(this.#connection, SwitchServiceService.deleteSwitch, request, options);
  }

  /** Yields what a switch has learnt; asks for the next page when one is used up. */
  async *forwardingEntries(
    name: string,
    options: ForwardingEntriesOptions = {},
  ): AsyncGenerator<ForwardingEntry, void, undefined> {
    const parent = switchName(name);
    let pageToken = '';
    do {
      const request = { switch: parent, pageSize: options.pageSize ?? 0, pageToken };
      const method = SwitchServiceService.listForwardingEntries;
      const page = await callUnary(this.#connection, method, request, options);
      for (const entry of page.entries) yield entryFromWire(entry);
      pageToken = page.nextPageToken;
    } while (pageToken !== '');
  }

  /** The ports of the switch `name`, each with its counters. @throws SWITCH_NOT_FOUND */
  async ports(name: string, options: CallOptions = {}): Promise<Port[]> {
    const request = { switch: switchName(name) };
    const method = SwitchServiceService.listPorts;
    const { ports } = await callUnary(this.#connection, method, request, options);
    return ports.map(portFromWire);
  }

  /**
   * Plugs a TAP interface of the daemon's kernel into the switch `name`: a new one, or one that is there.
   * @throws XenvifClientError SWITCH_NOT_FOUND, PORT_EXISTS, PORT_ID_INVALID, TAP_NAME_INVALID,
   *   TAP_UNAVAILABLE, TAP_DENIED, TAP_BUSY
   */
  async createTap(name: string, options: CreateTapOptions = {}): Promise<Port> {
    const { interface: device = '', mtu = 0, persist = false, owner } = options;
    const tap = { interface: device, mtu, persist, owner };
    return await this.#createPort(name, { $case: 'tap', value: tap }, options);
  }

  /**
   * Plugs an interface of the daemon's own domain into the switch `name`: an uplink, whose backend is
   * in another domain.
   * @param handle which interface: the number below `device/vif`.
   * @throws XenvifClientError SWITCH_NOT_FOUND, NETFRONT_NOT_FOUND, NETFRONT_BUSY, PORT_EXISTS,
   *   PORT_ID_INVALID
   */
  async createUplink(name: string, handle: number, options: CreatePortOptions = {}): Promise<Port> {
    return await this.#createPort(name, { $case: 'netfront', value: { handle } }, options);
  }

  /**
   * Sets the policy of a port that `createTap` or `createUplink` made, all of it: what is left out is
   * no longer restricted. Of a vif's port, `vifs.update` does.
   * @throws XenvifClientError PORT_NOT_FOUND, PORT_NOT_OURS, PORT_POLICY_INVALID
   */
  async updatePort(
    name: string,
    policy: PortPolicyInput,
    options: CallOptions = {},
  ): Promise<Port> {
    const request = { name: portName(name), policy: policyToWire(policy) };
    const method = SwitchServiceService.updatePort;
    const response = await callUnary(this.#connection, method, request, options);
    return portFromWire(present(response.port, 'port'));
  }

  /**
   * Pulls out a port that `createTap` or `createUplink` made.
   * @throws XenvifClientError PORT_NOT_FOUND (unless `allowMissing`), PORT_NOT_OURS
   */
  async deletePort(name: string, options: DeletePortOptions = {}): Promise<void> {
    const request = { name: portName(name), allowMissing: options.allowMissing ?? false };
    await callUnary(this.#connection, SwitchServiceService.deletePort, request, options);
  }

  async #createPort(
    name: string,
    device: CreatePortRequest['device'],
    options: CreatePortOptions,
  ): Promise<Port> {
    const { portId = '', policy, mirror } = options;
    const request = {
      switch: switchName(name),
      portId,
      device,
      policy: policy && policyToWire(policy),
      mirror: mirror && mirrorToWire(mirror),
    };
    const method = SwitchServiceService.createPort;
    const response = await callUnary(this.#connection, method, request, options);
    return portFromWire(present(response.port, 'port'));
  }
}

/** The contract promises it in every answer; a daemon that leaves it out is broken. */
function present<T>(value: T | undefined, what: string): T {
  if (value !== undefined) return value;
  const message = `The daemon answered without the ${what}.`;
  throw new XenvifClientError('RESPONSE_MALFORMED', 'INTERNAL', message);
}

/**
 * All switches, and what is plugged into each: every vif that the netback serves, by the `bridge` in
 * its directory; TAP interfaces, uplinks and mirrors that were asked for; and clients, for as long as
 * they stay. A switch that a vif names and nobody made is made.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { CountingPort, KeptCounters } from '../device/kept-counters.js';
import type { NetbackDevice } from '../device/netback/device.js';
import type { Netback } from '../device/netback/index.js';
import type { Network } from '../device/network.js';
import { AlreadyExistsError, FailedPreconditionError, NotFoundError } from '../errors.js';
import type { Xen } from '../xen/xen.js';
import { openPortDevice, type PortNetwork } from './port-device.js';
import type { PortPolicy } from './port-policy.js';
import { type Mirror, Switch } from './switch.js';
import type { SwitchFile } from './switch-file.js';
import type { SwitchPort } from './switch-port.js';
import type { MirrorRecord, PortDevice, PortRecord, SwitchRecord } from './switch-records.js';
import { SwitchStore } from './switch-store.js';

/** How long the making of a port waits for its other end: a backend that is there takes less. */
const CONNECT_WAIT_MS = 1000;
const CONNECT_POLL_MS = 10;

/** The switch of vifs that name none. */
export const DEFAULT_SWITCH = 'default';
/** What libxl writes where nobody has chosen a bridge: it stands for no choice. */
const LIBXL_DEFAULT_BRIDGE = 'xenbr0';

export type PortKind = 'vif' | 'tap' | 'netfront' | 'client';

/** A port, and what is plugged in there. */
export interface JoinedPort {
  /** The last part of its name. */
  readonly id: string;
  readonly kind: PortKind;
  /** What is plugged in, by its own name. */
  readonly device: string;
  /** The address of who sits there; empty where there may be many. */
  readonly mac: string;
  readonly network: Network;
  /** Whether what is plugged in takes frames now. */
  readonly isConnected: () => boolean;
  readonly port: SwitchPort;
  /** By what its counters are kept for the next daemon; undefined: they end with the port. */
  readonly countersKey: string | undefined;
  /** The policy as it is kept. */
  policy: string;
  readonly mirror: MirrorRecord | undefined;
}

/** Who a port is. */
type PortName = Pick<JoinedPort, 'id' | 'kind' | 'device' | 'mac' | 'countersKey'>;

/** How a port is set up. */
export type PortSetting = Pick<JoinedPort, 'policy' | 'mirror' | 'isConnected'>;

/** A switch with its record and its ports. */
export interface JoinedSwitch {
  readonly id: string;
  readonly record: SwitchRecord;
  readonly switch: Switch;
  readonly ports: ReadonlyMap<string, JoinedPort>;
}

interface OwnSwitch extends JoinedSwitch {
  readonly ports: Map<string, JoinedPort>;
  /** How to give up what a port of ours has open. */
  readonly closers: Map<string, () => Promise<void>>;
  readonly mirrors: Mirror[];
}

export interface SwitchesOptions {
  readonly xen: Xen;
  readonly netback: Netback;
  readonly logger: Logger;
  /** What a port's policy says that is kept as text; undefined when it is not to be understood. */
  readonly policyOf: (text: string) => PortPolicy | undefined;
  /** Where switches are kept over a start of the machine; undefined: in XenStore alone. */
  readonly file?: SwitchFile | undefined;
  /** Where counters are kept over a restart, loaded when this starts; undefined: nowhere. */
  readonly counters?: KeptCounters | undefined;
}

export class Switches {
  readonly #options: SwitchesOptions;
  readonly #store: SwitchStore;
  readonly #switches = new Map<string, OwnSwitch>();
  /** Where each vif is plugged in. */
  readonly #vifs = new Map<NetbackDevice, OwnSwitch>();
  /** Devices that are on their way to a port, by their names. */
  readonly #opening = new Set<string>();
  readonly #removed = new Set<(id: string, port: string) => void>();

  constructor(options: SwitchesOptions) {
    this.#options = options;
    const { logger, xen } = options;
    this.#store = new SwitchStore(xen.store, xen.domid, logger, options.file);
    this.#build(DEFAULT_SWITCH, newRecord());
    options.counters?.keepPorts(() => this.#countingPorts());
  }

  /** Takes up the switches and ports that were there before, and plugs in every vif that comes. */
  async start(): Promise<void> {
    this.#options.netback.onVif((event, device) => {
      if (event === 'deleted') this.#unplugVif(device);
      else this.#plugVif(device);
    });
    await this.#store.restore();
    for (const [id, record] of await this.#store.readSwitches()) {
      const old = this.#switches.get(id);
      if (old !== undefined) await this.#close(old);
      this.#build(id, record);
    }
    for (const [id, found] of this.#switches) {
      for (const [port, record] of await this.#store.readPorts(id)) {
        try {
          await this.#open(found, port, record);
        } catch (error) {
          this.#options.logger.error({ switch: id, port, error }, 'could not plug in a port again');
        }
      }
    }
  }

  /** Gives every port up. What is kept in XenStore stays for the next daemon. */
  async stop(): Promise<void> {
    for (const found of this.#switches.values()) await this.#close(found);
    this.#switches.clear();
  }

  /** The switches in the order of their names. */
  list(): JoinedSwitch[] {
    return [...this.#switches.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  /** @throws NotFoundError SWITCH_NOT_FOUND. */
  get(id: string): JoinedSwitch {
    return this.#own(id);
  }

  /** The switch that a vif is a port of, by what its directory says. */
  switchOf(device: NetbackDevice): string {
    const { bridge } = device.configuration;
    const isChoice = bridge !== LIBXL_DEFAULT_BRIDGE || this.#switches.has(LIBXL_DEFAULT_BRIDGE);
    return bridge !== '' && isChoice ? bridge : DEFAULT_SWITCH;
  }

  /** Calls `listener` when a port goes for another reason than its owner's wish. */
  onRemoved(listener: (id: string, port: string) => void): () => void {
    this.#removed.add(listener);
    return () => this.#removed.delete(listener);
  }

  /** @throws AlreadyExistsError SWITCH_EXISTS. */
  async create(
    id: string,
    spec: SwitchRecord['spec'],
    labels: SwitchRecord['labels'],
  ): Promise<JoinedSwitch> {
    if (this.#switches.has(id)) {
      throw new AlreadyExistsError('SWITCH_EXISTS', `switches/${id} exists already.`);
    }
    const record = { uid: randomUUID(), labels, spec };
    const made = this.#build(id, record);
    try {
      await this.#store.writeSwitch(id, record);
    } catch (error) {
      this.#switches.delete(id);
      throw error;
    }
    // A vif of libxl's may have meant this one all along.
    const { netback } = this.#options;
    for (const device of netback.list()) {
      // Who watches the vif is told of it, and its port moves with that.
      if (device.configuration.bridge === id) netback.touch(device);
    }
    return made;
  }

  /** @throws NotFoundError; FailedPreconditionError SWITCH_IS_DEFAULT, SWITCH_IN_USE. */
  async delete(id: string): Promise<void> {
    const found = this.#own(id);
    if (id === DEFAULT_SWITCH) {
      const text = 'The default switch is always there.';
      throw new FailedPreconditionError('SWITCH_IS_DEFAULT', text);
    }
    const users = [...found.ports.values()].filter(({ mirror }) => mirror === undefined);
    if (users.length > 0) {
      const names = users.map((port) => port.device).join(', ');
      throw new FailedPreconditionError('SWITCH_IN_USE', `switches/${id} has ports: ${names}.`);
    }
    await this.#store.removeSwitch(id);
    this.#switches.delete(id);
    await this.#close(found);
  }

  /**
   * Opens a device and plugs it in; an empty `portId` is the device's own name. An uplink is given a
   * moment to connect, so that whoever asked for it sees whether it does.
   */
  async createPort(id: string, portId: string, record: PortRecord): Promise<JoinedPort> {
    const found = this.#own(id);
    if (portId !== '') this.#checkFree(found, portId);
    this.#checkUnused(record.device);
    const joined = await this.#open(found, portId, record);
    try {
      await this.#store.writePort(id, joined.id, { ...record, device: named(record, joined) });
    } catch (error) {
      await this.#unplug(found, joined.id);
      throw error;
    }
    await connected(joined);
    return joined;
  }

  /** @throws NotFoundError PORT_NOT_FOUND; FailedPreconditionError PORT_NOT_OURS. */
  async updatePort(id: string, portId: string, policy: string): Promise<JoinedPort> {
    const found = this.#own(id);
    const joined = this.#created(found, portId);
    const records = await this.#store.readPorts(id);
    const record = records.get(portId);
    if (record !== undefined) await this.#store.writePort(id, portId, { ...record, policy });
    this.#setPolicy(joined, policy);
    return joined;
  }

  /** @throws NotFoundError PORT_NOT_FOUND; FailedPreconditionError PORT_NOT_OURS. */
  async deletePort(id: string, portId: string): Promise<void> {
    const found = this.#own(id);
    this.#created(found, portId);
    await this.#store.removePort(id, portId);
    await this.#unplug(found, portId);
  }

  /**
   * Plugs a client in until `unplugClient`. One that shall be a mirror hears ports that are there.
   * @throws AlreadyExistsError PORT_EXISTS; NotFoundError PORT_NOT_FOUND; FailedPreconditionError
   *   PORT_IS_MIRROR; ResourceExhaustedError TOO_MANY_MIRRORS.
   */
  plugClient(id: string, portId: string, network: Network, how: PortSetting): JoinedPort {
    const found = this.#own(id);
    this.#checkFree(found, portId);
    if (how.mirror !== undefined) this.#checkHeard(found, how.mirror);
    const { mac } = network;
    const device = `clients/${portId}`;
    // Who has the name under the next daemon may be somebody else.
    const name = { id: portId, kind: 'client', device, mac, countersKey: undefined } as const;
    return this.#plug(found, name, network, how);
  }

  unplugClient(id: string, portId: string): void {
    const found = this.#switches.get(id);
    const joined = found?.ports.get(portId);
    if (joined?.kind !== 'client') return;
    if (found !== undefined) this.#pull(found, portId);
  }

  #own(id: string): OwnSwitch {
    const found = this.#switches.get(id);
    if (found !== undefined) return found;
    throw new NotFoundError('SWITCH_NOT_FOUND', `There is no switch switches/${id}.`);
  }

  #created(found: OwnSwitch, portId: string): JoinedPort {
    const joined = found.ports.get(portId);
    if (joined === undefined) throw portNotFound(found.id, portId);
    if (joined.kind === 'tap' || joined.kind === 'netfront') return joined;
    const text = `The port ${portId} is that of ${joined.device}: change or remove that.`;
    throw new FailedPreconditionError('PORT_NOT_OURS', text);
  }

  /**
   * What is plugged in already cannot be opened a second time. Of a TAP the kernel sees to that, but
   * not to a word about where it is.
   */
  #checkUnused(device: PortDevice): void {
    const name = deviceName(device);
    if (device.kind === 'netfront' && this.#opening.has(name))
      throw deviceBusy(device, `${name} is being plugged in already.`);
    for (const { id, ports } of this.#switches.values()) {
      for (const port of ports.values()) {
        if (port.kind !== device.kind || port.device !== name) continue;
        throw deviceBusy(device, `${name} is the port ${port.id} of switches/${id} already.`);
      }
    }
  }

  #checkHeard(found: OwnSwitch, { destinations, sources }: MirrorRecord): void {
    for (const portId of [...sources, ...destinations]) {
      const heard = found.ports.get(portId);
      if (heard === undefined) throw portNotFound(found.id, portId);
      if (heard.mirror === undefined) continue;
      const text = `The port ${portId} is a mirror: name the ports that it hears.`;
      throw new FailedPreconditionError('PORT_IS_MIRROR', text);
    }
  }

  #checkFree(found: OwnSwitch, portId: string): void {
    if (!found.ports.has(portId)) return;
    const text = `switches/${found.id} has a port ${portId} already.`;
    throw new AlreadyExistsError('PORT_EXISTS', text);
  }

  #build(id: string, record: SwitchRecord): OwnSwitch {
    const { ageingSeconds, entriesPerPort, hub } = record.spec;
    const made: OwnSwitch = {
      id,
      record,
      switch: new Switch(this.#options.xen.memory, {
        ageingSeconds,
        entriesPerPort,
        hub,
        onPortFault: (port, error) =>
          this.#options.logger.error({ switch: id, port: port.name, error }, 'a port failed'),
      }),
      ports: new Map(),
      closers: new Map(),
      mirrors: [],
    };
    this.#switches.set(id, made);
    return made;
  }

  async #open(found: OwnSwitch, portId: string, record: PortRecord): Promise<JoinedPort> {
    const { logger, xen } = this.#options;
    const name = deviceName(record.device);
    this.#opening.add(name);
    const opened: PortNetwork = await openPortDevice(xen, record.device, logger).finally(() =>
      this.#opening.delete(name),
    );
    const id = portId === '' ? opened.name : portId;
    try {
      this.#checkFree(found, id);
      const device = opened.device;
      const joined = this.#plug(
        found,
        {
          id,
          kind: record.device.kind,
          device,
          mac: opened.mac,
          countersKey: `${found.id}/${id}`,
        },
        opened.network,
        {
          policy: record.policy,
          mirror: record.mirror,
          isConnected: opened.isConnected,
        },
      );
      found.closers.set(id, opened.close);
      return joined;
    } catch (error) {
      await opened.close();
      throw error;
    }
  }

  #plug(found: OwnSwitch, name: PortName, network: Network, how: PortSetting): JoinedPort {
    const policy = this.#options.policyOf(how.policy);
    if (policy === undefined) {
      // Nothing is safer than a port that nobody understands.
      const text = `The policy of the port ${name.id} is not to be understood.`;
      throw new FailedPreconditionError('PORT_POLICY_INVALID', text);
    }
    const station = name.mac === '' ? policy : { ...policy, mac: name.mac };
    const port = found.switch.plug(name.id, network, station);
    const { countersKey } = name;
    if (countersKey !== undefined) {
      this.#options.counters?.restorePort({ key: countersKey, metrics: port.metrics });
    }
    const joined = { ...name, network, port, ...how };
    found.ports.set(name.id, joined);
    try {
      this.#aimMirrors(found);
    } catch (error) {
      this.#pull(found, name.id);
      throw error;
    }
    return joined;
  }

  /** Has a policy hold from now on; false when it is not to be understood. */
  #setPolicy(joined: JoinedPort, text: string): boolean {
    const policy = this.#options.policyOf(text);
    if (policy === undefined) return false;
    joined.port.policy = joined.mac === '' ? policy : { ...policy, mac: joined.mac };
    joined.policy = text;
    return true;
  }

  #pull(found: OwnSwitch, portId: string): void {
    found.ports.get(portId)?.port.unplug();
    found.ports.delete(portId);
    this.#aimMirrors(found);
  }

  /** Mirrors name ports that may come and go: after each change they are aimed anew. */
  #aimMirrors(found: OwnSwitch): void {
    for (const mirror of found.mirrors.splice(0)) mirror.end();
    const portsOf = (ids: readonly string[]) =>
      ids.flatMap((id) => found.ports.get(id)?.port ?? []);
    for (const { mirror, port } of found.ports.values()) {
      if (mirror === undefined) continue;
      const { destinations, sources, vlans } = mirror;
      const ingress = portsOf(sources);
      const egress = portsOf(destinations);
      // One whose ports are all away is not one of all ports.
      const isAway =
        sources.length + destinations.length > 0 && ingress.length + egress.length === 0;
      if (!isAway) found.mirrors.push(found.switch.mirror({ to: port, ingress, egress, vlans }));
    }
  }

  #countingPorts(): CountingPort[] {
    return [...this.#switches.values()].flatMap(({ ports }) =>
      [...ports.values()].flatMap(({ countersKey: key, port: { metrics } }) =>
        key === undefined ? [] : { key, metrics },
      ),
    );
  }

  async #unplug(found: OwnSwitch, portId: string): Promise<void> {
    this.#pull(found, portId);
    const close = found.closers.get(portId);
    found.closers.delete(portId);
    await close?.();
  }

  async #close(found: OwnSwitch): Promise<void> {
    for (const joined of [...found.ports.values()]) {
      await this.#unplug(found, joined.id);
      if (joined.kind !== 'client') continue;
      for (const listener of this.#removed) listener(found.id, joined.id);
    }
    found.switch.close();
  }

  /** Puts a vif where its directory says, with the policy that is there. */
  #plugVif(device: NetbackDevice): void {
    const id = this.switchOf(device);
    const { policy } = device.configuration;
    const old = this.#vifs.get(device);
    const portId = portOf(device);
    if (old?.id === id) {
      const joined = old.ports.get(portId);
      if (joined === undefined || joined.policy === policy) return;
      if (this.#setPolicy(joined, policy)) return;
    }
    this.#unplugVif(device);
    const found = this.#switches.get(id) ?? this.#build(id, newRecord());
    try {
      const { mac } = device.configuration;
      const countersKey = `${id}/${portId} ${device.uid}`;
      const name = { id: portId, kind: 'vif', device: device.name, mac, countersKey } as const;
      this.#plug(found, name, device, {
        policy,
        mirror: undefined,
        isConnected: () => device.status.phase === 'connected',
      });
      this.#vifs.set(device, found);
    } catch (error) {
      this.#options.logger.error({ vif: device.name, error }, 'could not plug in a vif');
    }
  }

  #unplugVif(device: NetbackDevice): void {
    const found = this.#vifs.get(device);
    if (found === undefined) return;
    this.#vifs.delete(device);
    this.#pull(found, portOf(device));
  }
}

function portNotFound(id: string, portId: string): NotFoundError {
  return new NotFoundError('PORT_NOT_FOUND', `switches/${id} has no port ${portId}.`);
}

async function connected({ isConnected }: JoinedPort): Promise<void> {
  const untilMs = performance.now() + CONNECT_WAIT_MS;
  while (!isConnected() && performance.now() < untilMs) await sleep(CONNECT_POLL_MS);
}

/** The id of a vif's port. */
function portOf({ domid, handle }: NetbackDevice): string {
  return `vif-${domid}.${handle}`;
}

/** The name that the port of a device shows; empty for a TAP that the kernel will name. */
function deviceName(device: PortDevice): string {
  return device.kind === 'tap' ? device.interface : `netfronts/${device.handle}`;
}

function deviceBusy({ kind }: PortDevice, text: string): AlreadyExistsError {
  return new AlreadyExistsError(kind === 'tap' ? 'TAP_BUSY' : 'NETFRONT_BUSY', text);
}

/** A TAP that the kernel named keeps its name. */
function named({ device }: PortRecord, { id }: JoinedPort): PortDevice {
  return device.kind === 'tap' && device.interface === '' ? { ...device, interface: id } : device;
}

/** A switch as IEEE 802.1Q has it where nobody says anything else. */
function newRecord(): SwitchRecord {
  return {
    uid: randomUUID(),
    labels: {},
    spec: { ageingSeconds: 300, entriesPerPort: 1024, hub: false },
  };
}

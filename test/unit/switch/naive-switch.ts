/**
 * A learning switch as one would explain it: Maps, one frame at a time, strings for addresses. It
 * shares nothing with the real one but the rules, which are those of IEEE 802.1Q.
 */
import type { PortPolicy } from '../../../src/switch/port-policy.js';

interface Entry {
  port: number;
  seenTick: number;
}

export interface NaiveOptions {
  readonly ageingTicks: number;
  readonly quota: number;
  readonly hub: boolean;
}

export class NaiveSwitch {
  readonly ports = new Map<number, PortPolicy>();
  readonly entries = new Map<string, Entry>();
  readonly #options: NaiveOptions;

  constructor(options: NaiveOptions) {
    this.#options = options;
  }

  /** Changes a port's policy, or with none, removes the port. */
  set(port: number, policy: PortPolicy | undefined): void {
    const before = this.ports.get(port);
    if (policy === undefined) this.ports.delete(port);
    else this.ports.set(port, policy);
    for (const key of this.entries.keys()) {
      const [vlan = '', address = ''] = key.split(' ');
      if (this.#lockOwner(Number(vlan), address) !== undefined) this.entries.delete(key);
    }
    const vlans = (of: PortPolicy | undefined) => [of?.accessVlan ?? 0, ...(of?.trunkVlans ?? [])];
    if (String(vlans(before)) === String(vlans(policy)) && policy !== undefined) return;
    for (const [key, entry] of this.entries) if (entry.port === port) this.entries.delete(key);
  }

  /** What each port gets of a frame, as [port, frame] pairs. */
  send(port: number, frame: Buffer, tick: number): [number, Buffer][] {
    const policy = this.ports.get(port) as PortPolicy;
    const opened = open(policy, frame);
    if (opened === undefined) return [];
    const { vlan, bare, priority } = opened;
    const source = bare.toString('hex', 6, 12);
    const destination = bare.toString('hex', 0, 6);
    if (policy.lockMac === true && source !== policy.mac?.replaceAll(':', '')) return [];
    if (!this.#options.hub) this.#learn(port, vlan, source, tick);
    const target = this.#options.hub ? undefined : this.#find(vlan, destination, tick);
    const candidates = target === undefined ? [...this.ports.keys()] : [target];
    const out: [number, Buffer][] = [];
    for (const other of candidates) {
      const otherPolicy = this.ports.get(other);
      if (other === port || otherPolicy === undefined) continue;
      if (policy.isolated === true && otherPolicy.isolated === true) continue;
      const closed = close(otherPolicy, vlan, bare, priority);
      if (closed !== undefined) out.push([other, closed]);
    }
    return out;
  }

  #learn(port: number, vlan: number, source: string, tick: number): void {
    if (isGroup(source) || source === '000000000000') return;
    if (this.#lockOwner(vlan, source) !== undefined) return;
    const key = `${vlan} ${source}`;
    const entry = this.entries.get(key);
    if (entry?.port !== port) {
      const held = [...this.entries.values()].filter((other) => other.port === port).length;
      if (held >= this.#options.quota) return;
    }
    this.entries.set(key, { port, seenTick: tick });
  }

  #find(vlan: number, destination: string, tick: number): number | undefined {
    if (isGroup(destination)) return undefined;
    const owner = this.#lockOwner(vlan, destination);
    if (owner !== undefined) return owner;
    const entry = this.entries.get(`${vlan} ${destination}`);
    if (entry === undefined || tick - entry.seenTick >= this.#options.ageingTicks) return undefined;
    return entry.port;
  }

  #lockOwner(vlan: number, address: string): number | undefined {
    for (const [port, { accessVlan = 0, lockMac, mac, trunkVlans = [] }] of this.ports) {
      if (lockMac !== true || mac?.replaceAll(':', '') !== address) continue;
      const vlans = new Set([...trunkVlans, ...(accessVlan !== 0 ? [accessVlan] : [])]);
      if (vlans.size === 0 ? vlan === 0 : vlans.has(vlan)) return port;
    }
    return undefined;
  }
}

function isGroup(address: string): boolean {
  return (Number.parseInt(address.slice(0, 2), 16) & 1) !== 0;
}

interface Opened {
  readonly vlan: number;
  /** Without its VLAN's tag. */
  readonly bare: Buffer;
  readonly priority: number;
}

function open({ accessVlan = 0, trunkVlans = [] }: PortPolicy, frame: Buffer): Opened | undefined {
  if (accessVlan === 0 && trunkVlans.length === 0) return { vlan: 0, bare: frame, priority: 0 };
  const isTagged = frame.readUInt16BE(12) === 0x8100;
  const tag = isTagged ? frame.readUInt16BE(14) : 0;
  const vid = tag % 4096;
  const bare = isTagged ? Buffer.concat([frame.subarray(0, 12), frame.subarray(16)]) : frame;
  if (vid === 0) {
    if (accessVlan === 0 || (isTagged && bare.readUInt16BE(12) === 0x8100)) return undefined;
    return { vlan: accessVlan, bare, priority: tag };
  }
  if (trunkVlans.length === 0) return undefined;
  if (vid !== accessVlan && !trunkVlans.includes(vid)) return undefined;
  return { vlan: vid, bare, priority: tag - vid };
}

function close(
  { accessVlan = 0, trunkVlans = [] }: PortPolicy,
  vlan: number,
  bare: Buffer,
  priority: number,
): Buffer | undefined {
  if (accessVlan === 0 && trunkVlans.length === 0) return vlan === 0 ? bare : undefined;
  if (vlan === 0) return undefined;
  if (vlan === accessVlan) return bare.readUInt16BE(12) === 0x8100 ? undefined : bare;
  if (!trunkVlans.includes(vlan)) return undefined;
  const tag = Buffer.from([0x81, 0, (priority + vlan) >> 8, (priority + vlan) & 0xff]);
  return Buffer.concat([bare.subarray(0, 12), tag, bare.subarray(12)]);
}

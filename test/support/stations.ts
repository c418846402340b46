/**
 * The stations of a network that is made of TAPs: at a bridge of the kernel's, or at a switch of
 * ours. Each network is in a network namespace of its own, and silent of itself.
 */
import { FrameBatch } from '../../src/device/frame-batch.js';
import { TapDevice } from '../../src/device/tap/index.js';
import type { PortPolicy } from '../../src/switch/port-policy.js';
import { Switch } from '../../src/switch/switch.js';
import type { LocalMemory } from '../../src/xen/local-memory.js';
import { NetworkNamespace } from './network-namespaces.js';

const prefix = `xb${process.pid.toString(36)}`;
let taps = 0;

/** In every frame of a test: the kernel has things to say on its interfaces, too. */
export const MAGIC = Buffer.from(`bridge-${process.pid}`);

/** A port, in our words and in those of `bridge`, where DEV is the port's interface. */
export interface PortPlan {
  readonly policy: PortPolicy;
  readonly commands: readonly string[];
}

/** The stations of a network, each behind a port, and what they received of ours. */
export class Stations {
  readonly received: string[][] = [];
  readonly #memory: LocalMemory;
  readonly #space: NetworkNamespace;
  readonly #taps: TapDevice[] = [];
  readonly #ports: TapDevice[] = [];
  #switch: Switch | undefined;

  private constructor(memory: LocalMemory, space: NetworkNamespace) {
    this.#memory = memory;
    this.#space = space;
  }

  /** The bridge filters VLANs where a plan has any. */
  static async atBridge(memory: LocalMemory, plans: readonly PortPlan[]): Promise<Stations> {
    const space = await quietSpace();
    const stations = new Stations(memory, space);
    const filtersVlans = plans.some(({ policy: { accessVlan = 0, trunkVlans = [] } }) => {
      return accessVlan !== 0 || trunkVlans.length > 0;
    });
    const vlans = filtersVlans ? 'vlan_filtering 1 vlan_default_pvid 0' : '';
    const make = `ip link add br0 type bridge mcast_snooping 0 ${vlans}`;
    await space.run('sh', '-ec', `${make}; ip link set br0 up`);
    for (const { commands } of plans) {
      const { name } = await stations.#addTap();
      const join = `ip link set dev ${name} master br0`;
      const rules = commands.map((command) => `bridge ${command.replace('DEV', name)}`);
      await space.run('sh', '-ec', [join, ...rules].join('\n'));
    }
    return stations;
  }

  /** Each station's TAP is tied to a port's TAP by the kernel, which redirects what comes in. */
  static async atSwitch(memory: LocalMemory, plans: readonly PortPlan[]): Promise<Stations> {
    const space = await quietSpace();
    const stations = new Stations(memory, space);
    const device = new Switch(memory);
    stations.#switch = device;
    for (const { policy } of plans) {
      const tap = await stations.#addTap();
      const port = await stations.#openTap();
      stations.#ports.push(port);
      const redirect = (from: string, to: string) => [
        `tc qdisc add dev ${from} clsact`,
        `tc filter add dev ${from} ingress u32 match u32 0 0 action mirred egress redirect dev ${to}`,
      ];
      const both = [...redirect(tap.name, port.name), ...redirect(port.name, tap.name)];
      await space.run('sh', '-ec', both.join('\n'));
      device.plug(port.name, port, policy);
    }
    return stations;
  }

  send(station: number, frames: readonly Buffer[]): void {
    const memory = this.#memory;
    const region = memory.allocate(frames.reduce((sum, data) => sum + data.length, 0));
    const batch = new FrameBatch(memory.bytes, frames.length);
    let { offset } = region;
    for (const data of frames) {
      memory.bytes.set(data, offset);
      batch.add(offset, data.length, 0);
      offset += data.length;
    }
    const sent = this.#taps[station]?.writeBatch(batch);
    region.free();
    if (sent !== frames.length) throw new Error(`Station ${station} could not send.`);
  }

  /** What each station received since the last call. */
  take(): string[][] {
    return this.received.map((frames) => frames.splice(0));
  }

  async end(): Promise<void> {
    this.#switch?.close();
    for (const tap of [...this.#taps, ...this.#ports]) await tap.disconnect();
    await this.#space.remove();
  }

  async #addTap(): Promise<TapDevice> {
    const tap = await this.#openTap();
    const received: string[] = [];
    this.#taps.push(tap);
    this.received.push(received);
    tap.listenBatch((batch) => {
      for (let index = 0; index < batch.count; index += 1) {
        const start = batch.offset(index);
        const data = Buffer.from(batch.bytes.subarray(start, start + batch.length(index)));
        if (data.includes(MAGIC)) received.push(data.toString('hex'));
      }
    });
    return tap;
  }

  async #openTap(): Promise<TapDevice> {
    taps += 1;
    const memory = this.#memory;
    const tap = TapDevice.open({ memory, name: `${prefix}${taps}`, offloads: false, up: false });
    await this.#space.adopt(tap.name);
    return tap;
  }
}

/** A namespace whose interfaces are silent of themselves. */
async function quietSpace(): Promise<NetworkNamespace> {
  const space = await NetworkNamespace.create();
  await space.run('sysctl', '-qw', 'net.ipv6.conf.default.disable_ipv6=1');
  return space;
}

/**
 * The same frames through Linux's bridge and through our switch, both with TAPs for ports: what
 * comes out of every port is compared, frame by frame. Where the two differ on purpose, a table
 * says so, and each of its rows is tested too.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FrameBatch } from '../../src/device/frame-batch.js';
import { TapDevice } from '../../src/device/tap/index.js';
import type { PortPolicy } from '../../src/switch/port-policy.js';
import { Switch } from '../../src/switch/switch.js';
import { LocalMemory } from '../../src/xen/local-memory.js';
import { until } from '../support/machine.js';
import {
  NetworkNamespace,
  removeNamespaces,
  requireNamespaces,
} from '../support/network-namespaces.js';
import { type SeededRandom, seededRandom } from '../support/random.js';
import { BROADCAST, frame, mac } from '../unit/switch/switch-scene.js';

/** In every frame of ours: the kernel has things to say on its interfaces, too. */
const MAGIC = Buffer.from(`bridge-${process.pid}`);
const STEPS = 60;
const LOCKED_MAC = mac(0x77);

const prefix = `xb${process.pid.toString(36)}`;
let taps = 0;
const memory = new LocalMemory(new ArrayBuffer(32 * 1024 * 1024), 0n);

beforeAll(requireNamespaces);
afterAll(async () => {
  await removeNamespaces();
  expect(memory.allocatedBytes).toBe(0);
});

/** A port, in our words and in those of `bridge`, where DEV is the port's interface. */
interface PortPlan {
  readonly policy: PortPolicy;
  readonly commands: readonly string[];
}

const PLAIN: PortPlan = { policy: {}, commands: [] };
const ISOLATED: PortPlan = {
  policy: { isolated: true },
  commands: ['link set dev DEV isolated on'],
};
const LOCKED: PortPlan = {
  policy: { mac: LOCKED_MAC, lockMac: true },
  commands: [
    'link set dev DEV learning off locked on',
    `fdb replace ${LOCKED_MAC} dev DEV master static sticky`,
  ],
};
const access = (vlan: number, isolated = false): PortPlan => ({
  policy: { accessVlan: vlan, isolated },
  commands: [
    `vlan add dev DEV vid ${vlan} pvid untagged`,
    ...(isolated ? ['link set dev DEV isolated on'] : []),
  ],
});
const trunk = (vlans: readonly number[], native = 0): PortPlan => ({
  policy: { accessVlan: native, trunkVlans: vlans },
  commands: [
    ...vlans.map((vlan) => `vlan add dev DEV vid ${vlan}`),
    ...(native === 0 ? [] : [`vlan add dev DEV vid ${native} pvid untagged`]),
  ],
});

/** The stations of a network, each behind a port, and what they received of ours. */
class Stations {
  readonly received: string[][] = [];
  readonly #space: NetworkNamespace;
  readonly #taps: TapDevice[] = [];
  readonly #ports: TapDevice[] = [];
  #switch: Switch | undefined;

  private constructor(space: NetworkNamespace) {
    this.#space = space;
  }

  static async atBridge(plans: readonly PortPlan[], filtersVlans: boolean): Promise<Stations> {
    const space = await quietSpace();
    const stations = new Stations(space);
    const vlans = filtersVlans ? ['vlan_filtering', '1', 'vlan_default_pvid', '0'] : [];
    await space.run('ip', 'link', 'add', 'br0', 'type', 'bridge', 'mcast_snooping', '0', ...vlans);
    await space.run('ip', 'link', 'set', 'br0', 'up');
    for (const { commands } of plans) {
      const { name } = await stations.#addTap();
      await space.run('ip', 'link', 'set', 'dev', name, 'master', 'br0');
      for (const command of commands) {
        await space.run('bridge', ...command.replace('DEV', name).split(' '));
      }
    }
    return stations;
  }

  /** Each station's TAP is tied to a port's TAP by the kernel, which redirects what comes in. */
  static async atSwitch(plans: readonly PortPlan[]): Promise<Stations> {
    const space = await quietSpace();
    const stations = new Stations(space);
    const device = new Switch(memory);
    stations.#switch = device;
    for (const { policy } of plans) {
      const tap = await stations.#addTap();
      const port = await stations.#openTap();
      stations.#ports.push(port);
      for (const [from, to] of [
        [tap, port],
        [port, tap],
      ] as const) {
        await space.run('tc', 'qdisc', 'add', 'dev', from.name, 'clsact');
        const redirect = `filter add dev ${from.name} ingress u32 match u32 0 0`;
        const action = `action mirred egress redirect dev ${to.name}`;
        await space.run('tc', ...`${redirect} ${action}`.split(' '));
      }
      device.plug(port.name, port, policy);
    }
    return stations;
  }

  send(station: number, frames: readonly Buffer[]): void {
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

let made = 0;

/** A frame that no other is equal to. */
function numbered(destination: string, source: string, tags: readonly number[] = []): Buffer {
  made += 1;
  const number = Buffer.alloc(4);
  number.writeUInt32BE(made);
  const payload = Buffer.concat([MAGIC, number, Buffer.alloc(40 + (made % 1000), made)]);
  return frame(destination, source, { payload, tags });
}

/** Both networks with the same ports; the last port's station sees what all others broadcast. */
class Comparison {
  readonly #bridge: Stations;
  readonly #switch: Stations;
  readonly #tags: readonly (readonly number[])[];

  private constructor(bridge: Stations, ours: Stations, tags: readonly (readonly number[])[]) {
    this.#bridge = bridge;
    this.#switch = ours;
    this.#tags = tags;
  }

  static async create(plans: readonly PortPlan[], filtersVlans: boolean): Promise<Comparison> {
    const bridge = await Stations.atBridge(plans, filtersVlans);
    const ours = await Stations.atSwitch(plans);
    // How a broadcast must be tagged to be accepted at a port.
    const tags = plans.map(({ policy: { accessVlan = 0, trunkVlans = [] } }) =>
      accessVlan === 0 ? trunkVlans.slice(0, 1) : [],
    );
    return new Comparison(bridge, ours, tags);
  }

  /** Sends frames from a station on both, and returns what each station received on either. */
  async send(
    station: number,
    frames: readonly Buffer[],
    isDone: (bridge: string[][], ours: string[][]) => boolean,
  ): Promise<{ bridge: string[][]; ours: string[][] }> {
    const source = station === LOCKED_STATION ? LOCKED_MAC : mac(0x100 + station);
    const last = numbered(BROADCAST, source, this.#tags[station]);
    const mark = last.subarray(last.indexOf(MAGIC)).toString('hex');
    const both = [this.#bridge, this.#switch] as const;
    for (const stations of both) stations.send(station, [...frames, last]);
    for (const [index, { received }] of both.entries()) {
      await until(`${index === 0 ? 'the bridge' : 'the switch'} brings the last frame`, () =>
        (received.at(-1) ?? []).some((hex) => hex.endsWith(mark)),
      );
    }
    const deadline = performance.now() + 1000;
    while (!isDone(this.#bridge.received, this.#switch.received) && performance.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    const without = (lists: string[][]) =>
      lists.map((list) => list.filter((hex) => !hex.endsWith(mark)));
    return { bridge: without(this.#bridge.take()), ours: without(this.#switch.take()) };
  }

  async end(): Promise<void> {
    await this.#bridge.end();
    await this.#switch.end();
  }
}

const areEqual = (bridge: string[][], ours: string[][]) =>
  JSON.stringify(bridge) === JSON.stringify(ours);

/** Every station has something but one, which sent it. */
const reachAll = (...both: string[][][]) =>
  both.every((lists) => receivers(lists).length === lists.length - 1);

const receivers = (lists: string[][]) =>
  lists.flatMap((list, station) => (list.length > 0 ? [station] : []));

/** The number of the locked port in the plans that have one. */
const LOCKED_STATION = 4;
const WITHOUT_VLANS = [PLAIN, PLAIN, ISOLATED, ISOLATED, LOCKED, PLAIN];
const WITH_VLANS = [
  access(5),
  access(6),
  access(5, true),
  trunk([5, 6]),
  // No locked port here: an access port in its place whose station has the locked address.
  access(5, true),
  trunk([6, 9], 5),
  trunk([5, 6, 9]),
];

/** Spanning tree's is forwarded, what follows it is not. */
const GROUPS = [
  BROADCAST,
  '01:00:5e:00:00:07',
  '33:33:00:00:00:01',
  '01:80:c2:00:00:00',
  '01:80:c2:00:00:0e',
  '01:80:c2:00:00:10',
];

async function compareTrace(
  comparison: Comparison,
  stations: number,
  seed: number,
  anyTags: (random: SeededRandom) => readonly number[],
): Promise<number> {
  const random = seededRandom(seed);
  let delivered = 0;
  for (let step = 0; step < STEPS; step += 1) {
    const station = random.below(stations);
    const any = () => (random.below(8) === 0 ? LOCKED_MAC : mac(1 + random.below(8)));
    const frames = Array.from({ length: 1 + random.below(8) }, () => {
      const destination = random.below(3) === 0 ? GROUPS[random.below(GROUPS.length)] : any();
      const isOwn = station === LOCKED_STATION && random.below(2) === 0;
      return numbered(destination ?? BROADCAST, isOwn ? LOCKED_MAC : any(), anyTags(random));
    });
    const { bridge, ours } = await comparison.send(station, frames, areEqual);
    expect(ours, `step ${step}, seed ${seed}`).toEqual(bridge);
    delivered += ours.reduce((sum, list) => sum + list.length, 0);
  }
  return delivered;
}

/** Whether this kernel's bridge knows VLANs: some are built without. */
async function bridgeFiltersVlans(): Promise<boolean> {
  const space = await NetworkNamespace.create();
  try {
    await space.run('ip', 'link', 'add', 'br0', 'type', 'bridge', 'vlan_filtering', '1');
    return true;
  } catch {
    return false;
  } finally {
    await space.remove();
  }
}

describe('ports without VLANs, two of them isolated and one locked', () => {
  let comparison: Comparison;
  beforeAll(async () => {
    comparison = await Comparison.create(WITHOUT_VLANS, false);
  });
  afterAll(() => comparison?.end());

  test.each([1, 2, 3, 4])('trace %i comes out the same', async (seed) => {
    const tags = [[], [], [5], [0xe006], [5, 6]];
    const any = (random: SeededRandom) => tags[random.below(tags.length)] ?? [];
    const delivered = await compareTrace(comparison, WITHOUT_VLANS.length - 1, seed, any);
    expect(delivered).toBeGreaterThan(STEPS * 3);
  });

  /** What differs on purpose; stations by number, the sender is 0. */
  test.each([
    {
      what: 'a frame whose source is a group',
      source: '03:00:00:00:00:01',
      bridge: [],
      ours: [1, 2, 3, 4, 5],
      reason: 'The source is wrong, the destination is not: it is forwarded and never learnt.',
    },
    {
      what: 'a frame whose source is nobody',
      source: '00:00:00:00:00:00',
      bridge: [],
      ours: [1, 2, 3, 4, 5],
      reason: 'As above.',
    },
  ])('$what differs: $reason', async ({ bridge, ours, source }) => {
    const received = await comparison.send(0, [numbered(BROADCAST, source)], reachAll);
    expect(receivers(received.bridge)).toEqual(bridge);
    expect(receivers(received.ours)).toEqual(ours);
  });

  test('a pause frame differs: the switch drops it and learns from it, the bridge learns nothing', async () => {
    const source = mac(0x999);
    await comparison.send(0, [numbered('01:80:c2:00:00:01', source)], reachAll);
    const received = await comparison.send(1, [numbered(source, mac(0x998))], reachAll);
    expect(receivers(received.bridge)).toEqual([0, 2, 3, 4, 5]);
    expect(receivers(received.ours)).toEqual([0]);
  });
});

describe('ports with VLANs', async () => {
  const filtersVlans = await bridgeFiltersVlans();
  let comparison: Comparison | undefined;
  beforeAll(async () => {
    if (filtersVlans) comparison = await Comparison.create(WITH_VLANS, true);
  });
  afterAll(() => comparison?.end());

  // Frames with two tags differ on purpose: the switch lets no second tag out as the first.
  test.skipIf(!filtersVlans).each([5, 6, 7, 8])('trace %i comes out the same', async (seed) => {
    const tags = [[], [], [5], [6], [9], [7], [0], [0xe000], [0x6005]];
    const any = (random: SeededRandom) => tags[random.below(tags.length)] ?? [];
    if (comparison === undefined) throw new Error('There is no comparison.');
    const delivered = await compareTrace(comparison, WITH_VLANS.length - 1, seed, any);
    expect(delivered).toBeGreaterThan(STEPS);
  });
});

/**
 * The same frames through Linux's bridge and through our switch, both with TAPs for ports: what
 * comes out of every port is compared, frame by frame, on whatever kernel this runs.
 */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LocalMemory } from '../../src/xen/local-memory.js';
import { BROADCAST, frame, mac } from './ethernet-frames.js';
import { type SeededRandom, seededRandom } from './random.js';
import { MAGIC, type PortPlan, Stations } from './stations.js';

export const STEPS = 60;
const LOCKED_MAC = mac(0x77);
/** Emulation is slow: only what never comes shall fail. */
const ARRIVAL_MS = 30_000;

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

let made = 0;

/** A frame that no other is equal to. */
export function numbered(
  destination: string,
  source: string,
  tags: readonly number[] = [],
): Buffer {
  made += 1;
  const number = Buffer.alloc(4);
  number.writeUInt32BE(made);
  const payload = Buffer.concat([MAGIC, number, Buffer.alloc(40 + (made % 1000), made)]);
  return frame(destination, source, { payload, tags });
}

/** Both networks with the same ports; the last port's station sees what all others broadcast. */
export class Comparison {
  readonly #bridge: Stations;
  readonly #switch: Stations;
  readonly #tags: readonly (readonly number[])[];

  private constructor(bridge: Stations, ours: Stations, tags: readonly (readonly number[])[]) {
    this.#bridge = bridge;
    this.#switch = ours;
    this.#tags = tags;
  }

  static async create(memory: LocalMemory, plans: readonly PortPlan[]): Promise<Comparison> {
    const bridge = await Stations.atBridge(memory, plans);
    const ours = await Stations.atSwitch(memory, plans);
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
      const deadline = performance.now() + ARRIVAL_MS;
      while (!(received.at(-1) ?? []).some((hex) => hex.endsWith(mark))) {
        const who = index === 0 ? 'The bridge' : 'The switch';
        if (performance.now() > deadline) throw new Error(`${who} did not bring the last frame.`);
        await sleep(2);
      }
    }
    const deadline = performance.now() + 1000;
    while (!isDone(this.#bridge.received, this.#switch.received) && performance.now() < deadline) {
      await sleep(1);
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
export const reachAll = (...both: string[][][]) =>
  both.every((lists) => receivers(lists).length === lists.length - 1);

export const receivers = (lists: string[][]) =>
  lists.flatMap((list, station) => (list.length > 0 ? [station] : []));

/** The number of the locked port in the plans that have one. */
const LOCKED_STATION = 4;
export const WITHOUT_VLANS = [PLAIN, PLAIN, ISOLATED, ISOLATED, LOCKED, PLAIN];
export const WITH_VLANS = [
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

/** Sends random frames from random stations; returns how many came out, the same on both. */
export async function compareTrace(
  comparison: Comparison,
  stations: number,
  seed: number,
  anyTags: (random: SeededRandom, station: number) => readonly number[],
): Promise<number> {
  const random = seededRandom(seed);
  let delivered = 0;
  for (let step = 0; step < STEPS; step += 1) {
    const station = random.below(stations);
    const any = () => (random.below(8) === 0 ? LOCKED_MAC : mac(1 + random.below(8)));
    const frames = Array.from({ length: 1 + random.below(8) }, () => {
      const destination = random.below(3) === 0 ? GROUPS[random.below(GROUPS.length)] : any();
      const isOwn = station === LOCKED_STATION && random.below(2) === 0;
      return numbered(
        destination ?? BROADCAST,
        isOwn ? LOCKED_MAC : any(),
        anyTags(random, station),
      );
    });
    const { bridge, ours } = await comparison.send(station, frames, areEqual);
    assert.deepEqual(ours, bridge, `step ${step}, seed ${seed}`);
    delivered += ours.reduce((sum, list) => sum + list.length, 0);
  }
  return delivered;
}

/** The switch against a naive one, over seeded traces: every port gets the same frames in order. */
import { describe, expect, test } from 'vitest';
import type { PortPolicy } from '../../../src/switch/port-policy.js';
import { type SeededRandom, seededRandom } from '../../support/random.js';
import { NaiveSwitch } from './naive-switch.js';
import { BROADCAST, frame, mac, type Station, SwitchScene } from './switch-scene.js';

const STEPS = 400;
const ADDRESSES = 12;
const PORTS_MAX = 7;

describe.each([
  { kind: 'plain ports', policyOf: () => ({}), hub: false },
  { kind: 'ports with policies of all sorts', policyOf: anyPolicy, hub: false },
  { kind: 'a hub of ports with policies of all sorts', policyOf: anyPolicy, hub: true },
])('$kind', ({ hub, policyOf }) => {
  test.each([1, 2, 3, 4, 5, 6, 7, 8])('trace %i', (seed) => {
    const random = seededRandom(seed);
    const quota = 1 + random.below(8);
    const scene = new SwitchScene({ ageingSeconds: 30, entriesPerPort: quota, hub });
    const model = new NaiveSwitch({ ageingTicks: 300, quota, hub });
    const stations = new Map<number, Station>();
    const plug = () => {
      const policy = policyOf(random);
      const station = scene.station(policy);
      stations.set(scene.stations.length - 1, station);
      model.set(scene.stations.length - 1, policy);
    };
    plug();
    plug();
    for (let step = 0; step < STEPS; step += 1) {
      const keys = [...stations.keys()];
      const key = keys[random.below(keys.length)] as number;
      const station = stations.get(key) as Station;
      const dice = random.below(40);
      if (dice === 0 && stations.size < PORTS_MAX) {
        plug();
      } else if (dice === 1 && stations.size > 2) {
        station.port.unplug();
        stations.delete(key);
        model.set(key, undefined);
      } else if (dice === 2) {
        const policy = policyOf(random);
        station.port.policy = policy;
        model.set(key, policy);
      } else {
        scene.nowMs += random.below(5) === 0 ? random.below(20_000) : random.below(300);
        const frames = Array.from({ length: 1 + random.below(12) }, () => anyFrame(random));
        // What comes at once is mostly of one flow.
        const first = frames[0] as Buffer;
        if (random.below(2) === 0) for (const other of frames) first.copy(other, 0, 0, 12);
        const expected = new Map<number, string[]>(keys.map((port) => [port, []]));
        const tick = Math.floor(scene.nowMs / 100);
        for (const data of frames) {
          for (const [to, received] of model.send(key, data, tick)) {
            expected.get(to)?.push(received.toString('hex'));
          }
        }
        station.nic.sends(frames);
        const received = keys.map((port) => {
          const frames = (stations.get(port) as Station).nic.take();
          return [port, frames.map((data) => data.toString('hex'))];
        });
        expect(received, `step ${step}`).toEqual([...expected]);
      }
    }
  });
});

function anyFrame(random: SeededRandom): Buffer {
  const any = () => mac(1 + random.below(ADDRESSES));
  const destination = [BROADCAST, '01:00:5e:00:00:01', any(), any(), any(), any()];
  const source = random.below(30) === 0 ? '01:00:00:00:00:07' : any();
  const tags = [[], [], [], [2], [3], [4], [0xe000], [0x2002], [0, 3], [3, 2]];
  return frame(destination[random.below(destination.length)] as string, source, {
    tags: tags[random.below(tags.length)] as number[],
    payload: Buffer.alloc(46 + random.below(100), random.below(256)),
  });
}

function anyPolicy(random: SeededRandom): PortPolicy {
  const vlans: PortPolicy[] = [
    {},
    {},
    { accessVlan: 2 },
    { accessVlan: 3 },
    { trunkVlans: [2, 3] },
    { accessVlan: 2, trunkVlans: [3] },
    { accessVlan: 4, trunkVlans: [2, 3, 4] },
  ];
  const locks: PortPolicy[] = [
    {},
    {},
    {},
    { lockMac: true, mac: mac(1 + random.below(ADDRESSES)) },
  ];
  return {
    ...vlans[random.below(vlans.length)],
    ...locks[random.below(locks.length)],
    isolated: random.below(3) === 0,
  };
}

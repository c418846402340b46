/**
 * Ports without VLANs of Linux's bridge and of our switch: the same frames come out of both. Where
 * the two differ on purpose, a table says so, and each of its rows is tested too; all differences are
 * listed in src/switch/README.md. Ports with VLANs are compared in the lab, whose kernel's bridge
 * knows them: test/lab/dom0/bridge-vlans.node-test.ts.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { LocalMemory } from '../../src/xen/local-memory.js';
import {
  Comparison,
  compareTrace,
  numbered,
  reachAll,
  receivers,
  STEPS,
  WITHOUT_VLANS,
} from '../support/bridge-comparison.js';
import { BROADCAST, mac } from '../support/ethernet-frames.js';
import { removeNamespaces, requireNamespaces } from '../support/network-namespaces.js';
import type { SeededRandom } from '../support/random.js';

const memory = new LocalMemory(new ArrayBuffer(32 * 1024 * 1024), 0n);

beforeAll(requireNamespaces);
afterAll(async () => {
  await removeNamespaces();
  expect(memory.allocatedBytes).toBe(0);
});

describe('ports without VLANs, two of them isolated and one locked', () => {
  let comparison: Comparison;
  beforeAll(async () => {
    comparison = await Comparison.create(memory, WITHOUT_VLANS);
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

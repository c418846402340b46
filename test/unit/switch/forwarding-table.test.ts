import { describe, expect, test } from 'vitest';
import { ForwardingTable, LearnOutcome, NO_PORT } from '../../../src/switch/forwarding-table.js';
import { seededRandom } from '../../support/random.js';

describe('the forwarding table', () => {
  test.each([1, 2, 3, 4])(
    'agrees with a Map over trace %i of learning, removal and growth',
    (seed) => {
      const random = seededRandom(seed);
      const table = new ForwardingTable(1_000, 100);
      const map = new Map<string, { port: number; tick: number }>();
      let ports = 2;
      let entries = 60;
      table.reserve(entries, ports);
      let tick = 0;
      for (let step = 0; step < 20_000; step += 1) {
        const [vlan, high, low] = [random.below(3), random.below(2), random.below(60) * 0x01000193];
        const key = `${vlan} ${high} ${low | 0}`;
        const known = map.get(key);
        const isOld = known !== undefined && tick - known.tick >= 100;
        const expectedPort = known === undefined || isOld ? NO_PORT : known.port;
        const found = table.lookup(vlan, high, low | 0, tick);
        if (found !== expectedPort) expect(found, `step ${step}`).toBe(expectedPort);
        const dice = random.below(1000);
        if (dice < 300) {
          const port = random.below(ports);
          const outcome = table.learn(vlan, high, low | 0, port, tick);
          if (outcome !== LearnOutcome.crowded) map.set(key, { port, tick });
          if (outcome === LearnOutcome.overQuota) throw new Error('No port is over its quota.');
        } else if (dice < 302) {
          const port = random.below(ports);
          const only = random.below(2) === 0 ? random.below(3) : undefined;
          table.flush(port, only);
          for (const [other, entry] of map) {
            const matches = only === undefined || other.startsWith(`${only} `);
            if (entry.port === port && matches) map.delete(other);
          }
        } else if (dice === 302 && ports < 200) {
          ports += 70;
          entries *= 2;
          table.reserve(entries, ports);
        } else if (dice < 320) {
          tick += random.below(20);
        } else if (dice < 330) {
          table.sweep(random.below(table.slotCount * 2), tick);
        }
      }
      table.sweep(table.slotCount, tick);
      table.sweep(table.slotCount, tick);
      for (const [key, entry] of map) if (tick - entry.tick >= 100) map.delete(key);
      expect(table.size).toBe(map.size);
      const held = Array.from({ length: ports }, (_, port) => table.held(port));
      const expected = Array.from(
        { length: ports },
        (_, port) => [...map.values()].filter((entry) => entry.port === port).length,
      );
      expect(held).toEqual(expected);
    },
  );

  test("has room for everybody's quota once it is reserved", () => {
    const table = new ForwardingTable(1024, 100);
    table.reserve(8 * 1024, 8);
    const random = seededRandom(9);
    let refused = 0;
    for (let index = 0; index < 8 * 1024; index += 1) {
      const outcome = table.learn(0, random.below(0x10000), random.u32() | 0, index % 8, 0);
      if (outcome !== LearnOutcome.learnt) refused += 1;
    }
    expect(refused).toBe(0);
    expect(table.size).toBe(8 * 1024);
    expect(table.learn(0, 1, 1, 3, 0)).toBe(LearnOutcome.overQuota);
  });

  test('sweeps what is too old, a part at a time, and no locked entry', () => {
    const table = new ForwardingTable(1024, 100);
    for (let low = 0; low < 100; low += 1) table.learn(0, 1, low, 0, 0);
    table.lock(0, 2, 7, 1, 0);
    table.sweep(table.slotCount, 99);
    expect(table.size).toBe(101);
    for (let part = 0; part < 11; part += 1) table.sweep(table.slotCount / 10, 100);
    table.sweep(100, 100);
    expect(table.size).toBe(1);
    expect(table.held(0)).toBe(0);
    expect(table.lookup(0, 2, 7, 1_000_000)).toBe(1);
    table.unlockAll();
    expect(table.size).toBe(0);
  });
});

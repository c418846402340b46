import { describe, expect, test } from 'vitest';
import { BROADCAST, drops, frame, mac, type Station, SwitchScene } from './switch-scene.js';

const A = mac(0xa);
const B = mac(0xb);
const C = mac(0xc);

describe('a mirror', () => {
  /** Three stations that know each other, and a fourth port. */
  function scene() {
    const made = new SwitchScene();
    const stations = made.all({}, {}, {}, {}) as [Station, Station, Station, Station];
    const [a, b, c] = stations;
    for (const [station, address] of [
      [a, A],
      [b, B],
      [c, C],
    ] as const) {
      station.nic.sends([frame(BROADCAST, address)]);
    }
    made.receivers();
    return { made, stations };
  }

  test('of ingress gets what a station sends', () => {
    const { made, stations } = scene();
    const [a, b, c, to] = stations;
    made.switch.mirror({ to: to.port, ingress: [a.port] });
    a.nic.sends([frame(B, A), frame(BROADCAST, A)]);
    b.nic.sends([frame(A, B)]);
    c.nic.sends([frame(B, C)]);
    expect(to.nic.take()).toEqual([frame(B, A), frame(BROADCAST, A)]);
    expect(b.nic.take()).toHaveLength(3);
  });

  test('of egress gets what goes to a station', () => {
    const { made, stations } = scene();
    const [a, b, c, to] = stations;
    made.switch.mirror({ to: to.port, egress: [a.port] });
    b.nic.sends([frame(A, B), frame(C, B), frame(BROADCAST, B)]);
    a.nic.sends([frame(B, A)]);
    expect(to.nic.take()).toEqual([frame(A, B), frame(BROADCAST, B)]);
    expect(c.nic.take()).toHaveLength(2);
  });

  test('of both ways gets each frame once', () => {
    const { made, stations } = scene();
    const [a, b, , to] = stations;
    const ports = [a.port, b.port];
    made.switch.mirror({ to: to.port, ingress: ports, egress: ports });
    a.nic.sends([frame(B, A), frame(BROADCAST, A)]);
    b.nic.sends([frame(A, B)]);
    expect(to.nic.take()).toEqual([frame(B, A), frame(BROADCAST, A), frame(A, B)]);
  });

  test('of a VLAN gets its frames as they were received, whatever the port', () => {
    const made = new SwitchScene();
    const [five, , six, to] = made.all(
      { accessVlan: 5 },
      { trunkVlans: [5, 6] },
      { accessVlan: 6 },
      {},
    ) as [Station, Station, Station, Station];
    const trunk = made.stations[1] as Station;
    made.switch.mirror({ to: to.port, vlans: [5] });
    five.nic.sends([frame(BROADCAST, A)]);
    six.nic.sends([frame(BROADCAST, B)]);
    trunk.nic.sends([5, 6].map((vlan) => frame(BROADCAST, C, { tags: [vlan] })));
    expect(to.nic.take()).toEqual([frame(BROADCAST, A), frame(BROADCAST, C, { tags: [5] })]);
  });

  test('sees what a policy drops', () => {
    const { made, stations } = scene();
    const [a, b, , to] = stations;
    a.port.policy = { mac: A, lockMac: true };
    made.switch.mirror({ to: to.port, ingress: [a.port] });
    a.nic.sends([frame(B, C)]);
    expect(to.nic.take()).toEqual([frame(B, C)]);
    expect(b.nic.take()).toEqual([]);
  });

  test('port gets nothing else, and its station sends nothing and is never learnt', () => {
    const { made, stations } = scene();
    const [a, b, , to] = stations;
    to.nic.sends([frame(BROADCAST, mac(0xd))]);
    made.receivers();
    made.switch.mirror({ to: to.port, ingress: [b.port] });
    a.nic.sends([frame(BROADCAST, A), frame(mac(0xd), A)]);
    to.nic.sends([frame(BROADCAST, mac(0xd))]);
    expect(to.nic.take()).toEqual([]);
    expect(a.nic.take()).toEqual([]);
    expect(drops(to.port, 'MIRROR_PORT')).toBe(1);
    expect(made.switch.forwardingEntries().map((entry) => entry.mac)).toEqual([A, B, C]);
  });

  test('ends when it is told to, or with its port, which is a port like others then', () => {
    const { made, stations } = scene();
    const [a, b, c, to] = stations;
    const mirror = made.switch.mirror({ to: to.port, ingress: [a.port] });
    mirror.end();
    mirror.end();
    a.nic.sends([frame(B, A), frame(BROADCAST, A)]);
    expect(to.nic.take()).toEqual([frame(BROADCAST, A)]);
    made.switch.mirror({ to: to.port, ingress: [a.port] });
    to.port.unplug();
    a.nic.sends([frame(B, A)]);
    expect(to.nic.take()).toEqual([]);
    expect(b.nic.take()).toHaveLength(3);
    expect(c.nic.take()).toHaveLength(1);
    expect(() => made.switch.mirror({ to: to.port })).toThrow('no port of this switch');
  });

  test('that throws costs nobody anything', () => {
    const { made, stations } = scene();
    const [a, b, , to] = stations;
    made.switch.mirror({ to: to.port });
    to.nic.onWrite = () => {
      throw new Error('broken');
    };
    a.nic.sends([frame(B, A)]);
    expect(b.nic.take()).toHaveLength(1);
  });

  test('is one of sixteen at most', () => {
    const { made, stations } = scene();
    const to = stations[3].port;
    const mirrors = Array.from({ length: 16 }, () => made.switch.mirror({ to }));
    expect(() => made.switch.mirror({ to })).toThrow('at most 16 mirror sessions');
    mirrors[3]?.end();
    made.switch.mirror({ to });
    stations[0].nic.sends([frame(B, A)]);
    expect(stations[3].nic.take()).toHaveLength(16);
  });
});

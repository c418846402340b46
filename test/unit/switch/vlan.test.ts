import { describe, expect, test } from 'vitest';
import { CHECKSUM_BLANK, DATA_VALIDATED } from '../../../src/device/frame-batch.js';
import type { PortPolicy } from '../../../src/switch/port-policy.js';
import { BROADCAST, drops, frame, mac, SwitchScene } from './switch-scene.js';

const A = mac(0xa);
const B = mac(0xb);
const ACCESS_5: PortPolicy = { accessVlan: 5 };
const ACCESS_6: PortPolicy = { accessVlan: 6 };
const TRUNK: PortPolicy = { trunkVlans: [5, 6] };
/** Untagged frames belong to VLAN 5. */
const NATIVE_5: PortPolicy = { accessVlan: 5, trunkVlans: [6, 4094] };
const PLAIN: PortPolicy = {};

/** What each port of a list gets of one broadcast from the first. */
function flooded(policies: readonly PortPolicy[], tags: readonly number[]) {
  const scene = new SwitchScene();
  const [first, ...others] = scene.all(...policies);
  first?.nic.sends([frame(BROADCAST, A, { tags })]);
  return others.map(({ nic }) => nic.take());
}

const untagged = [frame(BROADCAST, A)];
const tagged = (...tags: number[]) => [frame(BROADCAST, A, { tags })];

describe('VLANs', () => {
  test('an access port is in one VLAN, untagged both ways', () => {
    const ports = [ACCESS_5, ACCESS_5, ACCESS_6, TRUNK, NATIVE_5, PLAIN];
    expect(flooded(ports, [])).toEqual([untagged, [], tagged(5), untagged, []]);
  });

  test('a priority tag from an access port is no VLAN, and its priority lasts where there are tags', () => {
    const ports = [ACCESS_5, ACCESS_5, TRUNK, NATIVE_5];
    expect(flooded(ports, [0xe000])).toEqual([untagged, tagged(0xe005), untagged]);
  });

  test('a tagged frame from an access port is dropped, also one hidden behind a priority tag', () => {
    const scene = new SwitchScene();
    const [a] = scene.all(ACCESS_5, ACCESS_5, TRUNK, PLAIN);
    a?.nic.sends([5, 6].map((vlan) => frame(BROADCAST, A, { tags: [vlan] })));
    a?.nic.sends([frame(BROADCAST, A, { tags: [0, 6] })]);
    expect(scene.receivers()).toEqual([]);
    expect(a && drops(a.port, 'VLAN_TAGGED')).toBe(3);
    expect(scene.switch.forwardingEntries()).toEqual([]);
  });

  test('a trunk passes the VLANs of its list, tagged', () => {
    const ports = [TRUNK, ACCESS_5, ACCESS_6, TRUNK, NATIVE_5, PLAIN];
    expect(flooded(ports, [0x6005])).toEqual([untagged, [], tagged(0x6005), untagged, []]);
    expect(flooded(ports, [6])).toEqual([[], untagged, tagged(6), tagged(6), []]);
  });

  test('a trunk drops other VLANs, and untagged frames unless it has a native VLAN', () => {
    const scene = new SwitchScene();
    const [trunk, native, a] = scene.all(TRUNK, NATIVE_5, ACCESS_5);
    trunk?.nic.sends([frame(BROADCAST, A), frame(BROADCAST, A, { tags: [0] })]);
    trunk?.nic.sends([7, 4095].map((vlan) => frame(BROADCAST, A, { tags: [vlan] })));
    expect(scene.receivers()).toEqual([]);
    expect(trunk && drops(trunk.port, 'VLAN_UNTAGGED')).toBe(2);
    expect(trunk && drops(trunk.port, 'VLAN_NOT_ALLOWED')).toBe(2);
    native?.nic.sends([frame(BROADCAST, A), frame(BROADCAST, A, { tags: [0x2005] })]);
    expect(trunk?.nic.take()).toEqual([...tagged(5), ...tagged(0x2005)]);
    expect(a?.nic.take()).toEqual([...untagged, ...untagged]);
  });

  test('a second tag never comes out as if it were the first', () => {
    const scene = new SwitchScene();
    const [trunk, a, native, other] = scene.all(TRUNK, ACCESS_5, NATIVE_5, TRUNK);
    trunk?.nic.sends([frame(BROADCAST, A, { tags: [5, 6] })]);
    expect(a?.nic.take()).toEqual([]);
    expect(native?.nic.take()).toEqual([]);
    expect(a && drops(a.port, 'VLAN_TAGGED', 'rx')).toBe(1);
    expect(other?.nic.take()).toEqual(tagged(5, 6));
  });

  test('a service tag is payload', () => {
    const scene = new SwitchScene();
    const service = frame(BROADCAST, A, { type: 0x88a8 });
    const [a, b, trunk] = scene.all(ACCESS_5, ACCESS_5, TRUNK);
    a?.nic.sends([service]);
    expect(b?.nic.take()).toEqual([service]);
    expect(trunk?.nic.take()[0]?.readUInt16BE(16)).toBe(0x88a8);
  });

  test('ports without VLANs let tags pass untouched, and are a domain of their own', () => {
    const ports = [PLAIN, PLAIN, ACCESS_5, TRUNK];
    expect(flooded(ports, [5])).toEqual([tagged(5), [], []]);
    expect(flooded(ports, [])).toEqual([untagged, [], []]);
  });

  test('the same address in two VLANs is two stations', () => {
    const scene = new SwitchScene();
    const [a5, b5, a6, b6] = scene.all(ACCESS_5, ACCESS_5, ACCESS_6, ACCESS_6, TRUNK);
    a5?.nic.sends([frame(BROADCAST, A)]);
    a6?.nic.sends([frame(BROADCAST, A)]);
    scene.receivers();
    b5?.nic.sends([frame(A, B)]);
    expect(scene.receivers()).toEqual([0]);
    b6?.nic.sends([frame(A, B)]);
    expect(scene.receivers()).toEqual([2]);
  });

  test('a frame that ends within its tag is dropped', () => {
    const scene = new SwitchScene();
    const [trunk] = scene.all(TRUNK, TRUNK);
    trunk?.nic.sends([frame(BROADCAST, A, { tags: [5] }).subarray(0, 17)]);
    expect(trunk && drops(trunk.port, 'FRAME_TRUNCATED')).toBe(1);
    trunk?.nic.sends([frame(BROADCAST, A, { tags: [5] }).subarray(0, 18)]);
    expect(scene.receivers()).toEqual([1]);
  });

  test('a frame with no room for a tag goes to those who want none', () => {
    const scene = new SwitchScene();
    const longest = frame(BROADCAST, A, { payload: Buffer.alloc(65535 - 14, 7) });
    const [a, b, trunk] = scene.all(ACCESS_5, ACCESS_5, TRUNK);
    a?.nic.sends([longest]);
    expect(b?.nic.take()).toEqual([longest]);
    expect(trunk?.nic.take()).toEqual([]);
    expect(trunk && drops(trunk.port, 'FRAME_TOO_LONG', 'rx')).toBe(1);
  });

  test('long batches of long frames are rewritten whole and in order', () => {
    const scene = new SwitchScene();
    const [a, trunk, other] = scene.all(ACCESS_5, TRUNK, TRUNK);
    const frames = Array.from({ length: 40 }, (_, index) =>
      frame(BROADCAST, A, { payload: Buffer.alloc(60_000, index) }),
    );
    a?.nic.sends(frames);
    for (const { nic } of [trunk, other].filter((station) => station !== undefined)) {
      const received = nic.take();
      expect(received).toHaveLength(40);
      received.forEach((data, index) => {
        expect(
          data.equals(frame(BROADCAST, A, { tags: [5], payload: Buffer.alloc(60_000, index) })),
        ).toBe(true);
      });
    }
  });

  test('a blank checksum is blank in each form until somebody completes that form', () => {
    const scene = new SwitchScene();
    const [a, trunk, other, b] = scene.all(ACCESS_5, TRUNK, TRUNK, ACCESS_5);
    if (trunk === undefined) throw new Error('There is no trunk.');
    trunk.nic.completesChecksums = true;
    const after = a?.nic.sends([frame(BROADCAST, A)], CHECKSUM_BLANK);
    expect(after).toEqual([CHECKSUM_BLANK]);
    expect(trunk.nic.received[0]?.flags).toBe(DATA_VALIDATED);
    expect(other?.nic.received[0]).toEqual(trunk.nic.received[0]);
    expect(b?.nic.received[0]).toEqual({ data: frame(BROADCAST, A), flags: CHECKSUM_BLANK });
  });

  test('a policy can change in traffic, and what was learnt in VLANs that are left is forgotten', () => {
    const scene = new SwitchScene();
    const [a, b, c] = scene.all(ACCESS_5, ACCESS_5, ACCESS_5);
    if (a === undefined) throw new Error('There is no station a.');
    a.nic.sends([frame(BROADCAST, A)]);
    scene.receivers();
    a.port.policy = ACCESS_6;
    b?.nic.sends([frame(A, B)]);
    expect(scene.receivers()).toEqual([2]);
    expect(() => {
      a.port.policy = { accessVlan: 4095 };
    }).toThrow('A VLAN is a number from 1 to 4094');
    expect(a.port.policy).toBe(ACCESS_6);
    a.port.policy = { ...ACCESS_5, isolated: true };
    c?.nic.sends([frame(A, mac(0xc))]);
    expect(scene.receivers()).toEqual([0, 1]);
  });
});

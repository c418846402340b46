import { describe, expect, test } from 'vitest';
import type { PortPolicy } from '../../../src/switch/port-policy.js';
import { BROADCAST, drops, frame, mac, type Station, SwitchScene } from './switch-scene.js';

const A = mac(0xa);
const B = mac(0xb);
const C = mac(0xc);

/** Sends a frame from a station with a policy; whether another receives it, and why not. */
function passes(policy: PortPolicy, data: Uint8Array): true | string {
  const scene = new SwitchScene();
  const [a, b] = scene.all(policy, {}) as [Station, Station];
  a.nic.sends([data]);
  if (b.nic.take().length === 1) return true;
  return [...a.port.metrics.tx.drops.values()].map(({ cause }) => cause).join();
}

describe('isolation', () => {
  test('isolated ports talk to others and not to each other', () => {
    const scene = new SwitchScene();
    const [a, b, c] = scene.all({ isolated: true }, { isolated: true }, {});
    a?.nic.sends([frame(BROADCAST, A)]);
    expect(scene.receivers()).toEqual([2]);
    b?.nic.sends([frame(A, B)]);
    expect(scene.receivers()).toEqual([]);
    expect(b && drops(b.port, 'ISOLATED')).toBe(1);
    c?.nic.sends([frame(A, C), frame(B, C), frame(BROADCAST, C)]);
    expect(scene.stations.map(({ nic }) => nic.take().length)).toEqual([2, 2, 0]);
  });
});

describe('a locked MAC address', () => {
  const locked = { mac: A, lockMac: true };

  test('is the only source that passes, in ARP as well', () => {
    expect(passes(locked, frame(BROADCAST, A))).toBe(true);
    expect(passes(locked, frame(BROADCAST, B))).toBe('MAC_SPOOFED');
    expect(passes(locked, arp({ sender: [10, 0, 0, 1] }))).toBe(true);
    expect(passes(locked, arp({ sender: [10, 0, 0, 1], senderMac: B }))).toBe('MAC_SPOOFED');
    expect(passes(locked, arp({ sender: [10, 0, 0, 1], senderMac: B, tags: [9] }))).toBe(
      'MAC_SPOOFED',
    );
  });

  test('is known before it is seen, and is never anywhere else', () => {
    const scene = new SwitchScene({ ageingSeconds: 10 });
    const [, b, c] = scene.all(locked, {}, {});
    b?.nic.sends([frame(BROADCAST, A)]);
    scene.receivers();
    scene.nowMs += 60_000;
    c?.nic.sends([frame(A, C)]);
    expect(scene.receivers()).toEqual([0]);
    expect(b?.port.metrics).toMatchObject({ learnt: 0, moved: 0, notLearnt: 1 });
    expect(scene.switch.forwardingEntries()[0]).toMatchObject({ mac: A, locked: true });
  });

  test('is taken from who had learnt it, and is free when the port goes or is unlocked', () => {
    const scene = new SwitchScene();
    const [a, b, c] = scene.all({}, {}, {});
    if (a === undefined) throw new Error('There is no station a.');
    b?.nic.sends([frame(BROADCAST, A)]);
    a.port.policy = locked;
    scene.receivers();
    c?.nic.sends([frame(A, C)]);
    expect(scene.receivers()).toEqual([0]);
    a.port.policy = {};
    b?.nic.sends([frame(BROADCAST, A)]);
    scene.receivers();
    c?.nic.sends([frame(A, C)]);
    expect(scene.receivers()).toEqual([1]);
    a.port.policy = locked;
    a.port.unplug();
    b?.nic.sends([frame(BROADCAST, A)]);
    scene.receivers();
    c?.nic.sends([frame(A, C)]);
    expect(scene.receivers()).toEqual([1]);
  });

  test('does not age when it is seen again and does not use up a quota, in any VLAN of a trunk', () => {
    const scene = new SwitchScene({ entriesPerPort: 1 });
    const vlans = Array.from({ length: 4094 }, (_, index) => index + 1);
    const trunk = scene.station({ ...locked, trunkVlans: vlans });
    const access = scene.station({ accessVlan: 4000 });
    expect(scene.switch.forwardingEntryCount).toBe(4094);
    access.nic.sends([frame(BROADCAST, B)]);
    trunk.nic.take();
    access.nic.sends([frame(A, B)]);
    expect(trunk.nic.take()).toEqual([frame(A, B, { tags: [4000] })]);
    expect(access.port.metrics.learnt).toBe(1);
  });

  test('of two ports with the same one, the first has it until it goes', () => {
    const scene = new SwitchScene();
    const [first, , c] = scene.all(locked, locked, {});
    c?.nic.sends([frame(A, C)]);
    expect(scene.receivers()).toEqual([0]);
    first?.port.unplug();
    c?.nic.sends([frame(A, C)]);
    expect(scene.receivers()).toEqual([1]);
    // One that comes later takes nothing from it, and one that goes without having it neither.
    const late = scene.station(locked);
    c?.nic.sends([frame(A, C)]);
    expect(scene.receivers()).toEqual([1]);
    late.port.unplug();
    c?.nic.sends([frame(A, C)]);
    expect(scene.receivers()).toEqual([1]);
  });

  test("must be given, and be a station's", () => {
    for (const policy of [{ lockMac: true }, { mac: '01:00:00:00:00:00' }, { mac: 'here' }]) {
      expect(() => new SwitchScene().station(policy)).toThrow('MAC address');
    }
  });
});

describe('locked IP addresses', () => {
  const locked: PortPolicy = { mac: A, allowedAddresses: ['10.0.0.1', 'fd00::1'] };
  const spoofed = 'IP_SPOOFED';

  test('are the only sources of IPv4', () => {
    expect(passes(locked, ipv4([10, 0, 0, 1]))).toBe(true);
    expect(passes(locked, ipv4([10, 0, 0, 2]))).toBe(spoofed);
    expect(passes(locked, ipv4([10, 0, 0, 2], { tags: [7] }))).toBe(spoofed);
    expect(passes(locked, ipv4([10, 0, 0, 1], { tags: [7, 8] }))).toBe(true);
    expect(passes(locked, ipv4([10, 0, 0, 2], { tags: [7, 8] }))).toBe(spoofed);
    expect(passes(locked, ipv4([10, 0, 0, 1], { tags: [7, 8, 9] }))).toBe(spoofed);
    expect(passes(locked, ipv4([10, 0, 0, 1]).subarray(0, 33))).toBe(spoofed);
  });

  test('let a station without an address ask for one, and nothing else', () => {
    expect(passes(locked, ipv4([0, 0, 0, 0], { port: 67 }))).toBe(true);
    expect(passes(locked, ipv4([0, 0, 0, 0], { port: 53 }))).toBe(spoofed);
  });

  test('are the only senders of ARP', () => {
    expect(passes(locked, arp({ sender: [10, 0, 0, 1] }))).toBe(true);
    expect(passes(locked, arp({ sender: [0, 0, 0, 0] }))).toBe(true);
    expect(passes(locked, arp({ sender: [10, 0, 0, 2] }))).toBe(spoofed);
    expect(passes(locked, arp({ sender: [10, 0, 0, 2], tags: [5] }))).toBe(spoofed);
    expect(passes(locked, arp({ sender: [10, 0, 0, 1] }).subarray(0, 40))).toBe(spoofed);
  });

  test('are the only sources of IPv6, with the link-local one of the MAC address', () => {
    expect(passes(locked, ipv6('fd000000000000000000000000000001'))).toBe(true);
    expect(passes(locked, ipv6('fd000000000000000000000000000002'))).toBe(spoofed);
    expect(passes(locked, ipv6('fe80000000000000000000fffe00000a'))).toBe(true);
    expect(passes(locked, ipv6('fe80000000000000000000fffe00000b'))).toBe(spoofed);
    expect(passes(locked, ipv6(UNSPECIFIED))).toBe(spoofed);
    const ipv4Only = { mac: A, allowedAddresses: ['10.0.0.1'] };
    expect(passes(ipv4Only, ipv6('fe80000000000000000000fffe00000a'))).toBe(spoofed);
  });

  test('are the only ones that neighbour discovery speaks for', () => {
    const own = 'fd000000000000000000000000000001';
    const other = 'fd000000000000000000000000000002';
    const message = (source: string, type: number, target: string, hopByHop = false) =>
      passes(locked, ipv6(source, { type, target, hopByHop }));
    expect(message(own, 135, other)).toBe(true);
    expect(message(UNSPECIFIED, 135, own)).toBe(true);
    expect(message(UNSPECIFIED, 135, other)).toBe(spoofed);
    expect(message(own, 136, own)).toBe(true);
    expect(message(own, 136, other)).toBe(spoofed);
    expect(message(own, 136, other, true)).toBe(spoofed);
    expect(message(own, 134, own)).toBe(spoofed);
    expect(message(own, 134, own, true)).toBe(spoofed);
    expect(message(own, 137, own)).toBe(spoofed);
    expect(message(UNSPECIFIED, 143, own, true)).toBe(true);
    expect(message(UNSPECIFIED, 133, own)).toBe(true);
    expect(message(own, 128, other)).toBe(true);
  });

  test('say nothing of other protocols', () => {
    expect(passes(locked, frame(BROADCAST, B))).toBe(true);
  });

  test('are written as people write them', () => {
    const allowed = (text: string) => ({ allowedAddresses: [text] });
    const address = '20010db8000000000000000001020304';
    for (const text of ['2001:db8::102:304', '2001:DB8:0:0::0:1.2.3.4']) {
      expect(passes(allowed(text), ipv6(address))).toBe(true);
    }
    expect(passes(allowed('::'), ipv6(address))).toBe(spoofed);
    for (const text of ['10.0.0', '10.0.0.0/8', 'fe80::1%eth0', 'fd00::1/64', 'host', '']) {
      expect(() => passes(allowed(text), ipv6(address))).toThrow('no IPv4 or IPv6 address');
    }
  });
});

describe('a rate', () => {
  test('limits the bytes that a station sends, and nothing that it gets', () => {
    const scene = new SwitchScene();
    const rate = { bytesPerInterval: 1_000_000, intervalUs: 1_000_000 };
    const [a, b] = scene.all({ rate }, {}) as [Station, Station];
    const frames = new Array(1500).fill(frame(BROADCAST, A, { payload: Buffer.alloc(986) }));
    a.nic.sends(frames);
    expect(b.nic.take()).toHaveLength(1000);
    expect(drops(a.port, 'RATE_LIMITED')).toBe(500);
    b.nic.sends(frames);
    expect(a.nic.take()).toHaveLength(1500);
    scene.nowMs += 100;
    a.nic.sends(frames);
    expect(b.nic.take()).toHaveLength(100);
  });
});

const UNSPECIFIED = '0'.repeat(32);

interface ArpPlan {
  readonly sender: readonly number[];
  readonly senderMac?: string;
  readonly tags?: readonly number[];
}

function arp({ sender, senderMac = A, tags = [] }: ArpPlan): Buffer {
  const payload = Buffer.alloc(46);
  payload.set([0, 1, 8, 0, 6, 4, 0, 1]);
  payload.write(senderMac.replaceAll(':', ''), 8, 'hex');
  payload.set(sender, 14);
  return frame(BROADCAST, A, { type: 0x0806, payload, tags });
}

function ipv4(
  source: readonly number[],
  { port = 9, tags = [] }: { readonly port?: number; readonly tags?: readonly number[] } = {},
): Buffer {
  const payload = Buffer.alloc(46);
  payload.set([0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17]);
  payload.set(source, 12);
  payload.set([255, 255, 255, 255], 16);
  payload.writeUInt16BE(port, 22);
  payload.writeUInt16BE(16, 24);
  return frame(BROADCAST, A, { type: 0x0800, payload, tags });
}

interface MessagePlan {
  readonly type: number;
  readonly target: string;
  readonly hopByHop: boolean;
}

/** A UDP datagram, or an ICMPv6 message. */
function ipv6(source: string, message?: MessagePlan): Buffer {
  const header = Buffer.alloc(40);
  header[0] = 0x60;
  header[7] = 255;
  header.write(source, 8, 'hex');
  header.write('ff02000000000000000000000000fb', 24, 'hex');
  const parts: Buffer[] = [];
  if (message === undefined) {
    header[6] = 17;
    const datagram = Buffer.alloc(16);
    datagram.writeUInt16BE(16, 4);
    parts.push(datagram);
  } else {
    header[6] = message.hopByHop ? 0 : 58;
    if (message.hopByHop) parts.push(Buffer.from([58, 0, 5, 2, 0, 0, 1, 0]));
    const body = Buffer.alloc(24);
    body[0] = message.type;
    body.write(message.target, 8, 'hex');
    parts.push(body);
  }
  header.writeUInt16BE(Buffer.concat(parts).length, 4);
  return frame(BROADCAST, A, { type: 0x86dd, payload: Buffer.concat([header, ...parts]) });
}

/**
 * The kernel's own stack at two ports: by our switch with TAPs, and, as the yardstick in the same
 * run, by Linux's bridge with veths. What must work on one must on the other; how fast is printed.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { FrameBatch } from '../../src/device/frame-batch.js';
import { type NetworkStats, WriteOutcome } from '../../src/device/network.js';
import { NetworkBase } from '../../src/device/network-base.js';
import { TapDevice } from '../../src/device/tap/index.js';
import type { PortPolicy } from '../../src/switch/port-policy.js';
import { Switch } from '../../src/switch/switch.js';
import { LocalMemory } from '../../src/xen/local-memory.js';
import {
  NetworkNamespace,
  removeNamespaces,
  requireNamespaces,
} from '../support/network-namespaces.js';
import { serveTransfers, transfer } from '../support/transfers.js';

const prefix = `xw${process.pid.toString(36)}`;
const memory = new LocalMemory(new ArrayBuffer(16 * 1024 * 1024), 0n);
let interfaces = 0;

beforeAll(requireNamespaces);
afterAll(async () => {
  await removeNamespaces();
  expect(memory.allocatedBytes).toBe(0);
});

function nextName(): string {
  interfaces += 1;
  return `${prefix}${interfaces}`;
}

/** Two namespaces that can talk, 10.92.0.1 and fd92::1 to 10.92.0.2 and fd92::2. */
interface Pair {
  readonly left: NetworkNamespace;
  readonly right: NetworkNamespace;
  end(): Promise<void>;
}

async function twoSpaces(): Promise<readonly [NetworkNamespace, NetworkNamespace]> {
  return [await NetworkNamespace.create(), await NetworkNamespace.create()];
}

function addressesOf(index: number): string[] {
  return [`10.92.0.${index + 1}/24`, `fd92::${index + 1}/64`];
}

async function byBridge(mtu: number): Promise<Pair> {
  const middle = await NetworkNamespace.create();
  await middle.run('ip', 'link', 'add', 'br0', 'mtu', String(mtu), 'type', 'bridge');
  await middle.run('ip', 'link', 'set', 'br0', 'up');
  const spaces = await twoSpaces();
  for (const [index, space] of spaces.entries()) {
    const [port, station] = [nextName(), nextName()];
    const link = ['ip', 'link', 'add', port, 'mtu', `${mtu}`, 'type', 'veth', 'peer', station];
    const [ip = '', ...rest] = [...link, 'netns', space.name];
    await middle.run(ip, ...rest);
    await middle.run('ip', 'link', 'set', 'dev', port, 'master', 'br0', 'up');
    await space.run('ip', 'link', 'set', 'dev', station, 'mtu', `${mtu}`, 'up');
    for (const address of addressesOf(index)) {
      const flags = address.includes(':') ? ['nodad'] : [];
      await space.run('ip', 'address', 'add', address, 'dev', station, ...flags);
    }
  }
  const [left, right] = spaces;
  const end = async () => {
    for (const space of [left, right, middle]) await space.remove();
  };
  return { left, right, end };
}

/** A namespace with a TAP that is a port of `device`. */
async function addPort(
  device: Switch,
  space: NetworkNamespace,
  policy: PortPolicy,
  options: { readonly mtu: number; readonly addresses: readonly string[] },
): Promise<TapDevice> {
  const tap = TapDevice.open({ memory, name: nextName(), mtu: options.mtu });
  device.plug(tap.name, tap, policy);
  await space.adopt(tap.name, ...options.addresses);
  return tap;
}

async function bySwitch(
  mtu: number,
  policies: readonly [PortPolicy, PortPolicy] = [{}, {}],
  switches: readonly Switch[] = [new Switch(memory)],
): Promise<Pair> {
  const spaces = await twoSpaces();
  const taps: TapDevice[] = [];
  for (const [index, space] of spaces.entries()) {
    const device = switches[index] ?? switches[0];
    if (device === undefined) throw new Error('There is no switch.');
    const options = { mtu, addresses: addressesOf(index) };
    taps.push(await addPort(device, space, policies[index] ?? {}, options));
  }
  const [left, right] = spaces;
  const end = async () => {
    for (const device of switches) device.close();
    for (const tap of taps) await tap.disconnect();
    for (const space of spaces) await space.remove();
  };
  return { left, right, end };
}

interface Speed {
  readonly tcp: number;
  readonly udp: number;
}

/** Megabits a second that arrive. */
async function measure({ left, right }: Pair): Promise<Speed> {
  await right.start('iperf3', '--server', '--forceflush');
  const run = async (...options: string[]) => {
    const text = await left.run('iperf3', '--client', '10.92.0.2', '--json', ...options);
    const { end } = JSON.parse(text);
    return Math.round((end.sum_received ?? end.sum).bits_per_second / 1e6);
  };
  const tcp = await run('--time', '1');
  return { tcp, udp: await run('--udp', '--bitrate', '300M', '--time', '1') };
}

async function pings(space: NetworkNamespace, host: string, bytes: number): Promise<boolean> {
  const options = ['-c', '1', '-W', '5', '-M', 'do', '-s', String(bytes)];
  return (await space.run('ping', ...options, host)).includes('1 received');
}

describe.each([1500, 9000])('with an MTU of %i', (mtu) => {
  const pairs = new Map<string, Pair>();
  const speeds = new Map<string, Speed>();
  beforeAll(async () => {
    pairs.set('bridge', await byBridge(mtu));
    pairs.set('switch', await bySwitch(mtu));
  });
  afterAll(async () => {
    for (const pair of pairs.values()) await pair.end();
  });

  describe.each(['bridge', 'switch'])('by the %s', (way) => {
    const pair = () => pairs.get(way) as Pair;

    test('packets that fill the MTU arrive, by IPv4 and IPv6, and none that is longer', async () => {
      for (const host of ['10.92.0.2', 'fd92::2']) {
        const headers = host.includes(':') ? 48 : 28;
        expect(await pings(pair().left, host, 56)).toBe(true);
        expect(await pings(pair().left, host, mtu - headers)).toBe(true);
        await expect(pings(pair().left, host, mtu - headers + 1)).rejects.toThrow();
      }
    });

    test('neighbours find each other by ARP and by neighbour discovery', async () => {
      for (const [space, other] of [
        [pair().left, '2'],
        [pair().right, '1'],
      ] as const) {
        await space.run('ip', 'neigh', 'flush', 'all');
        expect(await pings(space, `10.92.0.${other}`, 56)).toBe(true);
        expect(await pings(space, `fd92::${other}`, 56)).toBe(true);
        const found = await space.run('ip', 'neigh', 'show');
        expect(found).toMatch(new RegExp(`10\\.92\\.0\\.${other} dev \\S+ lladdr `));
        expect(found).toMatch(new RegExp(`fd92::${other} dev \\S+ lladdr `));
      }
    });

    test('TCP arrives as it was sent', async () => {
      await serveTransfers(pair().right);
      for (const host of ['10.92.0.2', 'fd92::2']) {
        const { received, sent } = await transfer(pair().left, host, 4 * 1024 * 1024);
        expect(received).toBe(sent);
      }
    });

    test('iperf3 moves data by TCP and UDP', async () => {
      const speed = await measure(pair());
      speeds.set(way, speed);
      expect(speed.tcp).toBeGreaterThan(0);
      expect(speed.udp).toBeGreaterThan(0);
      for (const space of [pair().left, pair().right]) {
        expect(await space.counter('Tcp', 'InCsumErrors')).toBe(0);
        expect(await space.counter('Udp', 'InCsumErrors')).toBe(0);
      }
      const bridge = speeds.get('bridge');
      if (way !== 'switch' || bridge === undefined) return;
      const row = (kind: keyof Speed) =>
        `${kind} ${speed[kind]} of ${bridge[kind]} Mbit/s (${(speed[kind] / bridge[kind]).toFixed(2)})`;
      console.log(
        `MTU ${mtu}, switch with TAPs of bridge with veths: ${row('tcp')}, ${row('udp')}`,
      );
    });
  });
});

/** A cable between two switches: what goes in at one end comes out at the other. */
class CableEnd extends NetworkBase {
  readonly mac = '02:00:00:00:00:00';
  readonly mtu = 65521;
  readonly stats: NetworkStats = { rxBytes: 0n, rxPackets: 0n, txBytes: 0n, txPackets: 0n };
  other: CableEnd | undefined;

  writeBatch(batch: FrameBatch, outcomes?: Uint8Array): number {
    void this.other?.deliver(batch);
    outcomes?.fill(WriteOutcome.accepted, 0, batch.count);
    return batch.count;
  }

  async writev(): Promise<void> {}
  async disconnect(): Promise<void> {}
  resetStats(): void {}
}

describe('VLANs', () => {
  let pair: Pair;
  let stranger: NetworkNamespace;
  let strangerTap: TapDevice | undefined;
  const switches = [new Switch(memory), new Switch(memory)] as const;

  beforeAll(async () => {
    const ends = [new CableEnd(), new CableEnd()] as const;
    [ends[0].other, ends[1].other] = [ends[1], ends[0]];
    for (const [index, device] of switches.entries()) {
      device.plug('trunk', ends[index] as CableEnd, { trunkVlans: [5, 6] });
    }
    pair = await bySwitch(1500, [{ accessVlan: 5 }, { accessVlan: 5 }], switches);
    stranger = await NetworkNamespace.create();
    const options = { mtu: 1500, addresses: ['10.92.0.3/24'] };
    strangerTap = await addPort(switches[0], stranger, { accessVlan: 6 }, options);
  });
  afterAll(async () => {
    await pair?.end();
    await strangerTap?.disconnect();
    await stranger?.remove();
  });

  test('join stations of two switches over a trunk, with segments and checksums left undone', async () => {
    await serveTransfers(pair.right);
    for (const host of ['10.92.0.2', 'fd92::2']) {
      const { received, sent } = await transfer(pair.left, host, 4 * 1024 * 1024);
      expect(received).toBe(sent);
    }
    for (const space of [pair.left, pair.right]) {
      expect(await space.counter('Tcp', 'InCsumErrors')).toBe(0);
    }
  });

  test('keep stations apart', async () => {
    const options = ['-c', '1', '-W', '1', '10.92.0.2'];
    await expect(stranger.run('ping', ...options)).rejects.toThrow();
    const entries = switches.flatMap((device) => device.forwardingEntries());
    expect(entries.filter(({ vlan }) => vlan === 6).length).toBeGreaterThan(0);
    expect(new Set(entries.map(({ vlan }) => vlan))).toEqual(new Set([5, 6]));
  });
});

/** Whether this kernel has VLAN interfaces: some are built without. */
async function hasVlanInterfaces(): Promise<boolean> {
  const space = await NetworkNamespace.create();
  try {
    await space.run(...VLAN_INTERFACE, 'link', 'lo', 'name', 'lo.5', 'type', 'vlan', 'id', '5');
    return true;
  } catch {
    return false;
  } finally {
    await space.remove();
  }
}

const VLAN_INTERFACE = ['ip', 'link', 'add'] as const;

describe('VLAN interfaces of the kernel', async () => {
  const isPossible = await hasVlanInterfaces();

  test.skipIf(!isPossible)('at a trunk talk to an access port', async () => {
    const pair = await bySwitch(1500, [{ accessVlan: 5 }, { trunkVlans: [5, 6] }]);
    try {
      const link = `xw${process.pid.toString(36)}${interfaces}`;
      const { right } = pair;
      await right.run('ip', 'address', 'flush', 'dev', link);
      await right.run(...VLAN_INTERFACE, 'link', link, 'name', 'vlan5', 'type', 'vlan', 'id', '5');
      await right.run('ip', 'address', 'add', '10.92.0.2/24', 'dev', 'vlan5');
      await right.run('ip', 'link', 'set', 'vlan5', 'up');
      expect(await pings(pair.left, '10.92.0.2', 1472)).toBe(true);
      await serveTransfers(right);
      const { received, sent } = await transfer(pair.left, '10.92.0.2', 1024 * 1024);
      expect(received).toBe(sent);
    } finally {
      await pair.end();
    }
  });
});

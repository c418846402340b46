/**
 * The kernel's own stack at two ports, as a user sets them up: by `xenvifd` with TAPs that
 * `xenvif tap create` made, and, as the yardstick in the same run, by Linux's bridge with veths. What
 * must work on one must on the other; how fast is printed.
 */
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CommandUnderTest } from '../support/command.js';
import { type DaemonUnderTest, startDaemon } from '../support/daemon.js';
import {
  NetworkNamespace,
  removeNamespaces,
  requireNamespaces,
} from '../support/network-namespaces.js';
import { serveTransfers, transfer } from '../support/transfers.js';

const VLAN_STATION = fileURLToPath(new URL('vlan_station.py', import.meta.url));
const prefix = `xw${process.pid.toString(36)}`;
let names = 0;
let daemon: DaemonUnderTest;
const command = new CommandUnderTest(() => daemon.address);

beforeAll(async () => {
  requireNamespaces();
  daemon = await startDaemon({ args: ['--demo-guests', '0'] });
});
afterAll(async () => {
  await removeNamespaces();
  await daemon?.stop();
});

function nextName(): string {
  names += 1;
  return `${prefix}${names}`;
}

/** Runs `xenvif`, which must do what it is told. Returns what it prints. */
async function xenvif(...args: string[]): Promise<string> {
  const { code, stderr, stdout } = await command.run(...args);
  if (code !== 0) throw new Error(`xenvif ${args.join(' ')}: ${stderr}`);
  return stdout;
}

/** A namespace and its interface on the network. */
interface Station {
  readonly space: NetworkNamespace;
  readonly link: string;
}

/** Two namespaces that can talk, 10.92.0.1 and fd92::1 to 10.92.0.2 and fd92::2. */
interface Pair {
  readonly left: Station;
  readonly right: Station;
  end(): Promise<void>;
}

function addressesOf(index: number): string[] {
  return [`10.92.0.${index + 1}/24`, `fd92::${index + 1}/64`];
}

async function byBridge(mtu: number): Promise<Pair> {
  const middle = await NetworkNamespace.create();
  await middle.run('ip', 'link', 'add', 'br0', 'mtu', String(mtu), 'type', 'bridge');
  await middle.run('ip', 'link', 'set', 'br0', 'up');
  const add = async (index: number): Promise<Station> => {
    const space = await NetworkNamespace.create();
    const [port, link] = [nextName(), nextName()];
    const veth = ['link', 'add', port, 'mtu', `${mtu}`, 'type', 'veth', 'peer', link];
    await middle.run('ip', ...veth, 'netns', space.name);
    await middle.run('ip', 'link', 'set', 'dev', port, 'master', 'br0', 'up');
    await space.run('ip', 'link', 'set', 'dev', link, 'mtu', `${mtu}`, 'up');
    for (const address of addressesOf(index)) {
      const flags = address.includes(':') ? ['nodad'] : [];
      await space.run('ip', 'address', 'add', address, 'dev', link, ...flags);
    }
    return { space, link };
  };
  const [left, right] = [await add(0), await add(1)];
  const end = async () => {
    for (const space of [left.space, right.space, middle]) await space.remove();
  };
  return { left, right, end };
}

/** A namespace with a TAP that is a port of a switch of the daemon's. */
async function addPort(
  parent: string,
  addresses: readonly string[],
  options: readonly string[] = [],
): Promise<Station> {
  const space = await NetworkNamespace.create();
  const link = nextName();
  await xenvif('tap', 'create', parent, '--interface', link, ...options);
  await space.adopt(link, ...addresses);
  return { space, link };
}

/** A switch of the daemon's with two namespaces, whose ports have these options. */
async function bySwitch(
  left: readonly string[],
  right: readonly string[] = left,
): Promise<Pair & { readonly name: string }> {
  const name = nextName();
  await xenvif('switch', 'create', name);
  const stations = [
    await addPort(name, addressesOf(0), left),
    await addPort(name, addressesOf(1), right),
  ] as const;
  const end = async () => {
    for (const { space, link } of stations) {
      await xenvif('port', 'rm', `${name}/${link}`);
      await space.remove();
    }
    await xenvif('switch', 'rm', name);
  };
  return { name, left: stations[0], right: stations[1], end };
}

interface Speed {
  readonly tcp: number;
  readonly udp: number;
}

/** Megabits a second that arrive. */
async function measure({ left, right }: Pair): Promise<Speed> {
  await right.space.start('iperf3', '--server', '--forceflush');
  const run = async (...options: string[]) => {
    const text = await left.space.run('iperf3', '--client', '10.92.0.2', '--json', ...options);
    const { end } = JSON.parse(text);
    return Math.round((end.sum_received ?? end.sum).bits_per_second / 1e6);
  };
  const tcp = await run('--time', '1');
  return { tcp, udp: await run('--udp', '--bitrate', '300M', '--time', '1') };
}

async function pings({ space }: Station, host: string, bytes: number): Promise<boolean> {
  const options = ['-c', '1', '-W', '5', '-M', 'do', '-s', String(bytes)];
  return (await space.run('ping', ...options, host)).includes('1 received');
}

/** Sends 4 MiB and returns whether they arrived as they were, by IPv4 and IPv6. */
async function carriesTcp({ left, right }: Pair): Promise<boolean> {
  await serveTransfers(right.space);
  for (const host of ['10.92.0.2', 'fd92::2']) {
    const { received, sent } = await transfer(left.space, host, 4 * 1024 * 1024);
    if (received !== sent) return false;
  }
  return true;
}

/** Pings in a VLAN, with frames that the stations tag themselves. */
async function pingsTagged({ left, right }: Pair, vlan: number): Promise<boolean> {
  const station = (at: Station, ip: string) => [VLAN_STATION, at.link, String(vlan), ip];
  await right.space.start('python3', ...station(right, '10.93.0.2'), 'serve');
  const ping = [...station(left, '10.93.0.1'), 'ping', '10.93.0.2'];
  return (await left.space.run('python3', ...ping)).includes('1 received');
}

describe.each([1500, 9000])('with an MTU of %i', (mtu) => {
  const pairs = new Map<string, Pair>();
  const speeds = new Map<string, Speed>();
  beforeAll(async () => {
    pairs.set('bridge', await byBridge(mtu));
    pairs.set('switch', await bySwitch(['--mtu', String(mtu)]));
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
      for (const [station, other] of [
        [pair().left, '2'],
        [pair().right, '1'],
      ] as const) {
        await station.space.run('ip', 'neigh', 'flush', 'all');
        expect(await pings(station, `10.92.0.${other}`, 56)).toBe(true);
        expect(await pings(station, `fd92::${other}`, 56)).toBe(true);
        const found = await station.space.run('ip', 'neigh', 'show');
        expect(found).toMatch(new RegExp(`10\\.92\\.0\\.${other} dev \\S+ lladdr `));
        expect(found).toMatch(new RegExp(`fd92::${other} dev \\S+ lladdr `));
      }
    });

    test('TCP arrives as it was sent', async () => {
      expect(await carriesTcp(pair())).toBe(true);
    });

    test('frames with tags pass as they are', async () => {
      expect(await pingsTagged(pair(), 5)).toBe(true);
    });

    test('iperf3 moves data by TCP and UDP', async () => {
      const speed = await measure(pair());
      speeds.set(way, speed);
      expect(speed.tcp).toBeGreaterThan(0);
      expect(speed.udp).toBeGreaterThan(0);
      for (const { space } of [pair().left, pair().right]) {
        expect(await space.counter('Tcp', 'InCsumErrors')).toBe(0);
        expect(await space.counter('Udp', 'InCsumErrors')).toBe(0);
      }
      const bridge = speeds.get('bridge');
      if (way !== 'switch' || bridge === undefined) return;
      const row = (kind: keyof Speed) =>
        `${kind} ${speed[kind]} of ${bridge[kind]} Mbit/s (${(speed[kind] / bridge[kind]).toFixed(2)})`;
      console.log(
        `MTU ${mtu}, xenvifd with TAPs of bridge with veths: ${row('tcp')}, ${row('udp')}`,
      );
    });
  });
});

describe('VLANs of the daemon', () => {
  test('join stations of two switches over a trunk, and keep others apart', async () => {
    const [first, second] = [nextName(), nextName()];
    for (const name of [first, second]) await xenvif('switch', 'create', name);
    const access = ['--vlan', '5'];
    const left = await addPort(first, addressesOf(0), access);
    const right = await addPort(second, addressesOf(1), access);
    const stranger = await addPort(first, ['10.92.0.3/24'], ['--vlan', '6']);
    // The cable between the two: a trunk port of each, which a bridge of the kernel's joins.
    const cable = await NetworkNamespace.create();
    await cable.run('ip', 'link', 'add', 'br0', 'type', 'bridge', 'mcast_snooping', '0');
    await cable.run('ip', 'link', 'set', 'br0', 'up');
    for (const name of [first, second]) {
      const link = nextName();
      await xenvif('tap', 'create', name, '--interface', link, '--trunk', '5,6');
      await cable.adopt(link);
      await cable.run('ip', 'link', 'set', link, 'master', 'br0');
    }
    expect(await pings(left, '10.92.0.2', 1472)).toBe(true);
    expect(await carriesTcp({ left, right, end: async () => {} })).toBe(true);
    for (const { space } of [left, right]) {
      expect(await space.counter('Tcp', 'InCsumErrors')).toBe(0);
    }
    const unheard = ['-c', '1', '-W', '1', '10.92.0.2'];
    await expect(stranger.space.run('ping', ...unheard)).rejects.toThrow();
    for (const name of [first, second]) {
      const entries: { vlan: number }[] = JSON.parse(
        await xenvif('switch', 'table', name, '--json'),
      );
      expect(new Set(entries.map(({ vlan }) => vlan))).toEqual(new Set([5, 6]));
    }
    for (const space of [left.space, right.space, stranger.space, cable]) await space.remove();
  });

  test('a station that tags its frames at a trunk is pinged from an access port', async () => {
    const pair = await bySwitch(['--vlan', '5'], ['--trunk', '5,6']);
    const serve = [VLAN_STATION, pair.right.link, '5', '10.92.0.9', 'serve'];
    await pair.right.space.start('python3', ...serve);
    expect(await pings(pair.left, '10.92.0.9', 1400)).toBe(true);
    // In another VLAN it is not there, whoever may tag.
    const elsewhere = await addPort(pair.name, ['10.92.0.4/24'], ['--vlan', '6']);
    const unheard = ['-c', '1', '-W', '1', '10.92.0.9'];
    await expect(elsewhere.space.run('ping', ...unheard)).rejects.toThrow();
    // Nor does an access port take tags.
    await expect(pingsTagged({ ...pair, left: elsewhere }, 5)).rejects.toThrow();
    await xenvif('port', 'rm', `${pair.name}/${elsewhere.link}`);
    await elsewhere.space.remove();
    await pair.end();
  });

  test('stations that both tag their frames meet in one VLAN of two trunks', async () => {
    const pair = await bySwitch(['--trunk', '5,6']);
    expect(await pingsTagged(pair, 6)).toBe(true);
    await pair.end();
    const closed = await bySwitch(['--trunk', '5']);
    await expect(pingsTagged(closed, 6)).rejects.toThrow();
    await closed.end();
  });
});

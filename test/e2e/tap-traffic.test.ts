/**
 * What the kernel's stack says through TAPs: each interface lives in a network namespace of its
 * own, and what the namespaces say to each other goes through this process.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  type FrameBatch,
  gsoTypeOf,
} from '../../src/device/frame-batch.js';
import { TapDevice } from '../../src/device/tap/index.js';
import { locateChecksum } from '../../src/wire/checksum-offload.js';
import { LocalMemory } from '../../src/xen/local-memory.js';
import { dropsOf } from '../support/drops.js';
import { Hub } from '../support/hub.js';
import { until } from '../support/machine.js';
import {
  NetworkNamespace,
  removeNamespaces,
  requireNamespaces,
} from '../support/network-namespaces.js';
import {
  exchangeDatagrams,
  serveDatagrams,
  serveTransfers,
  transfer,
} from '../support/transfers.js';

const ETHERNET_BYTES = 14;
/** For local experiments (IEEE 802). */
const ETHERTYPE_EXPERIMENTAL = 0x88b5;
/** Begins names that no other test and no other run uses: an interface is first the host's. */
const prefix = `xt${process.pid.toString(36)}`;
const memory = new LocalMemory(new ArrayBuffer(8 * 1024 * 1024), 0n);

beforeAll(requireNamespaces);
afterAll(async () => {
  await removeNamespaces();
  expect(memory.allocatedBytes).toBe(0);
});

/** Two namespaces with a TAP each, joined by a hub, and what passed at it. */
class Pair {
  readonly left: NetworkNamespace;
  readonly right: NetworkNamespace;
  readonly leftTap: TapDevice;
  readonly rightTap: TapDevice;
  longestFrame = 0;
  blankFrames = 0;
  largeFrames = 0;

  private constructor(
    spaces: readonly [NetworkNamespace, NetworkNamespace],
    taps: readonly [TapDevice, TapDevice],
  ) {
    [this.left, this.right] = spaces;
    [this.leftTap, this.rightTap] = taps;
    const hub = new Hub();
    for (const tap of taps) {
      // What was sent before both were up is none of the tests' business.
      tap.resetStats();
      hub.plug(tap);
      tap.listenBatch((batch) => this.#look(batch));
    }
  }

  static async create(mtu: number, offloads: readonly [boolean, boolean]): Promise<Pair> {
    const open = (side: string, enabled: boolean) =>
      TapDevice.open({ memory, name: `${prefix}${side}%d`, mtu, offloads: enabled });
    const left = open('l', offloads[0]);
    const right = open('r', offloads[1]);
    const spaces = [await NetworkNamespace.create(), await NetworkNamespace.create()] as const;
    await spaces[0].adopt(left.name, '10.91.0.1/24', 'fd91::1/64');
    await spaces[1].adopt(right.name, '10.91.0.2/24', 'fd91::2/64');
    return new Pair(spaces, [left, right]);
  }

  async end(): Promise<void> {
    await this.leftTap.disconnect();
    await this.rightTap.disconnect();
    await this.left.remove();
    await this.right.remove();
  }

  #look(batch: FrameBatch): void {
    for (let index = 0; index < batch.count; index += 1) {
      this.longestFrame = Math.max(this.longestFrame, batch.length(index));
      if ((batch.flag(index) & CHECKSUM_BLANK) !== 0) this.blankFrames += 1;
      if (gsoTypeOf(batch.flag(index)) !== 0) this.largeFrames += 1;
    }
  }
}

describe.each([
  { mtu: 1500, offloads: [true, true] as const },
  { mtu: 1500, offloads: [false, false] as const },
  { mtu: 1500, offloads: [true, false] as const },
  { mtu: 9000, offloads: [true, true] as const },
  { mtu: 9000, offloads: [false, false] as const },
])('two namespaces with MTU $mtu and offloads $offloads', ({ mtu, offloads }) => {
  let pair: Pair;

  beforeAll(async () => {
    pair = await Pair.create(mtu, offloads);
    await serveTransfers(pair.left);
    await serveTransfers(pair.right);
    await serveDatagrams(pair.right);
  });
  afterAll(() => pair?.end());
  afterEach(async () => {
    for (const space of [pair.left, pair.right]) {
      expect(await space.counter('Tcp', 'InCsumErrors')).toBe(0);
      expect(await space.counter('Udp', 'InCsumErrors')).toBe(0);
      expect(await space.counter('Ip', 'InHdrErrors')).toBe(0);
    }
    for (const tap of [pair.leftTap, pair.rightTap]) expect(dropsOf(tap)).toEqual({});
  });

  test('ping each other, with packets that fill the MTU too', async () => {
    for (const host of ['10.91.0.2', 'fd91::2']) {
      const headers = host.includes(':') ? 48 : 28;
      const whole = ['-M', 'do', '-s', String(mtu - headers)];
      for (const options of [[], whole, [], whole]) {
        // One at a time: after some answers ping waits for the rest no longer than twice as long.
        const answer = await pair.left.run('ping', '-c', '1', '-W', '5', ...options, host);
        expect(answer).toContain('1 received');
      }
    }
  });

  test('carry TCP unharmed both ways, by IPv4 and IPv6', async () => {
    const bytes = 8 * 1024 * 1024;
    for (const [from, host] of [
      [pair.left, '10.91.0.2'],
      [pair.right, '10.91.0.1'],
      [pair.left, 'fd91::2'],
    ] as const) {
      const { sent, received } = await transfer(from, host, bytes);
      expect(received).toBe(sent);
    }
    if (offloads[0]) {
      expect(pair.blankFrames).toBeGreaterThan(0);
      expect(pair.largeFrames).toBeGreaterThan(0);
      expect(pair.longestFrame).toBeGreaterThan(mtu + ETHERNET_BYTES);
    } else {
      expect(pair).toMatchObject({ blankFrames: 0, largeFrames: 0 });
      expect(pair.longestFrame).toBe(mtu + ETHERNET_BYTES);
    }
  });

  test('carry UDP of every length unharmed, in fragments where it must be', async () => {
    const lengths = [0, 1, 2, 100, mtu - 29, mtu - 28, mtu - 27, 20_000, 65_507];
    for (const host of ['10.91.0.2', 'fd91::2']) {
      expect(await exchangeDatagrams(pair.left, host, lengths)).toEqual(lengths);
    }
  });

  test('iperf3 moves data by TCP and UDP', async () => {
    await pair.right.start('iperf3', '--server', '--forceflush');
    const measure = async (...options: string[]) => {
      const fixed = ['--client', '10.91.0.2', '--json'];
      const report = JSON.parse(await pair.left.run('iperf3', ...fixed, ...options));
      return report.end.sum_received ?? report.end.sum;
    };
    const tcp = await measure('--bytes', '64M');
    const udp = await measure('--udp', '--bitrate', '100M', '--bytes', '2M');
    console.log(
      `TAP to TAP, MTU ${mtu}, offloads ${offloads}: ${Math.round(tcp.bits_per_second / 1e6)} Mbit/s`,
    );
    // The receiver stops to count when the sender is done, with some still on its way.
    expect(tcp.bytes).toBeGreaterThan(32 * 1024 * 1024);
    expect(udp.packets).toBeGreaterThan(100);
  });
});

describe('checksums and segments that are left undone', () => {
  let spaces: NetworkNamespace[] = [];
  let taps: TapDevice[] = [];

  beforeEach(() => {
    spaces = [];
    taps = [];
  });
  afterEach(async () => {
    for (const tap of taps) await tap.disconnect();
    for (const space of spaces) await space.remove();
  });

  async function addSpace(): Promise<NetworkNamespace> {
    const space = await NetworkNamespace.create();
    spaces.push(space);
    return space;
  }

  function addTap(side: string, offloads: boolean): TapDevice {
    const tap = TapDevice.open({ memory, name: `${prefix}${side}%d`, offloads });
    taps.push(tap);
    return tap;
  }

  test('are done right by a router that has to send them on, whatever the field held', async () => {
    const [sender, router, receiver] = [await addSpace(), await addSpace(), await addSpace()];
    const [a, b] = [addTap('p', true), addTap('q', true)];
    const [c, d] = [addTap('s', false), addTap('t', false)];
    let blanked = 0;
    a.listenBatch((batch) => {
      // As a peer that leaves zero in the field instead of the pseudo-header's sum.
      for (let index = 0; index < batch.count; index += 1) {
        if ((batch.flag(index) & CHECKSUM_BLANK) === 0) continue;
        const place = locateChecksum(batch.bytes, batch.offset(index), batch.length(index));
        batch.bytes.fill(0, place, place + 2);
        blanked += 1;
      }
      b.writeBatch(batch);
    });
    b.listenBatch((batch) => a.writeBatch(batch));
    let longest = 0;
    c.listenBatch((batch) => {
      for (let index = 0; index < batch.count; index += 1) {
        longest = Math.max(longest, batch.length(index));
        expect(batch.flag(index)).toBe(0);
      }
      d.writeBatch(batch);
    });
    d.listenBatch((batch) => c.writeBatch(batch));
    await sender.adopt(a.name, '10.92.0.1/24', 'fd92::1/64');
    await router.adopt(b.name, '10.92.0.2/24', 'fd92::2/64');
    await router.adopt(c.name, '10.93.0.2/24', 'fd93::2/64');
    await receiver.adopt(d.name, '10.93.0.1/24', 'fd93::1/64');
    await router.run('sh', '-c', 'echo 1 >/proc/sys/net/ipv4/ip_forward');
    await router.run('sh', '-c', 'echo 1 >/proc/sys/net/ipv6/conf/all/forwarding');
    for (const ip of ['10.93.0.0/24', 'fd93::/64']) {
      const via = ip.startsWith('fd') ? 'fd92::2' : '10.92.0.2';
      await sender.run('ip', 'route', 'add', ip, 'via', via);
    }
    for (const ip of ['10.92.0.0/24', 'fd92::/64']) {
      const via = ip.startsWith('fd') ? 'fd93::2' : '10.93.0.2';
      await receiver.run('ip', 'route', 'add', ip, 'via', via);
    }
    await serveTransfers(receiver);
    await serveDatagrams(receiver);
    for (const tap of taps) tap.resetStats();
    for (const host of ['10.93.0.1', 'fd93::1']) {
      const { sent, received } = await transfer(sender, host, 4 * 1024 * 1024);
      expect(received).toBe(sent);
      const lengths = [1, 1000, 1400, 5000];
      expect(await exchangeDatagrams(sender, host, lengths)).toEqual(lengths);
    }
    expect(blanked).toBeGreaterThan(100);
    expect(longest).toBe(1514);
    for (const tap of taps) expect(dropsOf(tap)).toEqual({});
    expect(await receiver.counter('Tcp', 'InCsumErrors')).toBe(0);
    expect(await receiver.counter('Udp', 'InCsumErrors')).toBe(0);
  });

  test('at a place where no batch could say it, are completed when the frame is read', async () => {
    const space = await addSpace();
    const tap = addTap('u', true);
    await space.adopt(tap.name);
    const frames: { bytes: Buffer; flags: number }[] = [];
    tap.listenBatch((batch) => {
      for (let index = 0; index < batch.count; index += 1) {
        const start = batch.offset(index);
        const bytes = Buffer.from(batch.bytes.slice(start, start + batch.length(index)));
        // What the kernel says by itself on a new interface is not of interest.
        if (bytes.readUInt16BE(12) === ETHERTYPE_EXPERIMENTAL)
          frames.push({ bytes, flags: batch.flag(index) });
      }
    });
    // Through a packet socket a program hands the kernel a virtio-net header of its own: start 20,
    // offset 4, over 16-bit words 1, 2, 0 (the field) and 3 to 7.
    const program = `
import socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
s.setsockopt(263, 15, 1)
s.bind(("${tap.name}", 0))
header = struct.pack("=BBHHHH", 1, 0, 0, 0, 20, 4)
s.send(header + b"\\xff" * 6 + b"\\x02" * 6 + b"\\x88\\xb5" + b"\\xee" * 6 + struct.pack(">8H", 1, 2, 0, 3, 4, 5, 6, 7))
`;
    await space.run('python3', '-c', program);
    await until('the frame is read', () => frames.length === 1);
    expect(frames[0]?.flags).toBe(DATA_VALIDATED);
    expect(frames[0]?.bytes.readUInt16BE(24)).toBe(0xffff - 28);
  });
});

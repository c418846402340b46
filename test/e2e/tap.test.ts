/** TAPs against the kernel they belong to: how they come and go, and what they refuse. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  CHECKSUM_BLANK,
  FrameBatch,
  GSO_SIZE_SHIFT,
  GSO_TYPE_SHIFT,
} from '../../src/device/frame-batch.js';
import { WriteOutcome } from '../../src/device/network.js';
import { TapDevice } from '../../src/device/tap/index.js';
import { GSO_TYPE_TCPV4, GSO_TYPE_TCPV6 } from '../../src/ring/netif-extra.js';
import { LocalMemory } from '../../src/xen/local-memory.js';
import { dropsOf } from '../support/drops.js';
import { until } from '../support/machine.js';
import { interfaceExists, requireNamespaces } from '../support/network-namespaces.js';

const ETHERNET_BYTES = 14;
const PROTOCOL_TCP = 6;
const PROTOCOL_UDP = 17;
/** Begins names that no other test and no other run uses. */
const prefix = `xv${process.pid.toString(36)}`;
const memory = new LocalMemory(new ArrayBuffer(4 * 1024 * 1024), 0n);

beforeAll(requireNamespaces);
afterAll(() => expect(memory.allocatedBytes).toBe(0));

describe('opening a TAP', () => {
  test('makes an interface that is up, has the MTU asked for, and goes with its device', async () => {
    const tap = TapDevice.open({ memory, name: `${prefix}a%d`, mtu: 9000 });
    expect(tap).toMatchObject({ name: `${prefix}a0`, mtu: 9000, connected: true });
    expect(tap.mac).toMatch(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/);
    const { stdout } = await promisify(execFile)('ip', ['link', 'show', 'dev', tap.name]);
    expect(stdout).toMatch(/[<,]UP[,>]/);
    expect(stdout).toContain(' mtu 9000 ');
    expect(stdout).toContain(tap.mac);
    await tap.disconnect();
    await tap.disconnect();
    expect(await interfaceExists(tap.name)).toBe(false);
    expect(tap.connected).toBe(false);
    await expect(tap.write(new Uint8Array(60))).rejects.toMatchObject({ code: 'DISCONNECTED' });
  });

  test('twice gives two interfaces, and a default name where none is asked for', async () => {
    const taps = [TapDevice.open({ memory }), TapDevice.open({ memory })];
    const [first, second] = taps.map(({ name }) => name);
    expect(first).toMatch(/^tap\d+$/);
    expect(second).toMatch(/^tap\d+$/);
    expect(second).not.toBe(first);
    for (const tap of taps) await tap.disconnect();
  });

  test.each([
    [{ name: '' }, 'TAP_NAME_INVALID'],
    [{ name: 'a-name-of-16-byt' }, 'TAP_NAME_INVALID'],
    [{ name: 'with/slash' }, 'TAP_NAME_INVALID'],
    [{ name: 'with space' }, 'TAP_NAME_INVALID'],
    [{ name: '..' }, 'TAP_NAME_INVALID'],
    [{ name: 'a%s' }, 'TAP_NAME_INVALID'],
    [{ name: 'a%d%d' }, 'TAP_NAME_INVALID'],
    [{ name: 'lo' }, 'TAP_NAME_TAKEN'],
    [{ mtu: 67 }, 'TAP_MTU_INVALID'],
    [{ mtu: 65_522 }, 'TAP_MTU_INVALID'],
    [{ mtu: 1500.5 }, 'TAP_MTU_INVALID'],
    [{ owner: -1 }, 'TAP_OWNER_INVALID'],
    [{ owner: 0xffff_ffff }, 'TAP_OWNER_INVALID'],
  ])('with %o is refused with %s', (options, code) => {
    expect(() => TapDevice.open({ memory, ...options })).toThrow(expect.objectContaining({ code }));
  });

  test('that somebody uses is refused', async () => {
    const tap = TapDevice.open({ memory, name: `${prefix}b` });
    expect(() => TapDevice.open({ memory, name: tap.name })).toThrow(
      expect.objectContaining({ code: 'TAP_BUSY' }),
    );
    await tap.disconnect();
  });

  test('the longest frame that netif knows has an MTU of 65521', async () => {
    const tap = TapDevice.open({ memory, name: `${prefix}c`, mtu: 65_521 });
    expect(tap.mtu).toBe(65_521);
    await tap.disconnect();
  });

  test('a persistent interface stays, is taken up again, and goes when it is persistent no more', async () => {
    const name = `${prefix}d`;
    await TapDevice.open({ memory, name, mtu: 1400, persist: true }).disconnect();
    expect(await interfaceExists(name)).toBe(true);
    const second = TapDevice.open({ memory, name });
    expect(second.mtu).toBe(1400);
    await second.disconnect();
    expect(await interfaceExists(name)).toBe(true);
    await TapDevice.open({ memory, name, persist: false }).disconnect();
    expect(await interfaceExists(name)).toBe(false);
  });

  test('without privileges is refused, but for the owner of a persistent interface', async () => {
    const user = 65_534;
    const name = `${prefix}e`;
    expect(await openElsewhere({ name }, { user })).toBe('TAP_DENIED');
    await TapDevice.open({ memory, name, persist: true, owner: user }).disconnect();
    expect(await openElsewhere({ name }, { user })).toBe('opened');
    expect(await openElsewhere({ name, mtu: 1280 }, { user })).toBe('TAP_DENIED');
    expect(await openElsewhere({ name }, { user: user - 1 })).toBe('TAP_DENIED');
    await TapDevice.open({ memory, name, persist: false }).disconnect();
  });

  test('without /dev/net/tun says so', async () => {
    expect(await openElsewhere({}, { hideDevice: true })).toBe('TAP_UNAVAILABLE');
  });
});

describe('a TAP that cannot carry a frame', () => {
  test('because its interface is down counts it, and carries the next when it is up', async () => {
    const tap = TapDevice.open({ memory, name: `${prefix}f`, up: false });
    const outcomes = new Uint8Array(1);
    const frame = batchOf(arpFrame(), 0);
    expect(tap.writeBatch(frame.batch, outcomes)).toBe(0);
    expect([...outcomes]).toEqual([WriteOutcome.notConnected]);
    expect(dropsOf(tap)).toEqual({ 'tx-queue INTERFACE_DOWN': 1 });
    await promisify(execFile)('ip', ['link', 'set', tap.name, 'up']);
    expect(tap.writeBatch(frame.batch, outcomes)).toBe(1);
    expect([...outcomes]).toEqual([WriteOutcome.accepted]);
    expect(tap.stats).toMatchObject({ txPackets: 1n, txBytes: 42n });
    tap.resetStats();
    expect(tap.stats.txPackets).toBe(0n);
    frame.free();
    await tap.disconnect();
  });

  test('because its interface was deleted says so once, and uses no processor for it', async () => {
    let lost = 0;
    const onLost = () => {
      lost += 1;
    };
    const tap = TapDevice.open({ memory, name: `${prefix}g`, onLost });
    await promisify(execFile)('ip', ['link', 'delete', tap.name]);
    await until('the device hears of it', () => !tap.connected);
    const before = process.cpuUsage();
    await new Promise((resolve) => setTimeout(resolve, 200));
    const { user, system } = process.cpuUsage(before);
    expect(user + system).toBeLessThan(100_000);
    const frame = batchOf(arpFrame(), 0);
    const outcomes = new Uint8Array(1);
    expect(tap.writeBatch(frame.batch, outcomes)).toBe(0);
    expect([...outcomes]).toEqual([WriteOutcome.notConnected]);
    expect(lost).toBe(1);
    frame.free();
    await tap.disconnect();
  });

  test.each([
    ['a blank checksum in ARP', arpFrame(), CHECKSUM_BLANK, 'CHECKSUM_UNPLACEABLE'],
    [
      'a blank checksum in a cut-off TCP header',
      tcpFrame().slice(0, 50),
      CHECKSUM_BLANK,
      'CHECKSUM_UNPLACEABLE',
    ],
    ['segments of no size', tcpFrame(), GSO_TYPE_TCPV4 << GSO_TYPE_SHIFT, 'GSO_INVALID'],
    [
      'segments of another IP version',
      tcpFrame(),
      (GSO_TYPE_TCPV6 << GSO_TYPE_SHIFT) | (1000 << GSO_SIZE_SHIFT),
      'GSO_INVALID',
    ],
    [
      'segments of UDP',
      tcpFrame(PROTOCOL_UDP),
      (GSO_TYPE_TCPV4 << GSO_TYPE_SHIFT) | (1000 << GSO_SIZE_SHIFT),
      'GSO_INVALID',
    ],
    ['too few bytes', new Uint8Array(13), 0, 'TOO_SHORT'],
  ])('because it has %s drops and counts it', async (_, frame, flags, cause) => {
    const tap = TapDevice.open({ memory, name: `${prefix}h` });
    const staged = batchOf(frame, flags);
    const outcomes = new Uint8Array(1);
    expect(tap.writeBatch(staged.batch, outcomes)).toBe(0);
    expect([...outcomes]).toEqual([WriteOutcome.tooLong]);
    expect(dropsOf(tap)).toEqual({ [`tx-queue ${cause}`]: 1 });
    staged.free();
    await tap.disconnect();
  });
});

/** A frame in local memory, as a batch of one with metadata. */
function batchOf(frame: Uint8Array, flags: number): { batch: FrameBatch; free(): void } {
  const region = memory.allocate(frame.length);
  memory.bytes.set(frame, region.offset);
  const batch = new FrameBatch(memory.bytes, 1);
  batch.add(region.offset, frame.length, flags);
  return { batch, free: () => region.free() };
}

function arpFrame(): Uint8Array {
  const frame = new Uint8Array(42).fill(0xff, 0, 6);
  frame.set([8, 6, 0, 1, 8, 0, 6, 4, 0, 1], 12);
  return frame;
}

/** An IPv4 packet of 100 bytes with a TCP header, or what is one but for its protocol. */
function tcpFrame(protocol = PROTOCOL_TCP): Uint8Array {
  const frame = new Uint8Array(ETHERNET_BYTES + 100);
  frame.set([8, 0, 0x45, 0, 0, 100], 12);
  frame[23] = protocol;
  // The TCP header's length; the UDP datagram's.
  frame[34 + 12] = 0x50;
  frame[34 + 5] = 80;
  return frame;
}

interface Circumstances {
  readonly user?: number;
  readonly hideDevice?: boolean;
}

/** Opens a TAP in another process and closes it; returns "opened" or the error's code. */
async function openElsewhere(
  options: { readonly name?: string; readonly mtu?: number },
  { user, hideDevice }: Circumstances,
): Promise<string> {
  const dist = fileURLToPath(new URL('../../dist/', import.meta.url));
  // Privileges are given up after the modules are loaded, which the user may not be able to read.
  const program = `
    import { TapDevice } from '${dist}device/tap/index.js';
    import { LocalMemory } from '${dist}xen/local-memory.js';
    const memory = new LocalMemory(new ArrayBuffer(1 << 20), 0n);
    if (${user !== undefined}) process.setuid(${user ?? 0});
    try {
      await TapDevice.open({ memory, ...${JSON.stringify(options)} }).disconnect();
      console.log('opened');
    } catch (error) {
      console.log(error.code ?? error);
    }`;
  const node = [process.execPath, '--input-type=module', '--eval', program] as const;
  const hide = [
    'unshare',
    '--mount',
    'sh',
    '-c',
    'mount -t tmpfs none /dev/net && exec "$@"',
    'sh',
  ];
  const [command = '', ...args] = hideDevice === true ? [...hide, ...node] : node;
  const { stdout } = await promisify(execFile)(command, args);
  return stdout.trim();
}

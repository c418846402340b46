import { isIPv4, SocketAddress } from 'node:net';
import { describe, expect, test } from 'vitest';
import { parseIpAddress } from '../../../src/switch/ip-address.js';
import {
  HASH_KEY_BYTES_MAX,
  HASH_TYPE_IPV4,
  HASH_TYPE_IPV4_TCP,
  HASH_TYPE_IPV6,
  HASH_TYPE_IPV6_TCP,
  type NetifHash,
  netifHash,
  ToeplitzKey,
  toeplitzHash,
} from '../../../src/wire/toeplitz.js';
import { seededRandom } from '../../support/random.js';
import {
  buildPacket,
  type PacketPlan,
  randomBytes,
  randomPacket,
  TCP,
  UDP,
} from './packet-builder.js';

/** The key of Microsoft's "Verifying the RSS Hash Calculation". */
const KEY = Buffer.from(
  '6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa',
  'hex',
);
const ALL = HASH_TYPE_IPV4 | HASH_TYPE_IPV4_TCP | HASH_TYPE_IPV6 | HASH_TYPE_IPV6_TCP;

/** Destination and port, source and port, the hash of addresses, and with ports: as published there. */
const VECTORS = [
  ['161.142.100.80', 1766, '66.9.149.187', 2794, 0x323e8fc2, 0x51ccc178],
  ['65.69.140.83', 4739, '199.92.111.2', 14230, 0xd718262a, 0xc626b0ea],
  ['12.22.207.184', 38024, '24.19.198.95', 12898, 0xd2d0a5de, 0x5c2b394a],
  ['209.142.163.6', 2217, '38.27.205.30', 48228, 0x82989176, 0xafc7327f],
  ['202.188.127.2', 1303, '153.39.163.191', 44251, 0x5d1809c5, 0x10e828a2],
  ['3ffe:2501:200:3::1', 1766, '3ffe:2501:200:1fff::7', 2794, 0x2cc18cd5, 0x40207d3d],
  ['ff02::1', 4739, '3ffe:501:8::260:97ff:fe40:efab', 14230, 0x0f0c461c, 0xdde51bbf],
  [
    'fe80::200:f8ff:fe21:67cf',
    38024,
    '3ffe:1900:4545:3:200:f8ff:fe21:67cf',
    44251,
    0x4b61e985,
    0x02d1feef,
  ],
] as const;

/**
 * What `xen_netif_toeplitz_hash` of xen/io/netif.h, compiled, gives for key bytes `i * 37 + 11` and
 * input bytes `i * 91 + 200`: bytes of key, bytes of input, hash.
 */
const COMPILED = [
  [0, 36, 0x00000000],
  [8, 4, 0x1f35b17a],
  [8, 36, 0xaf4ad2f2],
  [16, 36, 0x3f877486],
  [24, 20, 0x4fe94b5f],
  [24, 36, 0x9ca5e605],
  [32, 36, 0xc47df76d],
  [40, 20, 0x4fe94b5f],
  [40, 36, 0x0c261cbe],
] as const;

function parseAddress(text: string): Uint8Array {
  if (isIPv4(text)) return parseIpAddress(text) ?? new Uint8Array(4);
  const { address } = new SocketAddress({ address: text, family: 'ipv6' });
  const [left = '', right = ''] = address.split('::');
  const groups = (half: string) => (half === '' ? [] : half.split(':'));
  const zeros = 8 - groups(left).length - groups(right).length;
  const all = [...groups(left), ...new Array<string>(zeros).fill('0'), ...groups(right)];
  return Uint8Array.from(all.flatMap((group) => [...Buffer.from(group.padStart(4, '0'), 'hex')]));
}

/** Shifts key and input as netif.h describes it: one long register each. */
function shiftedHash(key: Uint8Array, input: Uint8Array): number {
  const keyBits = BigInt(`0x0${Buffer.from(key).toString('hex')}`) << 4096n;
  const width = BigInt(key.length * 8) + 4096n;
  let hash = 0n;
  for (let bit = 0; bit < input.length * 8; bit += 1) {
    const isSet = ((input[bit >> 3] ?? 0) >> (7 - (bit & 7))) & 1;
    if (isSet === 1) hash ^= (keyBits >> (width - 32n - BigInt(bit))) & 0xffffffffn;
  }
  return Number(hash);
}

function hashFrame(plan: PacketPlan, types: number, key: Uint8Array = KEY): NetifHash {
  const { frame } = buildPacket(plan);
  const bytes = new Uint8Array(frame.length + 50).fill(0x77);
  bytes.set(frame, 31);
  const result = { hash: 1, type: 1 };
  netifHash(new ToeplitzKey(key), types, bytes, 31, frame.length, result);
  return result;
}

describe('the Toeplitz hash', () => {
  test.each(VECTORS)('to %s port %i from %s port %i is as Microsoft published it', (...vector) => {
    const [to, toPort, from, fromPort, ofAddresses, withPorts] = vector;
    const ports = [fromPort, toPort] as const;
    const source = parseAddress(from);
    const destination = parseAddress(to);
    const version = source.length === 4 ? 4 : 6;
    const addresses = Uint8Array.from([...source, ...destination]);
    expect(toeplitzHash(KEY, addresses, 0, addresses.length)).toBe(ofAddresses);
    const payload = new Uint8Array(3);
    const plan: PacketPlan = { version, protocol: TCP, payload, ports, source, destination };
    const addressesOnly = version === 4 ? HASH_TYPE_IPV4 : HASH_TYPE_IPV6;
    const tcp = version === 4 ? HASH_TYPE_IPV4_TCP : HASH_TYPE_IPV6_TCP;
    expect(hashFrame(plan, ALL)).toEqual({ hash: withPorts, type: tcp });
    expect(hashFrame(plan, tcp)).toEqual({ hash: withPorts, type: tcp });
    expect(hashFrame(plan, ALL & ~tcp)).toEqual({ hash: ofAddresses, type: addressesOnly });
    const udp = { ...plan, protocol: UDP };
    expect(hashFrame(udp, ALL)).toEqual({ hash: ofAddresses, type: addressesOnly });
    expect(hashFrame(udp, tcp)).toEqual({ hash: 0, type: 0 });
    expect(hashFrame(plan, ALL & ~tcp & ~addressesOnly)).toEqual({ hash: 0, type: 0 });
  });

  test.each(COMPILED)('with a key of %i over %i bytes is that of the C header', (...vector) => {
    const [keyBytes, inputBytes, hash] = vector;
    const key = Uint8Array.from({ length: keyBytes }, (_, index) => index * 37 + 11);
    const input = Uint8Array.from({ length: inputBytes }, (_, index) => index * 91 + 200);
    expect(toeplitzHash(key, input, 0, inputBytes)).toBe(hash);
    expect(new ToeplitzKey(key).part(0, input, 0, inputBytes) >>> 0).toBe(hash);
  });

  test('agrees with shift registers, and its tables with it, 300 seeds', () => {
    for (let seed = 1; seed <= 300; seed += 1) {
      const random = seededRandom(seed);
      const key = randomBytes(random, random.below(HASH_KEY_BYTES_MAX + 1));
      const input = randomBytes(random, random.below(37));
      const hash = toeplitzHash(key, input, 0, input.length);
      expect(hash, `seed ${seed}`).toBe(shiftedHash(key, input));
      const ready = new ToeplitzKey(key);
      const cut = random.below(input.length + 1);
      const inParts =
        ready.part(0, input, 0, cut) ^ ready.part(cut, input, cut, input.length - cut);
      expect(inParts >>> 0, `seed ${seed}`).toBe(hash);
    }
  });

  test('is of the header that is there, with options, routes and tags, 500 seeds', () => {
    for (let seed = 1; seed <= 500; seed += 1) {
      const { plan, source } = randomPacket(seededRandom(seed), { protocol: TCP });
      const ports = Buffer.alloc(4);
      ports.writeUInt16BE(plan.ports?.[0] ?? 0, 0);
      ports.writeUInt16BE(plan.ports?.[1] ?? 0, 2);
      const input = Uint8Array.from([...source, ...(plan.destination ?? []), ...ports]);
      expect(hashFrame(plan, ALL).hash, `seed ${seed}`).toBe(shiftedHash(KEY, input));
    }
  });

  test('of a fragment has no ports', () => {
    const plan = { version: 4, protocol: TCP, payload: new Uint8Array(9) } as const;
    expect(hashFrame({ ...plan, ipv4Fragment: 0x2000 }, ALL).type).toBe(HASH_TYPE_IPV4);
    expect(hashFrame({ ...plan, ipv4Fragment: 0x2000 }, HASH_TYPE_IPV4_TCP).type).toBe(0);
  });

  test('takes no key that is too long', () => {
    expect(() => new ToeplitzKey(new Uint8Array(41))).toThrow('at most 40 bytes');
  });
});

/**
 * The hash with which a guest has its frames spread over queues: Toeplitz as xen/io/netif.h has it
 * (`xen_netif_toeplitz_hash`), over the parts of a packet that the hash types there name.
 */
import { PROTOCOL_TCP } from '@xenvif/client/wire';
import { MisuseError } from '../errors.js';
import { PacketLayout, parseLayout } from './packet-layout.js';

/** `XEN_NETIF_CTRL_HASH_TYPE_*`: bits of a set. An extra has the bit's number, from 0. */
export const HASH_TYPE_IPV4 = 1;
export const HASH_TYPE_IPV4_TCP = 2;
export const HASH_TYPE_IPV6 = 4;
export const HASH_TYPE_IPV6_TCP = 8;
/** Every type there is. */
export const HASH_TYPES = HASH_TYPE_IPV4 | HASH_TYPE_IPV4_TCP | HASH_TYPE_IPV6 | HASH_TYPE_IPV6_TCP;

/** The longest key: more would reach no bit of the longest input. */
export const HASH_KEY_BYTES_MAX = 40;
/** Two IPv6 addresses and two ports. */
const INPUT_BYTES_MAX = 36;
const PORTS_BYTES = 4;

const scratch = new PacketLayout();

/** What a frame was hashed to, in a struct that is used again. */
export interface NetifHash {
  /** 32 bits, without a sign. */
  hash: number;
  /** The one `HASH_TYPE_*` that was used; 0 when none applies. */
  type: number;
}

/**
 * The hash of `bytes[start .. start + length)` under a key of any length, as if zeros followed it.
 * A bit at a time: for tests and for what is rare.
 */
export function toeplitzHash(
  key: Uint8Array,
  bytes: Uint8Array,
  start: number,
  length: number,
): number {
  let hash = 0;
  for (let index = 0; index < length; index += 1) {
    hash ^= hashByte(key, index, bytes[start + index] as number);
  }
  return hash >>> 0;
}

/** What byte `value` at `position` of the input adds to a hash, as a signed number. */
function hashByte(key: Uint8Array, position: number, value: number): number {
  let hash = 0;
  for (let bit = 0; bit < 8; bit += 1) {
    if ((value & (0x80 >> bit)) === 0) continue;
    // The 32 bits of the key from bit `position * 8 + bit` on.
    const word =
      ((key[position] ?? 0) << 24) |
      ((key[position + 1] ?? 0) << 16) |
      ((key[position + 2] ?? 0) << 8) |
      (key[position + 3] ?? 0);
    const following = (key[position + 4] ?? 0) >> (8 - bit);
    hash ^= (word << bit) | following;
  }
  return hash;
}

/** A key made ready: what each byte at each place of the input adds to the hash. */
export class ToeplitzKey {
  readonly #table = new Int32Array(INPUT_BYTES_MAX * 256);

  /** Takes a key of at most `HASH_KEY_BYTES_MAX` bytes; a shorter one is filled up with zeros. */
  constructor(key: Uint8Array) {
    if (key.length > HASH_KEY_BYTES_MAX) {
      throw new MisuseError(`A hash key has at most ${HASH_KEY_BYTES_MAX} bytes.`);
    }
    for (let position = 0; position < INPUT_BYTES_MAX; position += 1) {
      for (let value = 0; value < 256; value += 1) {
        this.#table[position * 256 + value] = hashByte(key, position, value);
      }
    }
  }

  /**
   * What `bytes[start .. start + length)` adds to a hash as its input from byte `position` on. The
   * hash of an input in parts is the exclusive or of what they add, without a sign.
   */
  part(position: number, bytes: Uint8Array, start: number, length: number): number {
    let hash = 0;
    for (let index = 0; index < length; index += 1) {
      const value = bytes[start + index] as number;
      hash ^= this.#table[(position + index) * 256 + value] as number;
    }
    return hash;
  }
}

/**
 * Hashes the frame `bytes[offset .. offset + length)` with the type of the set `types` that covers
 * the most of it: addresses and ports of unfragmented TCP, or else addresses of IP. The destination
 * is the one in the IP header, on a source route too.
 */
export function netifHash(
  key: ToeplitzKey,
  types: number,
  bytes: Uint8Array,
  offset: number,
  length: number,
  result: NetifHash,
): void {
  result.hash = 0;
  result.type = 0;
  if (!parseLayout(bytes, offset, length, scratch)) return;
  const isIpv4 = scratch.ipVersion === 4;
  const addressesType = isIpv4 ? HASH_TYPE_IPV4 : HASH_TYPE_IPV6;
  const tcpType = isIpv4 ? HASH_TYPE_IPV4_TCP : HASH_TYPE_IPV6_TCP;
  const isTcp = scratch.protocol === PROTOCOL_TCP && !scratch.isFragment;
  const withPorts = isTcp && (types & tcpType) !== 0;
  if (!withPorts && (types & addressesType) === 0) return;
  const addresses = scratch.networkOffset + (isIpv4 ? 12 : 8);
  const addressesBytes = isIpv4 ? 8 : 32;
  let hash = key.part(0, bytes, addresses, addressesBytes);
  if (withPorts) hash ^= key.part(addressesBytes, bytes, scratch.transportOffset, PORTS_BYTES);
  result.hash = hash >>> 0;
  result.type = withPorts ? tcpType : addressesType;
}

/**
 * A number for the flow that a frame belongs to, to spread flows over queues: the same for every
 * frame of one direction of a connection, so that none overtakes another. The mixing is
 * MurmurHash3's (Austin Appleby, public domain).
 */
import { PacketLayout, parseLayout } from './packet-layout.js';

const MAC_ADDRESSES_BYTES = 12;
const PORTS_BYTES = 4;

const scratch = new PacketLayout();

/**
 * The hash, 32 bits without a sign, of the frame `bytes[offset .. offset + length)`: over addresses,
 * protocol and ports of TCP and UDP; addresses and protocol of other IP; addresses alone of
 * fragments, the first included, for the others have no ports; MAC addresses of all else.
 */
export function flowHash(bytes: Uint8Array, offset: number, length: number): number {
  if (!parseLayout(bytes, offset, length, scratch)) {
    const present = Math.min(length, MAC_ADDRESSES_BYTES) & ~3;
    return finish(mixRange(0, bytes, offset, present));
  }
  const { networkOffset, ipVersion, isFragment, protocol } = scratch;
  const isIpv4 = ipVersion === 4;
  // Both addresses as the header has them; a final destination elsewhere changes nothing here.
  const addresses = networkOffset + (isIpv4 ? 12 : 8);
  let hash = mixRange(ipVersion, bytes, addresses, isIpv4 ? 8 : 32);
  if (isFragment) return finish(hash);
  hash = mix(hash, protocol);
  if (scratch.transportHeaderBytes > 0) {
    hash = mixRange(hash, bytes, scratch.transportOffset, PORTS_BYTES);
  }
  return finish(hash);
}

/** Mixes in whole words of four bytes. */
function mixRange(initial: number, bytes: Uint8Array, start: number, length: number): number {
  let hash = initial;
  for (let index = start; index < start + length; index += 4) {
    const word =
      ((bytes[index] as number) << 24) |
      ((bytes[index + 1] as number) << 16) |
      ((bytes[index + 2] as number) << 8) |
      (bytes[index + 3] as number);
    hash = mix(hash, word);
  }
  return hash;
}

function mix(hash: number, word: number): number {
  let key = Math.imul(word, 0xcc9e2d51);
  key = Math.imul((key << 15) | (key >>> 17), 0x1b873593);
  const mixed = hash ^ key;
  return (Math.imul((mixed << 13) | (mixed >>> 19), 5) + 0xe6546b64) | 0;
}

/** Lets every bit have a say in every other. */
function finish(hash: number): number {
  let mixed = hash ^ (hash >>> 16);
  mixed = Math.imul(mixed, 0x85ebca6b);
  mixed ^= mixed >>> 13;
  mixed = Math.imul(mixed, 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

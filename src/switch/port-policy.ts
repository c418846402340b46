/**
 * What a port allows, as it is asked for (`PortPolicy`) and as frames are checked against it
 * (`PortRules`). A policy is read once when it is set, and never on the frame path.
 */

import { parseMac } from '@xenvif/client/wire';
import { RateBucket, type RateLimit } from '../device/token-bucket.js';
import { InvalidArgumentError } from '../errors.js';
import { AddressLock, arpSenderDiffers } from './address-lock.js';
import { IP_SPOOFED, MAC_SPOOFED, RATE_LIMITED } from './drop-tally.js';
import { PacketLimit } from './packet-limit.js';
import { VlanMembership } from './vlan-membership.js';

/** Frames per second that one port may have flooded. 0: any number. */
export interface StormLimits {
  /** Broadcast and multicast. */
  readonly broadcastPerSecond: number;
  readonly unknownUnicastPerSecond: number;
}

/**
 * No limit, as on Linux's bridge: multicast is proper traffic at any rate, and how much of it a
 * machine bears only its owner knows.
 */
export const NO_STORM_LIMITS: StormLimits = { broadcastPerSecond: 0, unknownUnicastPerSecond: 0 };

/** What a port allows its station. Every field left out is a port without that restriction. */
export interface PortPolicy {
  /** The station's own MAC address, as six hex pairs with colons. */
  readonly mac?: string;
  /**
   * Drop frames (and ARP within them) from the station that have another source than `mac`, and
   * let no other port learn it.
   */
  readonly lockMac?: boolean;
  /** The IP addresses that the station may speak for. Left out or empty: any. */
  readonly allowedAddresses?: readonly string[];
  /** The VLAN of untagged frames, 1 to 4094: a trunk's native VLAN, or all of an access port. */
  readonly accessVlan?: number;
  /** The VLANs that pass tagged, 1 to 4094 each: a trunk, unless it is empty. */
  readonly trunkVlans?: readonly number[];
  /** Exchange frames only with ports that are not isolated. */
  readonly isolated?: boolean;
  /** A limit on what the station may send; more than that is dropped. */
  readonly rate?: RateLimit;
  /** Left out: the switch's. */
  readonly stormLimits?: StormLimits;
}

export class PortRules {
  readonly vlans: VlanMembership;
  readonly isolated: boolean;
  /** Nothing is to be checked of a frame from the station before it is forwarded. */
  readonly isOpen: boolean;
  readonly broadcastLimit: PacketLimit | undefined;
  readonly unknownUnicastLimit: PacketLimit | undefined;
  /** The locked address: its first two bytes, or -1 for none, and its last four. */
  readonly lockedHigh: number;
  readonly lockedLow: number;
  readonly #addresses: AddressLock | undefined;
  readonly #bucket: RateBucket | undefined;

  /** @throws InvalidArgumentError where the policy makes no sense. */
  constructor(policy: PortPolicy, defaultLimits: StormLimits, nowMs: number) {
    const mac = macOf(policy);
    const { allowedAddresses = [], rate } = policy;
    const limits = policy.stormLimits ?? defaultLimits;
    this.vlans = new VlanMembership(policy.accessVlan, policy.trunkVlans);
    this.isolated = policy.isolated ?? false;
    const locked = policy.lockMac === true ? mac : undefined;
    this.lockedHigh = locked === undefined ? -1 : macHigh(locked, 0);
    this.lockedLow = locked === undefined ? 0 : macLow(locked, 0);
    if (allowedAddresses.length > 0) this.#addresses = new AddressLock(allowedAddresses, mac);
    if (rate !== undefined) this.#bucket = new RateBucket(checkedRate(rate), nowMs);
    this.broadcastLimit = limitOf('broadcastPerSecond', limits.broadcastPerSecond, nowMs);
    this.unknownUnicastLimit = limitOf(
      'unknownUnicastPerSecond',
      limits.unknownUnicastPerSecond,
      nowMs,
    );
    this.isOpen =
      !this.vlans.isAware &&
      locked === undefined &&
      this.#addresses === undefined &&
      this.#bucket === undefined;
  }

  /** The cause to drop a frame from the station for, VLANs aside; -1 for none. */
  faultOf(bytes: Uint8Array, offset: number, length: number, nowMs: number): number {
    if (this.lockedHigh >= 0) {
      const isOwn =
        macHigh(bytes, offset + 6) === this.lockedHigh &&
        macLow(bytes, offset + 6) === this.lockedLow;
      if (!isOwn || arpSenderDiffers(bytes, offset, length)) return MAC_SPOOFED;
    }
    if (this.#addresses !== undefined && !this.#addresses.allows(bytes, offset, length)) {
      return IP_SPOOFED;
    }
    if (this.#bucket !== undefined && !this.#bucket.take(length, nowMs)) return RATE_LIMITED;
    return -1;
  }
}

/** The first two bytes of a MAC address. */
export function macHigh(bytes: Uint8Array, offset: number): number {
  return ((bytes[offset] as number) << 8) | (bytes[offset + 1] as number);
}

/** The last four bytes of a MAC address, as a signed 32-bit number. */
export function macLow(bytes: Uint8Array, offset: number): number {
  return (
    ((bytes[offset + 2] as number) << 24) |
    ((bytes[offset + 3] as number) << 16) |
    ((bytes[offset + 4] as number) << 8) |
    (bytes[offset + 5] as number)
  );
}

function macOf({ lockMac, mac }: PortPolicy): Uint8Array | undefined {
  if (mac === undefined) {
    if (lockMac !== true) return undefined;
    const text = 'A port can be locked to a MAC address only if it is given.';
    throw new InvalidArgumentError('MAC_INVALID', 'mac', text);
  }
  const bytes = parseMac(mac);
  if (bytes !== undefined && ((bytes[0] as number) & 1) === 0) return bytes;
  throw new InvalidArgumentError('MAC_INVALID', 'mac', `"${mac}" is no station's MAC address.`);
}

function checkedRate(rate: RateLimit): RateLimit {
  const { bytesPerInterval, intervalUs } = rate;
  if (bytesPerInterval > 0 && intervalUs > 0) return rate;
  const text = `${bytesPerInterval} bytes in ${intervalUs} us is no rate.`;
  throw new InvalidArgumentError('RATE_INVALID', 'rate', text);
}

function limitOf(field: string, perSecond: number, nowMs: number): PacketLimit | undefined {
  if (perSecond === 0) return undefined;
  if (Number.isFinite(perSecond) && perSecond > 0) return new PacketLimit(perSecond, nowMs);
  const text = `${perSecond} frames a second is no limit.`;
  throw new InvalidArgumentError('STORM_LIMIT_INVALID', field, text);
}

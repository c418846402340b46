/** What a switch port allows: the contract's `PortPolicy` with plain units. */
import type { PortPolicy as WirePortPolicy } from './gen/xenvif/v1/vif.js';
import { type RateLimit, rateFromWire, rateToWire } from './rate-limit.js';

/** What a port allows. From and to are seen from what is plugged in: a guest, a TAP, a client. */
export interface PortPolicy {
  /** Drop frames whose source is not the port's own MAC address. */
  readonly lockMac: boolean;
  /** Drop IPv4, IPv6 and ARP whose source is none of these addresses. Empty: any address. */
  readonly allowedAddresses: readonly string[];
  /** The access VLAN, 1 to 4094: frames are untagged at the port. 0: no VLAN. */
  readonly accessVlan: number;
  /** VLANs that pass tagged (a trunk port), 1 to 4094 each. */
  readonly trunkVlans: readonly number[];
  /** The VLAN of untagged frames on a trunk port, 1 to 4094. 0: they are dropped. */
  readonly nativeVlan: number;
  /** The port exchanges frames with ports that are not isolated, and with no other. */
  readonly isolated: boolean;
  /** Broadcast and multicast frames that the port may send each second. 0: any number. */
  readonly broadcastPerSecond: number;
  /** Frames to addresses that the switch has not learnt, each second. 0: any number. */
  readonly unknownUnicastPerSecond: number;
  /** The limit on what the port sends into the switch. Absent: no limit. */
  readonly rate?: RateLimit;
}

/** A policy as it is wished for: whatever is left out restricts nothing. */
export type PortPolicyInput = {
  readonly [Field in keyof PortPolicy]?: PortPolicy[Field] | undefined;
};

export function policyToWire(policy: PortPolicyInput): WirePortPolicy {
  return {
    lockMac: policy.lockMac ?? false,
    allowedAddresses: [...(policy.allowedAddresses ?? [])],
    accessVlan: policy.accessVlan ?? 0,
    trunkVlans: [...(policy.trunkVlans ?? [])],
    nativeVlan: policy.nativeVlan ?? 0,
    isolated: policy.isolated ?? false,
    broadcastPerSecond: policy.broadcastPerSecond ?? 0,
    unknownUnicastPerSecond: policy.unknownUnicastPerSecond ?? 0,
    rate: policy.rate && rateToWire(policy.rate),
  };
}

export function policyFromWire({ rate, ...policy }: WirePortPolicy): PortPolicy {
  return rate === undefined ? policy : { ...policy, rate: rateFromWire(rate) };
}

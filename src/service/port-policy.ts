/** A port's policy as clients write it: checked, kept as text beside the vif, and shown again. */
import { InvalidArgumentError } from '../errors.js';
import { PortPolicy as WirePortPolicy } from '../gen/xenvif/v1/vif.js';
import { parseIpAddress } from '../switch/ip-address.js';
import type { PortPolicy } from '../switch/port-policy.js';
import { checkRate } from './validate.js';

const VLAN_MAX = 4094;
const ADDRESSES_MAX = 64;
const TRUNK_VLANS_MAX = 4094;
/** The store's payload is 4096 bytes, and a policy lies in one node. */
const TEXT_BYTES_MAX = 3000;

/**
 * Checks a policy and returns the text that it is kept as; undefined for one without restrictions.
 * @throws InvalidArgumentError PORT_POLICY_INVALID, RATE_OUT_OF_RANGE; each names the field.
 */
export function checkPortPolicy(
  policy: WirePortPolicy | undefined,
  field: string,
): string | undefined {
  if (policy === undefined) return undefined;
  const fail = (name: string, text: string): never => {
    throw new InvalidArgumentError('PORT_POLICY_INVALID', `${field}.${name}`, text);
  };
  const { accessVlan, allowedAddresses, nativeVlan, trunkVlans } = policy;
  if (accessVlan > VLAN_MAX) fail('access_vlan', `A VLAN is 1 to ${VLAN_MAX}.`);
  if (nativeVlan > VLAN_MAX) fail('native_vlan', `A VLAN is 1 to ${VLAN_MAX}.`);
  if (trunkVlans.length > TRUNK_VLANS_MAX || trunkVlans.some((id) => id < 1 || id > VLAN_MAX)) {
    fail('trunk_vlans', `Each VLAN is 1 to ${VLAN_MAX}.`);
  }
  if (accessVlan !== 0 && (trunkVlans.length > 0 || nativeVlan !== 0)) {
    fail('access_vlan', 'A port is an access port or a trunk, not both.');
  }
  if (allowedAddresses.length > ADDRESSES_MAX) {
    fail('allowed_addresses', `At most ${ADDRESSES_MAX} addresses.`);
  }
  for (const [index, address] of allowedAddresses.entries()) {
    if (parseIpAddress(address) === undefined) {
      fail(`allowed_addresses[${index}]`, 'It must be an IPv4 or IPv6 address.');
    }
  }
  checkRate(policy.rate, `${field}.rate`);
  const text = JSON.stringify(WirePortPolicy.toJSON(policy));
  if (Buffer.byteLength(text) > TEXT_BYTES_MAX) {
    fail('trunk_vlans', `The policy is over ${TEXT_BYTES_MAX} bytes.`);
  }
  return text === '{}' ? undefined : text;
}

/** The policy that a text stands for; undefined when it is none that `checkPortPolicy` made. */
export function parsePortPolicy(text: string): WirePortPolicy | undefined {
  if (text === '') return WirePortPolicy.create();
  try {
    const policy = WirePortPolicy.fromJSON(JSON.parse(text));
    checkPortPolicy(policy, 'policy');
    return policy;
  } catch {
    return undefined;
  }
}

/** The policy as a switch takes it; undefined for a text that is not to be understood. */
export function portPolicyOf(text: string): PortPolicy | undefined {
  const policy = parsePortPolicy(text);
  if (policy === undefined) return undefined;
  const rate = checkRate(policy.rate, 'policy.rate');
  const { broadcastPerSecond, unknownUnicastPerSecond } = policy;
  return {
    lockMac: policy.lockMac,
    allowedAddresses: policy.allowedAddresses,
    // A trunk's native VLAN and an access port's only one are the same to a switch.
    accessVlan: policy.nativeVlan || policy.accessVlan,
    trunkVlans: policy.trunkVlans,
    isolated: policy.isolated,
    stormLimits: { broadcastPerSecond, unknownUnicastPerSecond },
    ...(rate === undefined ? {} : { rate }),
  };
}

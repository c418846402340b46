/** Policies and rates as text. */
import type { PortPolicy, RateLimit } from '@xenvif/client';
import { vlanListText } from './units.js';

/** What a policy restricts, in one line; `-` where it restricts nothing. */
export function policyText(policy: PortPolicy | undefined): string {
  if (policy === undefined) return '-';
  const { accessVlan, trunkVlans, nativeVlan, allowedAddresses, rate } = policy;
  const parts = [
    policy.lockMac && 'MAC locked',
    allowedAddresses.length > 0 && `only from ${allowedAddresses.join(' ')}`,
    accessVlan !== 0 && `VLAN ${accessVlan}`,
    trunkVlans.length > 0 && `trunk ${vlanListText(trunkVlans)}`,
    nativeVlan !== 0 && `native VLAN ${nativeVlan}`,
    policy.isolated && 'isolated',
    policy.broadcastPerSecond !== 0 && `${policy.broadcastPerSecond} broadcasts/s`,
    policy.unknownUnicastPerSecond !== 0 && `${policy.unknownUnicastPerSecond} unknown/s`,
    rate !== undefined && rateText(rate),
  ];
  return parts.filter((part) => part !== false).join(', ') || '-';
}

export function rateText({ bytesPerInterval, intervalMs }: RateLimit): string {
  return `${bytesPerInterval} bytes each ${intervalMs} ms`;
}

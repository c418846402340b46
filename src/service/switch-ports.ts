/** A switch's port as the API shows it. */
import { Port, PortKind } from '../gen/xenvif/v1/switch_service.js';
import type { JoinedPort } from '../switch/switches.js';
import { parsePortPolicy } from './port-policy.js';
import { toFrameCounters } from './stats-service.js';

const KINDS = {
  vif: PortKind.VIF,
  tap: PortKind.TAP,
  netfront: PortKind.NETFRONT,
  client: PortKind.CLIENT,
};

export function toPort(switchId: string, joined: JoinedPort): Port {
  const { device, id, isConnected, kind, mac, mirror, network, policy, port } = joined;
  return Port.fromPartial({
    name: `switches/${switchId}/ports/${id}`,
    kind: KINDS[kind],
    device,
    mac,
    mtu: network.mtu,
    policy: policy === '' ? undefined : parsePortPolicy(policy),
    received: toFrameCounters(port.metrics.tx),
    sent: toFrameCounters(port.metrics.rx),
    mirror,
    disconnected: !isConnected(),
  });
}

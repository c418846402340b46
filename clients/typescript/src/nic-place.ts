/** What a NIC is attached to, as the daemon told it when it attached. */
import { XenvifClientError } from './errors.js';
import type { OpenedFrames } from './frame-options.js';
import type { Port } from './switch.js';
import type { Vif, VifPhase } from './vif.js';

export interface NicPlace {
  /** The name of the vif or of the port. */
  readonly name: string;
  readonly mac: string;
  readonly mtu: number;
  readonly phase: VifPhase;
  readonly vif?: Vif;
  readonly port?: Port;
}

/** @throws XenvifClientError RESPONSE_MALFORMED where the daemon told neither vif nor port. */
export function placeOf({ vifs: [vif], port }: OpenedFrames): NicPlace {
  if (port !== undefined) {
    const { name, mac, mtu } = port;
    return { name, mac, mtu, phase: 'connected', port };
  }
  if (vif !== undefined) {
    const { mac, mtu } = vif.spec;
    return { name: vif.name, mac, mtu, phase: vif.status.phase, vif };
  }
  const message = 'The daemon attached without telling where.';
  throw new XenvifClientError('RESPONSE_MALFORMED', 'INTERNAL', message);
}

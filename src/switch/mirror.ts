/**
 * A mirror session: a port gets a copy of what passes other ports. While it is a mirror it gets
 * nothing else, and what its station sends is dropped, so that nothing is ever learnt there.
 *
 * A frame is copied once a session, as it was received: from an ingress port even where the port's
 * policy drops it, to an egress port when it is handed to it. Its direction says which of the two it
 * was: from a guest's NIC as from an ingress port's.
 */

import type { SwitchPort } from './switch-port.js';
import { checkVlan, hasVlan, VLAN_UNKNOWN, vlanBits } from './vlan-membership.js';

/** Sessions that a switch can have at a time. */
export const MIRRORS_MAX = 16;

export interface MirrorOptions {
  /** Where the copies go. */
  readonly to: SwitchPort;
  /** Ports of whose stations' frames copies are made. A port may be in both lists. */
  readonly ingress?: readonly SwitchPort[];
  /** Ports to whose stations frames go that are copied. */
  readonly egress?: readonly SwitchPort[];
  /** Only frames of these VLANs. */
  readonly vlans?: readonly number[];
}

export class MirrorSession {
  readonly to: SwitchPort;
  readonly bit: number;
  /** With no port given, every port's ingress: each frame once. */
  readonly isOfAllPorts: boolean;
  readonly #ingress: ReadonlySet<SwitchPort>;
  readonly #egress: ReadonlySet<SwitchPort>;
  readonly #vlans: Uint32Array | undefined;

  /** @throws InvalidArgumentError VLAN_INVALID. */
  constructor(options: MirrorOptions, bit: number) {
    const { egress = [], ingress = [], vlans = [] } = options;
    for (const vlan of vlans) checkVlan('vlans', vlan);
    this.to = options.to;
    this.bit = bit;
    this.#ingress = new Set(ingress);
    this.#egress = new Set(egress);
    this.isOfAllPorts = ingress.length === 0 && egress.length === 0;
    this.#vlans = vlans.length > 0 ? vlanBits(vlans) : undefined;
  }

  wantsFrom(port: SwitchPort): boolean {
    return port !== this.to && (this.isOfAllPorts || this.#ingress.has(port));
  }

  wantsTo(port: SwitchPort): boolean {
    return port !== this.to && this.#egress.has(port);
  }

  hasVlan(vlan: number): boolean {
    if (this.#vlans === undefined) return true;
    return vlan !== VLAN_UNKNOWN && hasVlan(this.#vlans, vlan);
  }
}

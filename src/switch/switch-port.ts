/**
 * A port of a switch: a NIC that is plugged in, what it allows, and what it counts. Directions are
 * those of the station behind it: TX is what came in from it, RX what went out to it.
 */
import { FrameCounters, type KeptPort } from '../device/metrics.js';
import type { Network } from '../device/network.js';
import type { PortPolicy, PortRules } from './port-policy.js';

/** What a port counts. Plain numbers, as in src/device/metrics.ts. */
export class PortMetrics {
  /** Frames from the station that were forwarded to somebody; what was dropped of its, and why. */
  readonly tx = new FrameCounters();
  /** Frames that the station's network took; what it did not, and why. */
  readonly rx = new FrameCounters();
  /** Addresses that the port was the first to have, and that came to it from another port. */
  learnt = 0;
  moved = 0;
  /** Sightings of new addresses that were not learnt: over quota, or locked to another port. */
  notLearnt = 0;

  /** What the next daemon goes on from. */
  keep(): KeptPort {
    const { learnt, moved, notLearnt, rx, tx } = this;
    return { tx: tx.keep(), rx: rx.keep(), learnt, moved, notLearnt };
  }

  /** Goes on from what another daemon kept. */
  addKept(kept: KeptPort): void {
    this.tx.addKept(kept.tx);
    this.rx.addKept(kept.rx);
    this.learnt += kept.learnt;
    this.moved += kept.moved;
    this.notLearnt += kept.notLearnt;
  }

  reset(): void {
    this.tx.reset();
    this.rx.reset();
    this.learnt = 0;
    this.moved = 0;
    this.notLearnt = 0;
  }
}

/** What the switch does for its ports. */
export interface PortHost {
  compile(policy: PortPolicy): PortRules;
  /** The rules of a port are others now. */
  ruled(port: SwitchPort, before: PortRules): void;
  unplug(port: SwitchPort): void;
}

export class SwitchPort {
  readonly name: string;
  readonly network: Network;
  /** The number by which the forwarding table knows the port. */
  readonly index: number;
  readonly metrics = new PortMetrics();
  readonly #host: PortHost;
  #policy: PortPolicy;
  #rules: PortRules;
  /** False as soon as the port is pulled out: no frame goes in or out any more. */
  isLive = true;
  /** The network threw at the last batch. */
  isFailing = false;
  /** Mirror sessions, a bit each: of frames from here, of frames to here, and that end here. */
  ingressMirrors = 0;
  egressMirrors = 0;
  mirrorsHere = 0;

  /** Only a switch makes ports. @throws InvalidArgumentError where the policy makes no sense. */
  constructor(
    host: PortHost,
    place: { readonly name: string; readonly index: number },
    network: Network,
    policy: PortPolicy,
  ) {
    this.#host = host;
    this.name = place.name;
    this.index = place.index;
    this.network = network;
    this.#policy = policy;
    this.#rules = host.compile(policy);
  }

  get policy(): PortPolicy {
    return this.#policy;
  }

  /**
   * Holds from the next frame on. What was learnt in VLANs that the port leaves is forgotten.
   * @throws InvalidArgumentError where the policy makes no sense; the old one holds on then.
   */
  set policy(policy: PortPolicy) {
    const rules = this.#host.compile(policy);
    const before = this.#rules;
    this.#policy = policy;
    this.#rules = rules;
    if (this.isLive) this.#host.ruled(this, before);
  }

  get rules(): PortRules {
    return this.#rules;
  }

  /** Pulls the NIC out, and forgets what was learnt at it. A second call does nothing. */
  unplug(): void {
    this.#host.unplug(this);
  }
}

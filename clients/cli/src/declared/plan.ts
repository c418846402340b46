/**
 * What has to be done to get from the state that is to the one that is declared. Pure: the same two
 * states make the same plan, and a state that is as declared makes an empty one.
 *
 * What the file does not name is left alone, unless it is to be pruned; and pruned is only what an
 * earlier apply of a file of the same name made, by its label. A TAP or an uplink has no labels: it
 * belongs to whoever made its switch.
 */
import { isDeepStrictEqual } from 'node:util';
import type { Mirror, Port, PortPolicy, Switch, Vif, VifChanges } from '@xenvif/client';
import { policyText, rateText } from '../policy-text.js';
import { labelsText } from '../units.js';
import type { PresentState } from './present.js';
import {
  type DeclaredPort,
  type DeclaredState,
  type DeclaredSwitch,
  type DeclaredVif,
  type Labels,
  OPEN_POLICY,
  OWNER_LABEL,
  SWITCH_DEFAULT,
} from './state.js';

/** One thing to do. `details` are for people. */
export type Step = { readonly name: string; readonly details: readonly string[] } & (
  | { readonly action: 'create'; readonly kind: 'switch'; readonly wanted: DeclaredSwitch }
  | { readonly action: 'remove'; readonly kind: 'switch'; readonly present: Switch }
  | {
      readonly action: 'create' | 'replace';
      readonly kind: 'port';
      readonly switchId: string;
      readonly wanted: DeclaredPort;
    }
  | { readonly action: 'change'; readonly kind: 'port'; readonly policy: PortPolicy }
  | { readonly action: 'remove'; readonly kind: 'port' }
  | { readonly action: 'create'; readonly kind: 'vif'; readonly wanted: PlacedVif }
  | {
      readonly action: 'replace';
      readonly kind: 'vif';
      readonly wanted: PlacedVif;
      readonly present: Vif;
    }
  | { readonly action: 'change'; readonly kind: 'vif'; readonly changes: VifChanges }
  | { readonly action: 'remove'; readonly kind: 'vif'; readonly present: Vif }
);

/** A vif whose guest is known, with all of its labels. */
export interface PlacedVif extends DeclaredVif {
  readonly domid: number;
}

export interface Plan {
  readonly owner: string;
  /** In the order in which they can be done. */
  readonly steps: readonly Step[];
  readonly unchanged: number;
  /** What cannot be done, and why. Where there is any, nothing should be. */
  readonly conflicts: readonly string[];
  /** Vifs that were passed over, for their guests are not there. */
  readonly absent: readonly string[];
  /** How many things of an earlier apply the file names no longer and were not to be pruned. */
  readonly leftover: number;
}

export interface PlanOptions {
  readonly prune: boolean;
  /** Remove and make again what cannot be changed. */
  readonly replace: boolean;
  /** Pass over vifs whose guests are not there. */
  readonly allowMissing: boolean;
}

export function makePlan(
  declared: DeclaredState,
  present: PresentState,
  options: PlanOptions,
): Plan {
  const planner = new Planner(declared, present, options);
  return planner.plan();
}

class Planner {
  readonly #declared: DeclaredState;
  readonly #present: PresentState;
  readonly #options: PlanOptions;
  readonly #steps: Step[] = [];
  readonly #removals: Step[] = [];
  readonly #conflicts: string[] = [];
  readonly #absent: string[] = [];
  #unchanged = 0;

  constructor(declared: DeclaredState, present: PresentState, options: PlanOptions) {
    this.#declared = declared;
    this.#present = present;
    this.#options = options;
  }

  plan(): Plan {
    for (const wanted of this.#declared.switches) this.#planSwitch(wanted);
    this.#planVifs();
    this.#findRemovals();
    const { prune } = this.#options;
    const steps = prune ? [...this.#steps, ...this.#removals] : this.#steps;
    return {
      owner: this.#declared.owner,
      steps: steps.sort((a, b) => phaseOf(a) - phaseOf(b)),
      unchanged: this.#unchanged,
      conflicts: this.#conflicts,
      absent: this.#absent,
      leftover: prune ? 0 : this.#removals.length,
    };
  }

  #planSwitch(wanted: DeclaredSwitch): void {
    const { id } = wanted;
    const present = this.#present.switches.find((found) => found.id === id);
    if (present === undefined) {
      const details = switchDetails(wanted);
      this.#steps.push({ action: 'create', kind: 'switch', name: id, wanted, details });
    } else {
      this.#compareSwitch(wanted, present);
    }
    const ports = this.#present.ports.get(id) ?? [];
    for (const port of wanted.ports) {
      const found = ports.find((candidate) => candidate.id === port.id);
      this.#planPort(id, port, found);
    }
  }

  /** A switch is made once and for all: its ports would be lost with it. */
  #compareSwitch(wanted: DeclaredSwitch, present: Switch): void {
    const { ageingSeconds, entriesPerPort, hub } = wanted;
    const differences: string[] = [];
    const compare = (what: string, is: unknown, shall: unknown) => {
      if (is !== shall) differences.push(`${what} is ${is} and cannot become ${shall}`);
    };
    compare('ageing', `${present.spec.ageingSeconds} s`, `${ageingSeconds} s`);
    compare('entriesPerPort', present.spec.entriesPerPort, entriesPerPort);
    compare('hub', present.spec.hub, hub);
    const labels = this.#labelsOf(wanted.labels, present.labels);
    if (!sameLabels(present.labels, labels)) {
      compare('labels', labelsText(present.labels) || 'none', labelsText(labels));
    }
    if (differences.length === 0) this.#unchanged += 1;
    const how = `; remove the switch first: xenvif switch rm ${wanted.id}`;
    for (const text of differences) this.#conflicts.push(`switch ${wanted.id}: ${text}${how}`);
  }

  #planPort(switchId: string, wanted: DeclaredPort, present: Port | undefined): void {
    const name = `${switchId}/${wanted.id}`;
    if (present === undefined) {
      const details = portDetails(wanted);
      this.#steps.push({ action: 'create', kind: 'port', name, switchId, wanted, details });
      return;
    }
    const fixed = fixedDifferences(wanted, present);
    if (fixed.length > 0) {
      if (this.#mayReplace(`port ${name}`, fixed)) {
        const details = fixed;
        this.#steps.push({ action: 'replace', kind: 'port', name, switchId, wanted, details });
      }
      return;
    }
    const current = present.policy ?? OPEN_POLICY;
    if (isDeepStrictEqual(normalized(current), normalized(wanted.policy))) {
      this.#unchanged += 1;
      return;
    }
    const details = [change('policy', policyText(current), policyText(wanted.policy))];
    this.#steps.push({ action: 'change', kind: 'port', name, policy: wanted.policy, details });
  }

  #planVifs(): void {
    const present = new Map(this.#present.vifs.map((vif) => [`${vif.domid}.${vif.handle}`, vif]));
    const planned = new Map<string, string>();
    for (const wanted of this.#declared.vifs) {
      const domid = this.#domidOf(wanted);
      if (domid === undefined) continue;
      const name = `${domid}.${wanted.handle}`;
      const before = planned.get(name);
      planned.set(name, wanted.path);
      if (before !== undefined) {
        this.#conflicts.push(`${wanted.path}: it is the same vif as ${before}, ${name}`);
        continue;
      }
      this.#planVif(name, { ...wanted, domid }, present.get(name));
    }
  }

  #domidOf({ domain, path, handle }: DeclaredVif): number | undefined {
    const found = this.#present.domains.filter(({ domid, name }) =>
      typeof domain === 'number' ? domid === domain : name === domain,
    );
    const [first] = found;
    if (first !== undefined && found.length === 1) return first.domid;
    const text = `${path}: there ${found.length === 0 ? 'is no' : 'are several'} guest ${domain}`;
    if (found.length === 0 && this.#options.allowMissing) {
      this.#absent.push(`${domain}/${handle}`);
    } else {
      this.#conflicts.push(text);
    }
    return undefined;
  }

  #planVif(name: string, placed: PlacedVif, present: Vif | undefined): void {
    const labels = this.#labelsOf(placed.labels, present?.labels);
    const wanted = { ...placed, labels };
    if (present === undefined) {
      const details = vifDetails(wanted);
      this.#steps.push({ action: 'create', kind: 'vif', name, wanted, details });
      return;
    }
    const owner = present.labels[OWNER_LABEL];
    if (owner !== undefined && owner !== this.#declared.owner) {
      this.#conflicts.push(`vif ${name}: it belongs to the file named ${owner}`);
      return;
    }
    if (wanted.mac !== undefined && wanted.mac !== present.spec.mac) {
      const details = [change('mac', present.spec.mac, wanted.mac)];
      if (this.#mayReplace(`vif ${name}`, details)) {
        this.#steps.push({ action: 'replace', kind: 'vif', name, wanted, present, details });
      }
      return;
    }
    const { changes, details } = vifChanges(wanted, present);
    if (details.length === 0) this.#unchanged += 1;
    else this.#steps.push({ action: 'change', kind: 'vif', name, changes, details });
  }

  /** What is of an earlier apply and no longer in the file. */
  #findRemovals(): void {
    const { domains, ports, switches, vifs } = this.#present;
    const nameOf = new Map(domains.map(({ domid, name }) => [domid, name]));
    const keep = new Set(this.#declared.vifs.map((vif) => `${vif.domain}/${vif.handle}`));
    for (const present of vifs.filter((vif) => this.#isOwn(vif.labels))) {
      const { domid, handle } = present;
      if (keep.has(`${domid}/${handle}`) || keep.has(`${nameOf.get(domid)}/${handle}`)) continue;
      const name = `${domid}.${handle}`;
      this.#removals.push({ action: 'remove', kind: 'vif', name, present, details: [] });
    }
    for (const present of switches.filter((found) => this.#isOwn(found.labels))) {
      const declared = this.#declared.switches.find(({ id }) => id === present.id);
      for (const port of ports.get(present.id) ?? []) {
        if (declared?.ports.some(({ id }) => id === port.id)) continue;
        const name = `${present.id}/${port.id}`;
        this.#removals.push({ action: 'remove', kind: 'port', name, details: [] });
      }
      if (declared !== undefined || present.id === SWITCH_DEFAULT) continue;
      const name = present.id;
      this.#removals.push({ action: 'remove', kind: 'switch', name, present, details: [] });
    }
  }

  #isOwn(labels: Labels): boolean {
    return labels[OWNER_LABEL] === this.#declared.owner;
  }

  /** What is ours has the labels of the file and no others; what somebody else made keeps its own. */
  #labelsOf(wanted: Labels, present: Labels | undefined): Labels {
    if (present !== undefined && !this.#isOwn(present)) return { ...present, ...wanted };
    return { ...wanted, [OWNER_LABEL]: this.#declared.owner };
  }

  #mayReplace(what: string, differences: readonly string[]): boolean {
    if (this.#options.replace) return true;
    const text = `${what}: ${differences.join(', ')} is only possible with --replace`;
    this.#conflicts.push(text);
    return false;
  }
}

/**
 * Switches before what is plugged in there; an interface is pulled out before it is plugged in
 * elsewhere; a switch goes when nothing is left on it.
 */
function phaseOf({ action, kind }: Step): number {
  if (kind === 'switch') return action === 'create' ? 0 : 5;
  if (kind === 'port') return action === 'remove' ? 1 : 2;
  return action === 'remove' ? 4 : 3;
}

function switchDetails({ ageingSeconds, entriesPerPort, hub }: DeclaredSwitch): string[] {
  return [hub ? 'hub' : `ageing ${ageingSeconds} s`, `${entriesPerPort} entries per port`];
}

function portDetails({ device, mirror, policy }: DeclaredPort): string[] {
  const what = device.kind === 'tap' ? `tap ${device.interface}` : `uplink ${device.handle}`;
  return [what, mirror === undefined ? policyText(policy) : 'mirror'];
}

/** What of a port cannot be changed while it is plugged in. */
function fixedDifferences({ device, mirror }: DeclaredPort, present: Port): string[] {
  const wanted = device.kind === 'tap' ? device.interface : `netfronts/${device.handle}`;
  const differences: string[] = [];
  if (present.device !== wanted) differences.push(change('device', present.device, wanted));
  if (device.kind === 'tap' && present.mtu !== device.mtu) {
    differences.push(change('mtu', String(present.mtu), String(device.mtu)));
  }
  if (!isDeepStrictEqual(sortedMirror(present.mirror), sortedMirror(mirror))) {
    differences.push(change('mirror', mirrorText(present.mirror), mirrorText(mirror)));
  }
  return differences;
}

function sortedMirror(mirror: Mirror | undefined) {
  if (mirror === undefined) return undefined;
  const { destinations, sources, vlans } = mirror;
  return [[...sources].sort(), [...destinations].sort(), [...vlans].sort((a, b) => a - b)];
}

function mirrorText(mirror: Mirror | undefined): string {
  if (mirror === undefined) return 'none';
  const { destinations, sources, vlans } = mirror;
  return `in ${sources.join(' ')} out ${destinations.join(' ')} VLANs ${vlans.join(' ')}`;
}

function vifDetails({ mac, mtu, rate, switchId, policy, linkDown }: PlacedVif): string[] {
  return [
    `switch ${switchId}`,
    ...(mac === undefined ? [] : [mac]),
    ...(mtu === 1500 ? [] : [`mtu ${mtu}`]),
    ...(rate === undefined ? [] : [rateText(rate)]),
    ...(isDeepStrictEqual(normalized(policy), normalized(OPEN_POLICY)) ? [] : [policyText(policy)]),
    ...(linkDown ? ['link down'] : []),
  ];
}

/** What has to change of a vif that is there. */
function vifChanges(wanted: PlacedVif, { labels, spec }: Vif) {
  const details: string[] = [];
  const differs = (what: string, is: string, shall: string, same = is === shall): boolean => {
    if (!same) details.push(change(what, is, shall));
    return !same;
  };
  const rateOf = (rate: typeof spec.rate) => (rate === undefined ? 'no limit' : rateText(rate));
  const linkOf = (down: boolean) => (down ? 'down' : 'up');
  const policy = spec.portPolicy ?? OPEN_POLICY;
  const isSamePolicy = isDeepStrictEqual(normalized(policy), normalized(wanted.policy));
  const switchId = spec.switch.replace(/^switches\//, '') || SWITCH_DEFAULT;
  const changes: VifChanges = {
    ...(differs('mtu', String(spec.mtu), String(wanted.mtu)) && { mtu: wanted.mtu }),
    ...(differs('rate', rateOf(spec.rate), rateOf(wanted.rate)) && { rate: wanted.rate ?? null }),
    ...(differs('switch', switchId, wanted.switchId) && { switch: wanted.switchId }),
    ...(differs('policy', policyText(policy), policyText(wanted.policy), isSamePolicy) && {
      portPolicy: wanted.policy,
    }),
    ...(differs('link', linkOf(spec.linkDown), linkOf(wanted.linkDown)) && {
      linkDown: wanted.linkDown,
    }),
    ...(differs(
      'labels',
      labelsText(labels) || 'none',
      labelsText(wanted.labels),
      sameLabels(labels, wanted.labels),
    ) && { labels: wanted.labels }),
  };
  return { changes, details };
}

function change(what: string, is: string, shall: string): string {
  return `${what} ${is} -> ${shall}`;
}

function sameLabels(a: Labels, b: Labels): boolean {
  return isDeepStrictEqual({ ...a }, { ...b });
}

/** A policy so that two which mean the same are equal. */
function normalized(policy: PortPolicy): PortPolicy {
  const { allowedAddresses, trunkVlans, rate } = policy;
  return {
    ...OPEN_POLICY,
    ...policy,
    allowedAddresses: [...allowedAddresses].sort(),
    trunkVlans: [...trunkVlans].sort((a, b) => a - b),
    ...(rate && { rate: { bytesPerInterval: rate.bytesPerInterval, intervalMs: rate.intervalMs } }),
  };
}

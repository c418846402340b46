/** The present state in the form that `apply` takes. What is the default is left out. */
import { isDeepStrictEqual } from 'node:util';
import type { Mirror, Port, PortPolicy, RateLimit, Switch, Vif } from '@xenvif/client';
import { vlanListText } from '../units.js';
import type { PresentState } from './present.js';
import { FORM_VERSION, type Labels, OPEN_POLICY, OWNER_LABEL, SWITCH_DEFAULT } from './state.js';

/** A part of the document; what is undefined is left out. */
type Content = { readonly [name: string]: unknown };

/** `owner`: only what an apply of the file of this name made, with their ports. */
export function stateDocument(present: PresentState, owner: string | undefined): Content {
  const isWanted = (labels: Labels) => owner === undefined || labels[OWNER_LABEL] === owner;
  const ports = (found: Switch) => present.ports.get(found.id) ?? [];
  const switches = present.switches.filter(
    (found) => isWanted(found.labels) && (found.id !== SWITCH_DEFAULT || ports(found).length > 0),
  );
  const vifs = present.vifs.filter((vif) => isWanted(vif.labels));
  const names = domainNames(present);
  return compact({
    xenvif: FORM_VERSION,
    name: owner,
    switches: nonEmpty(switches.map((found) => switchContent(found, ports(found)))),
    vifs: nonEmpty(vifs.map((vif) => vifContent(vif, names.get(vif.domid) ?? vif.domid))),
  });
}

/** Guests go by their names, which outlive their numbers, where a name says which. */
function domainNames({ domains }: PresentState): Map<number, string> {
  const unique = domains.filter(
    ({ name }) =>
      name !== '' &&
      !/^\d{1,5}$/.test(name) &&
      domains.filter((other) => other.name === name).length === 1,
  );
  return new Map(unique.map(({ domid, name }) => [domid, name]));
}

function switchContent({ id, labels, spec }: Switch, ports: readonly Port[]): Content {
  return compact({
    name: id,
    ageing: spec.ageingSeconds === 300 ? undefined : `${spec.ageingSeconds}s`,
    entriesPerPort: spec.entriesPerPort === 1024 ? undefined : spec.entriesPerPort,
    hub: spec.hub || undefined,
    labels: labelsContent(labels),
    ports: nonEmpty(ports.map(portContent)),
  });
}

function portContent({ id, kind, device, mtu, policy, mirror }: Port): Content {
  const tap = { interface: device, ...(mtu === 1500 ? {} : { mtu }) };
  return compact({
    name: id,
    tap: kind === 'tap' ? tap : undefined,
    uplink: kind === 'netfront' ? Number(device.replace('netfronts/', '')) : undefined,
    policy: policyContent(policy),
    mirror: mirror && mirrorContent(mirror),
  });
}

function mirrorContent({ sources, destinations, vlans }: Mirror): Content {
  return compact({
    sources: nonEmpty(sources),
    destinations: nonEmpty(destinations),
    vlans: vlans.length === 0 ? undefined : vlanListText(vlans),
  });
}

function vifContent({ handle, labels, spec }: Vif, domain: string | number): Content {
  const switchId = spec.switch.replace(/^switches\//, '');
  return compact({
    domain,
    handle,
    mac: spec.mac,
    mtu: spec.mtu === 1500 ? undefined : spec.mtu,
    rate: spec.rate && rateContent(spec.rate),
    switch: switchId === '' || switchId === SWITCH_DEFAULT ? undefined : switchId,
    policy: policyContent(spec.portPolicy),
    link: spec.linkDown ? 'down' : undefined,
    labels: labelsContent(labels),
  });
}

function policyContent(policy: PortPolicy | undefined): Content | undefined {
  if (policy === undefined) return undefined;
  const { rate, trunkVlans, ...rest } = policy;
  const chosen = Object.entries(rest).filter(
    ([name, value]) => !isDeepStrictEqual(value, OPEN_POLICY[name as keyof PortPolicy]),
  );
  const content = compact({
    ...Object.fromEntries(chosen),
    trunkVlans: trunkVlans.length === 0 ? undefined : vlanListText(trunkVlans),
    rate: rate && rateContent(rate),
  });
  return Object.keys(content).length === 0 ? undefined : content;
}

/** As XenStore has it, which loses nothing. */
function rateContent({ bytesPerInterval, intervalMs }: RateLimit): string {
  return `${bytesPerInterval},${Math.round(intervalMs * 1000)}`;
}

function labelsContent(labels: Labels): Content | undefined {
  const own = Object.entries(labels).filter(([key]) => key !== OWNER_LABEL);
  return own.length === 0 ? undefined : Object.fromEntries(own);
}

function nonEmpty<T>(items: readonly T[]): readonly T[] | undefined {
  return items.length === 0 ? undefined : items;
}

function compact(content: Content): Content {
  return Object.fromEntries(Object.entries(content).filter(([, value]) => value !== undefined));
}

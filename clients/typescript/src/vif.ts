/** A vif as programs see it: the contract's `Vif` with words for enumerations and plain units. */
import {
  type NegotiatedFeatures,
  VifPhase as VifPhases,
  type Vif as WireVif,
  type VifSpec as WireVifSpec,
  XenbusState as XenbusStates,
} from './gen/xenvif/v1/vif.js';
import {
  type PortPolicy,
  type PortPolicyInput,
  policyFromWire,
  policyToWire,
} from './port-policy.js';
import { type RateLimit, rateFromWire, rateToWire } from './rate-limit.js';
import { switchName } from './switch-name.js';
import { parseVifName } from './vif-name.js';
import { type WordOf, wordOf } from './words.js';

export type { NegotiatedFeatures };

/** `connecting`, `connected`, `disconnected`, `deleting`, `failed`; `unspecified` is never sent. */
export type VifPhase = WordOf<typeof VifPhases>;
/** A state of xen/io/xenbus.h, for example `init-wait`; `unspecified` where there is none. */
export type XenbusState = WordOf<typeof XenbusStates>;

/** What is wanted of a vif. */
export interface VifSpec {
  /** The guest's MAC address, as six hex pairs with colons. */
  readonly mac: string;
  /** The largest Ethernet payload in bytes. */
  readonly mtu: number;
  /** The limit on what the guest may send. Absent: no limit. */
  readonly rate?: RateLimit;
  /** `switches/<id>`; empty: the default switch. */
  readonly switch: string;
  /** What the port on that switch allows. Absent: everything. */
  readonly portPolicy?: PortPolicy;
  /** The link is taken down: the guest sees no carrier, and no frame passes. */
  readonly linkDown: boolean;
}

/** What a vif is at this moment. */
export interface VifStatus {
  readonly phase: VifPhase;
  readonly backendState: XenbusState;
  readonly frontendState: XenbusState;
  /** Why, as a stable word: `CONNECTED`, `WAITING_FOR_FRONTEND`, ... */
  readonly reason: string;
  /** Why, as a sentence. */
  readonly message: string;
  /** Since when it is in this phase for this reason. */
  readonly since?: Date;
  /** What both sides agreed on; present while connected. */
  readonly features?: NegotiatedFeatures;
  /** Queue pairs in use; 0 while not connected. */
  readonly queues: number;
  /** How many times it has connected. */
  readonly connects: bigint;
  /** The link is up: what the guest sees as its carrier, and whether frames pass at all. */
  readonly linkUp: boolean;
}

/** A virtual network interface of a guest. */
export interface Vif {
  /** `vifs/<domid>.<handle>`; used again after a guest is gone. */
  readonly name: string;
  readonly domid: number;
  readonly handle: number;
  /** Names this very vif, for ever. */
  readonly uid: string;
  /** Changes with every change; give it to update or delete to say "only if nothing changed". */
  readonly etag: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly spec: VifSpec;
  readonly status: VifStatus;
}

/** What may be wished of a new vif; whatever is left out, the daemon chooses. */
export interface VifSpecInput {
  readonly mac?: string | undefined;
  readonly mtu?: number | undefined;
  readonly rate?: RateLimit | undefined;
  readonly switch?: string | undefined;
  readonly portPolicy?: PortPolicyInput | undefined;
  readonly linkDown?: boolean | undefined;
}

/**
 * What to change of a vif. What is left out stays; null brings back the default: no rate limit, no
 * policy, no labels, the default switch, an MTU of 1500, the link up.
 */
export interface VifChanges {
  /** All labels: those that are not among them go. */
  readonly labels?: Readonly<Record<string, string>> | null | undefined;
  readonly rate?: RateLimit | null | undefined;
  readonly switch?: string | null | undefined;
  /** The whole policy: what it leaves out is no longer restricted. */
  readonly portPolicy?: PortPolicyInput | null | undefined;
  readonly linkDown?: boolean | null | undefined;
  /** The guest sees it when it connects next. */
  readonly mtu?: number | null | undefined;
}

export function vifFromWire(wire: WireVif): Vif {
  const { spec, status } = wire;
  return {
    name: wire.name,
    ...parseVifName(wire.name),
    uid: wire.uid,
    etag: wire.etag,
    labels: wire.labels,
    spec: {
      mac: spec?.mac ?? '',
      // Zero in the contract stands for Ethernet's own.
      mtu: spec?.mtu || 1500,
      ...(spec?.rate && { rate: rateFromWire(spec.rate) }),
      switch: spec?.switch ?? '',
      ...(spec?.portPolicy && { portPolicy: policyFromWire(spec.portPolicy) }),
      linkDown: spec?.linkDown ?? false,
    },
    status: {
      phase: wordOf(VifPhases, status?.phase ?? 0),
      backendState: wordOf(XenbusStates, status?.backendState ?? 0),
      frontendState: wordOf(XenbusStates, status?.frontendState ?? 0),
      reason: status?.reason ?? '',
      message: status?.message ?? '',
      ...(status?.since && { since: status.since }),
      ...(status?.features && { features: status.features }),
      queues: status?.queues ?? 0,
      connects: status?.connects ?? 0n,
      linkUp: status?.linkUp ?? true,
    },
  };
}

export function specToWire(spec: VifSpecInput): WireVifSpec {
  return {
    mac: spec.mac ?? '',
    mtu: spec.mtu ?? 0,
    rate: spec.rate && rateToWire(spec.rate),
    switch: spec.switch ? switchName(spec.switch) : '',
    portPolicy: spec.portPolicy && policyToWire(spec.portPolicy),
    linkDown: spec.linkDown ?? false,
  };
}

/** The paths of the update mask, by the fields that a caller may give. */
const MASK_PATHS: Readonly<Record<keyof VifChanges, string>> = {
  labels: 'labels',
  rate: 'spec.rate',
  switch: 'spec.switch',
  portPolicy: 'spec.port_policy',
  linkDown: 'spec.link_down',
  mtu: 'spec.mtu',
};

/** Which fields `changes` changes: those that are there at all. */
export function maskOf(changes: VifChanges): string[] {
  return Object.entries(MASK_PATHS)
    .filter(([field]) => changes[field as keyof VifChanges] !== undefined)
    .map(([, path]) => path);
}

/** The vif of an update: the fields to change as they shall be. */
export function changesToWire(name: string, etag: string, changes: VifChanges): WireVif {
  const { labels, rate, switch: parent, portPolicy, linkDown, mtu } = changes;
  const spec = specToWire({
    rate: rate ?? undefined,
    switch: parent ?? undefined,
    portPolicy: portPolicy ?? undefined,
    linkDown: linkDown ?? undefined,
    mtu: mtu ?? undefined,
  });
  return { name, uid: '', etag, labels: { ...labels }, spec, status: undefined };
}

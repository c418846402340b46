/** A vif as programs see it: the contract's `Vif` with words for enumerations and plain units. */
import { durationFromMs, msFromDuration } from './duration.js';
import {
  type NegotiatedFeatures,
  type PortPolicy,
  VifPhase as VifPhases,
  type RateLimit as WireRateLimit,
  type Vif as WireVif,
  type VifSpec as WireVifSpec,
  XenbusState as XenbusStates,
} from './gen/xenvif/v1/vif.js';
import { parseVifName } from './vif-name.js';
import { type WordOf, wordOf } from './words.js';

export type { NegotiatedFeatures, PortPolicy };

/** `connecting`, `connected`, `disconnected`, `deleting`, `failed`; `unspecified` is never sent. */
export type VifPhase = WordOf<typeof VifPhases>;
/** A state of xen/io/xenbus.h, for example `init-wait`; `unspecified` where there is none. */
export type XenbusState = WordOf<typeof XenbusStates>;

/** The limit on what a guest may send: a token bucket. */
export interface RateLimit {
  readonly bytesPerInterval: bigint;
  /** 1 to 1000 ms. */
  readonly intervalMs: number;
}

/** What is wanted of a vif. */
export interface VifSpec {
  /** The guest's MAC address, as six hex pairs with colons. */
  readonly mac: string;
  /** The largest Ethernet payload in bytes. */
  readonly mtu: number;
  /** Absent: no limit. */
  readonly rate?: RateLimit;
  /** `switches/<id>`; empty: the default switch. */
  readonly switch: string;
  /** Absent: no restrictions. */
  readonly portPolicy?: PortPolicy;
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
  /** The link is up: what the guest sees as its carrier. */
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
  /** Changes with every change; give it to delete to say "only if nothing changed". */
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
  readonly portPolicy?: Partial<PortPolicy> | undefined;
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
      ...(spec?.portPolicy && { portPolicy: spec.portPolicy }),
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
    rate: spec.rate && {
      bytesPerInterval: spec.rate.bytesPerInterval,
      interval: durationFromMs(spec.rate.intervalMs),
    },
    switch: spec.switch ?? '',
    linkDown: false,
    portPolicy: spec.portPolicy && {
      lockMac: false,
      allowedAddresses: [],
      accessVlan: 0,
      trunkVlans: [],
      isolated: false,
      nativeVlan: 0,
      broadcastPerSecond: 0,
      unknownUnicastPerSecond: 0,
      rate: undefined,
      ...spec.portPolicy,
    },
  };
}

function rateFromWire(rate: WireRateLimit): RateLimit {
  const intervalMs = rate.interval === undefined ? 50 : msFromDuration(rate.interval);
  return { bytesPerInterval: rate.bytesPerInterval, intervalMs };
}

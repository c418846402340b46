/** A switch and its ports as programs see them: words for enumerations, plain units. */
import {
  PortKind as PortKinds,
  type ForwardingEntry as WireForwardingEntry,
  type Port as WirePort,
  type Switch as WireSwitch,
  type SwitchSpec as WireSwitchSpec,
} from './gen/xenvif/v1/switch_service.js';
import { type PortPolicy, policyFromWire } from './port-policy.js';
import { countersFromWire, type FrameCounters } from './stats.js';
import { parsePortName, switchId } from './switch-name.js';
import { type WordOf, wordOf } from './words.js';

/** `vif`, `tap`, `netfront` (an uplink), `client`; `unspecified` for a kind of the future. */
export type PortKind = WordOf<typeof PortKinds>;

/** What is wanted of a switch. */
export interface SwitchSpec {
  /** Seconds until a forwarding entry that is not used is forgotten. */
  readonly ageingSeconds: number;
  /** Forwarding entries that one port may hold. */
  readonly entriesPerPort: number;
  /** Every frame goes to every port and nothing is learnt. */
  readonly hub: boolean;
}

/** What a switch is at this moment. */
export interface SwitchStatus {
  /** The ports, by the last part of their names. */
  readonly ports: readonly string[];
  readonly forwardingEntries: number;
}

/** A software switch. */
export interface Switch {
  /** `switches/<id>`. */
  readonly name: string;
  /** The last part of the name. */
  readonly id: string;
  /** Names this very switch, for ever. */
  readonly uid: string;
  /** Changes with every change; give it to delete to say "only if nothing changed". */
  readonly etag: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly spec: SwitchSpec;
  readonly status: SwitchStatus;
}

/** The ports whose frames a mirror hears, by the last part of their names. */
export interface Mirror {
  /** Ports whose received frames are copied: what comes into the switch there. */
  readonly sources: readonly string[];
  /** Ports whose sent frames are copied: what goes out of the switch there. */
  readonly destinations: readonly string[];
  /** VLANs whose frames are copied, whatever the port. */
  readonly vlans: readonly number[];
}

/** A port of a switch. */
export interface Port {
  /** `switches/<id>/ports/<port>`. */
  readonly name: string;
  /** The last part of the name. */
  readonly id: string;
  /** The switch, `switches/<id>`. */
  readonly switch: string;
  readonly kind: PortKind;
  /** What is plugged in, by its own name: `vifs/1.0`, a TAP's `tap0`, `netfronts/0`. */
  readonly device: string;
  /** The MAC address of what is plugged in; empty where none is known. */
  readonly mac: string;
  /** The largest Ethernet payload in bytes. */
  readonly mtu: number;
  /**
   * Whether what is plugged in takes frames now: not so for a guest or an uplink's backend that is not
   * connected, a client that may come back, a TAP interface that somebody removed.
   */
  readonly connected: boolean;
  /** Absent: no restrictions. */
  readonly policy?: PortPolicy;
  /** Frames that came into the switch here. */
  readonly received: FrameCounters;
  /** Frames that went out of the switch here. */
  readonly sent: FrameCounters;
  /** Present: the port is a mirror. It hears copies and sends nothing into the switch. */
  readonly mirror?: Mirror;
}

/** A MAC address that a switch has learnt. */
export interface ForwardingEntry {
  readonly mac: string;
  /** 0: no VLAN. */
  readonly vlan: number;
  /** The last part of the port's name. */
  readonly port: string;
  readonly lastSeen?: Date;
}

/** What zero stands for in the contract's SwitchSpec. */
const DEFAULT_AGEING_SECONDS = 300;
const DEFAULT_ENTRIES_PER_PORT = 1024;

export function switchFromWire(wire: WireSwitch): Switch {
  return {
    name: wire.name,
    id: switchId(wire.name),
    uid: wire.uid,
    etag: wire.etag,
    labels: wire.labels,
    spec: specFromWire(wire.spec),
    status: {
      ports: wire.status?.ports ?? [],
      forwardingEntries: wire.status?.forwardingEntries ?? 0,
    },
  };
}

function specFromWire(spec: WireSwitchSpec | undefined): SwitchSpec {
  return {
    ageingSeconds: spec?.ageingSeconds || DEFAULT_AGEING_SECONDS,
    entriesPerPort: spec?.entriesPerPort || DEFAULT_ENTRIES_PER_PORT,
    hub: spec?.hub ?? false,
  };
}

export function portFromWire(wire: WirePort): Port {
  const { switch: parent, portId } = parsePortName(wire.name);
  return {
    name: wire.name,
    id: portId,
    switch: parent,
    kind: wordOf(PortKinds, wire.kind),
    device: wire.device,
    mac: wire.mac,
    mtu: wire.mtu || 1500,
    connected: !wire.disconnected,
    ...(wire.policy && { policy: policyFromWire(wire.policy) }),
    received: countersFromWire(wire.received),
    sent: countersFromWire(wire.sent),
    ...(wire.mirror && { mirror: wire.mirror }),
  };
}

export function entryFromWire({ lastSeen, ...entry }: WireForwardingEntry): ForwardingEntry {
  return lastSeen === undefined ? entry : { ...entry, lastSeen };
}

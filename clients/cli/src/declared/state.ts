/**
 * Declared state: the switches, ports and vifs that a file wishes for, checked as far as can be without
 * the daemon. Whatever a file leaves out is the default, and not what happens to be.
 *
 *     xenvif: 1                      # the version of this form
 *     name: web                      # whose this is; two files of one host have two names
 *     switches:
 *       - name: lan
 *         ageing: 60s                # also entriesPerPort, hub, labels
 *         ports:
 *           - name: lan0
 *             tap: { interface: lan0, mtu: 1500, persist: true, owner: 1000 }
 *             policy: { trunkVlans: [10, 20-29] }
 *           - name: up
 *             uplink: 0              # this domain's own interface 0
 *     vifs:
 *       - domain: web1               # a guest's name, or its number
 *         handle: 0
 *         switch: lan                # also mac, mtu, link, labels
 *         rate: 1MB/s
 *         policy: { lockMac: true, accessVlan: 10 }
 */
import { isIP } from 'node:net';
import type { Mirror, PortPolicy, RateLimit } from '@xenvif/client';
import { durationMs, rateLimit, vlanList } from '../units.js';
import { type Field, readFields } from './field.js';

export const FORM_VERSION = 1;
/** The label that says which file a switch or vif was made by. */
export const OWNER_LABEL = 'xenvif.apply';
export const OWNER_DEFAULT = 'default';
export const SWITCH_DEFAULT = 'default';

export type Labels = Readonly<Record<string, string>>;

export interface DeclaredState {
  /** Whose it is. */
  readonly owner: string;
  readonly switches: readonly DeclaredSwitch[];
  readonly vifs: readonly DeclaredVif[];
}

export interface DeclaredSwitch {
  readonly id: string;
  readonly ageingSeconds: number;
  readonly entriesPerPort: number;
  readonly hub: boolean;
  readonly labels: Labels;
  readonly ports: readonly DeclaredPort[];
}

export interface DeclaredPort {
  readonly id: string;
  readonly device: DeclaredTap | DeclaredUplink;
  readonly policy: PortPolicy;
  /** Absent: the port is an ordinary one. */
  readonly mirror: Mirror | undefined;
}

export interface DeclaredTap {
  readonly kind: 'tap';
  readonly interface: string;
  readonly mtu: number;
  readonly persist: boolean;
  /** Absent: root. */
  readonly owner: number | undefined;
}

/** An interface of the daemon's own domain. */
export interface DeclaredUplink {
  readonly kind: 'netfront';
  readonly handle: number;
}

export interface DeclaredVif {
  /** A guest by its number, or by its name. */
  readonly domain: number | string;
  readonly handle: number;
  /** Absent: whatever it is. */
  readonly mac: string | undefined;
  readonly mtu: number;
  readonly rate: RateLimit | undefined;
  readonly switchId: string;
  readonly policy: PortPolicy;
  readonly linkDown: boolean;
  readonly labels: Labels;
  /** As a file would name it, for what is told of it. */
  readonly path: string;
}

/** A port that restricts nothing. */
export const OPEN_POLICY: PortPolicy = {
  lockMac: false,
  allowedAddresses: [],
  accessVlan: 0,
  trunkVlans: [],
  nativeVlan: 0,
  isolated: false,
  broadcastPerSecond: 0,
  unknownUnicastPerSecond: 0,
};

const U32_MAX = 2 ** 32 - 1;
const VLAN_MAX = 4094;
const AGEING_MAX_SECONDS = 1_000_000;
const ENTRIES_MAX = 65_536;

/** @throws CliError FILE_INVALID. */
export function readDeclaredState(fileName: string, text: string): DeclaredState {
  return readFields(fileName, text, (whole) => {
    const { xenvif, name, switches, vifs } = whole.fields(['xenvif', 'name', 'switches', 'vifs']);
    const form = xenvif.integer(FORM_VERSION, FORM_VERSION);
    if (form === undefined && xenvif.isEmpty) {
      xenvif.problem(`it must be ${FORM_VERSION}: the version of the form that the file has.`);
    }
    return {
      owner:
        matching(name, /^[A-Za-z0-9._-]{1,63}$/, 'letters, digits, ".", "_" and "-"') ??
        OWNER_DEFAULT,
      switches: distinct(switches.items(), readSwitch, ({ id }) => id, 'switch'),
      vifs: distinct(vifs.items(), readVif, ({ domain, handle }) => `${domain}/${handle}`, 'vif'),
    };
  });
}

/** Reads every item; what has the same key as one before it is a problem. */
function distinct<T>(
  items: readonly Field[],
  read: (item: Field) => T,
  keyOf: (value: T) => string,
  what: string,
): T[] {
  const seen = new Map<string, string>();
  return items.map((item) => {
    const value = read(item);
    const key = keyOf(value);
    const before = seen.get(key);
    if (before !== undefined) item.problem(`it is the same ${what} as ${before}.`);
    seen.set(key, item.path);
    return value;
  });
}

function readSwitch(item: Field): DeclaredSwitch {
  const fields = item.fields(['name', 'ageing', 'entriesPerPort', 'hub', 'labels', 'ports']);
  const ageingMs = fields.ageing.parsed(durationMs);
  const ageingSeconds = ageingMs === undefined ? 300 : ageingMs / 1000;
  if (!Number.isInteger(ageingSeconds) || ageingSeconds < 1 || ageingSeconds > AGEING_MAX_SECONDS) {
    fields.ageing.problem(`it must be whole seconds, 1 to ${AGEING_MAX_SECONDS}.`);
  }
  return {
    id: required(fields.name, switchIdOf(fields.name)),
    ageingSeconds,
    entriesPerPort: fields.entriesPerPort.integer(1, ENTRIES_MAX) ?? 1024,
    hub: fields.hub.flag() ?? false,
    labels: readLabels(fields.labels),
    ports: distinct(fields.ports.items(), readPort, ({ id }) => id, 'port'),
  };
}

function switchIdOf(field: Field): string | undefined {
  return matching(field, /^[A-Za-z0-9._-]{1,15}$/, 'at most 15 letters, digits, ".", "_" and "-"');
}

function readPort(item: Field): DeclaredPort {
  const fields = item.fields(['name', 'tap', 'uplink', 'policy', 'mirror']);
  const { name, tap, uplink } = fields;
  const id = required(
    name,
    matching(name, /^[A-Za-z0-9._-]{1,32}$/, 'at most 32 letters, digits, ".", "_" and "-"'),
  );
  if (tap.isEmpty === uplink.isEmpty) {
    item.problem(
      'a port is either a tap, which has an interface, or an uplink, which has a number.',
    );
  }
  const handle = uplink.integer(0, 65535);
  return {
    id,
    device: handle === undefined ? readTap(tap) : { kind: 'netfront', handle },
    policy: readPolicy(fields.policy),
    mirror: fields.mirror.isEmpty ? undefined : readMirror(fields.mirror),
  };
}

function readTap(field: Field): DeclaredTap {
  const fields = field.fields(['interface', 'mtu', 'persist', 'owner']);
  // A name of the kernel's choice could not be found again by the next run.
  const name = matching(fields.interface, /^[^\s/:]{1,15}$/, 'at most 15 characters');
  return {
    kind: 'tap',
    interface: field.isEmpty ? '' : required(fields.interface, name),
    mtu: fields.mtu.integer(68, 65521) ?? 1500,
    persist: fields.persist.flag() ?? false,
    owner: fields.owner.integer(0, U32_MAX),
  };
}

function readMirror(field: Field): Mirror {
  const { sources, destinations, vlans } = field.fields(['sources', 'destinations', 'vlans']);
  return {
    sources: readTexts(sources),
    destinations: readTexts(destinations),
    vlans: readVlans(vlans),
  };
}

function readVif(item: Field): DeclaredVif {
  const fields = item.fields([
    'domain',
    'handle',
    'mac',
    'mtu',
    'rate',
    'switch',
    'policy',
    'link',
    'labels',
  ]);
  const link = matching(fields.link, /^(?:up|down)$/, 'up or down');
  return {
    domain: required(fields.domain, fields.domain.parsed(domainOf)),
    handle: fields.handle.integer(0, 65535) ?? 0,
    mac: fields.mac.parsed(macOf),
    mtu: fields.mtu.integer(68, 65535) ?? 1500,
    rate: fields.rate.parsed(rateLimit),
    switchId: switchIdOf(fields.switch) ?? SWITCH_DEFAULT,
    policy: readPolicy(fields.policy),
    linkDown: link === 'down',
    labels: readLabels(fields.labels),
    path: item.path,
  };
}

function domainOf(text: string): number | string {
  return /^\d{1,5}$/.test(text) ? Number(text) : text;
}

/** A unicast address as the daemon writes it. */
function macOf(text: string): string {
  const mac = text.toLowerCase();
  if (/^[0-9a-f][02468ace](?::[0-9a-f]{2}){5}$/.test(mac)) return mac;
  throw new Error('it must be a unicast MAC address such as 00:16:3e:12:34:56.');
}

function readPolicy(field: Field): PortPolicy {
  const fields = field.fields([
    'lockMac',
    'allowedAddresses',
    'accessVlan',
    'trunkVlans',
    'nativeVlan',
    'isolated',
    'broadcastPerSecond',
    'unknownUnicastPerSecond',
    'rate',
  ]);
  const rate = fields.rate.parsed(rateLimit);
  const policy = {
    lockMac: fields.lockMac.flag() ?? false,
    allowedAddresses: readAddresses(fields.allowedAddresses),
    accessVlan: fields.accessVlan.integer(0, VLAN_MAX) ?? 0,
    trunkVlans: readVlans(fields.trunkVlans),
    nativeVlan: fields.nativeVlan.integer(0, VLAN_MAX) ?? 0,
    isolated: fields.isolated.flag() ?? false,
    broadcastPerSecond: fields.broadcastPerSecond.integer(0, U32_MAX) ?? 0,
    unknownUnicastPerSecond: fields.unknownUnicastPerSecond.integer(0, U32_MAX) ?? 0,
    ...(rate && { rate }),
  };
  if (policy.accessVlan !== 0 && (policy.trunkVlans.length > 0 || policy.nativeVlan !== 0)) {
    fields.accessVlan.problem('a port is an access port or a trunk, not both.');
  }
  return policy;
}

function readAddresses(field: Field): string[] {
  return field.items().flatMap((item) => {
    const address = item.text();
    if (address !== undefined && isIP(address) === 0) item.problem('it must be an IP address.');
    return address ?? [];
  });
}

/** `10,20-29`, or a list of such. */
function readVlans(field: Field): number[] {
  const parts = field.isList ? field.items() : [field];
  const vlans = parts.flatMap((part) => part.parsed(vlanList) ?? []);
  return [...new Set(vlans)].sort((x, y) => x - y);
}

function readTexts(field: Field): string[] {
  return field.items().flatMap((item) => item.text() ?? []);
}

function readLabels(field: Field): Labels {
  const labels: Record<string, string> = {};
  for (const [key, value] of field.entries()) {
    if (!/^[a-z0-9._/-]{1,63}$/.test(key)) {
      value.problem('a label is named by at most 63 of a-z, 0-9, ".", "_", "/" and "-".');
    }
    if (key === OWNER_LABEL) value.problem('this label is written by xenvif apply itself.');
    const text = value.text() ?? '';
    if (text.length > 255) value.problem('a label has at most 255 characters.');
    labels[key] = text;
  }
  return labels;
}

/** A text that looks like `pattern`; `words` says how in the problem. */
function matching(field: Field, pattern: RegExp, words: string): string | undefined {
  const text = field.text();
  if (text === undefined || pattern.test(text)) return text;
  return field.problem(`${JSON.stringify(text.slice(0, 64))} is not possible: write ${words}.`);
}

/** What cannot be left out. The value returned then is never used, for the file is refused. */
function required<T>(field: Field, value: T | undefined): T | '' {
  if (value === undefined && field.isEmpty) field.problem('it is missing.');
  return value ?? '';
}

/** Switches and their ports as text. */
import type { Port, Switch } from '@xenvif/client';
import type { Output } from './output.js';
import { policyText } from './policy-text.js';
import { labelsText, vlanListText } from './units.js';

/** Prints everything that is known of a switch, and its ports. */
export function printSwitch(out: Output, found: Switch, ports: readonly Port[] = []): void {
  const { spec, status } = found;
  out.fields([
    ['name', found.name],
    ['uid', found.uid],
    ['etag', found.etag],
    ['labels', labelsText(found.labels) || '-'],
    ['mode', modeText(found)],
    ['ageing', `${spec.ageingSeconds} s`],
    ['entries per port', String(spec.entriesPerPort)],
    ['entries', String(status.forwardingEntries)],
    ['ports', String(status.ports.length)],
  ]);
  if (ports.length === 0) return;
  out.line();
  printPorts(out, ports);
}

export function modeText({ spec }: Switch): string {
  return spec.hub ? 'hub' : 'learning';
}

const PORT_HEAD = ['PORT', 'KIND', 'DEVICE', 'MAC', 'MTU', 'IN', 'OUT', 'DROPS', 'POLICY'];

/** Prints ports, one a line. In and out are the switch's. */
export function printPorts(out: Output, ports: readonly Port[]): void {
  const rows = ports.map((port) => [
    port.id,
    port.connected ? port.kind : `${port.kind}, away`,
    port.device,
    port.mac || '-',
    String(port.mtu),
    String(port.received.packets),
    String(port.sent.packets),
    String(dropsOf(port)),
    port.mirror === undefined ? policyText(port.policy) : mirrorText(port),
  ]);
  out.table(PORT_HEAD, rows, [4, 5, 6, 7]);
}

/** Prints everything that is known of a port. */
export function printPort(out: Output, port: Port): void {
  const { received, sent } = port;
  out.fields([
    ['name', port.name],
    ['kind', port.kind],
    ['state', port.connected ? 'connected' : 'away: frames for it are dropped'],
    ['device', port.device],
    ['mac', port.mac || '-'],
    ['mtu', String(port.mtu)],
    ['policy', policyText(port.policy)],
    ['mirror', mirrorText(port).replace('mirror: ', '') || '-'],
    ['in', `${received.packets} frames, ${received.bytes} bytes`],
    ['out', `${sent.packets} frames, ${sent.bytes} bytes`],
    ['drops', dropsText(port)],
  ]);
}

function mirrorText({ mirror }: Port): string {
  if (mirror === undefined) return '';
  const { sources, destinations, vlans } = mirror;
  const parts = [
    sources.length > 0 && `in at ${sources.join(' ')}`,
    destinations.length > 0 && `out at ${destinations.join(' ')}`,
    vlans.length > 0 && `VLAN ${vlanListText(vlans)}`,
  ];
  return `mirror: ${parts.filter((part) => part !== false).join(', ')}`;
}

function dropsOf({ received, sent }: Port): bigint {
  return [...received.drops, ...sent.drops].reduce((sum, { packets }) => sum + packets, 0n);
}

function dropsText({ received, sent }: Port): string {
  const drops = [...received.drops, ...sent.drops].filter(({ packets }) => packets > 0n);
  return drops.map(({ cause, packets }) => `${packets} ${cause}`).join(', ') || '0';
}

/** A vif as text. */
import type { Vif, VifPhase } from '@xenvif/client';
import type { Output, Style } from './output.js';
import { ageText, labelsText } from './units.js';

const PHASE_STYLES: Partial<Record<VifPhase, Style>> = {
  connected: 'good',
  failed: 'bad',
  connecting: 'warning',
  disconnected: 'faint',
  deleting: 'faint',
};

/** The phase, coloured by how good it is. */
export function phaseText(out: Output, phase: VifPhase): string {
  return out.styled(phase, PHASE_STYLES[phase]);
}

/** Prints everything that is known of a vif. */
export function printVif(out: Output, vif: Vif): void {
  const { spec, status } = vif;
  const { rate, portPolicy } = spec;
  out.fields([
    ['name', vif.name],
    ['uid', vif.uid],
    ['etag', vif.etag],
    ['labels', labelsText(vif.labels) || '-'],
    ['mac', spec.mac],
    ['mtu', String(spec.mtu)],
    ['rate', rate ? `${rate.bytesPerInterval} bytes each ${rate.intervalMs} ms` : 'no limit'],
    ['switch', spec.switch || 'default'],
    ['port policy', portPolicy ? JSON.stringify(portPolicy) : '-'],
    ['phase', phaseText(out, status.phase)],
    ['reason', `${status.reason}${status.message ? `: ${status.message}` : ''}`],
    ['since', status.since ? `${status.since.toISOString()} (${ageText(status.since)} ago)` : '-'],
    ['link', status.linkUp ? 'up' : out.styled('down', 'bad')],
    ['backend', status.backendState],
    ['frontend', status.frontendState],
    ['features', featuresText(vif)],
    ['queues', String(status.queues)],
    ['connects', String(status.connects)],
  ]);
}

function featuresText({ status }: Vif): string {
  const agreed = Object.entries(status.features ?? {}).filter(([, on]) => on === true);
  return agreed.map(([name]) => name).join(', ') || '-';
}

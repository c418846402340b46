/** A vif as text. */
import type { Vif, VifPhase } from '@xenvif/client';
import type { Output, Style } from './output.js';
import { policyText, rateText } from './policy-text.js';
import { ageText, labelsText, shortName } from './units.js';

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
    ['rate', rate ? rateText(rate) : 'no limit'],
    ['switch', shortName(spec.switch) || 'default'],
    ['port policy', policyText(portPolicy)],
    ['phase', phaseText(out, status.phase)],
    ['reason', `${status.reason}${status.message ? `: ${status.message}` : ''}`],
    ['since', status.since ? `${status.since.toISOString()} (${ageText(status.since)} ago)` : '-'],
    ['link', linkText(out, vif)],
    ['backend', status.backendState],
    ['frontend', status.frontendState],
    ['features', featuresText(vif)],
    ['queues', String(status.queues)],
    ['connects', String(status.connects)],
  ]);
}

function linkText(out: Output, { spec, status }: Vif): string {
  if (spec.linkDown) return out.styled('down, as it is wanted', 'warning');
  return status.linkUp ? 'up' : out.styled('down', 'bad');
}

function featuresText({ status }: Vif): string {
  const agreed = Object.entries(status.features ?? {}).filter(([, on]) => on === true);
  return agreed.map(([name]) => name).join(', ') || '-';
}

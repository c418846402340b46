/** What UpdateVif shall change: the fields that the update mask names, each checked. */
import type { VifChanges } from '../device/netback/toolstack.js';
import { InvalidArgumentError } from '../errors.js';
import type { Vif } from '../gen/xenvif/v1/vif.js';
import { checkPortPolicy } from './port-policy.js';
import { checkLabels, checkMtu, checkRate, parseSwitchName } from './validate.js';

/** Each field that may change, and what it becomes when it is in the mask: null for "none". */
const FIELDS: Readonly<Record<string, (vif: Vif) => VifChanges>> = {
  labels: ({ labels }) => ({ labels: checkLabels(labels) }),
  'spec.mtu': ({ spec }) => ({ mtu: checkMtu(spec?.mtu ?? 0) }),
  'spec.rate': ({ spec }) => ({ rate: checkRate(spec?.rate, 'vif.spec.rate') ?? null }),
  'spec.switch': ({ spec }) => ({
    bridge: parseSwitchName(spec?.switch ?? '', 'vif.spec.switch') ?? null,
  }),
  'spec.port_policy': ({ spec }) => ({
    policy: checkPortPolicy(spec?.portPolicy, 'vif.spec.port_policy') ?? null,
  }),
  'spec.link_down': ({ spec }) => ({ linkDown: spec?.linkDown ?? false }),
};
const IMMUTABLE = new Set(['name', 'uid', 'etag', 'status', 'spec.mac']);

/**
 * The changes that a request wants. `spec` stands for all of its fields that may change.
 * @throws InvalidArgumentError UPDATE_MASK_MISSING, FIELD_UNKNOWN, FIELD_IMMUTABLE, and those of
 *   the fields.
 */
export function checkChanges(vif: Vif | undefined, mask: readonly string[]): VifChanges {
  if (vif === undefined || mask.length === 0) {
    const text = 'The update mask must name the fields to change.';
    throw new InvalidArgumentError('UPDATE_MASK_MISSING', 'update_mask', text);
  }
  const fields = mask.flatMap((path) =>
    path === 'spec' ? Object.keys(FIELDS).filter((name) => name.startsWith('spec.')) : [path],
  );
  return Object.assign({}, ...fields.map((path) => change(vif, path))) as VifChanges;
}

function change(vif: Vif, path: string): VifChanges {
  const field = Object.hasOwn(FIELDS, path) ? FIELDS[path] : undefined;
  if (field !== undefined) return field(vif);
  const shown = JSON.stringify(path.slice(0, 64));
  if (IMMUTABLE.has(path) || path.startsWith('status.')) {
    const text = `${shown} cannot be changed.`;
    throw new InvalidArgumentError('FIELD_IMMUTABLE', 'update_mask', text);
  }
  throw new InvalidArgumentError('FIELD_UNKNOWN', 'update_mask', `A vif has no field ${shown}.`);
}

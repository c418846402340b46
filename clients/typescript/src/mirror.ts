/** What a mirror port shall hear, and how that is said in the contract. */
import type { MirrorSpec } from './gen/xenvif/v1/switch_service.js';
import type { Mirror } from './switch.js';

/** Of which ports a mirror hears what; no port named: every frame of the switch, as it came in. */
export type MirrorInput = Partial<Mirror>;

/** The contract's form of a mirror. */
export function mirrorToWire({
  sources = [],
  destinations = [],
  vlans = [],
}: MirrorInput): MirrorSpec {
  return { sources: [...sources], destinations: [...destinations], vlans: [...vlans] };
}

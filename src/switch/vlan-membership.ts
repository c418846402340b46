/**
 * Which VLANs a port belongs to (IEEE 802.1Q), and in which form frames of one pass it. Only tags
 * of type 0x8100 count; a service tag (0x88a8) is payload, as it is to every 802.1Q bridge.
 *
 *   plain   no VLAN is set: tags are payload, and all plain ports are one domain, number 0
 *   access  frames are untagged both ways; from the station a tag of VID 0 (a priority) may be there
 *   trunk   frames of the VLANs of a list are tagged; untagged ones belong to the native VLAN
 */
import { readU16 } from '@xenvif/client/wire';
import { InvalidArgumentError } from '../errors.js';
import { ETHERTYPE_VLAN } from '../wire/packet-layout.js';
import { FRAME_TRUNCATED, VLAN_NOT_ALLOWED, VLAN_TAGGED, VLAN_UNTAGGED } from './drop-tally.js';

/** The domain of ports that know no VLANs. */
export const NO_VLAN = 0;
/** The VLAN of a frame that was dropped before it had one. */
export const VLAN_UNKNOWN = 0xffff;
export const VLAN_MIN = 1;
/** VID 4095 is reserved. */
export const VLAN_MAX = 4094;

const VID_MASK = 0xfff;
const TYPE_OFFSET = 12;
const TAG_END = 18;

/** How a frame stands in memory, or shall leave. */
export const FrameForm = {
  /** It may not pass. */
  none: 0,
  /** Whatever it is. */
  asIs: 1,
  untagged: 2,
  tagged: 3,
  /** With a tag of VID 0: never a form to leave in. */
  priority: 4,
} as const;
export type FrameForm = (typeof FrameForm)[keyof typeof FrameForm];

export class VlanMembership {
  /** Whether frames have VLANs here at all. */
  readonly isAware: boolean;
  /** The access or native VLAN; 0: none. */
  readonly untagged: number;
  /** The VLANs that pass tagged, a bit each; undefined for a port that is no trunk. */
  readonly #tagged: Uint32Array | undefined;
  #vlans: readonly number[] | undefined;

  /** @throws InvalidArgumentError VLAN_INVALID. */
  constructor(accessVlan = 0, trunkVlans: readonly number[] = []) {
    if (accessVlan !== 0) checkVlan('accessVlan', accessVlan);
    for (const vlan of trunkVlans) checkVlan('trunkVlans', vlan);
    this.untagged = accessVlan;
    this.#tagged = trunkVlans.length > 0 ? vlanBits(trunkVlans) : undefined;
    this.isAware = accessVlan !== 0 || trunkVlans.length > 0;
  }

  /** Every domain that the port is in. */
  get vlans(): readonly number[] {
    this.#vlans ??= this.#listVlans();
    return this.#vlans;
  }

  equals(other: VlanMembership): boolean {
    const mine = this.vlans;
    const others = other.vlans;
    return (
      this.untagged === other.untagged &&
      mine.length === others.length &&
      mine.every((vlan, index) => vlan === others[index])
    );
  }

  /** The form of a received frame; `none` where `vlanOf` finds a fault. */
  formOf(bytes: Uint8Array, offset: number, length: number): FrameForm {
    if (!this.isAware) return FrameForm.asIs;
    if (readU16(bytes, offset + TYPE_OFFSET) !== ETHERTYPE_VLAN) return FrameForm.untagged;
    if (length < TAG_END) return FrameForm.none;
    return vidOf(bytes, offset) === 0 ? FrameForm.priority : FrameForm.tagged;
  }

  /** The VLAN of a received frame of that form, or -1 less the cause to drop it for. */
  vlanOf(bytes: Uint8Array, offset: number, form: FrameForm): number {
    switch (form) {
      case FrameForm.asIs:
        return NO_VLAN;
      case FrameForm.untagged:
        return this.untagged === 0 ? -1 - VLAN_UNTAGGED : this.untagged;
      case FrameForm.priority:
        // What a second tag says would be believed wherever the first is taken off.
        if (readU16(bytes, offset + TAG_END - 2) === ETHERTYPE_VLAN) return -1 - VLAN_TAGGED;
        return this.untagged === 0 ? -1 - VLAN_UNTAGGED : this.untagged;
      case FrameForm.tagged:
        return this.#vlanOfTagged(vidOf(bytes, offset));
      default:
        return -1 - FRAME_TRUNCATED;
    }
  }

  /** In which form a frame of a VLAN leaves through the port. */
  formFor(vlan: number): FrameForm {
    if (!this.isAware) return vlan === NO_VLAN ? FrameForm.asIs : FrameForm.none;
    if (vlan === NO_VLAN) return FrameForm.none;
    if (vlan === this.untagged) return FrameForm.untagged;
    return this.#isTagged(vlan) ? FrameForm.tagged : FrameForm.none;
  }

  #listVlans(): number[] {
    if (!this.isAware) return [NO_VLAN];
    const vlans = this.untagged === 0 ? [] : [this.untagged];
    for (let vlan = VLAN_MIN; vlan <= VLAN_MAX; vlan += 1) {
      if (vlan !== this.untagged && this.#isTagged(vlan)) vlans.push(vlan);
    }
    return vlans;
  }

  #vlanOfTagged(vlan: number): number {
    if (this.#tagged === undefined) return -1 - VLAN_TAGGED;
    return vlan === this.untagged || this.#isTagged(vlan) ? vlan : -1 - VLAN_NOT_ALLOWED;
  }

  #isTagged(vlan: number): boolean {
    return this.#tagged !== undefined && hasVlan(this.#tagged, vlan);
  }
}

/** A set of VLANs as a bit each. */
export function vlanBits(vlans: readonly number[]): Uint32Array {
  const bits = new Uint32Array((VID_MASK + 1) / 32);
  for (const vlan of vlans) bits[vlan >>> 5] = (bits[vlan >>> 5] as number) | (1 << (vlan & 31));
  return bits;
}

export function hasVlan(bits: Uint32Array, vlan: number): boolean {
  return (((bits[vlan >>> 5] as number) >>> (vlan & 31)) & 1) !== 0;
}

/** @throws InvalidArgumentError VLAN_INVALID. */
export function checkVlan(field: string, vlan: number): void {
  if (Number.isInteger(vlan) && vlan >= VLAN_MIN && vlan <= VLAN_MAX) return;
  const text = `A VLAN is a number from ${VLAN_MIN} to ${VLAN_MAX}, not ${vlan}.`;
  throw new InvalidArgumentError('VLAN_INVALID', field, text);
}

function vidOf(bytes: Uint8Array, offset: number): number {
  return readU16(bytes, offset + TYPE_OFFSET + 2) & VID_MASK;
}

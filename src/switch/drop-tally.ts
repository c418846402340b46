/**
 * Why a switch drops frames. On the frame path a drop is a number added to a tally; the counters,
 * which have names, get the sums when a batch is done.
 */
import type { FrameCounters } from '../device/metrics.js';

/** Causes, as counters and the API name them; a cause's number is its index. */
export const DROP_CAUSES = [
  /** Shorter than an Ethernet header, or than the tag that the header promises. */
  'FRAME_TRUNCATED',
  /** Tagged, from a port whose frames have no tags; or with a second tag where none may come out. */
  'VLAN_TAGGED',
  /** Untagged, from a trunk without a native VLAN. */
  'VLAN_UNTAGGED',
  /** Of a VLAN that the port is no member of. */
  'VLAN_NOT_ALLOWED',
  'MAC_SPOOFED',
  'IP_SPOOFED',
  'RATE_LIMITED',
  'STORM_BROADCAST',
  'STORM_UNKNOWN_UNICAST',
  /** To an address that bridges do not forward (IEEE 802.1Q, table 8-1). */
  'RESERVED_MULTICAST',
  /** To a station behind the same port, which has the frame already. */
  'SAME_PORT',
  /** From one isolated port to another. */
  'ISOLATED',
  /** Sent by what sits at a mirror port. */
  'MIRROR_PORT',
  /** Switches are joined in a ring, and the frame went round too often. */
  'SWITCH_LOOP',
  /** The egress port's network took the frame not. */
  'EGRESS_REFUSED',
  /** The egress port's network failed. */
  'EGRESS_FAILED',
  /** Too long for a frame with the tag that the egress port's VLAN needs. */
  'FRAME_TOO_LONG',
] as const;
export type DropCause = (typeof DROP_CAUSES)[number];

const number = (cause: DropCause): number => DROP_CAUSES.indexOf(cause);

export const FRAME_TRUNCATED = number('FRAME_TRUNCATED');
export const VLAN_TAGGED = number('VLAN_TAGGED');
export const VLAN_UNTAGGED = number('VLAN_UNTAGGED');
export const VLAN_NOT_ALLOWED = number('VLAN_NOT_ALLOWED');
export const MAC_SPOOFED = number('MAC_SPOOFED');
export const IP_SPOOFED = number('IP_SPOOFED');
export const RATE_LIMITED = number('RATE_LIMITED');
export const STORM_BROADCAST = number('STORM_BROADCAST');
export const STORM_UNKNOWN_UNICAST = number('STORM_UNKNOWN_UNICAST');
export const RESERVED_MULTICAST = number('RESERVED_MULTICAST');
export const SAME_PORT = number('SAME_PORT');
export const ISOLATED = number('ISOLATED');
export const MIRROR_PORT = number('MIRROR_PORT');
export const SWITCH_LOOP = number('SWITCH_LOOP');
export const EGRESS_REFUSED = number('EGRESS_REFUSED');
export const EGRESS_FAILED = number('EGRESS_FAILED');
export const FRAME_TOO_LONG = number('FRAME_TOO_LONG');

export class DropTally {
  /** Frames and their bytes, of all causes, since the last `flush`. */
  frames = 0;
  bytes = 0;
  readonly #counts = new Uint32Array(DROP_CAUSES.length);

  add(cause: number, bytes: number): void {
    this.frames += 1;
    this.bytes += bytes;
    this.#counts[cause] = (this.#counts[cause] as number) + 1;
  }

  /** Moves the sums to the counters. */
  flush(counters: FrameCounters): void {
    if (this.frames === 0) return;
    const counts = this.#counts;
    for (let cause = 0; cause < counts.length; cause += 1) {
      const packets = counts[cause] as number;
      if (packets > 0) counters.drop('switch', DROP_CAUSES[cause] as DropCause, packets);
    }
    counts.fill(0);
    this.frames = 0;
    this.bytes = 0;
  }
}

/**
 * What a switch decides of each frame that came in at a port: whether the port's policy lets it
 * pass, what it teaches, and whether it goes to one port or to all.
 */
import { FRAME_BYTES_MIN, type FrameBatch } from '../device/frame-batch.js';
import type { LocalMemory } from '../xen/local-memory.js';
import {
  FRAME_TRUNCATED,
  ISOLATED,
  RESERVED_MULTICAST,
  SAME_PORT,
  STORM_BROADCAST,
  STORM_UNKNOWN_UNICAST,
} from './drop-tally.js';
import type { ForwardingPass } from './forwarding-pass.js';
import { type ForwardingTable, LearnOutcome, NO_PORT } from './forwarding-table.js';
import type { SwitchPort } from './switch-port.js';
import { FrameForm, NO_VLAN, VLAN_UNKNOWN } from './vlan-membership.js';

/** The unit in which entries of the forwarding table age. */
export const TICK_MS = 100;

/** The bit of a MAC address's first two bytes that says it is a group's. */
const GROUP = 0x0100;
/** 01:80:c2:00:00:00 to :0f, in the two parts of an address. */
const RESERVED_HIGH = 0x0180;
const RESERVED_LOW = 0xc200_0000 | 0;
/** Spanning tree's: forwarded by who takes no part in it, so that loops outside are found. */
const SPANNING_TREE = RESERVED_LOW;

/** Where all of a batch goes, if it is not to one port. */
export const Course = {
  /** To all others. */
  flood: 'flood',
  /** Frame by frame: they differ, or something is to be checked or counted of each. */
  mixed: 'mixed',
} as const;
export type Course = (typeof Course)[keyof typeof Course];

export class FrameSorter {
  readonly #table: ForwardingTable;
  readonly #portAt: readonly (SwitchPort | undefined)[];
  readonly #isHub: boolean;
  /** The memory that all frames lie in: what is read here has two or four bytes and any address. */
  readonly #view: DataView;

  /** `portAt` has each port at its index, now and whenever frames are sorted. */
  constructor(
    table: ForwardingTable,
    portAt: readonly (SwitchPort | undefined)[],
    isHub: boolean,
    { bytes }: LocalMemory,
  ) {
    this.#table = table;
    this.#portAt = portAt;
    this.#isHub = isHub;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /**
   * Where all of a batch goes, from a port that checks nothing, where nothing is mirrored. What a guest
   * sends at once mostly has one source and one destination: those are learnt and looked up once. What
   * has to be counted frame by frame is for `sort`, which decides alike.
   */
  courseOf(ingress: SwitchPort, batch: FrameBatch, nowMs: number): SwitchPort | Course {
    if (this.#isHub || !this.#areAlike(batch)) return Course.mixed;
    const view = this.#view;
    const offset = batch.offset(0);
    const tick = Math.floor(nowMs / TICK_MS);
    const { broadcastLimit, isolated, unknownUnicastLimit } = ingress.rules;
    const high = view.getUint16(offset);
    const low = view.getInt32(offset + 2);
    if ((high & GROUP) !== 0 && (broadcastLimit !== undefined || isReserved(high, low))) {
      return Course.mixed;
    }
    const { index } = ingress;
    const sourceHigh = view.getUint16(offset + 6);
    const sourceLow = view.getInt32(offset + 8);
    // The destination may be the address that is to be learnt.
    if (high === sourceHigh && low === sourceLow) return Course.mixed;
    const found = (high & GROUP) !== 0 ? NO_PORT : this.#table.lookup(NO_VLAN, high, low, tick);
    const target = found === NO_PORT ? undefined : this.#portAt[found];
    if (target === undefined) {
      if ((high & GROUP) === 0 && unknownUnicastLimit !== undefined) return Course.mixed;
    } else if (found === index || (isolated && target.rules.isolated)) {
      return Course.mixed;
    }
    this.#learn(ingress, NO_VLAN, sourceHigh, sourceLow, tick);
    return target ?? Course.flood;
  }

  /** Whether all frames are whole, and have the same two addresses. */
  #areAlike({ count, lengths, offsets }: FrameBatch): boolean {
    const view = this.#view;
    let offset = offsets[0] as number;
    if ((lengths[0] as number) < FRAME_BYTES_MIN) return false;
    const first = view.getInt32(offset);
    const second = view.getInt32(offset + 4);
    const third = view.getInt32(offset + 8);
    for (let frame = 1; frame < count; frame += 1) {
      if ((lengths[frame] as number) < FRAME_BYTES_MIN) return false;
      offset = offsets[frame] as number;
      const differs =
        (view.getInt32(offset) ^ first) |
        (view.getInt32(offset + 4) ^ second) |
        (view.getInt32(offset + 8) ^ third);
      if (differs !== 0) return false;
    }
    return true;
  }

  /** Says of each frame of the chunk where it goes. Addresses as in the frame before cost nothing. */
  sort(pass: ForwardingPass, ingress: SwitchPort, batch: FrameBatch, nowMs: number): void {
    const { lengths, offsets } = batch;
    const view = this.#view;
    const { forms, ingressDrops, start, vlans } = pass;
    const { isOpen } = ingress.rules;
    const isHub = this.#isHub;
    const tick = Math.floor(nowMs / TICK_MS);
    let sourceHigh = -1;
    let sourceLow = 0;
    let lastVlan = -1;
    let destinationHigh = -1;
    let destinationLow = 0;
    let target: SwitchPort | undefined;
    for (let frame = 0; frame < pass.count; frame += 1) {
      const offset = offsets[start + frame] as number;
      const length = lengths[start + frame] as number;
      let vlan: number = NO_VLAN;
      forms[frame] = FrameForm.asIs;
      vlans[frame] = VLAN_UNKNOWN;
      if (length < FRAME_BYTES_MIN) {
        ingressDrops.add(FRAME_TRUNCATED, length);
        continue;
      }
      if (!isOpen) {
        vlan = this.#admit(pass, frame, ingress, batch, nowMs);
        if (vlan < 0) continue;
      }
      vlans[frame] = vlan;
      if (isHub) {
        this.#flood(pass, ingress, frame, offset, length, nowMs);
        continue;
      }
      let high = view.getUint16(offset + 6);
      let low = view.getInt32(offset + 8);
      if (vlan !== lastVlan || low !== sourceLow || high !== sourceHigh) {
        this.#learn(ingress, vlan, high, low, tick);
        if (vlan !== lastVlan || (high === destinationHigh && low === destinationLow)) {
          destinationHigh = -1;
        }
        lastVlan = vlan;
        sourceHigh = high;
        sourceLow = low;
      }
      high = view.getUint16(offset);
      low = view.getInt32(offset + 2);
      if ((high & GROUP) !== 0) {
        this.#flood(pass, ingress, frame, offset, length, nowMs);
        continue;
      }
      if (low !== destinationLow || high !== destinationHigh) {
        const index = this.#table.lookup(vlan, high, low, tick);
        target = index === NO_PORT ? undefined : this.#portAt[index];
        destinationHigh = high;
        destinationLow = low;
      }
      if (target === undefined) {
        this.#flood(pass, ingress, frame, offset, length, nowMs);
      } else if (target === ingress) {
        ingressDrops.add(SAME_PORT, length);
      } else if (ingress.rules.isolated && target.rules.isolated) {
        ingressDrops.add(ISOLATED, length);
      } else {
        pass.toPort(target, frame);
      }
    }
  }

  /** The VLAN of a frame that the port's policy lets pass; negative for one that it does not. */
  #admit(
    pass: ForwardingPass,
    frame: number,
    ingress: SwitchPort,
    batch: FrameBatch,
    nowMs: number,
  ): number {
    const { rules } = ingress;
    const index = pass.start + frame;
    const offset = batch.offset(index);
    const length = batch.length(index);
    const form = rules.vlans.formOf(batch.bytes, offset, length);
    const vlan = rules.vlans.vlanOf(batch.bytes, offset, form);
    pass.forms[frame] = form;
    if (vlan < 0) {
      pass.ingressDrops.add(-1 - vlan, length);
      return -1;
    }
    pass.vlans[frame] = vlan;
    const fault = rules.faultOf(batch.bytes, offset, length, nowMs);
    if (fault < 0) return vlan;
    pass.ingressDrops.add(fault, length);
    return -1;
  }

  #learn(ingress: SwitchPort, vlan: number, high: number, low: number, tick: number): void {
    // Neither a group nor nobody can be behind a port.
    if ((high & GROUP) !== 0 || (high === 0 && low === 0)) return;
    const { metrics } = ingress;
    switch (this.#table.learn(vlan, high, low, ingress.index, tick)) {
      case LearnOutcome.known:
        return;
      case LearnOutcome.learnt:
        metrics.learnt += 1;
        return;
      case LearnOutcome.moved:
        metrics.moved += 1;
        return;
      default:
        metrics.notLearnt += 1;
    }
  }

  /** Puts a frame on the list for everybody, unless there is a reason against it. */
  #flood(
    pass: ForwardingPass,
    ingress: SwitchPort,
    frame: number,
    offset: number,
    length: number,
    nowMs: number,
  ): void {
    const { broadcastLimit, unknownUnicastLimit } = ingress.rules;
    const high = this.#view.getUint16(offset);
    if ((high & GROUP) !== 0) {
      if (!this.#isHub && isReserved(high, this.#view.getInt32(offset + 2))) {
        pass.ingressDrops.add(RESERVED_MULTICAST, length);
        return;
      }
      if (broadcastLimit !== undefined && !broadcastLimit.take(1, nowMs)) {
        pass.ingressDrops.add(STORM_BROADCAST, length);
        return;
      }
    } else if (unknownUnicastLimit !== undefined && !this.#isHub) {
      if (!unknownUnicastLimit.take(1, nowMs)) {
        pass.ingressDrops.add(STORM_UNKNOWN_UNICAST, length);
        return;
      }
    }
    pass.toAll(frame);
  }
}

/** Whether bridges do not forward what is for this group address. */
function isReserved(high: number, low: number): boolean {
  return high === RESERVED_HIGH && (low & ~0xf) === RESERVED_LOW && low !== SPANNING_TREE;
}

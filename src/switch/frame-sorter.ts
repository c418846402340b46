/**
 * What a switch decides of each frame that came in at a port: whether the port's policy lets it
 * pass, what it teaches, and whether it goes to one port or to all.
 */
import { FRAME_BYTES_MIN, type FrameBatch } from '../device/frame-batch.js';
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
import { macHigh, macLow } from './port-policy.js';
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

export class FrameSorter {
  readonly #table: ForwardingTable;
  readonly #portAt: readonly (SwitchPort | undefined)[];
  readonly #isHub: boolean;

  /** `portAt` has each port at its index, now and whenever frames are sorted. */
  constructor(table: ForwardingTable, portAt: readonly (SwitchPort | undefined)[], isHub: boolean) {
    this.#table = table;
    this.#portAt = portAt;
    this.#isHub = isHub;
  }

  /** Says of each frame of the chunk where it goes. Addresses as in the frame before cost nothing. */
  sort(pass: ForwardingPass, ingress: SwitchPort, batch: FrameBatch, nowMs: number): void {
    const { bytes, lengths, offsets } = batch;
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
        this.#flood(pass, ingress, frame, bytes, offset, length, nowMs);
        continue;
      }
      let high = macHigh(bytes, offset + 6);
      let low = macLow(bytes, offset + 6);
      if (vlan !== lastVlan || low !== sourceLow || high !== sourceHigh) {
        this.#learn(ingress, vlan, high, low, tick);
        if (vlan !== lastVlan || (high === destinationHigh && low === destinationLow)) {
          destinationHigh = -1;
        }
        lastVlan = vlan;
        sourceHigh = high;
        sourceLow = low;
      }
      high = macHigh(bytes, offset);
      low = macLow(bytes, offset);
      if ((high & GROUP) !== 0) {
        this.#flood(pass, ingress, frame, bytes, offset, length, nowMs);
        continue;
      }
      if (low !== destinationLow || high !== destinationHigh) {
        const index = this.#table.lookup(vlan, high, low, tick);
        target = index === NO_PORT ? undefined : this.#portAt[index];
        destinationHigh = high;
        destinationLow = low;
      }
      if (target === undefined) {
        this.#flood(pass, ingress, frame, bytes, offset, length, nowMs);
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
    bytes: Uint8Array,
    offset: number,
    length: number,
    nowMs: number,
  ): void {
    const { broadcastLimit, unknownUnicastLimit } = ingress.rules;
    if (((bytes[offset] as number) & 1) !== 0) {
      if (!this.#isHub && isReserved(bytes, offset)) {
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
function isReserved(bytes: Uint8Array, offset: number): boolean {
  const low = macLow(bytes, offset);
  if (macHigh(bytes, offset) !== RESERVED_HIGH || (low & ~0xf) !== RESERVED_LOW) return false;
  return low !== SPANNING_TREE;
}

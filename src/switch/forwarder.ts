/**
 * The frame path of a switch: a batch comes in at a port, each frame is admitted, learnt from and
 * sorted, and each port that gets some of them gets them as one batch. Nothing is allocated for a
 * frame, nor for a batch.
 */
import { FRAME_BYTES_MIN, type FrameBatch } from '../device/frame-batch.js';
import { WriteOutcome } from '../device/network.js';
import { MisuseError } from '../errors.js';
import type { LocalMemory } from '../xen/local-memory.js';
import {
  EGRESS_FAILED,
  EGRESS_REFUSED,
  FRAME_TRUNCATED,
  ISOLATED,
  MIRROR_PORT,
  RESERVED_MULTICAST,
  SAME_PORT,
  STORM_BROADCAST,
  STORM_UNKNOWN_UNICAST,
  SWITCH_LOOP,
} from './drop-tally.js';
import { ForwardingPass } from './forwarding-pass.js';
import { type ForwardingTable, LearnOutcome, NO_PORT } from './forwarding-table.js';
import type { MirrorSession } from './mirror.js';
import { macHigh, macLow } from './port-policy.js';
import type { SwitchPort } from './switch-port.js';
import { FrameForm, NO_VLAN, VLAN_UNKNOWN } from './vlan-membership.js';

/** The unit in which entries of the forwarding table age. */
export const TICK_MS = 100;

/** Switches may be joined, and a network may hand frames on within the call that brings them. */
const DEPTH_MAX = 4;

/** The bit of a MAC address's first two bytes that says it is a group's. */
const GROUP = 0x0100;
/** 01:80:c2:00:00:00 to :0f, in the two parts of an address. */
const RESERVED_HIGH = 0x0180;
const RESERVED_LOW = 0xc200_0000 | 0;
/** Spanning tree's: forwarded by who takes no part in it, so that loops outside are found. */
const SPANNING_TREE = RESERVED_LOW;

export interface ForwarderOptions {
  readonly isHub: boolean;
  readonly nowMs: () => number;
  readonly onPortFault: ((port: SwitchPort, error: unknown) => void) | undefined;
}

export class Forwarder {
  /** Replaced, never changed, so that a pass can walk it whatever happens meanwhile. */
  ports: readonly SwitchPort[] = [];
  mirrors: readonly MirrorSession[] = [];
  readonly #memory: LocalMemory;
  readonly #table: ForwardingTable;
  readonly #options: ForwarderOptions;
  readonly #byIndex: (SwitchPort | undefined)[] = [];
  /** Indices of ports that went while frames were on their way; they must not mean others yet. */
  readonly #retired: number[] = [];
  readonly #passes: ForwardingPass[] = [];
  #depth = 0;
  #isOpen = true;

  constructor(memory: LocalMemory, table: ForwardingTable, options: ForwarderOptions) {
    this.#memory = memory;
    this.#table = table;
    this.#options = options;
  }

  /** One more than the highest index that a port ever had. */
  get indices(): number {
    return this.#byIndex.length;
  }

  at(index: number): SwitchPort | undefined {
    return this.#byIndex[index];
  }

  /** The index for the next port. */
  freeIndex(): number {
    const free = this.#byIndex.findIndex(
      (port, index) => port === undefined && !this.#retired.includes(index),
    );
    return free === -1 ? this.#byIndex.length : free;
  }

  add(port: SwitchPort): void {
    this.#byIndex[port.index] = port;
    this.ports = [...this.ports, port];
  }

  remove(port: SwitchPort): void {
    this.#byIndex[port.index] = undefined;
    if (this.#depth > 0) this.#retired.push(port.index);
    this.ports = this.ports.filter((other) => other !== port);
  }

  /** Gives memory back, as soon as no frame is on its way. */
  close(): void {
    this.#isOpen = false;
    if (this.#depth === 0) this.#freePasses();
  }

  /** Forwards what a port's network received. */
  receive(ingress: SwitchPort, batch: FrameBatch): void {
    if (batch.bytes !== this.#memory.bytes) {
      throw new MisuseError(`${ingress.name} brings frames that are not in the switch's memory.`);
    }
    if (!ingress.isLive || batch.count === 0) return;
    const pass = this.#passAt(Math.min(this.#depth, DEPTH_MAX));
    const isLoop = this.#depth >= DEPTH_MAX;
    this.#depth += 1;
    try {
      if (isLoop || ingress.mirrorsHere !== 0) {
        this.#refuse(pass, batch, isLoop ? SWITCH_LOOP : MIRROR_PORT);
      } else {
        this.#forward(pass, ingress, batch);
      }
      const { ingressDrops } = pass;
      const { tx } = ingress.metrics;
      tx.count(batch.count - ingressDrops.frames, batch.totalBytes - ingressDrops.bytes);
      ingressDrops.flush(tx);
    } finally {
      pass.end();
      this.#depth -= 1;
      if (this.#depth === 0) this.#settle();
    }
  }

  #settle(): void {
    this.#retired.length = 0;
    if (!this.#isOpen) this.#freePasses();
  }

  /** Each call within a call has a pass of its own. */
  #passAt(depth: number): ForwardingPass {
    const pass = this.#passes[depth] ?? new ForwardingPass(this.#memory);
    this.#passes[depth] = pass;
    return pass;
  }

  #freePasses(): void {
    for (const pass of this.#passes) pass.free();
    this.#passes.length = 0;
  }

  #refuse(pass: ForwardingPass, batch: FrameBatch, cause: number): void {
    for (let index = 0; index < batch.count; index += 1) {
      pass.ingressDrops.add(cause, batch.length(index));
    }
  }

  #forward(pass: ForwardingPass, ingress: SwitchPort, batch: FrameBatch): void {
    const nowMs = this.#options.nowMs();
    for (let start = 0; start < batch.count; start += pass.count) {
      // A network that was written to may have had ports plugged in and pulled out.
      if (!ingress.isLive || ingress.mirrorsHere !== 0) return;
      pass.reserve(this.#byIndex.length);
      const hasMirrors = this.mirrors.length > 0;
      pass.begin(batch, start, ingress.rules.vlans.isAware, hasMirrors);
      this.#sort(pass, ingress, batch, nowMs);
      if (hasMirrors) this.#mirrorIngress(pass, ingress);
      if (!this.#deliverWhole(pass, ingress, batch)) this.#deliver(pass, ingress, batch);
      if (hasMirrors) this.#deliverMirrored(pass, batch);
      pass.end();
    }
  }

  /** Says of each frame of the chunk where it goes. Addresses as in the frame before cost nothing. */
  #sort(pass: ForwardingPass, ingress: SwitchPort, batch: FrameBatch, nowMs: number): void {
    const { bytes, lengths, offsets } = batch;
    const { forms, ingressDrops, start, vlans } = pass;
    const { isOpen } = ingress.rules;
    const { isHub } = this.#options;
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
        target = index === NO_PORT ? undefined : this.#byIndex[index];
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
      if (!this.#options.isHub && isReserved(bytes, offset)) {
        pass.ingressDrops.add(RESERVED_MULTICAST, length);
        return;
      }
      if (broadcastLimit !== undefined && !broadcastLimit.take(nowMs)) {
        pass.ingressDrops.add(STORM_BROADCAST, length);
        return;
      }
    } else if (unknownUnicastLimit !== undefined && !this.#options.isHub) {
      if (!unknownUnicastLimit.take(nowMs)) {
        pass.ingressDrops.add(STORM_UNKNOWN_UNICAST, length);
        return;
      }
    }
    pass.toAll(frame);
  }

  /**
   * Hands a batch on as it is, where all of it goes the same way and no frame changes its form.
   * False where that is not so.
   */
  #deliverWhole(pass: ForwardingPass, ingress: SwitchPort, batch: FrameBatch): boolean {
    const { count } = pass;
    if (count !== batch.count || this.mirrors.length > 0) return false;
    if (ingress.rules.vlans.isAware) return false;
    if (pass.floodCount === count) {
      for (const port of this.ports) {
        const isPlain = !port.rules.vlans.isAware;
        if (isPlain && getsFloodOf(port, ingress)) this.#write(pass, port, batch);
      }
      return true;
    }
    const { lastTarget } = pass;
    if (pass.unicastCount !== count || pass.runCount !== 1 || lastTarget === undefined)
      return false;
    this.#write(pass, lastTarget, batch);
    return true;
  }

  /** Hands each port a batch of its own. */
  #deliver(pass: ForwardingPass, ingress: SwitchPort, batch: FrameBatch): void {
    pass.link(this.#byIndex);
    if (pass.floodCount === 0) {
      for (let target = 0; target < pass.targetCount; target += 1) {
        this.#deliverTo(pass, pass.targets[target] as SwitchPort, batch, false);
      }
      return;
    }
    for (const port of this.ports) {
      if (port !== ingress) this.#deliverTo(pass, port, batch, getsFloodOf(port, ingress));
    }
  }

  #deliverTo(pass: ForwardingPass, port: SwitchPort, batch: FrameBatch, floods: boolean): void {
    if (!port.isLive || port.mirrorsHere !== 0) return;
    pass.gather(batch, port, floods);
    if (port.egressMirrors !== 0) this.#mirrorEgress(pass, port);
    if (pass.batch.count > 0) {
      this.#write(pass, port, pass.batch);
      pass.keepFlags(batch);
    }
    pass.egressDrops.flush(port.metrics.rx);
  }

  /** Writes a batch to a port's network and counts what became of it; what is thrown stays here. */
  #write(pass: ForwardingPass, port: SwitchPort, batch: FrameBatch): void {
    if (!port.isLive) return;
    const { count, totalBytes } = batch;
    const { outcomes } = pass;
    const { rx } = port.metrics;
    let accepted = 0;
    try {
      accepted = port.network.writeBatch(batch, outcomes);
    } catch (error) {
      for (let index = 0; index < count; index += 1) {
        pass.egressDrops.add(EGRESS_FAILED, batch.length(index));
      }
      pass.egressDrops.flush(rx);
      this.#failed(port, error);
      return;
    }
    port.isFailing = false;
    if (accepted === count) {
      rx.count(count, totalBytes);
      return;
    }
    for (let index = 0; index < count; index += 1) {
      if (outcomes[index] === WriteOutcome.accepted) rx.count(1, batch.length(index));
      else pass.egressDrops.add(EGRESS_REFUSED, batch.length(index));
    }
    pass.egressDrops.flush(rx);
  }

  #failed(port: SwitchPort, error: unknown): void {
    if (port.isFailing) return;
    port.isFailing = true;
    this.#options.onPortFault?.(port, error);
  }

  #mirrorIngress(pass: ForwardingPass, ingress: SwitchPort): void {
    if (ingress.ingressMirrors === 0) return;
    for (let frame = 0; frame < pass.count; frame += 1) {
      const bits = this.#mirrorBits(ingress.ingressMirrors, pass.vlans[frame] as number);
      pass.mirrors[frame] = (pass.mirrors[frame] as number) | bits;
    }
  }

  /** Marks what `gather` put together for a port. */
  #mirrorEgress(pass: ForwardingPass, port: SwitchPort): void {
    for (let index = 0; index < pass.batch.count; index += 1) {
      const frame = pass.frameAt(index);
      const bits = this.#mirrorBits(port.egressMirrors, pass.vlans[frame] as number);
      pass.mirrors[frame] = (pass.mirrors[frame] as number) | bits;
    }
  }

  /** Those of the sessions in `bits` that want frames of a VLAN. */
  #mirrorBits(bits: number, vlan: number): number {
    let wanted = 0;
    for (const session of this.mirrors) {
      if ((bits & session.bit) !== 0 && session.hasVlan(vlan)) wanted |= session.bit;
    }
    return wanted;
  }

  #deliverMirrored(pass: ForwardingPass, batch: FrameBatch): void {
    for (const { bit, to } of this.mirrors) {
      pass.gatherMirrored(batch, bit);
      if (pass.batch.count === 0) continue;
      this.#write(pass, to, pass.batch);
      pass.keepFlags(batch);
    }
  }
}

function getsFloodOf(port: SwitchPort, ingress: SwitchPort): boolean {
  if (port === ingress || port.mirrorsHere !== 0) return false;
  return !(port.rules.isolated && ingress.rules.isolated);
}

/** Whether bridges do not forward what is for this group address. */
function isReserved(bytes: Uint8Array, offset: number): boolean {
  const low = macLow(bytes, offset);
  if (macHigh(bytes, offset) !== RESERVED_HIGH || (low & ~0xf) !== RESERVED_LOW) return false;
  return low !== SPANNING_TREE;
}

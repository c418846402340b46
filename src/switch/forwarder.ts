/**
 * The frame path of a switch: a batch comes in at a port, each frame is admitted, learnt from and
 * sorted, and each port that gets some of them gets them as one batch. Nothing is allocated for a
 * frame, nor for a batch.
 */
import {
  DIRECTION_FROM_GUEST,
  DIRECTION_TO_GUEST,
  type FrameBatch,
} from '../device/frame-batch.js';
import { WriteOutcome } from '../device/network.js';
import { MisuseError } from '../errors.js';
import type { LocalMemory } from '../xen/local-memory.js';
import { EGRESS_FAILED, EGRESS_REFUSED, MIRROR_PORT, SWITCH_LOOP } from './drop-tally.js';
import { CHUNK_FRAMES, ForwardingPass } from './forwarding-pass.js';
import type { ForwardingTable } from './forwarding-table.js';
import { Course, FrameSorter } from './frame-sorter.js';
import type { MirrorSession } from './mirror.js';
import type { SwitchPort } from './switch-port.js';

/** Switches may be joined, and a network may hand frames on within the call that brings them. */
const DEPTH_MAX = 4;

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
  readonly #sorter: FrameSorter;
  readonly #options: ForwarderOptions;
  readonly #byIndex: (SwitchPort | undefined)[] = [];
  /** Indices of ports that went while frames were on their way; they must not mean others yet. */
  readonly #retired: number[] = [];
  readonly #passes: ForwardingPass[] = [];
  #depth = 0;
  #isOpen = true;

  constructor(memory: LocalMemory, table: ForwardingTable, options: ForwarderOptions) {
    this.#memory = memory;
    this.#sorter = new FrameSorter(table, this.#byIndex, options.isHub, memory);
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
    if (this.#forwardAlike(pass, ingress, batch, nowMs)) return;
    for (let start = 0; start < batch.count; start += pass.count) {
      // A network that was written to may have had ports plugged in and pulled out.
      if (!ingress.isLive || ingress.mirrorsHere !== 0) return;
      pass.reserve(this.#byIndex.length);
      const hasMirrors = this.mirrors.length > 0;
      pass.begin(batch, start, ingress.rules.vlans.isAware, hasMirrors);
      this.#sorter.sort(pass, ingress, batch, nowMs);
      if (hasMirrors) this.#mirrorIngress(pass, ingress);
      if (!this.#deliverWhole(pass, ingress, batch)) this.#deliver(pass, ingress, batch);
      if (hasMirrors) this.#deliverMirrored(pass, ingress, batch);
      pass.end();
    }
  }

  /** Hands on a batch of frames with the same addresses; false where a closer look is needed. */
  #forwardAlike(
    pass: ForwardingPass,
    ingress: SwitchPort,
    batch: FrameBatch,
    nowMs: number,
  ): boolean {
    if (!ingress.rules.isOpen || this.mirrors.length > 0) return false;
    if (batch.count > CHUNK_FRAMES) return false;
    const course = this.#sorter.courseOf(ingress, batch, nowMs);
    if (course === Course.mixed) return false;
    if (course === Course.flood) this.#floodWhole(pass, ingress, batch);
    else this.#write(pass, course, batch);
    return true;
  }

  #floodWhole(pass: ForwardingPass, ingress: SwitchPort, batch: FrameBatch): void {
    for (const port of this.ports) {
      const isPlain = !port.rules.vlans.isAware;
      if (isPlain && getsFloodOf(port, ingress)) this.#write(pass, port, batch);
    }
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
      this.#floodWhole(pass, ingress, batch);
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

  #deliverMirrored(pass: ForwardingPass, ingress: SwitchPort, batch: FrameBatch): void {
    for (const { bit, to } of this.mirrors) {
      // What a session hears at the port where it comes in, it does not hear again going out.
      const comesIn = (ingress.ingressMirrors & bit) !== 0;
      pass.gatherMirrored(batch, bit, comesIn ? DIRECTION_FROM_GUEST : DIRECTION_TO_GUEST);
      if (pass.batch.count === 0) continue;
      this.#write(pass, to, pass.batch);
      pass.keepMirroredFlags(batch);
    }
  }
}

function getsFloodOf(port: SwitchPort, ingress: SwitchPort): boolean {
  if (port === ingress || port.mirrorsHere !== 0) return false;
  return !(port.rules.isolated && ingress.rules.isolated);
}

/**
 * One chunk of a batch on its way through a switch: each frame is sorted once, to a port's list or
 * to the list of those that are flooded, and each port then gets its frames, in the order in which
 * they came, as one batch. All of it is arrays that are filled again for the next chunk.
 *
 * A network may complete a blank checksum in the bytes that it was given, and says so in its
 * batch's flags. So a port's batch is made from what is known of the frames at that moment, and
 * what its network found is kept for the next port.
 */
import { FrameBatch, METADATA_MASK } from '../device/frame-batch.js';
import type { LocalMemory } from '../xen/local-memory.js';
import { DropTally } from './drop-tally.js';
import type { SwitchPort } from './switch-port.js';
import { SCRATCH_LIMIT, scratchNeeded, TagRewriter } from './tag-rewriter.js';
import { FrameForm } from './vlan-membership.js';

/** The frames of a chunk. */
export const CHUNK_FRAMES = 256;

const END = -1;
const NOWHERE = -1;
const NO_FRAME = 0x7fffffff;

export class ForwardingPass {
  /** The frames of the chunk are `ingress.[start .. start + count)`; all else is by their number. */
  start = 0;
  count = 0;
  readonly vlans = new Uint16Array(CHUNK_FRAMES);
  readonly forms = new Uint8Array(CHUNK_FRAMES);
  /** Mirror sessions that want the frame, a bit each. */
  readonly mirrors = new Uint32Array(CHUNK_FRAMES);
  /** Drops of what the ingress port's station sent, and of what one egress port was to get. */
  readonly ingressDrops = new DropTally();
  readonly egressDrops = new DropTally();
  /** The ports that have a list. */
  readonly targets: SwitchPort[] = [];
  targetCount = 0;
  unicastCount = 0;
  /** How many times a frame to one port followed none, or one to another port. */
  runCount = 0;
  /** Where the last frame to one port goes. */
  lastTarget: SwitchPort | undefined;
  floodCount = 0;
  /** What `gather` makes. */
  readonly batch: FrameBatch;
  readonly outcomes = new Uint8Array(CHUNK_FRAMES);
  readonly #memory: LocalMemory;
  readonly #floods = new Uint16Array(CHUNK_FRAMES);
  /** The index of the one port that a frame goes to, or `NOWHERE`. */
  readonly #to = new Int16Array(CHUNK_FRAMES);
  readonly #next = new Int16Array(CHUNK_FRAMES);
  #heads = new Int16Array(0);
  #tails = new Int16Array(0);
  /** The chunk's number of each frame in `batch`, and the form that it has there. */
  readonly #frames = new Uint16Array(CHUNK_FRAMES);
  readonly #wanted = new Uint8Array(CHUNK_FRAMES);
  #rewriter: TagRewriter | undefined;

  constructor(memory: LocalMemory) {
    this.#memory = memory;
    this.batch = new FrameBatch(memory.bytes, CHUNK_FRAMES);
  }

  free(): void {
    this.#rewriter?.free();
    this.#rewriter = undefined;
  }

  /** Makes room for ports with indices below `ports`. */
  reserve(ports: number): void {
    if (ports <= this.#heads.length) return;
    const length = Math.max(64, ports, this.#heads.length * 2);
    this.#heads = new Int16Array(length).fill(END);
    this.#tails = new Int16Array(length);
  }

  /**
   * Begins the chunk from frame `start` of `ingress` on. Frames with VLANs may have to be copied,
   * so a chunk of them ends where there would be no room for that.
   */
  begin(ingress: FrameBatch, start: number, hasVlans: boolean, hasMirrors: boolean): void {
    let count = Math.min(CHUNK_FRAMES, ingress.count - start);
    if (hasVlans) {
      let needed = 0;
      for (let frame = 0; frame < count; frame += 1) {
        needed += scratchNeeded(ingress.length(start + frame));
        if (needed > SCRATCH_LIMIT) count = frame;
      }
      this.#rewriter ??= new TagRewriter(this.#memory, CHUNK_FRAMES);
      this.#rewriter.begin(count);
    }
    if (hasMirrors) this.mirrors.fill(0, 0, count);
    this.start = start;
    this.count = count;
    this.floodCount = 0;
    this.unicastCount = 0;
    this.runCount = 0;
    this.lastTarget = undefined;
    this.#to.fill(NOWHERE, 0, count);
  }

  /** Ends the chunk: no port has a list any more. */
  end(): void {
    for (let target = 0; target < this.targetCount; target += 1) {
      this.#heads[(this.targets[target] as SwitchPort).index] = END;
    }
    this.targetCount = 0;
  }

  toPort(port: SwitchPort, frame: number): void {
    this.#to[frame] = port.index;
    this.unicastCount += 1;
    if (port === this.lastTarget) return;
    this.lastTarget = port;
    this.runCount += 1;
  }

  /** Makes the lists of what goes to one port each, once all frames are sorted. */
  link(portAt: readonly (SwitchPort | undefined)[]): void {
    if (this.unicastCount === 0) return;
    for (let frame = 0; frame < this.count; frame += 1) {
      const index = this.#to[frame] as number;
      const port = index === NOWHERE ? undefined : portAt[index];
      if (port !== undefined) this.#append(port, frame);
    }
  }

  #append(port: SwitchPort, frame: number): void {
    const { index } = port;
    this.#next[frame] = END;
    if (this.#heads[index] === END) {
      this.#heads[index] = frame;
      this.targets[this.targetCount] = port;
      this.targetCount += 1;
    } else {
      this.#next[this.#tails[index] as number] = frame;
    }
    this.#tails[index] = frame;
  }

  toAll(frame: number): void {
    this.#floods[this.floodCount] = frame;
    this.floodCount += 1;
  }

  /** Fills `batch` with what goes out through `port`: its list and, where `floods`, the flood. */
  gather(ingress: FrameBatch, port: SwitchPort, floods: boolean): void {
    const { batch } = this;
    batch.clear();
    batch.timeNs = ingress.timeNs;
    const floodCount = floods ? this.floodCount : 0;
    let flood = 0;
    let listed = this.#heads[port.index] as number;
    while (listed !== END || flood < floodCount) {
      const flooded = flood < floodCount ? (this.#floods[flood] as number) : NO_FRAME;
      if (listed !== END && listed < flooded) {
        this.#add(ingress, port, listed);
        listed = this.#next[listed] as number;
      } else {
        this.#add(ingress, port, flooded);
        flood += 1;
      }
    }
  }

  /**
   * Fills `batch` with the frames that mirror session `bit` wants, as they were received but for
   * the direction, which is the one that the session hears them in.
   */
  gatherMirrored(ingress: FrameBatch, bit: number, direction: number): void {
    const { batch } = this;
    batch.clear();
    batch.timeNs = ingress.timeNs;
    for (let frame = 0; frame < this.count; frame += 1) {
      if (((this.mirrors[frame] as number) & bit) === 0) continue;
      const index = this.start + frame;
      this.#frames[batch.count] = frame;
      const flags = (ingress.flag(index) & METADATA_MASK) | direction;
      batch.add(ingress.offset(index), ingress.length(index), flags);
    }
  }

  /** As `keepFlags`, for what `gatherMirrored` put together. */
  keepMirroredFlags(ingress: FrameBatch): void {
    const { batch } = this;
    for (let index = 0; index < batch.count; index += 1) {
      const place = this.start + (this.#frames[index] as number);
      const direction = ingress.flag(place) & ~METADATA_MASK;
      ingress.setFlag(place, (batch.flag(index) & METADATA_MASK) | direction);
    }
  }

  /** The chunk's number of frame `index` of `batch`. */
  frameAt(index: number): number {
    return this.#frames[index] as number;
  }

  /** Keeps what the network that had `batch` found out about its frames. */
  keepFlags(ingress: FrameBatch): void {
    const { batch } = this;
    for (let index = 0; index < batch.count; index += 1) {
      const frame = this.#frames[index] as number;
      const form = this.forms[frame] as FrameForm;
      const wanted = this.#wanted[index] as FrameForm;
      const flags = batch.flag(index);
      const isCopy = form !== wanted && this.#rewriter !== undefined;
      if (isCopy) this.#rewriter?.keepFlags(frame, wanted, flags);
      else ingress.setFlag(this.start + frame, flags);
    }
  }

  #add(ingress: FrameBatch, port: SwitchPort, frame: number): void {
    const vlan = this.vlans[frame] as number;
    const wanted = port.rules.vlans.formFor(vlan);
    if (wanted === FrameForm.none) return;
    const { batch } = this;
    const index = this.start + frame;
    const form = this.forms[frame] as FrameForm;
    this.#frames[batch.count] = frame;
    this.#wanted[batch.count] = wanted;
    const rewriter = this.#rewriter;
    if (form === wanted || rewriter === undefined) {
      batch.add(ingress.offset(index), ingress.length(index), ingress.flag(index));
      return;
    }
    const fault = rewriter.place(ingress, index, frame, form, wanted, vlan);
    if (fault < 0) this.egressDrops.add(-1 - fault, ingress.length(index));
    else batch.add(rewriter.offset, rewriter.length, rewriter.flags);
  }
}

/**
 * All queues of one connection, and what is done to a frame so that the backend can take it: what
 * the backend offers to do is left to it, the rest is done here.
 *
 * A flow stays on one queue, for the order of frames is kept within a queue only.
 */

import { GSO_TYPE_TCPV4, GSO_TYPE_TCPV6 } from '../../ring/netif-extra.js';
import { completeChecksum } from '../../wire/checksum-offload.js';
import { flowHash } from '../../wire/flow-hash.js';
import { PacketLayout, parseLayout } from '../../wire/packet-layout.js';
import { Segmenter, segmentBytesMax } from '../../wire/segmentation.js';
import type { LocalMemory, LocalRegion } from '../../xen/local-memory.js';
import { PAGE_SIZE, type SharedPages, type Xen } from '../../xen/xen.js';
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  FRAME_BYTES_MAX,
  FRAME_BYTES_MIN,
  FrameBatch,
  gsoSizeOf,
  gsoTypeOf,
} from '../frame-batch.js';
import type { DeviceMetrics } from '../metrics.js';
import { type BatchListener, WriteOutcome } from '../network.js';
import { ControlRing } from './control-ring.js';
import type { BackendLink, ConnectionKeys, NetfrontFeatures } from './handshake.js';
import type { NetfrontSettings } from './options.js';
import { FrontQueue, type QueueContext } from './queue.js';

/** Where received frames are put: room for some 120 frames of 1514 bytes beside one of the longest. */
const STAGING_BYTES = 256 * 1024;
const BATCH_FRAMES = 256;
/** What an Ethernet header has at most: addresses, two VLAN tags, type. */
const ETHERNET_HEADER_BYTES_MAX = 22;

export interface ConnectionHooks {
  readonly received: BatchListener;
  readonly writable: () => void;
  readonly fault: (error: unknown) => void;
}

export class NetfrontConnection {
  readonly keys: ConnectionKeys;
  readonly features: NetfrontFeatures;
  readonly link: BackendLink;
  readonly control: ControlRing | undefined;
  readonly #memory: LocalMemory;
  readonly #queues: FrontQueue[] = [];
  readonly #regions: LocalRegion[] = [];
  /** Where a frame is put that is changed before it is sent: it is not ours to change. */
  readonly #changed: LocalRegion;
  readonly #segmenter = new Segmenter();
  readonly #layout = new PacketLayout();

  /** @throws GrantError, EventChannelError; nothing is left behind then. */
  constructor(
    xen: Xen,
    link: BackendLink,
    features: NetfrontFeatures,
    settings: NetfrontSettings,
    metrics: DeviceMetrics,
    hooks: ConnectionHooks,
  ) {
    const { backendDomid } = link;
    this.link = link;
    this.features = features;
    this.#memory = xen.memory;
    try {
      this.#changed = this.#allocate(FRAME_BYTES_MAX);
      const staging = this.#allocate(STAGING_BYTES);
      const batch = new FrameBatch(xen.memory.bytes, BATCH_FRAMES);
      const rxScratch = { staging, batch };
      const context: QueueContext = {
        xen,
        backendDomid,
        features,
        settings,
        rxScratch,
        drain: (queue) => this.#drain(queue),
        ...hooks,
      };
      for (let index = 0; index < features.queues; index += 1) {
        this.#queues.push(new FrontQueue(context, metrics.queue(index)));
      }
      if (features.controlRing) this.control = new ControlRing(xen, backendDomid, hooks.fault);
    } catch (error) {
      for (const pages of this.close()) pages.unshare();
      throw error;
    }
    this.keys = { queues: this.#queues.map(({ keys }) => keys), control: this.control?.keys };
  }

  /** Tells the backend, which is connected now, of the buffers that wait for it. */
  kick(): void {
    for (const queue of this.#queues) queue.kick();
  }

  /** Sends all frames of `batch`, drops and counts what cannot be sent; see `Network.writeBatch`. */
  write(batch: FrameBatch, outcomes?: Uint8Array): number {
    for (const queue of this.#queues) queue.tx.reclaim();
    let accepted = 0;
    for (let index = 0; index < batch.count; index += 1) {
      const offset = batch.offset(index);
      const length = batch.length(index);
      const queue = this.#queueFor(offset, length);
      const outcome = this.#sendOrQueue(queue, offset, length, batch.flag(index));
      if (outcome === WriteOutcome.accepted) accepted += 1;
      if (outcomes !== undefined) outcomes[index] = outcome;
    }
    if (accepted > 0) this.#push();
    return accepted;
  }

  /** Sends the one frame of `batch`, whose writer waits when the ring is full. */
  tryWrite(batch: FrameBatch): WriteOutcome {
    const offset = batch.offset(0);
    const length = batch.length(0);
    const queue = this.#queueFor(offset, length);
    queue.tx.reclaim();
    // What came before it in batches goes before it.
    if (queue.waiting.count > 0) return WriteOutcome.queueFull;
    const outcome = this.#send(queue, offset, length, batch.flag(0));
    if (outcome === WriteOutcome.accepted) queue.push();
    return outcome;
  }

  /**
   * Asks for frames to a multicast address, given as two numbers, or no longer for them. Returns
   * false when there is no room on the ring; else `onAnswer` gets the status of the answer.
   */
  sendMulticast(
    isAdded: boolean,
    addressHigh: number,
    addressLow: number,
    onAnswer: (status: number) => void,
  ): boolean {
    const [queue] = this.#queues;
    if (queue === undefined) return false;
    queue.tx.reclaim();
    if (!queue.tx.hasRoom(1, 1)) return false;
    queue.tx.sendMulticast(isAdded, addressHigh, addressLow, onAnswer);
    queue.push();
    return true;
  }

  /** Ends all queues and returns their pages, which the backend may still have mapped. */
  close(): SharedPages[] {
    const pages = this.#queues.flatMap((queue) => queue.close());
    for (const region of this.#regions.splice(0)) region.free();
    return [...pages, ...(this.control?.close() ?? [])];
  }

  #allocate(bytes: number): LocalRegion {
    const region = this.#memory.allocate(bytes);
    this.#regions.push(region);
    return region;
  }

  #push(): void {
    for (const queue of this.#queues) queue.push();
  }

  #queueFor(offset: number, length: number): FrontQueue {
    const queues = this.#queues;
    const index = queues.length === 1 ? 0 : this.#hash(offset, length) % queues.length;
    return queues[index] as FrontQueue;
  }

  #hash(offset: number, length: number): number {
    return flowHash(this.#memory.bytes, offset, length);
  }

  /** Sends a frame of a batch, or has it wait behind those that do. */
  #sendOrQueue(queue: FrontQueue, offset: number, length: number, flags: number): WriteOutcome {
    const { waiting } = queue;
    if (waiting.count > 0) this.#drain(queue);
    if (waiting.count === 0) {
      const outcome = this.#send(queue, offset, length, flags);
      if (outcome !== WriteOutcome.queueFull) return outcome;
    }
    if (waiting.push(offset, length, flags, 0)) return WriteOutcome.accepted;
    queue.metrics.tx.drop('tx-queue', 'TX_QUEUE_FULL');
    return WriteOutcome.queueFull;
  }

  /** Sends what waits for room on a queue's ring, as far as there is room now. */
  #drain(queue: FrontQueue): void {
    const { waiting } = queue;
    let sent = 0;
    while (waiting.count > 0) {
      const { flags, length, offset } = waiting;
      if (this.#send(queue, offset, length, flags) === WriteOutcome.queueFull) break;
      waiting.shift();
      sent += 1;
    }
    if (waiting.count === 0) waiting.clear();
    if (sent > 0) queue.push();
  }

  /** Puts one frame on the ring, changed where the backend could not take it as it is. */
  #send(queue: FrontQueue, offset: number, length: number, flags: number): WriteOutcome {
    if (length < FRAME_BYTES_MIN || length > FRAME_BYTES_MAX) return tooLong(queue, 'BAD_LENGTH');
    const gsoType = gsoTypeOf(flags);
    if (gsoType !== 0) {
      return this.#takesGso(gsoType, gsoSizeOf(flags))
        ? this.#put(queue, offset, length, flags, true)
        : this.#sendSegments(queue, offset, length, gsoSizeOf(flags));
    }
    if (length > PAGE_SIZE && !this.features.scatterGather) return tooLong(queue, 'TOO_LONG');
    if ((flags & CHECKSUM_BLANK) === 0 || this.#takesBlank(offset, length)) {
      return this.#put(queue, offset, length, flags, false);
    }
    if (!queue.tx.hasRoom(slotsOf(length), 0)) return WriteOutcome.queueFull;
    const { bytes } = this.#memory;
    const changed = this.#changed.offset;
    bytes.copyWithin(changed, offset, offset + length);
    if (!completeChecksum(bytes, changed, length)) return tooLong(queue, 'CHECKSUM_INCOMPLETE');
    return this.#put(queue, changed, length, DATA_VALIDATED, false);
  }

  #put(
    queue: FrontQueue,
    offset: number,
    length: number,
    flags: number,
    asGso: boolean,
  ): WriteOutcome {
    if (!queue.tx.hasRoom(slotsOf(length), asGso ? 1 : 0)) return WriteOutcome.queueFull;
    queue.tx.send(offset, length, flags, asGso);
    return WriteOutcome.accepted;
  }

  /** Sends a frame that the backend cannot cut as the segments it consists of: all of them or none. */
  #sendSegments(queue: FrontQueue, offset: number, length: number, size: number): WriteOutcome {
    const { scatterGather } = this.features;
    const { bytes } = this.#memory;
    const packetBytesMax = scatterGather ? FRAME_BYTES_MAX : PAGE_SIZE - ETHERNET_HEADER_BYTES_MAX;
    const count = this.#segmenter.begin(bytes, offset, length, size, packetBytesMax);
    if (count === 0) return tooLong(queue, 'SEGMENTATION_FAILED');
    const slots = scatterGather ? count * slotsOf(segmentBytesMax(length, size)) : count;
    if (slots > queue.tx.ring.size) return tooLong(queue, 'TOO_MANY_SEGMENTS');
    if (!queue.tx.hasRoom(slots, 0)) return WriteOutcome.queueFull;
    const changed = this.#changed.offset;
    for (let segment = 0; segment < count; segment += 1) {
      const segmentBytes = this.#segmenter.next(bytes, changed);
      queue.tx.send(changed, segmentBytes, DATA_VALIDATED, false);
    }
    return WriteOutcome.accepted;
  }

  #takesGso(type: number, size: number): boolean {
    // A backend cuts off who sends it a segment size of 0, so that goes the way that refuses it.
    if (size === 0) return false;
    if (type === GSO_TYPE_TCPV4) return this.features.gsoTcpv4;
    return type === GSO_TYPE_TCPV6 && this.features.gsoTcpv6;
  }

  #takesBlank(offset: number, length: number): boolean {
    const { checksumIpv4, checksumIpv6 } = this.features;
    if (checksumIpv4 && checksumIpv6) return true;
    if (!parseLayout(this.#memory.bytes, offset, length, this.#layout)) return false;
    return this.#layout.ipVersion === 4 ? checksumIpv4 : checksumIpv6;
  }
}

function slotsOf(length: number): number {
  return Math.ceil(length / PAGE_SIZE);
}

/** Counts a frame that the backend can take at no time: there is no use in trying again. */
function tooLong(queue: FrontQueue, cause: string): WriteOutcome {
  queue.metrics.tx.drop('tx-ring', cause);
  return WriteOutcome.tooLong;
}

/**
 * A vif whose guest is connected: its queues, its control ring, and the way of a frame to the guest:
 * multicast filter, queue choice, and whatever the guest cannot take done for it in software. A
 * connection is made whole or not at all, and `close` gives everything back.
 */

import { ETHERTYPE_IPV4, readU16 } from '@xenvif/client/wire';
import { GSO_TYPE_TCPV4 } from '../../ring/netif-extra.js';
import { completeChecksum } from '../../wire/checksum-offload.js';
import {
  ETHERTYPE_IPV6,
  ETHERTYPE_SERVICE_VLAN,
  ETHERTYPE_VLAN,
} from '../../wire/packet-layout.js';
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  type FrameBatch,
  GSO_MASK,
  gsoSizeOf,
  gsoTypeOf,
  METADATA_MASK,
} from '../frame-batch.js';
import type { DeviceMetrics } from '../metrics.js';
import { type BatchListener, WriteOutcome } from '../network.js';
import type { TokenBucket } from '../token-bucket.js';
import type { NetbackContext } from './context.js';
import { ControlRing } from './control-ring.js';
import { FlowSteering } from './flow-steering.js';
import type { GuestWishes, HashWish } from './guest-wishes.js';
import type { FrontendParameters, NetbackFeatures } from './handshake.js';
import { MulticastFilter } from './multicast-filter.js';
import { Queue } from './queue.js';
import { NO_HASH } from './rx-filler.js';
import { PATIENCE_WITH_NOTIFY, PATIENCE_WITHOUT_NOTIFY } from './rx-queue.js';
import { type RxScratch, SLOTS_MAX } from './rx-scratch.js';

export interface ConnectionHooks {
  readonly fromGuest: BatchListener;
  readonly toGuest: () => BatchListener | undefined;
  /** The limit on what the guest may send, as it is now. */
  readonly bucket: () => TokenBucket | undefined;
  /** Whether the link is down: no frame passes, either way. */
  readonly isDown: () => boolean;
  /** The guest wishes something that a next daemon has to know. */
  readonly wished: () => void;
  /** The rings make no sense, or Xen failed us: the connection must be closed. */
  readonly fault: (error: unknown) => void;
}

export interface ConnectionOptions {
  readonly domid: number;
  readonly parameters: FrontendParameters;
  /** A daemon before us made the connection. */
  readonly adopted: boolean;
  /** What the guest asked that daemon for. */
  readonly wishes: GuestWishes | undefined;
  readonly metrics: DeviceMetrics;
  readonly hooks: ConnectionHooks;
}

export class Connection {
  readonly features: NetbackFeatures;
  readonly queues: readonly Queue[];
  readonly #context: NetbackContext;
  readonly #metrics: DeviceMetrics;
  readonly #hooks: ConnectionHooks;
  readonly #multicast: MulticastFilter;
  readonly #steering: FlowSteering;
  readonly #control: ControlRing | undefined;
  /** Who waits for the guest to post buffers. */
  readonly #awaitingRoom = new Set<() => void>();
  /** By queue, what it works with. */
  readonly #shares: readonly RxScratch[];
  /** The guest takes a blank checksum whatever is in the frame. */
  readonly #takesBlank: boolean;

  /** @throws GrantError, EventChannelError, ProtocolError; nothing is left behind then. */
  constructor(context: NetbackContext, options: ConnectionOptions) {
    const { adopted, domid, hooks, metrics, parameters, wishes } = options;
    const { features } = parameters;
    this.features = features;
    this.#context = context;
    this.#metrics = metrics;
    this.#hooks = hooks;
    this.#multicast = new MulticastFilter(features.multicastControl, adopted, wishes?.multicast);
    this.#steering = new FlowSteering(parameters.queues.length);
    if (wishes?.hash !== undefined) this.#steering.restore(wishes.hash);
    this.#takesBlank = features.ipv4Checksum && features.ipv6Checksum;
    const queues: Queue[] = [];
    try {
      for (const [index, queue] of parameters.queues.entries()) {
        queues.push(
          new Queue(context, index, queue, metrics.queue(index), {
            domid,
            adopted,
            scatterGather: features.scatterGather,
            patience: features.rxNotify ? PATIENCE_WITH_NOTIFY : PATIENCE_WITHOUT_NOTIFY,
            multicast: this.#multicast,
            deliver: hooks.fromGuest,
            toGuest: hooks.toGuest,
            bucket: hooks.bucket,
            isDown: hooks.isDown,
            fault: hooks.fault,
            onRoom: () => this.#tellRoom(),
          }),
        );
      }
      const { control } = parameters;
      if (control !== undefined) {
        const { ref, port } = control;
        const { xen } = context;
        this.#control = new ControlRing(xen, domid, ref, port, this.#steering, {
          steered: hooks.wished,
          fault: hooks.fault,
        });
      }
    } catch (error) {
      for (const queue of queues) queue.close();
      throw error;
    }
    this.queues = queues;
    this.#shares = queues.map((_, index) => context.rx(index));
  }

  /** Sends frames to the guest; see `Network.writeBatch`. */
  write(batch: FrameBatch, outcomes?: Uint8Array): number {
    let accepted = 0;
    try {
      if (this.#isPlain(batch)) {
        if (this.queues.length > 1) return this.#spread(batch, outcomes);
        if (this.queues[0]?.rx.sendPlain(batch) === true) {
          outcomes?.fill(WriteOutcome.accepted, 0, batch.count);
          return batch.count;
        }
      }
      for (let index = 0; index < batch.count; index += 1) {
        const outcome = this.#send(batch, index);
        if (outcome === WriteOutcome.accepted) accepted += 1;
        if (outcomes !== undefined) outcomes[index] = outcome;
      }
      for (const queue of this.queues) queue.rx.commit();
    } catch (error) {
      this.#hooks.fault(error);
      outcomes?.fill(WriteOutcome.notConnected, 0, batch.count);
      return 0;
    }
    return accepted;
  }

  /** How many frames of one buffer each the guest can take now, whichever queue they go to. */
  get room(): number {
    try {
      let room = Number.POSITIVE_INFINITY;
      for (const queue of this.queues) room = Math.min(room, queue.rx.room);
      return room;
    } catch (error) {
      this.#hooks.fault(error);
      return 0;
    }
  }

  /** Calls `onRoom` once, when the guest has posted buffers; returns a function that ends that. */
  awaitRoom(onRoom: () => void): () => void {
    this.#awaitingRoom.add(onRoom);
    try {
      let isRoom = true;
      for (const queue of this.queues) isRoom = queue.rx.awaitRoom() && isRoom;
      // Who waits is not called within the call.
      if (isRoom) setImmediate(() => this.#tellRoom());
    } catch (error) {
      this.#hooks.fault(error);
    }
    return () => this.#awaitingRoom.delete(onRoom);
  }

  #tellRoom(): boolean {
    if (this.#awaitingRoom.size === 0 || this.room === 0) return false;
    const waiting = [...this.#awaitingRoom];
    this.#awaitingRoom.clear();
    for (const onRoom of waiting) onRoom();
    return true;
  }

  /** The guest has changed its mind about multicast filtering. */
  filterMulticast(enabled: boolean): void {
    this.#multicast.enabled = enabled;
  }

  /** How the guest wants its frames hashed. */
  get hashWish(): HashWish | undefined {
    return this.#steering.keep();
  }

  /** Which multicast it wants, where all of that is known. */
  get multicastWish(): readonly number[] | undefined {
    return this.#multicast.keep();
  }

  /** Looks at all rings without waiting for an event. */
  kick(): void {
    for (const queue of this.queues) queue.kick();
    this.#control?.kick();
  }

  /** Wakes the guest on rings that a daemon before us served. */
  wakeGuest(): void {
    for (const queue of this.queues) queue.wakeGuest();
  }

  /** Answers what the guest has put on the rings so far: what comes before an orderly handover. */
  drain(): void {
    for (const queue of this.queues) queue.drain();
  }

  /** Bytes that wait for the guest to post buffers. */
  get waitingBytes(): number {
    return this.queues.reduce((sum, { rx }) => sum + rx.queuedBytes, 0);
  }

  /** Sends what waits for the guest, as far as it has posted buffers. */
  flush(): void {
    for (const queue of this.queues) queue.flush();
  }

  /** Gives mappings and ports back. What waits for the guest is dropped and counted. */
  close(): void {
    for (const queue of this.queues) queue.close();
    this.#control?.close();
  }

  /** Whether nothing has to be done for the frames of a batch but to copy them. */
  #isPlain(batch: FrameBatch): boolean {
    if (this.#steering.isConfigured || this.#multicast.enabled || this.#hooks.isDown())
      return false;
    const { bytes, count, flags, isRun, offsets } = batch;
    if (count === 0 || count > SLOTS_MAX) return false;
    let seen = flags[0] as number;
    if (!isRun) for (let index = 1; index < count; index += 1) seen |= flags[index] as number;
    if ((seen & GSO_MASK) !== 0) return false;
    if ((seen & CHECKSUM_BLANK) === 0 || this.#takesBlank) return true;
    for (let index = 0; index < count; index += 1) {
      const isBlank = ((flags[index] as number) & CHECKSUM_BLANK) !== 0;
      if (isBlank && !this.#takesBlankOf(bytes, offsets[index] as number)) return false;
    }
    return true;
  }

  /** Sends a plain batch over several queues: to each its share at once, as far as that can be. */
  #spread(batch: FrameBatch, outcomes: Uint8Array | undefined): number {
    const { bytes, count } = batch;
    const shares = this.#shares;
    for (const { share } of shares) share.clear();
    for (let index = 0; index < count; index += 1) {
      const offset = batch.offset(index);
      const length = batch.length(index);
      const { share, shareIndices } = shares[
        this.#steering.choose(bytes, offset, length)
      ] as RxScratch;
      shareIndices[share.count] = index;
      share.add(offset, length, batch.flag(index));
    }
    let accepted = 0;
    for (let number = 0; number < this.queues.length; number += 1) {
      const { rx } = this.queues[number] as Queue;
      const { share, shareIndices } = shares[number] as RxScratch;
      if (share.count === 0) continue;
      const isSent = rx.sendPlain(share);
      for (let place = 0; place < share.count; place += 1) {
        const outcome = isSent
          ? WriteOutcome.accepted
          : rx.send(share.offset(place), share.length(place), share.flag(place), NO_HASH);
        if (outcome === WriteOutcome.accepted) accepted += 1;
        if (outcomes !== undefined) outcomes[shareIndices[place] as number] = outcome;
      }
      rx.commit();
    }
    return accepted;
  }

  #send(batch: FrameBatch, index: number): WriteOutcome {
    const { bytes } = batch;
    const offset = batch.offset(index);
    if (this.#hooks.isDown()) {
      this.#metrics.unconnected.rx.drop('rx-queue', 'CARRIER_DOWN');
      return WriteOutcome.notConnected;
    }
    if (!this.#multicast.passes(bytes, offset)) {
      this.#metrics.unconnected.rx.drop('rx-queue', 'MULTICAST_FILTERED');
      return WriteOutcome.accepted;
    }
    const length = batch.length(index);
    const steering = this.#steering;
    const chosen = steering.choose(bytes, offset, length);
    const queue = this.queues[chosen] as Queue;
    const flags = batch.flag(index);
    const gsoType = gsoTypeOf(flags);
    if (gsoType !== 0) {
      if (!this.#takesGso(gsoType)) return this.#sendSegments(queue, bytes, offset, length, flags);
    } else if ((flags & CHECKSUM_BLANK) !== 0 && !this.#takesBlankOf(bytes, offset)) {
      // The frame is ours to write in; whoever gets it after us has its checksum, too.
      if (!completeChecksum(bytes, offset, length)) {
        this.#metrics.unconnected.rx.drop('rx-queue', 'CHECKSUM_OFFSET_INVALID');
        return WriteOutcome.tooLong;
      }
      batch.setFlag(index, (flags & ~CHECKSUM_BLANK) | DATA_VALIDATED);
    }
    return queue.rx.send(offset, length, batch.flag(index), steering.hash);
  }

  #takesGso(type: number): boolean {
    const { gsoTcpv4, gsoTcpv6, ipv4Checksum, ipv6Checksum, scatterGather } = this.features;
    if (!scatterGather) return false;
    return type === GSO_TYPE_TCPV4 ? gsoTcpv4 && ipv4Checksum : gsoTcpv6 && ipv6Checksum;
  }

  #takesBlankOf(bytes: Uint8Array, offset: number): boolean {
    if (this.#takesBlank) return true;
    let type = readU16(bytes, offset + 12);
    for (let tag = 1; tag <= 2; tag += 1) {
      if (type !== ETHERTYPE_VLAN && type !== ETHERTYPE_SERVICE_VLAN) break;
      type = readU16(bytes, offset + 12 + tag * 4);
    }
    if (type === ETHERTYPE_IPV4) return this.features.ipv4Checksum;
    return type === ETHERTYPE_IPV6 && this.features.ipv6Checksum;
  }

  /** Cuts a frame for a guest that cannot, and sends the segments. */
  #sendSegments(
    queue: Queue,
    bytes: Uint8Array,
    offset: number,
    length: number,
    flags: number,
  ): WriteOutcome {
    const { segmenter, segments } = this.#context;
    const count = segmenter.begin(bytes, offset, length, gsoSizeOf(flags));
    if (count === 0) {
      this.#metrics.unconnected.rx.drop('rx-queue', 'SEGMENTATION_FAILED');
      return WriteOutcome.tooLong;
    }
    const metadata = (flags & METADATA_MASK & ~GSO_MASK & ~CHECKSUM_BLANK) | DATA_VALIDATED;
    let place = segments.offset;
    let outcome: WriteOutcome = WriteOutcome.accepted;
    for (let segment = 0; segment < count; segment += 1) {
      const size = segmenter.next(bytes, place);
      const result = queue.rx.send(place, size, metadata, NO_HASH);
      if (result !== WriteOutcome.accepted) outcome = result;
      place += size;
    }
    // The segments' place is for the next frame that has to be cut.
    queue.rx.commit();
    return outcome;
  }
}

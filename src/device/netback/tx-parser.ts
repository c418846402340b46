/**
 * Parses the requests on a TX ring into packets: their frames' copies, and how each slot is to be
 * answered. Every slot is copied once and checked once. Whatever a guest writes ends in one of three
 * ways (xen/io/netif.h; Linux's netback judges alike): the packet is good; it is bad, and its slots
 * are answered ERROR; or the ring itself makes no sense, which is a ProtocolError.
 */
import { ProtocolError } from '../../errors.js';
import {
  EXTRA_FLAG_MORE,
  EXTRA_TYPE_GSO,
  EXTRA_TYPE_MAX,
  EXTRA_TYPE_MCAST_ADD,
  EXTRA_TYPE_MCAST_DEL,
  GSO_TYPE_TCPV4,
  GSO_TYPE_TCPV6,
  parseExtra,
} from '../../ring/netif-extra.js';
import {
  readTxRequest,
  TX_CSUM_BLANK,
  TX_DATA_VALIDATED,
  TX_EXTRA_INFO,
  TX_MORE_DATA,
} from '../../ring/netif-tx.js';
import { PAGE_SIZE } from '../../xen/xen.js';
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  DIRECTION_FROM_GUEST,
  FRAME_BYTES_MAX,
  FRAME_BYTES_MIN,
  GSO_SIZE_SHIFT,
  GSO_TYPE_SHIFT,
} from '../frame-batch.js';
import type { TokenBucket } from '../token-bucket.js';
import type { MulticastFilter } from './multicast-filter.js';
import { FRAGMENTS_TOLERATED, type TxScratch } from './tx-scratch.js';

/** Fragments behind the head that a packet may have: `XEN_NETIF_NR_SLOTS_MIN`. */
const FRAGMENTS_MAX = 18;

/** `TxScratch.slotKinds`: what a slot held. */
export const DATA_SLOT = 0;
export const EXTRA_SLOT = 1;
/** `TxScratch.packetFault` of a packet that is no frame: a wish about the multicast filter. */
export const NO_FRAME = 'NO_FRAME';

/** What parsing depends on beside the ring, and what may change while a queue lives. */
export interface TxParserOptions {
  readonly domid: number;
  readonly multicast: MulticastFilter;
  /** The limit on what the guest may send, as it is now. */
  readonly bucket: () => TokenBucket | undefined;
}

export class TxParser {
  readonly #scratch: TxScratch;
  readonly #options: TxParserOptions;
  /** Slots and packets parsed by the last `parse`. */
  slots = 0;
  packets = 0;
  /** The length of the packet that the rate limit holds back; 0 when it does not. */
  throttledBytes = 0;
  /** The number of the batch's first request in `TxScratch.requests`. */
  #first = 0;
  #stagingUsed = 0;
  #gsoFlags = 0;
  #multicastFault: string | undefined;

  constructor(scratch: TxScratch, options: TxParserOptions) {
    this.#scratch = scratch;
    this.#options = options;
  }

  /**
   * Parses what fits in one batch of the requests from number `first` on of the `pending` that
   * `TxScratch.requests` holds. Returns the fault that ends the ring's life, if there is one: the
   * packets before it are whole.
   */
  parse(first: number, pending: number): ProtocolError | undefined {
    this.#first = first;
    const available = pending - first;
    const { copies, staging } = this.#scratch;
    copies.clear();
    this.slots = 0;
    this.packets = 0;
    this.#stagingUsed = 0;
    this.throttledBytes = 0;
    try {
      while (
        this.slots < available &&
        this.#stagingUsed + PAGE_SIZE + FRAME_BYTES_MAX <= staging.length &&
        copies.free > FRAGMENTS_MAX
      ) {
        const slots = this.#parsePacket(available - this.slots);
        if (slots === 0) break;
        this.#scratch.packetSlots[this.packets] = slots;
        this.packets += 1;
        this.slots += slots;
      }
      return undefined;
    } catch (error) {
      if (error instanceof ProtocolError) return error;
      throw error;
    }
  }

  /** Takes over a batch that `parsePlain` made of the requests from number `first` on. */
  takePlain(first: number, count: number): void {
    const scratch = this.#scratch;
    const { batch, requests } = scratch;
    this.slots = count;
    this.packets = count;
    for (let packet = 0; packet < count; packet += 1) {
      scratch.slotIds[packet] = requests[(first + packet) * 3 + 2] as number;
      scratch.slotKinds[packet] = DATA_SLOT;
      scratch.packetSlots[packet] = 1;
      scratch.packetFirstSegment[packet] = packet;
      scratch.packetSegments[packet] = 1;
      scratch.packetOffset[packet] = batch.offset(packet);
      scratch.packetLength[packet] = batch.length(packet);
      scratch.packetFlags[packet] = batch.flag(packet);
      scratch.packetFault[packet] = undefined;
    }
  }

  /**
   * Parses the packet at the front; returns how many slots it has, extras included, or 0 when the
   * rate limit holds it back: then it stays on the ring, and is read anew when its time comes.
   */
  #parsePacket(available: number): number {
    const scratch = this.#scratch;
    const { head } = scratch;
    const first = this.slots;
    readTxRequest(scratch.requests, this.#first + first, head);
    if (!this.#mayPass(head.size)) return 0;
    scratch.slotIds[first] = head.id;
    scratch.slotKinds[first] = DATA_SLOT;
    const packet = this.packets;
    scratch.packetFirstSegment[packet] = scratch.copies.count;
    scratch.packetSegments[packet] = 0;
    let flags = DIRECTION_FROM_GUEST;
    if ((head.flags & TX_CSUM_BLANK) !== 0) flags |= CHECKSUM_BLANK | DATA_VALIDATED;
    if ((head.flags & TX_DATA_VALIDATED) !== 0) flags |= DATA_VALIDATED;
    let slots = 1;
    if ((head.flags & TX_EXTRA_INFO) !== 0) {
      slots += this.#parseExtras(first + 1, available - 1);
      flags |= this.#gsoFlags;
      if (this.#multicastFault !== undefined) {
        scratch.packetFault[packet] = this.#multicastFault;
        return slots;
      }
    }
    scratch.packetFlags[packet] = flags;
    return this.#parseFragments(slots, available);
  }

  /** Parses the data slots behind the head and the extras, and adds the packet's copies. */
  #parseFragments(slotsBefore: number, available: number): number {
    const scratch = this.#scratch;
    const { head, fragment } = scratch;
    const first = this.slots;
    let slots = slotsBefore;
    let fault: string | undefined;
    let headBytes = head.size;
    let fragments = 0;
    let more = (head.flags & TX_MORE_DATA) !== 0;
    while (more) {
      if (slots >= available) {
        throw new ProtocolError('CHAIN_TRUNCATED', 'A packet goes on past the last request.');
      }
      if (fragments >= FRAGMENTS_TOLERATED) {
        throw new ProtocolError('CHAIN_TOO_LONG', `A packet has over ${fragments} fragments.`);
      }
      readTxRequest(scratch.requests, this.#first + first + slots, fragment);
      if (fragment.offset + fragment.size > PAGE_SIZE) {
        throw new ProtocolError('FRAGMENT_CROSSES_PAGE', 'A fragment does not lie in its page.');
      }
      scratch.slotIds[first + slots] = fragment.id;
      scratch.slotKinds[first + slots] = DATA_SLOT;
      scratch.fragmentRefs[fragments] = fragment.gref;
      scratch.fragmentOffsets[fragments] = fragment.offset;
      scratch.fragmentSizes[fragments] = fragment.size;
      if (fragment.size > headBytes) fault ??= 'FRAGMENTS_EXCEED_TOTAL';
      else headBytes -= fragment.size;
      slots += 1;
      fragments += 1;
      more = (fragment.flags & TX_MORE_DATA) !== 0;
    }
    if (fragments > FRAGMENTS_MAX) fault ??= 'TOO_MANY_FRAGMENTS';
    if (headBytes < FRAME_BYTES_MIN) fault ??= 'TOO_SHORT';
    if (fault === undefined && head.offset + headBytes > PAGE_SIZE) {
      throw new ProtocolError('HEAD_CROSSES_PAGE', 'A first slot does not lie in its page.');
    }
    scratch.packetFault[this.packets] = fault;
    if (fault === undefined) this.#addSegments(this.packets, headBytes, fragments);
    return slots;
  }

  #mayPass(bytes: number): boolean {
    const bucket = this.#options.bucket();
    if (bucket === undefined || bucket.take(bytes, performance.now())) return true;
    this.throttledBytes = bytes;
    return false;
  }

  /**
   * Parses the extras behind a head; returns how many there are. The last of a type wins. A request
   * with a multicast extra is no frame: it only carries the extra (netif.h, "dummy requests").
   */
  #parseExtras(first: number, available: number): number {
    const { extra, requests, slotIds, slotKinds } = this.#scratch;
    let count = 0;
    let gsoSize = 0;
    let gsoType = 0;
    let hasGso = false;
    let added = -1;
    let addedLow = 0;
    let deleted = -1;
    let deletedLow = 0;
    do {
      if (count >= available) {
        throw new ProtocolError('EXTRA_MISSING', 'An extra was announced and is not there.');
      }
      const word = (this.#first + first + count) * 3;
      parseExtra(requests[word] as number, requests[word + 1] as number, extra);
      if (extra.type === 0 || extra.type >= EXTRA_TYPE_MAX) {
        throw new ProtocolError('EXTRA_TYPE_INVALID', `An extra has the type ${extra.type}.`);
      }
      if (extra.type === EXTRA_TYPE_GSO) {
        hasGso = true;
        gsoSize = extra.gsoSize;
        gsoType = extra.gsoType;
      } else if (extra.type === EXTRA_TYPE_MCAST_ADD) {
        added = extra.addressHigh;
        addedLow = extra.addressLow;
      } else if (extra.type === EXTRA_TYPE_MCAST_DEL) {
        deleted = extra.addressHigh;
        deletedLow = extra.addressLow;
      }
      slotIds[first + count] = 0;
      slotKinds[first + count] = EXTRA_SLOT;
      count += 1;
    } while ((extra.flags & EXTRA_FLAG_MORE) !== 0);
    this.#amendMulticast(added, addedLow, deleted, deletedLow);
    this.#checkGso(hasGso, gsoType, gsoSize);
    return count;
  }

  /** Adds and deletes; an address of -1 stands for none. */
  #amendMulticast(added: number, addedLow: number, deleted: number, deletedLow: number): void {
    const { multicast } = this.#options;
    this.#multicastFault = undefined;
    if (added >= 0) {
      this.#multicastFault = multicast.add(added, addedLow) ? NO_FRAME : 'MULTICAST_LIST_FULL';
    } else if (deleted >= 0) {
      multicast.delete(deleted, deletedLow);
      this.#multicastFault = NO_FRAME;
    }
  }

  #checkGso(hasGso: boolean, type: number, size: number): void {
    this.#gsoFlags = 0;
    if (!hasGso || this.#multicastFault !== undefined) return;
    if (size === 0 || (type !== GSO_TYPE_TCPV4 && type !== GSO_TYPE_TCPV6)) {
      throw new ProtocolError('GSO_INVALID', `GSO of type ${type} and size ${size}.`);
    }
    // A frame that is to be cut has no checksum that could be right: it is blank by its nature.
    this.#gsoFlags =
      (type << GSO_TYPE_SHIFT) | (size << GSO_SIZE_SHIFT) | CHECKSUM_BLANK | DATA_VALIDATED;
  }

  /** Adds the copies that put a packet together in the staging region, in one piece. */
  #addSegments(packet: number, headBytes: number, fragments: number): void {
    const scratch = this.#scratch;
    const { copies, head } = scratch;
    const { domid } = this.#options;
    // Linux's driver makes two operations of a copy into two pages of ours. Of a packet of many pages
    // the first fragment lies in its page where it does in the guest's, and so do all that follow.
    if (head.size > PAGE_SIZE && fragments > 0) {
      const wanted = (scratch.fragmentOffsets[0] as number) - headBytes - this.#stagingUsed;
      this.#stagingUsed += wanted & (PAGE_SIZE - 1);
    }
    const start = scratch.staging.offset + this.#stagingUsed;
    let target = start + headBytes;
    copies.fromGrant(domid, head.gref, head.offset, start, headBytes);
    for (let index = 0; index < fragments; index += 1) {
      const size = scratch.fragmentSizes[index] as number;
      if (size === 0) continue;
      const ref = scratch.fragmentRefs[index] as number;
      copies.fromGrant(domid, ref, scratch.fragmentOffsets[index] as number, target, size);
      target += size;
    }
    scratch.packetSegments[packet] = copies.count - (scratch.packetFirstSegment[packet] as number);
    scratch.packetOffset[packet] = start;
    scratch.packetLength[packet] = target - start;
    this.#stagingUsed += target - start;
  }
}

/**
 * One of the daemon's own NICs as a link of the IPv4 stack, which the SDK has: frames are written into
 * local memory and travel in batches, with blank checksums and TCP segmentation left to the NIC.
 */
import type { Link, LinkReceiver } from '@xenvif/client/stack';
import { FrameArena } from '@xenvif/client/stack';
import { parseMac } from '@xenvif/client/wire';
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  FRAME_BYTES_MAX,
  FRAME_BYTES_MIN,
  FrameBatch,
  GSO_SIZE_SHIFT,
  GSO_TYPE_SHIFT,
} from '../device/frame-batch.js';
import type { Network } from '../device/network.js';
import { InvalidArgumentError } from '../errors.js';
import { GSO_TYPE_TCPV4 } from '../ring/netif-extra.js';
import type { LocalMemory, LocalRegion } from '../xen/local-memory.js';

/** Room for some of the longest frames: what one turn of a busy stack sends. */
const SEND_BYTES = 1024 * 1024;
const FRAMES_MAX = 1024;

export interface NetworkLinkOptions {
  /** Memory that the NIC can send from. */
  readonly memory: LocalMemory;
  /** The address to be at. Default: the NIC's own; that of a TAP is the kernel's, so say another. */
  readonly mac?: string;
  /** Bytes of `memory` for frames that wait to be sent, a multiple of four. Default: 1 MiB. */
  readonly sendBytes?: number;
  /** Whether checksums and TCP segmentation are left to the NIC. Default: true. */
  readonly offloads?: boolean;
}

export class NetworkLink implements Link {
  readonly mac: Uint8Array;
  readonly mtu: number;
  readonly bytes: Uint8Array;
  readonly largePacketBytes: number;
  readonly blanksChecksums: boolean;
  readonly #network: Network;
  readonly #region: LocalRegion;
  readonly #arena: FrameArena;
  /** Frames that wait for the next flush. */
  #filling: FrameBatch;
  #spare: FrameBatch;
  #isSending = false;
  #isClosed = false;
  #receiver: LinkReceiver | undefined;
  #stopListening: (() => void) | undefined;
  readonly #flushLater = () => this.flush();
  #isTurnAsked = false;
  readonly #onTurn = () => {
    this.#isTurnAsked = false;
  };

  /** @throws InvalidArgumentError MAC_INVALID; GrantError when local memory is short. */
  constructor(network: Network, options: NetworkLinkOptions) {
    const { memory, mac: text = network.mac, sendBytes = SEND_BYTES, offloads = true } = options;
    const mac = parseMac(text);
    if (mac === undefined) {
      throw new InvalidArgumentError('MAC_INVALID', 'mac', `"${text}" is no MAC address.`);
    }
    this.mac = mac;
    this.mtu = network.mtu;
    this.bytes = memory.bytes;
    this.largePacketBytes = offloads ? FRAME_BYTES_MAX - FRAME_BYTES_MIN : 0;
    this.blanksChecksums = offloads;
    this.#network = network;
    this.#region = memory.allocate(sendBytes);
    this.#arena = new FrameArena(memory.bytes, this.#region.offset, sendBytes, FRAMES_MAX);
    this.#filling = new FrameBatch(memory.bytes, FRAMES_MAX);
    this.#spare = new FrameBatch(memory.bytes, FRAMES_MAX);
  }

  start(receiver: LinkReceiver): void {
    this.#receiver = receiver;
    this.#stopListening = this.#network.listenBatch((batch) => this.#receive(batch, receiver));
  }

  reserve(length: number): number {
    return this.#isClosed ? -1 : this.#arena.reserve(length);
  }

  commit(offset: number, length: number, isBlank: boolean, segmentBytes: number): void {
    let flags = isBlank ? CHECKSUM_BLANK | DATA_VALIDATED : 0;
    if (segmentBytes > 0) {
      flags |= (GSO_TYPE_TCPV4 << GSO_TYPE_SHIFT) | (segmentBytes << GSO_SIZE_SHIFT);
    }
    this.#filling.add(offset, length, flags);
    this.#arena.commit(length);
  }

  /** What a NIC answers within its call is sent in a flush of its own, later. */
  flush(): void {
    if (this.#isSending || this.#isClosed) return;
    const batch = this.#filling;
    this.#filling = this.#spare;
    this.#spare = batch;
    this.#isSending = true;
    try {
      if (batch.count > 0) this.#network.writeBatch(batch);
    } finally {
      this.#isSending = false;
      batch.clear();
    }
    if (this.#filling.count > 0) {
      queueMicrotask(this.#flushLater);
      return;
    }
    const { wasFull } = this.#arena;
    this.#arena.clear();
    if (wasFull) this.#receiver?.roomAgain();
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.flush();
    this.#isClosed = true;
    this.#stopListening?.();
    this.#receiver = undefined;
    await this.#network.disconnect();
    this.#region.free();
  }

  #receive(batch: FrameBatch, receiver: LinkReceiver): void {
    for (let index = 0; index < batch.count; index += 1) {
      const isVerified = (batch.flag(index) & (CHECKSUM_BLANK | DATA_VALIDATED)) !== 0;
      receiver.receive(batch.bytes, batch.offset(index), batch.length(index), isVerified);
    }
    receiver.receiveEnd();
    // A device may call from where Node runs no promises after: what was brought about would wait.
    if (this.#isTurnAsked) return;
    this.#isTurnAsked = true;
    setImmediate(this.#onTurn);
  }
}

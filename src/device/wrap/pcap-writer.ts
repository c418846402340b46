/**
 * Writes what passes a NIC to a stream as pcapng, as Wireshark and tcpdump read it: frames that
 * the NIC received as inbound, those that it was given to send as outbound. Never waits for the
 * stream: what does not fit in its buffer is missing in the file, and the next packet says so.
 */
import type { Writable } from 'node:stream';
import { frameTimeNs } from '../clock.js';
import type { FrameBatch } from '../frame-batch.js';
import type { Network } from '../network.js';
import { type FrameDirection, NetworkObserver } from './network-wrapper.js';
import {
  enhancedPackets,
  INBOUND,
  interfaceDescription,
  interfaceStatistics,
  OUTBOUND,
  sectionHeader,
} from './pcapng.js';

const BUFFER_BYTES_MAX = 16 * 1024 * 1024;

export interface PcapWriterOptions {
  /** What the file calls the NIC. */
  readonly name: string;
  /** Bytes kept of each frame. Default: all. */
  readonly snaplen?: number;
  /** Bytes that may wait in the stream. Default: 16 MiB. */
  readonly bufferBytes?: number;
}

export class PcapWriter extends NetworkObserver {
  readonly #stream: Writable;
  readonly #snaplen: number;
  readonly #bufferBytes: number;
  #frames = 0;
  #dropped = 0;
  /** Dropped since the last packet in the file. */
  #missing = 0;
  #isOver = false;
  readonly #onError = () => {
    this.#isOver = true;
  };

  /**
   * Begins the file. The stream stays the caller's: to end it, and to hear of its errors, after
   * which nothing more is written.
   */
  constructor(inner: Network, stream: Writable, options: PcapWriterOptions) {
    super(inner);
    this.#stream = stream;
    this.#snaplen = options.snaplen ?? 0;
    this.#bufferBytes = options.bufferBytes ?? BUFFER_BYTES_MAX;
    stream.once('error', this.#onError);
    stream.write(sectionHeader('xenvif'));
    stream.write(interfaceDescription(options.name, this.#snaplen));
  }

  /** Frames seen that are not in the file. */
  get dropped(): number {
    return this.#dropped;
  }

  /** Writes the statistics that end the file. The NIC goes on; its frames are not captured. */
  finish(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#stream.off('error', this.#onError);
    if (!this.#stream.writable) return;
    this.#stream.write(interfaceStatistics(frameTimeNs(), this.#frames, this.#dropped));
  }

  override async disconnect(): Promise<void> {
    await super.disconnect();
    this.finish();
  }

  protected observe(batch: FrameBatch, direction: FrameDirection): void {
    if (this.#isOver || batch.count === 0) return;
    this.#frames += batch.count;
    const isFull = this.#stream.writableLength + batch.totalBytes > this.#bufferBytes;
    if (isFull || !this.#stream.writable) {
      this.#dropped += batch.count;
      this.#missing += batch.count;
      return;
    }
    const way = direction === 'received' ? INBOUND : OUTBOUND;
    this.#stream.write(enhancedPackets(batch, way, this.#snaplen, this.#missing));
    this.#missing = 0;
  }
}

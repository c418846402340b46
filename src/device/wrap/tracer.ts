/** Tells in the log what passes a NIC: a line for each frame, or a summary now and then. */

import { formatMac, readEthertype } from '@xenvif/client/wire';
import type { Level, Logger } from 'pino';
import { CHECKSUM_BLANK, type FrameBatch, gsoSizeOf, gsoTypeOf } from '../frame-batch.js';
import type { Network } from '../network.js';
import { type FrameDirection, NetworkObserver } from './network-wrapper.js';

const SUMMARY_INTERVAL_MS = 10_000;

export interface TracerOptions {
  /** What the lines call the NIC. */
  readonly name: string;
  /** `frames`: a line for each frame. `summary`: a line an interval in which frames passed. */
  readonly mode?: 'frames' | 'summary';
  /** The level of the lines. Default: debug for frames, info for summaries. */
  readonly level?: Level;
  /** How long a summary's time is, in milliseconds. Default: 10 s. */
  readonly intervalMs?: number;
}

/** What passed in one direction since the last summary. */
class Passed {
  frames = 0;
  bytes = 0;
  /** Frames to a group address: broadcast and multicast. */
  toGroups = 0;
  longest = 0;

  add(batch: FrameBatch): void {
    this.frames += batch.count;
    this.bytes += batch.totalBytes;
    for (let index = 0; index < batch.count; index += 1) {
      const firstByte = batch.bytes[batch.offset(index)] as number;
      this.toGroups += firstByte & 1;
      this.longest = Math.max(this.longest, batch.length(index));
    }
  }
}

export class Tracer extends NetworkObserver {
  readonly #logger: Logger;
  readonly #name: string;
  readonly #level: Level;
  readonly #timer: NodeJS.Timeout | undefined;
  #sent = new Passed();
  #received = new Passed();

  constructor(inner: Network, logger: Logger, options: TracerOptions) {
    super(inner);
    const isSummary = options.mode === 'summary';
    this.#logger = logger;
    this.#name = options.name;
    this.#level = options.level ?? (isSummary ? 'info' : 'debug');
    if (!isSummary) return;
    this.#timer = setInterval(() => this.#sumUp(), options.intervalMs ?? SUMMARY_INTERVAL_MS);
    this.#timer.unref();
  }

  /** The last summary is of what passed since the one before. */
  override async disconnect(): Promise<void> {
    await super.disconnect();
    clearInterval(this.#timer);
    this.#sumUp();
  }

  protected observe(batch: FrameBatch, direction: FrameDirection): void {
    if (this.#timer !== undefined) {
      (direction === 'sent' ? this.#sent : this.#received).add(batch);
    } else if (this.#logger.isLevelEnabled(this.#level)) {
      for (let index = 0; index < batch.count; index += 1) this.#tell(batch, index, direction);
    }
  }

  #tell(batch: FrameBatch, index: number, direction: FrameDirection): void {
    const offset = batch.offset(index);
    const bytes = batch.length(index);
    const flags = batch.flag(index);
    const header = batch.bytes.subarray(offset, offset + 14);
    const line = {
      nic: this.#name,
      direction,
      bytes,
      destination: formatMac(header),
      source: formatMac(header, 6),
      ethertype: `0x${readEthertype(header).toString(16).padStart(4, '0')}`,
      ...((flags & CHECKSUM_BLANK) !== 0 && { checksum: 'blank' }),
      ...(gsoTypeOf(flags) !== 0 && { segmentBytes: gsoSizeOf(flags) }),
    };
    this.#logger[this.#level](line, 'frame');
  }

  #sumUp(): void {
    const [sent, received] = [this.#sent, this.#received];
    if (sent.frames + received.frames === 0) return;
    this.#sent = new Passed();
    this.#received = new Passed();
    const line = { nic: this.#name, sent: { ...sent }, received: { ...received } };
    this.#logger[this.#level](line, 'frames passed');
  }
}

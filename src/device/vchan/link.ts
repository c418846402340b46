/**
 * One end of a vchan between two live programs: rings, live bytes and the event channel put
 * together, below any notion of a stream. Nothing here waits.
 *
 * The invariants: the peer is gone for good once it was seen gone, and what can be read then is what
 * it had written until that moment; a peer that breaks the protocol is a ProtocolError and costs this
 * link alone; nothing of Xen's is touched after `end`.
 */
import {
  LIVE_CONNECTED,
  LIVE_GONE,
  NOTIFY_READ,
  NOTIFY_WRITE,
  type RingReader,
  type RingWriter,
  type VchanSide,
  type VchanSignals,
} from '../../ring/vchan-ring.js';
import type { PatientChannel } from '../patient-channel.js';

/** What a link is made of; it owns all of it from then on. */
export interface LinkParts {
  readonly side: VchanSide;
  /** The peer's domain. */
  readonly domid: number;
  /** The directory in XenStore where the two met. */
  readonly path: string;
  readonly reader: RingReader;
  readonly writer: RingWriter;
  readonly signals: VchanSignals;
  readonly channel: PatientChannel;
  /** Gives mappings and grants back. */
  readonly release: () => void;
}

export class VchanLink {
  readonly side: VchanSide;
  readonly domid: number;
  readonly path: string;
  readonly #parts: LinkParts;
  #peerGone = false;
  /** How much can still be read of a peer that is gone. */
  #remaining = 0;
  #ended = false;

  constructor(parts: LinkParts) {
    this.side = parts.side;
    this.domid = parts.domid;
    this.path = parts.path;
    this.#parts = parts;
  }

  /** Bytes in the ring that we read. */
  get readRingBytes(): number {
    return this.#parts.reader.size;
  }

  /** Bytes in the ring that we write. */
  get writeRingBytes(): number {
    return this.#parts.writer.size;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /**
   * Whether the peer has closed or died. What it wrote before can still be read.
   * @throws ProtocolError, as `available`.
   */
  peerGone(): boolean {
    if (this.#peerGone || this.#ended) return true;
    // The live byte is read before the index: what a peer writes, it writes before it leaves.
    if (this.#parts.signals.peerLive === LIVE_CONNECTED) return false;
    this.declareGone();
    return true;
  }

  /** The peer is known to be gone from elsewhere: its whole domain is. @throws ProtocolError */
  declareGone(): void {
    if (this.#peerGone || this.#ended) return;
    this.#peerGone = true;
    this.#remaining = this.#parts.reader.available();
  }

  /**
   * How many bytes can be read. Where they are none, the peer is asked to tell of the next.
   * @throws ProtocolError VCHAN_INDEX_INVALID
   */
  available(): number {
    if (this.#ended) return 0;
    if (this.#peerGone) return this.#remaining;
    const { reader, signals } = this.#parts;
    const count = reader.available();
    if (count > 0) return count;
    signals.ask(NOTIFY_WRITE);
    // What came before the peer could see the wish is told by nobody.
    return reader.available();
  }

  /** Takes `length` bytes, of which `available` has told. */
  read(target: Uint8Array, offset: number, length: number): void {
    const { reader, signals, channel } = this.#parts;
    reader.read(target, offset, length);
    if (this.#peerGone) this.#remaining -= length;
    else if (signals.isAsked(NOTIFY_READ)) channel.notify();
  }

  /**
   * How many bytes can be written. Where they are fewer than `wanted`, the peer is asked to tell when
   * it has read; `wanted` may be more than the ring holds.
   * @throws ProtocolError VCHAN_INDEX_INVALID
   */
  space(wanted: number): number {
    if (this.#ended) return 0;
    const { writer, signals } = this.#parts;
    const count = writer.space();
    if (count >= wanted) return count;
    signals.ask(NOTIFY_READ);
    return writer.space();
  }

  /** Writes `length` bytes, for which `space` has told of room, and shows them to the peer at once. */
  write(source: Uint8Array, offset: number, length: number): void {
    const { writer, signals, channel } = this.#parts;
    writer.write(source, offset, length);
    if (signals.isAsked(NOTIFY_WRITE)) channel.notify();
  }

  /** Whether the peer has read all that was written; else it is asked to tell. @throws ProtocolError */
  drained(): boolean {
    return this.space(this.writeRingBytes) === this.writeRingBytes;
  }

  /** Lets the next event in; `worked` says whether the last one was good for something. */
  unmask(worked: boolean): void {
    if (!this.#ended) this.#parts.channel.unmask(worked);
  }

  /** Leaves: the peer is told, and everything is given back. What was written can still be read. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    const { channel, release, signals } = this.#parts;
    signals.setLive(LIVE_GONE);
    // The pages go before the channel, over which their end is told.
    release();
    channel.notify();
    channel.close();
  }
}

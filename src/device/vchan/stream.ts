/**
 * A vchan as a stream of Node. Its backpressure is the rings' own: nothing is read that nobody takes,
 * and a write is done when all of it lies in the ring.
 *
 * A vchan knows no half close: a peer sees that we are there, or that we are not. `end` therefore ends
 * only our own writing, and what the peer sends goes on to be read until it closes; then the stream is
 * over. `close` delivers what was written and leaves; `destroy` leaves at once.
 */
import { Duplex } from 'node:stream';
import {
  DisconnectedError,
  FailedPreconditionError,
  InvalidArgumentError,
  TimeoutError,
  type XenvifError,
} from '../../errors.js';
import type { VchanLink } from './link.js';

/** The most that is read in one piece, in bytes. */
const CHUNK_BYTES_MAX = 65_536;
/** The most that is read before others have their turn, in bytes. */
const TURN_BYTES_MAX = 262_144;
/** What `receive` takes at once, in bytes: it has to be kept until it is whole. */
const RECEIVE_BYTES_MAX = 16 * 1024 * 1024;
const LINGER_MS_DEFAULT = 30_000;

export interface VchanStreamOptions {
  /** Runs once the link has ended; the stream's `close` waits for it. */
  readonly onEnd?: () => Promise<void>;
}

/** A write that is under way. */
interface PendingWrite {
  readonly chunk: Uint8Array;
  /** Whether it goes in one piece or not at all. */
  readonly whole: boolean;
  readonly done: (error?: Error | null) => void;
  offset: number;
}

export class VchanStream extends Duplex {
  readonly side: VchanLink['side'];
  /** The peer's domain. */
  readonly domid: number;
  /** The directory in XenStore where the two met. */
  readonly path: string;
  readonly readRingBytes: number;
  readonly writeRingBytes: number;
  readonly #link: VchanLink;
  readonly #onEnd: () => Promise<void>;
  /** Chunks that `send` has put among those to be written, and how to say that they will not be. */
  readonly #packets = new WeakMap<Uint8Array, (error: Error) => void>();
  #pending: PendingWrite | undefined;
  /** A write that failed; it is told once what the peer sent before it left has been read. */
  #failed: PendingWrite | undefined;
  #wantsData = false;
  #everRead = false;
  #readOver = false;
  #flushScheduled = false;
  #pumpScheduled = false;
  /** Woken whenever the peer has read something, or has gone. */
  #onDrained: (() => void) | undefined;

  constructor(link: VchanLink, options: VchanStreamOptions = {}) {
    // When the peer has gone there is nobody to write to: the writing side ends with the reading.
    super({ allowHalfOpen: false, highWaterMark: CHUNK_BYTES_MAX });
    this.side = link.side;
    this.domid = link.domid;
    this.path = link.path;
    this.readRingBytes = link.readRingBytes;
    this.writeRingBytes = link.writeRingBytes;
    this.#link = link;
    this.#onEnd = options.onEnd ?? (async () => undefined);
    this.once('end', () => this.#failPending());
  }

  /** The peer sent an event: looks at both rings. */
  handleEvent(): void {
    let worked = false;
    this.#guard(() => {
      // Also where nobody reads: what a peer leaves is what there was when it was seen to leave.
      this.#link.peerGone();
      worked = this.#flush();
      worked = this.#pump() || worked;
    });
    this.#onDrained?.();
    this.#link.unmask(worked);
  }

  /** The peer's domain is gone, without an event. */
  handlePeerGone(): void {
    this.#guard(() => {
      this.#link.declareGone();
      this.#flush();
      this.#pump();
    });
    this.#onDrained?.();
  }

  /**
   * Sends a packet: all of it becomes visible to the peer at one stroke, as with libxenvchan_send.
   * @throws InvalidArgumentError PACKET_TOO_LONG for one that is longer than the ring;
   *   DisconnectedError when the peer has gone.
   */
  send(packet: Uint8Array): Promise<void> {
    if (packet.length > this.writeRingBytes) {
      const text = `A packet of ${packet.length} bytes does not fit into a ring of ${this.writeRingBytes}.`;
      return Promise.reject(new InvalidArgumentError('PACKET_TOO_LONG', 'packet', text));
    }
    const chunk = Buffer.from(packet.buffer, packet.byteOffset, packet.length);
    return new Promise((resolve, reject) => {
      // Who sends packets learns at once that the peer has gone; the stream itself waits with its
      // error until everything that came has been read.
      this.#packets.set(chunk, reject);
      this.write(chunk, (error) => (error ? reject(error) : resolve()));
    });
  }

  /**
   * Receives exactly `length` bytes, as libxenvchan_recv does; undefined when the peer left before so
   * many had come. Not to be mixed with other ways to read while it waits.
   * @throws InvalidArgumentError LENGTH_INVALID
   */
  async receive(length: number): Promise<Buffer | undefined> {
    if (!Number.isInteger(length) || length < 1 || length > RECEIVE_BYTES_MAX) {
      const text = `1 to ${RECEIVE_BYTES_MAX} bytes can be received at once.`;
      throw new InvalidArgumentError('LENGTH_INVALID', 'length', text);
    }
    return await new Promise((resolve, reject) => {
      const names = ['readable', 'end', 'close'] as const;
      const settle = (bytes?: Buffer) => {
        for (const name of names) this.off(name, attempt);
        if (bytes === undefined && this.errored) reject(this.errored);
        else resolve(bytes);
      };
      // One listener for the whole wait: Node tells a new one at once of what it has seen already.
      const attempt = () => {
        const over = this.readableEnded || this.destroyed;
        const bytes: Buffer | null = over ? null : this.read(length);
        if (bytes?.length === length) settle(bytes);
        else if (over || bytes !== null) settle();
      };
      for (const name of names) this.on(name, attempt);
      attempt();
    });
  }

  /**
   * Ends our writing, waits until the peer has read all of it, and leaves. What the peer still sends
   * is lost.
   * @throws DisconnectedError when the peer left before it had read all, TimeoutError VCHAN_UNREAD
   *   when it had not after `lingerMs`, and whatever else ended the stream.
   */
  async close(lingerMs: number = LINGER_MS_DEFAULT): Promise<void> {
    let lost: Error | undefined;
    const closed = new Promise<void>((resolve) => {
      if (this.closed) resolve();
      else this.once('close', resolve);
    });
    const timer = setTimeout(() => {
      lost = unread();
      this.destroy();
    }, lingerMs);
    // Nobody reads any more, and what the peer sends must not hold up our own end.
    this.resume();
    if (!this.destroyed) {
      this.end(() => {
        this.#onDrained = () =>
          this.#guard(() =>
            this.#leaveIfDrained(() => {
              lost = peerHasGone();
            }),
          );
        this.#onDrained();
      });
    }
    await closed;
    clearTimeout(timer);
    if (lost !== undefined) throw lost;
    if (this.errored) throw this.errored;
  }

  override _read(): void {
    this.#wantsData = true;
    this.#everRead = true;
    this.#guard(() => this.#pump());
  }

  override _write(
    chunk: Uint8Array,
    _encoding: BufferEncoding,
    done: (error?: Error | null) => void,
  ): void {
    this.#pending = { chunk, done, offset: 0, whole: this.#packets.has(chunk) };
    this.#guard(() => this.#flush());
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    const pending = this.#pending ?? this.#failed;
    this.#pending = undefined;
    this.#failed = undefined;
    this.#link.end();
    this.#onEnd().then(
      () => done(error),
      (late: Error) => done(error ?? late),
    );
    pending?.done(error ?? closedHere());
    this.#onDrained?.();
  }

  /** Runs a step; a peer that breaks the protocol ends the stream, and nothing else. */
  #guard(step: () => void): void {
    if (this.destroyed) return;
    try {
      step();
    } catch (error) {
      this.destroy(error as XenvifError);
    }
  }

  /** Writes as much as fits. Returns whether anything was done. */
  #flush(): boolean {
    const pending = this.#pending;
    if (pending === undefined) return false;
    if (this.#link.peerGone()) {
      this.#pending = undefined;
      this.#failed = pending;
      this.#packets.get(pending.chunk)?.(peerHasGone());
      // Where nobody has ever read, nobody waits for what the peer sent before it left.
      if (!this.#everRead || (this.#readOver && this.readableLength === 0)) this.#failPending();
      return true;
    }
    for (let written = 0; ; ) {
      const left = pending.chunk.length - pending.offset;
      const count = Math.min(this.#link.space(left), left);
      // The wish for room is out: an event comes when the peer has read.
      if (count < left && (pending.whole || count === 0)) return written > 0;
      if (written >= TURN_BYTES_MAX) {
        this.#flushLater();
        return true;
      }
      this.#link.write(pending.chunk, pending.offset, count);
      written += count;
      pending.offset += count;
      if (count < left) continue;
      this.#pending = undefined;
      pending.done();
      return true;
    }
  }

  #flushLater(): void {
    if (this.#flushScheduled) return;
    this.#flushScheduled = true;
    setImmediate(() => {
      this.#flushScheduled = false;
      this.#guard(() => this.#flush());
    });
  }

  #failPending(): void {
    const failed = this.#failed;
    this.#failed = undefined;
    failed?.done(peerHasGone());
  }

  /** Hands on what has come, as long as somebody takes it. Returns whether anything was done. */
  #pump(): boolean {
    if (this.#pumpScheduled || this.#readOver) return false;
    let taken = 0;
    while (this.#wantsData && !this.destroyed) {
      const gone = this.#link.peerGone();
      const available = this.#link.available();
      if (available === 0) {
        if (gone) this.#finishReading();
        return taken > 0 || gone;
      }
      if (taken >= TURN_BYTES_MAX) {
        this.#pumpLater();
        return true;
      }
      const chunk = Buffer.allocUnsafe(Math.min(available, CHUNK_BYTES_MAX));
      this.#link.read(chunk, 0, chunk.length);
      taken += chunk.length;
      this.#wantsData = this.push(chunk);
    }
    return taken > 0;
  }

  #pumpLater(): void {
    this.#pumpScheduled = true;
    setImmediate(() => {
      this.#pumpScheduled = false;
      this.#guard(() => this.#pump());
    });
  }

  #finishReading(): void {
    this.#readOver = true;
    this.push(null);
    if (this.readableLength === 0) this.#failPending();
  }

  /** Leaves when the peer has read everything, or is gone, which may be a loss. */
  #leaveIfDrained(onLoss: () => void): void {
    const gone = this.#link.peerGone();
    const drained = this.#link.drained();
    if (!gone && !drained) return;
    if (!drained) onLoss();
    this.destroy();
  }
}

function unread(): TimeoutError {
  return new TimeoutError(
    'VCHAN_UNREAD',
    'The peer did not read what was written before the close.',
  );
}

function peerHasGone(): DisconnectedError {
  return new DisconnectedError('The peer of the vchan has gone.');
}

function closedHere(): FailedPreconditionError {
  return new FailedPreconditionError('VCHAN_CLOSED', 'The vchan was closed before the write.');
}

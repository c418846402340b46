/**
 * A TAP: an interface of this machine's kernel whose wire ends here. What the kernel's stack sends
 * on the interface reaches the listeners, and what is written here the interface receives. Frames
 * are read into local memory and written out of it by one call each, which is what a TAP takes;
 * checksums and TCP segmentation may be left undone both ways, so that bulk data costs a call for
 * 64 KiB.
 */
import { constants } from 'node:os';
import { DisconnectedError, InvalidArgumentError } from '../../errors.js';
import type { LocalMemory, LocalRegion } from '../../xen/local-memory.js';
import { onReadable } from '../../xen/native/readable-descriptor.js';
import { PAGE_SIZE } from '../../xen/xen.js';
import { frameTimeNs } from '../clock.js';
import { FRAME_BYTES_MAX, FRAME_BYTES_MIN, FrameBatch } from '../frame-batch.js';
import { DeviceMetrics, statsOf } from '../metrics.js';
import { type NetworkStats, WriteOutcome } from '../network.js';
import { NetworkBase } from '../network-base.js';
import { writeStaged } from '../single-frame.js';
import { FrameOffloads } from './frame-offloads.js';
import { FrameVector } from './frame-vector.js';
import { InterfaceSettings } from './interface-settings.js';
import { TunFile } from './tun-file.js';

/** What the kernel allows a TAP: at least what IPv4 asks for, at most a frame of 65535 bytes. */
const MTU_MIN = 68;
const MTU_MAX = FRAME_BYTES_MAX - FRAME_BYTES_MIN;

const STAGING_BYTES = 512 * 1024;
/** Room for a frame: a byte more than the longest, so that one that was cut off can be told. */
const FRAME_ROOM = FRAME_BYTES_MAX + 1;
/** Frames that one turn reads before other devices get theirs. */
const FRAMES_PER_TURN = 256;
/** A frame starts two bytes off a multiple of four, so that what follows Ethernet is aligned. */
const FRAME_ALIGNMENT = 4;
const ETHERNET_PADDING = 2;
/**
 * What follows a frame longer than a page mostly is another, and starts on a page: a guest gets it a
 * page at a time, and of a copy out of two pages Linux's driver makes two.
 */
const LONG_FRAME_BYTES = PAGE_SIZE;

const { EAGAIN, EINTR, EIO, ENETDOWN, ENOBUFS, ENOMEM } = constants.errno;
/** What calls on a file answer whose interface was deleted; node:os does not list it. */
const EBADFD = 77;

export interface TapOptions {
  /** The memory that batches to write lie in, and that received frames are put into. */
  readonly memory: LocalMemory;
  /**
   * 1 to 15 letters, digits, "_", "." and "-"; `%d` at the end stands for the first free number.
   * An interface of that name is taken up if it is a TAP that nobody uses, or else made. Default:
   * `tap%d`.
   */
  readonly name?: string;
  /** The largest payload of a frame, 68 to 65521 bytes. Default: the interface's, 1500 for a new one. */
  readonly mtu?: number;
  /** Whether the interface outlives its use. Default: as it is, which is no for a new one. */
  readonly persist?: boolean;
  /** The id of a user who may take the interface up without privileges. Default: as it is. */
  readonly owner?: number;
  /**
   * Whether the kernel leaves checksums and TCP segmentation to whoever gets the frames. Frames
   * written here may have them undone either way. Default: true.
   */
  readonly offloads?: boolean;
  /** Whether the interface is set up. Default: true; without it, it is left as it is. */
  readonly up?: boolean;
  /** Called once if somebody deletes the interface: nothing more is received or sent then. */
  readonly onLost?: () => void;
}

export class TapDevice extends NetworkBase {
  /** The interface's name when it was opened. */
  readonly name: string;
  /** The address of the kernel's interface when it was opened. */
  readonly mac: string;
  /** The interface's MTU when it was opened. */
  readonly mtu: number;
  /** Directions are ours: TX is what the kernel was given, RX what it sent. */
  readonly metrics = new DeviceMetrics();
  readonly #counters = this.metrics.queue(0);
  readonly #file: TunFile;
  readonly #memory: LocalMemory;
  readonly #staging: LocalRegion;
  readonly #received: FrameBatch;
  readonly #readVector: FrameVector;
  readonly #writeVector: FrameVector;
  readonly #offloads = new FrameOffloads();
  readonly #onLost: (() => void) | undefined;
  #stopReading: (() => void) | undefined;
  #isOpen = true;
  /** The length of the last frame that was read. */
  #lastLength = 0;

  private constructor(
    options: TapOptions,
    staging: LocalRegion,
    file: TunFile,
    { mac, mtu }: InterfaceFacts,
  ) {
    super();
    const { memory } = options;
    this.name = file.name;
    this.mac = mac;
    this.mtu = mtu;
    this.#file = file;
    this.#memory = memory;
    this.#staging = staging;
    this.#received = new FrameBatch(memory.bytes, FRAMES_PER_TURN);
    this.#readVector = new FrameVector(memory);
    this.#writeVector = new FrameVector(memory);
    this.#onLost = options.onLost;
    this.#stopReading = onReadable(file.descriptor, () => this.#receive());
  }

  /**
   * Makes an interface, or takes one up that exists.
   * @throws InvalidArgumentError TAP_NAME_INVALID, TAP_MTU_INVALID, TAP_OWNER_INVALID.
   * @throws FailedPreconditionError TAP_UNAVAILABLE (no /dev/net/tun), TAP_DENIED (no right to the device
   *   or to change the interface), TAP_FAILED (whatever else the kernel answers).
   * @throws AlreadyExistsError TAP_BUSY (in use), TAP_NAME_TAKEN (by an interface of another kind).
   * @throws GrantError when local memory is short.
   */
  static open(options: TapOptions): TapDevice {
    checkOptions(options);
    const staging = options.memory.allocate(STAGING_BYTES);
    let file: TunFile | undefined;
    try {
      file = new TunFile(options.name ?? 'tap%d');
      return new TapDevice(options, staging, file, configure(file, options));
    } catch (error) {
      file?.close();
      staging.free();
      throw error;
    }
  }

  /** Whether there is an interface at the other end; it may be down all the same. */
  get connected(): boolean {
    return this.#stopReading !== undefined;
  }

  get stats(): NetworkStats {
    return statsOf(this.metrics);
  }

  resetStats(): void {
    this.metrics.reset();
  }

  /** Hands the frame to the kernel; one that it does not take now is dropped and counted. */
  async writev(parts: readonly Uint8Array[]): Promise<void> {
    if (!this.connected) throw new DisconnectedError(`The interface ${this.name} is gone.`);
    writeStaged(this, this.#memory, parts);
  }

  /**
   * A frame whose metadata does not fit it (a blank checksum that is nowhere, segmentation of what
   * is no TCP) has the outcome `tooLong`, as one that will never be taken.
   */
  writeBatch(batch: FrameBatch, outcomes?: Uint8Array): number {
    let accepted = 0;
    let bytes = 0;
    for (let index = 0; index < batch.count; index += 1) {
      const outcome = this.#send(batch, index);
      if (outcome === WriteOutcome.accepted) {
        accepted += 1;
        bytes += batch.length(index);
      }
      if (outcomes !== undefined) outcomes[index] = outcome;
    }
    this.#counters.tx.count(accepted, bytes);
    return accepted;
  }

  /** Gives the interface up: unless it is persistent, it is gone when this returns. */
  async disconnect(): Promise<void> {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#endReading();
    this.endListening();
    this.#file.close();
    this.#staging.free();
  }

  #send(batch: FrameBatch, index: number): WriteOutcome {
    const length = batch.length(index);
    if (!this.connected) return this.#drop('NOT_CONNECTED', WriteOutcome.notConnected);
    if (length < FRAME_BYTES_MIN) return this.#drop('TOO_SHORT', WriteOutcome.tooLong);
    if (length > FRAME_BYTES_MAX) return this.#drop('TOO_LONG', WriteOutcome.tooLong);
    const vector = this.#writeVector;
    const fault = this.#offloads.toHeader(batch, index, vector.header);
    if (fault !== undefined) return this.#drop(fault, WriteOutcome.tooLong);
    const result = vector.write(this.#file.descriptor, batch.offset(index), length);
    return result === 0 ? WriteOutcome.accepted : this.#refused(-result);
  }

  /** Counts a frame that the kernel did not take, and says what that means for the writer. */
  #refused(errno: number): WriteOutcome {
    switch (errno) {
      case EAGAIN:
      case ENOBUFS:
      case ENOMEM:
        return this.#drop('TX_QUEUE_FULL', WriteOutcome.queueFull);
      case EIO:
      case ENETDOWN:
        return this.#drop('INTERFACE_DOWN', WriteOutcome.notConnected);
      case EBADFD:
        return this.#drop('NOT_CONNECTED', WriteOutcome.notConnected);
      default:
        return this.#drop('REFUSED', WriteOutcome.tooLong);
    }
  }

  #drop(cause: string, outcome: WriteOutcome): WriteOutcome {
    this.#counters.tx.drop('tx-queue', cause);
    return outcome;
  }

  /**
   * Reads what is there, as much as one turn may, and hands it on. The poll that called this is
   * level-triggered: it calls again in the next turn of the event loop for what was left.
   */
  #receive(): void {
    const batch = this.#received;
    batch.clear();
    let used = this.#lastLength > LONG_FRAME_BYTES ? 0 : ETHERNET_PADDING;
    let isLost = false;
    for (let reads = 0; reads < FRAMES_PER_TURN && !isLost; reads += 1) {
      if (used + FRAME_ROOM > STAGING_BYTES) break;
      const offset = this.#staging.offset + used;
      const length = this.#readVector.read(this.#file.descriptor, offset, FRAME_ROOM);
      if (-length === EAGAIN) break;
      if (length < 0) isLost = this.#failedToRead(-length);
      else if (this.#accept(offset, length)) {
        this.#lastLength = length;
        used = placeBehind(used + length, length);
      }
    }
    if (batch.count > 0) this.#handOn(batch);
    if (isLost) this.#lose();
  }

  /** Whether the interface is gone; all else concerns one frame, which the kernel forgot by then. */
  #failedToRead(errno: number): boolean {
    if (errno === EBADFD || errno === EIO) return true;
    if (errno !== EINTR) this.#counters.rx.drop('rx-ring', 'READ_FAILED');
    return false;
  }

  /** Adds a frame that was read to the batch; false when it is none to hand on. */
  #accept(offset: number, length: number): boolean {
    const { rx } = this.#counters;
    if (length < FRAME_BYTES_MIN || length > FRAME_BYTES_MAX) {
      rx.drop('rx-ring', 'BAD_LENGTH');
      return false;
    }
    const { header } = this.#readVector;
    const flags = this.#offloads.fromHeader(this.#memory.bytes, offset, length, header);
    if (flags === undefined) {
      rx.drop('rx-ring', 'BAD_HEADER');
      return false;
    }
    this.#received.add(offset, length, flags);
    return true;
  }

  #handOn(batch: FrameBatch): void {
    this.#counters.rx.count(batch.count, batch.totalBytes);
    batch.timeNs = frameTimeNs();
    void this.deliver(batch);
  }

  /** The interface was deleted: its file stays ours, and is good for nothing. */
  #lose(): void {
    if (!this.connected) return;
    this.#endReading();
    this.#onLost?.();
  }

  #endReading(): void {
    this.#stopReading?.();
    this.#stopReading = undefined;
  }
}

/** Where in the staging region the frame goes that is read after one of `length` bytes up to `end`. */
function placeBehind(end: number, length: number): number {
  if (length > LONG_FRAME_BYTES) return Math.ceil(end / PAGE_SIZE) * PAGE_SIZE;
  const aligned = Math.ceil((end - ETHERNET_PADDING) / FRAME_ALIGNMENT) * FRAME_ALIGNMENT;
  return aligned + ETHERNET_PADDING;
}

interface InterfaceFacts {
  readonly mac: string;
  readonly mtu: number;
}

/** Sets what is not as it shall be: who may use an interface may not change it always. */
function configure(file: TunFile, options: TapOptions): InterfaceFacts {
  file.setOffloads(options.offloads ?? true);
  if (options.owner !== undefined) file.setOwner(options.owner);
  const settings = new InterfaceSettings(file.name);
  try {
    const { mtu } = options;
    if (mtu !== undefined && mtu !== settings.mtu) settings.mtu = mtu;
    if ((options.up ?? true) && !settings.up) settings.up = true;
    const facts = { mac: settings.mac, mtu: settings.mtu };
    // Last, so that an interface that could not be set up does not stay.
    if (options.persist !== undefined) file.setPersistent(options.persist);
    return facts;
  } finally {
    settings.close();
  }
}

function checkOptions({ mtu, owner }: TapOptions): void {
  if (mtu !== undefined && !(Number.isInteger(mtu) && mtu >= MTU_MIN && mtu <= MTU_MAX)) {
    const text = `The MTU of a TAP is ${MTU_MIN} to ${MTU_MAX} bytes, not ${mtu}.`;
    throw new InvalidArgumentError('TAP_MTU_INVALID', 'mtu', text);
  }
  // The last 32-bit number is Linux' "nobody in particular".
  if (owner !== undefined && !(Number.isInteger(owner) && owner >= 0 && owner < 0xffff_ffff)) {
    const text = `The owner of a TAP is the number of a user, not ${owner}.`;
    throw new InvalidArgumentError('TAP_OWNER_INVALID', 'owner', text);
  }
}

/** One open stream of FrameService: its devices on one side, its client on the other. */
import type { ServerDuplexStream } from '@grpc/grpc-js';
import { copyWithRoom } from '@xenvif/client/message-prefix';
import type { Logger } from 'pino';
import { frameTimeNs } from '../device/clock.js';
import type { FrameBatch } from '../device/frame-batch.js';
import type { FrameStage } from '../device/frame-stage.js';
import type { NetbackDevice } from '../device/netback/device.js';
import { WriteOutcome } from '../device/network.js';
import { AbortedError, FailedPreconditionError, InvalidArgumentError } from '../errors.js';
import {
  type FrameBatch as FrameBatchMessage,
  FrameMode,
  type OpenFrames,
} from '../gen/xenvif/v1/frame_service.js';
import { VifPhase } from '../gen/xenvif/v1/vif.js';
import type { Xen } from '../xen/xen.js';
import { failCall } from './calls.js';
import type { ClientLease } from './client-ports.js';
import { type FrameMessage, inOnePiece, SplitMessage } from './frame-message.js';
import { checkFrame, checkSelection, type OpenedFrames, toOutcome } from './frame-options.js';
import { type ClientMessage, SentFrames } from './frame-request.js';
import { FrameStream } from './frame-stream.js';
import type { MessageSource } from './message-reader.js';
import { encodedWriter } from './message-writer.js';
import type { PlainFrames } from './plain-frames.js';
import { toPort } from './switch-ports.js';
import { phaseOf, type VifRegistry } from './vif-registry.js';

export type FrameCall = ServerDuplexStream<ClientMessage, FrameMessage>;

export interface SessionParts {
  readonly call: FrameCall;
  /** What brings the client's messages. */
  readonly source: MessageSource;
  /** The vifs that the stream is about; none where the client is a port. */
  readonly devices: readonly NetbackDevice[];
  /** The port that the client holds. */
  readonly lease: ClientLease | undefined;
  readonly open: OpenFrames;
  readonly options: OpenedFrames;
  readonly stage: FrameStage;
  readonly plain: PlainFrames;
  readonly memory: Xen['memory'];
  readonly inFlightBytes: number;
  readonly registry: VifRegistry;
  readonly logger: Logger;
  readonly leave: () => void;
}

function frameWriter(call: FrameCall): (message: FrameMessage, done: () => void) => void {
  const write = encodedWriter(call);
  if (write === undefined) return (message, done) => call.write(message, done);
  return (message, done) => {
    const isEncoded = Buffer.isBuffer(message) || message instanceof SplitMessage;
    write(isEncoded ? message : copyWithRoom(inOnePiece(message)), done);
  };
}

/** How long a client's frames wait for a guest that posts no buffers, before they may be lost. */
const ROOM_WAIT_MS = 10;

/** A client's message on its way to the guest. */
interface Sending {
  readonly sent: SentFrames;
  position: number;
  readonly outcomes: number[];
}

export class FrameSession {
  readonly devices: readonly NetbackDevice[];
  readonly #parts: SessionParts;
  readonly #stream: FrameStream;
  readonly #ends: (() => void)[] = [];
  readonly #gone = new Set<NetbackDevice>();
  readonly #outcomes: Uint8Array;
  /** The reason that the client knows of each vif. */
  readonly #reported: string[];
  #sending: Sending | undefined;
  /** Ends the wait for room, while there is one. */
  #stopWaiting: (() => void) | undefined;
  #waitingSinceMs = 0;
  #roomTimer: NodeJS.Timeout | undefined;
  readonly #onRoom = () => this.#sendOn(false);

  constructor(parts: SessionParts) {
    const { call, options } = parts;
    this.devices = parts.devices;
    this.#parts = parts;
    this.#outcomes = new Uint8Array(parts.stage.batch.capacity);
    this.#reported = parts.devices.map((device) => device.status.reason);
    this.#stream = new FrameStream(options.selector, {
      ...options,
      memory: parts.memory,
      inFlightBytes: parts.inFlightBytes,
      write: frameWriter(call),
      end: (error) => (error === undefined ? this.#end() : this.fail(error)),
    });
  }

  get waitingBytes(): number {
    return this.#stream.waitingBytes;
  }

  /** Says what was granted and begins to listen. */
  start(): void {
    const { lease, options, plain, registry } = this.#parts;
    lease?.connect((batch) => plain.push(batch, lease.nic.mtu, this.#stream, 0));
    this.#stream.send({
      message: {
        $case: 'opened',
        value: {
          bootId: registry.bootId,
          vifs: this.devices.map((device) => registry.toVif(device)),
          limits: { queueBytes: BigInt(options.queueBytes), frames: BigInt(options.framesMax) },
          batching: { ...options.chunk, lingerUs: options.lingerMs * 1000 },
          clock: new Date(),
          port: lease === undefined ? undefined : toPort(lease.switchId, lease.joined),
        },
      },
    });
    for (const [index, device] of this.devices.entries()) {
      const end =
        options.mode === FrameMode.ATTACH
          ? device.listenBatch((batch) => plain.push(batch, device.mtu, this.#stream, index))
          : device.observeBatch((batch) => this.#stream.push(batch, index));
      this.#ends.push(end);
    }
    this.#ends.push(
      registry.netback.onVif((event, device) => {
        if (this.devices.includes(device)) this.#reportStatus(device, event === 'deleted');
      }),
    );
  }

  /** Takes a message behind the first. */
  take(request: ClientMessage): void {
    if (request instanceof SentFrames) {
      this.#injectSent(request);
      return;
    }
    const { message } = request;
    switch (message?.$case) {
      case 'frames':
        this.#inject(message.value);
        break;
      case 'credit':
        this.#stream.addCredit(Number(message.value.bytes));
        break;
      case 'selection':
        this.#stream.select(checkSelection(message.value, this.#parts.memory, 'selection'));
        break;
      case 'open':
        throw new InvalidArgumentError('ALREADY_OPEN', 'open', 'The stream is open already.');
      default:
        throw new InvalidArgumentError('MESSAGE_EMPTY', 'message', 'The message holds nothing.');
    }
  }

  /** The client half-closed. One that attached is gone as a NIC; one that observes goes on. */
  halfClosed(): void {
    if (this.#parts.options.mode !== FrameMode.ATTACH) return;
    this.#stream.flush();
    this.#parts.lease?.release(true);
    this.#end();
  }

  fail(error: Error): void {
    this.#parts.leave();
    failCall(this.#parts.call, error, this.#parts.logger);
  }

  close(): void {
    this.#sending = undefined;
    this.#stopWaiting?.();
    clearTimeout(this.#roomTimer);
    this.#parts.lease?.release(false);
    for (const end of this.#ends) end();
    this.#ends.length = 0;
    this.#stream.close();
  }

  #end(): void {
    this.#parts.leave();
    this.#parts.call.end();
  }

  #reportStatus(device: NetbackDevice, deleted: boolean): void {
    const phase = deleted ? VifPhase.DELETING : phaseOf(device);
    const reason = deleted ? 'VIF_DELETED' : device.status.reason;
    const vifIndex = this.devices.indexOf(device);
    if (this.#reported[vifIndex] !== reason) {
      this.#reported[vifIndex] = reason;
      this.#stream.send({ message: { $case: 'status', value: { vifIndex, phase, reason } } });
    }
    if (deleted) this.#gone.add(device);
    if (this.devices.length === 0 || this.#gone.size < this.devices.length) return;
    this.#stream.flush();
    this.fail(new AbortedError('VIF_DELETED', `${device.name} was deleted.`));
  }

  /** Sends frames where they are for: to the guest, or into the switch. */
  #send(batch: FrameBatch): void {
    const { lease } = this.#parts;
    const [device] = this.devices;
    if (lease === undefined) {
      device?.writeBatch(batch, this.#outcomes);
      return;
    }
    batch.timeNs = frameTimeNs();
    lease.nic.receive(batch);
    this.#outcomes.fill(WriteOutcome.accepted, 0, batch.count);
  }

  #checkAttached(): void {
    if (this.#parts.options.mode === FrameMode.ATTACH) return;
    const text = 'Frames can be sent on a stream in ATTACH mode only.';
    throw new FailedPreconditionError('NOT_ATTACHED', text);
  }

  /** Takes frames that lie in their message. */
  #injectSent(sent: SentFrames): void {
    this.#checkAttached();
    if (sent.faultIndex >= 0) checkFrame(sent.faultLength, sent.faultIndex);
    // A call that is paused brings nothing; should it all the same, order comes first.
    if (this.#sending !== undefined) this.#sendOn(true);
    this.#sending = { sent, position: sent.start, outcomes: [] };
    this.#sendOn(false);
  }

  /**
   * Sends as many frames as the guest has buffers for. While it has none the client is not read from:
   * one that is faster than its guest waits, for a while, before frames are lost.
   */
  #sendOn(isLate: boolean): void {
    this.#stopWaiting = undefined;
    const sending = this.#sending;
    if (sending === undefined) return;
    const { open, source, stage } = this.#parts;
    const { outcomes, sent } = sending;
    const device = this.#parts.lease === undefined ? this.devices[0] : undefined;
    while (sending.position < sent.end) {
      const room = isLate || device === undefined ? Number.POSITIVE_INFINITY : device.room;
      if (room === 0) {
        if (!source.isPaused()) source.pause();
        this.#awaitRoom(device);
        return;
      }
      sending.position = stage.fillFromRun(sent.bytes, sending.position, sent.end, room);
      this.#send(stage.batch);
      for (let index = 0; open.reportResults && index < stage.batch.count; index += 1) {
        outcomes.push(this.#outcomes[index] as number);
      }
    }
    stage.clear();
    this.#sending = undefined;
    source.recycle(sent.bytes);
    if (open.reportResults) this.#reportResults(sent.firstSequence, outcomes);
    if (source.isPaused()) source.resume();
  }

  /** Waits for room in a guest, and no longer than it may take: one that tells of nothing holds nobody up. */
  #awaitRoom(device: NetbackDevice | undefined): void {
    this.#waitingSinceMs = performance.now();
    this.#stopWaiting = device?.awaitRoom(this.#onRoom);
    // A busy client waits thousands of times a second: a timer that runs is left to run.
    this.#roomTimer ??= setTimeout(() => this.#checkWait(), ROOM_WAIT_MS);
  }

  #checkWait(): void {
    this.#roomTimer = undefined;
    if (this.#stopWaiting === undefined) return;
    const leftMs = ROOM_WAIT_MS - (performance.now() - this.#waitingSinceMs);
    if (leftMs > 0) {
      this.#roomTimer = setTimeout(() => this.#checkWait(), leftMs);
      return;
    }
    this.#stopWaiting();
    this.#sendOn(true);
  }

  #reportResults(firstSequence: bigint, outcomes: readonly number[]): void {
    this.#stream.send({
      message: { $case: 'results', value: { firstSequence, outcomes: outcomes.map(toOutcome) } },
    });
  }

  /** Sends the client's frames to the guest, and its outcomes back where it wants them. */
  #inject(message: FrameBatchMessage): void {
    this.#checkAttached();
    for (const [index, frame] of message.frames.entries()) checkFrame(frame.length, index);
    const { stage } = this.#parts;
    const outcomes: number[] = [];
    const flush = () => {
      this.#send(stage.batch);
      for (let index = 0; index < stage.batch.count; index += 1) {
        outcomes.push(this.#outcomes[index] as number);
      }
      stage.clear();
    };
    for (const frame of message.frames) {
      if (!stage.hasRoom) flush();
      stage.add(frame, 0, frame.length, 0);
    }
    flush();
    if (this.#parts.open.reportResults) this.#reportResults(message.firstSequence, outcomes);
  }
}

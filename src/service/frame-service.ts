/**
 * FrameService: opens streams, joins them to devices, and takes what clients send. What waits for
 * a client, and what becomes of it, is FrameStream's.
 */
import type { ServerDuplexStream } from '@grpc/grpc-js';
import type { Logger } from 'pino';
import type { Config } from '../config.js';
import { FrameStage } from '../device/frame-stage.js';
import type { NetbackDevice } from '../device/netback/device.js';
import {
  AbortedError,
  AlreadyExistsError,
  FailedPreconditionError,
  InvalidArgumentError,
  ResourceExhaustedError,
  UnavailableError,
} from '../errors.js';
import {
  type FrameBatch as FrameBatchMessage,
  FrameMode,
  FrameServiceService,
  type OpenFrames,
  type StreamFramesRequest,
  StreamFramesResponse,
} from '../gen/xenvif/v1/frame_service.js';
import { VifPhase } from '../gen/xenvif/v1/vif.js';
import type { Xen } from '../xen/xen.js';
import { failCall } from './calls.js';
import {
  checkFrame,
  checkOpen,
  checkSelection,
  checkVifNames,
  type OpenedFrames,
  toOutcome,
} from './frame-options.js';
import { type FrameMessage, FrameStream } from './frame-stream.js';
import { phaseOf, toVif, type VifRegistry } from './vif-registry.js';

type FrameCall = ServerDuplexStream<StreamFramesRequest, FrameMessage>;

/** The service's definition with an encoder that lets finished messages through. */
export const frameServiceDefinition = {
  streamFrames: {
    ...FrameServiceService.streamFrames,
    responseSerialize: (message: FrameMessage): Buffer =>
      Buffer.isBuffer(message)
        ? message
        : Buffer.from(StreamFramesResponse.encode(message).finish()),
  },
};

export class FrameService {
  readonly #xen: Xen;
  readonly #registry: VifRegistry;
  readonly #logger: Logger;
  readonly #limits: Config['limits'];
  readonly #stage: FrameStage;
  readonly #sessions = new Set<FrameSession>();
  /** Who is attached to a vif: one client at a time. */
  readonly #attached = new Map<NetbackDevice, FrameSession>();

  constructor(xen: Xen, registry: VifRegistry, logger: Logger, limits: Config['limits']) {
    this.#xen = xen;
    this.#registry = registry;
    this.#logger = logger;
    this.#limits = limits;
    this.#stage = new FrameStage(xen.memory);
  }

  /** Streams that are open now. */
  get streams(): number {
    return this.#sessions.size;
  }

  /** Bytes of frames that wait for clients, over all streams. */
  get waitingBytes(): number {
    let bytes = 0;
    for (const session of this.#sessions) bytes += session.waitingBytes;
    return bytes;
  }

  handlers() {
    return { streamFrames: (call: FrameCall) => this.#accept(call) };
  }

  /** Ends every stream, each after what is there has been sent. */
  stop(): void {
    for (const session of this.#sessions) {
      session.fail(new UnavailableError('DAEMON_STOPPING', 'The daemon is stopping.'));
    }
    this.#stage.free();
  }

  #accept(call: FrameCall): void {
    let session: FrameSession | undefined;
    const leave = () => {
      if (session === undefined) return;
      session.close();
      this.#sessions.delete(session);
      for (const device of session.devices) {
        if (this.#attached.get(device) === session) this.#attached.delete(device);
      }
    };
    const guard = (step: () => void) => {
      try {
        step();
      } catch (error) {
        leave();
        failCall(call, error, this.#logger);
      }
    };
    call.on('data', (request) =>
      guard(() => {
        if (session === undefined) session = this.#open(call, request, leave);
        else session.take(request);
      }),
    );
    call.on('end', () =>
      guard(() => {
        if (session === undefined) throw openExpected();
        // A client that has nothing more to say still wants to hear.
        session.halfClosed();
      }),
    );
    call.on('cancelled', leave);
    call.on('close', leave);
    call.on('error', leave);
  }

  #open(call: FrameCall, request: StreamFramesRequest, leave: () => void): FrameSession {
    if (request.message?.$case !== 'open') throw openExpected();
    if (this.#sessions.size >= this.#limits.frameStreams) {
      const text = `All ${this.#limits.frameStreams} streams of frames are in use.`;
      throw new ResourceExhaustedError('TOO_MANY_STREAMS', text);
    }
    const open = request.message.value;
    checkVifNames(open);
    const devices = open.vifs.map((name, index) =>
      this.#registry.find(name, `open.vifs[${index}]`),
    );
    const [device] = devices;
    if (open.mode === FrameMode.ATTACH && device !== undefined && this.#attached.has(device)) {
      const text = `Another client is attached to ${device.name}.`;
      throw new AlreadyExistsError('VIF_ATTACHED', text, { vif: device.name });
    }
    // The last check, for it makes a filter, which only a session gives back.
    const options = checkOpen(open, this.#limits, this.#xen.memory);
    const session = new FrameSession({
      call,
      devices,
      open,
      options,
      stage: this.#stage,
      memory: this.#xen.memory,
      inFlightBytes: this.#limits.frameInFlightBytes,
      registry: this.#registry,
      logger: this.#logger,
      leave,
    });
    this.#sessions.add(session);
    if (options.mode === FrameMode.ATTACH && device !== undefined) {
      this.#attached.set(device, session);
    }
    session.start();
    return session;
  }
}

interface SessionParts {
  readonly call: FrameCall;
  readonly devices: readonly NetbackDevice[];
  readonly open: OpenFrames;
  readonly options: OpenedFrames;
  readonly stage: FrameStage;
  readonly memory: Xen['memory'];
  readonly inFlightBytes: number;
  readonly registry: VifRegistry;
  readonly logger: Logger;
  readonly leave: () => void;
}

/** One open stream: its devices on one side, its client on the other. */
class FrameSession {
  readonly devices: readonly NetbackDevice[];
  readonly #parts: SessionParts;
  readonly #stream: FrameStream;
  readonly #ends: (() => void)[] = [];
  readonly #gone = new Set<NetbackDevice>();
  readonly #outcomes: Uint8Array;
  /** The reason that the client knows of each vif. */
  readonly #reported: string[];

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
      write: (message, done) => call.write(message, done),
      end: (error) => (error === undefined ? this.#end() : this.fail(error)),
    });
  }

  get waitingBytes(): number {
    return this.#stream.waitingBytes;
  }

  /** Says what was granted and begins to listen. */
  start(): void {
    const { options, registry } = this.#parts;
    this.#stream.send({
      message: {
        $case: 'opened',
        value: {
          bootId: registry.bootId,
          vifs: this.devices.map(toVif),
          limits: { queueBytes: BigInt(options.queueBytes), frames: BigInt(options.framesMax) },
          batching: { ...options.chunk, lingerUs: options.lingerMs * 1000 },
          clock: new Date(),
        },
      },
    });
    for (const [index, device] of this.devices.entries()) {
      const take = (batch: Parameters<FrameStream['push']>[0]) => this.#stream.push(batch, index);
      const attach = options.mode === FrameMode.ATTACH;
      this.#ends.push(attach ? device.listenBatch(take) : device.observeBatch(take));
    }
    this.#ends.push(
      registry.netback.onVif((event, device) => {
        if (this.devices.includes(device)) this.#reportStatus(device, event === 'deleted');
      }),
    );
  }

  /** Takes a message behind the first. */
  take(request: StreamFramesRequest): void {
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
    this.#end();
  }

  fail(error: Error): void {
    this.#parts.leave();
    failCall(this.#parts.call, error, this.#parts.logger);
  }

  close(): void {
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
    if (this.#gone.size < this.devices.length) return;
    this.#stream.flush();
    this.fail(new AbortedError('VIF_DELETED', `${device.name} was deleted.`));
  }

  /** Sends the client's frames to the guest, and its outcomes back where it wants them. */
  #inject(message: FrameBatchMessage): void {
    const [device] = this.devices;
    if (this.#parts.options.mode !== FrameMode.ATTACH || device === undefined) {
      const text = 'Frames can be sent on a stream in ATTACH mode only.';
      throw new FailedPreconditionError('NOT_ATTACHED', text);
    }
    for (const [index, frame] of message.frames.entries()) checkFrame(frame.length, index);
    const { stage } = this.#parts;
    const outcomes: number[] = [];
    const flush = () => {
      device.writeBatch(stage.batch, this.#outcomes);
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
    if (!this.#parts.open.reportResults) return;
    this.#stream.send({
      message: {
        $case: 'results',
        value: { firstSequence: message.firstSequence, outcomes: outcomes.map(toOutcome) },
      },
    });
  }
}

function openExpected(): InvalidArgumentError {
  const text = 'The first message of a stream must be `open`.';
  return new InvalidArgumentError('OPEN_EXPECTED', 'open', text);
}

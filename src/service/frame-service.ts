/**
 * FrameService: opens streams, joins them to devices, and takes what clients send. What waits for
 * a client, and what becomes of it, is FrameStream's.
 */
import type { Logger } from 'pino';
import type { Config } from '../config.js';
import { FrameStage } from '../device/frame-stage.js';
import type { NetbackDevice } from '../device/netback/device.js';
import {
  AlreadyExistsError,
  InvalidArgumentError,
  ResourceExhaustedError,
  UnavailableError,
} from '../errors.js';
import { FrameMode, FrameServiceService } from '../gen/xenvif/v1/frame_service.js';
import type { Switches } from '../switch/switches.js';
import type { Xen } from '../xen/xen.js';
import { failCall } from './calls.js';
import { type ClientLease, ClientPorts } from './client-ports.js';
import { inOnePiece } from './frame-message.js';
import { checkOpen, checkVifNames } from './frame-options.js';
import { type ClientMessage, decodeClientMessage, SentFrames } from './frame-request.js';
import { type FrameCall, FrameSession } from './frame-session.js';
import { MessagePool } from './message-memory.js';
import { type MessageSource, readMessages } from './message-reader.js';
import { PlainFrames } from './plain-frames.js';
import { parseSwitchName } from './validate.js';
import type { VifRegistry } from './vif-registry.js';

/** The service's definition with an encoder that lets finished messages through. */
export const frameServiceDefinition = {
  streamFrames: {
    ...FrameServiceService.streamFrames,
    requestDeserialize: decodeClientMessage,
    responseSerialize: inOnePiece,
  },
};

export class FrameService {
  readonly #xen: Xen;
  readonly #registry: VifRegistry;
  readonly #logger: Logger;
  readonly #limits: Config['limits'];
  readonly #stage: FrameStage;
  readonly #plain: PlainFrames;
  readonly #messages: MessagePool;
  readonly #clients: ClientPorts;
  readonly #sessions = new Set<FrameSession>();
  /** Who is attached to a vif: one client at a time. */
  readonly #attached = new Map<NetbackDevice, FrameSession>();

  constructor(
    xen: Xen,
    registry: VifRegistry,
    switches: Switches,
    logger: Logger,
    limits: Config['limits'],
  ) {
    this.#xen = xen;
    this.#registry = registry;
    this.#logger = logger;
    this.#limits = limits;
    this.#stage = new FrameStage(xen.memory);
    this.#plain = new PlainFrames(xen.memory);
    this.#messages = new MessagePool(xen.memory);
    this.#clients = new ClientPorts(switches);
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

  /** Bytes that wait for the client that keeps up best; 0 without one. */
  get leastWaitingBytes(): number {
    let least = Number.POSITIVE_INFINITY;
    for (const session of this.#sessions) least = Math.min(least, session.waitingBytes);
    return this.#sessions.size === 0 ? 0 : least;
  }

  handlers() {
    return { streamFrames: (call: FrameCall) => this.#accept(call) };
  }

  /** Ends every stream, each after what is there has been sent. */
  stop(): void {
    for (const session of this.#sessions) {
      session.fail(new UnavailableError('DAEMON_STOPPING', 'The daemon is stopping.'));
    }
    this.#clients.stop();
    this.#stage.free();
    this.#plain.free();
    this.#messages.free();
  }

  #accept(call: FrameCall): void {
    let session: FrameSession | undefined;
    const leave = () => {
      session?.close();
      source.release();
      if (session === undefined) return;
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
    const halfClosed = () => {
      if (call.cancelled) return;
      if (session === undefined) throw openExpected();
      // A client that has nothing more to say still wants to hear.
      session.halfClosed();
    };
    const source = readMessages(call, {
      pool: this.#messages,
      decode: decodeClientMessage,
      take: (request) =>
        guard(() => {
          if (session === undefined) session = this.#open(call, source, request, leave);
          else session.take(request);
        }),
      isKept: (request) => request instanceof SentFrames,
      // The call of a client that dies ends as well, and is cancelled within the turn: no farewell.
      end: () => setImmediate(() => guard(halfClosed)),
      fail: (error) => {
        leave();
        failCall(call, error, this.#logger);
      },
    });
    call.on('cancelled', leave);
    call.on('close', leave);
    call.on('error', leave);
  }

  #open(
    call: FrameCall,
    source: MessageSource,
    request: ClientMessage,
    leave: () => void,
  ): FrameSession {
    if (request instanceof SentFrames) throw openExpected();
    if (request.message?.$case !== 'open') throw openExpected();
    if (this.#sessions.size >= this.#limits.frameStreams) {
      const text = `All ${this.#limits.frameStreams} streams of frames are in use.`;
      throw new ResourceExhaustedError('TOO_MANY_STREAMS', text);
    }
    const open = request.message.value;
    checkVifNames(open);
    const switchId = parseSwitchName(open.switch, 'open.switch');
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
    let session: FrameSession | undefined;
    let lease: ClientLease | undefined;
    try {
      lease =
        switchId === undefined
          ? undefined
          : this.#clients.open(switchId, open.port, (error) => session?.fail(error));
    } catch (error) {
      options.selector.filter?.free();
      throw error;
    }
    session = new FrameSession({
      call,
      source,
      devices,
      lease,
      open,
      options,
      stage: this.#stage,
      plain: this.#plain,
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

function openExpected(): InvalidArgumentError {
  const text = 'The first message of a stream must be `open`.';
  return new InvalidArgumentError('OPEN_EXPECTED', 'open', text);
}

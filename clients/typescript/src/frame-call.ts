/**
 * One call of FrameService.StreamFrames: opens it, hands out what comes, gives credit as batches are
 * consumed, and carries what is sent. Observation and NIC are built on it.
 */
import { type ClientDuplexStream, Metadata } from '@grpc/grpc-js';
import { type Connection, MESSAGE_BYTES_MAX } from './connection.js';
import { Deferred } from './deferred.js';
import { DirectStream } from './direct-stream.js';
import { cancelled, type XenvifClientError } from './errors.js';
import { decodeFrameMessage, type FrameMessage } from './frame-messages.js';
import {
  creditBytesOf,
  type FramePurpose,
  type FrameSelectionOptions,
  type FrameStreamOptions,
  type OpenedFrames,
  openedFromWire,
  openMessage,
  selectionToWire,
} from './frame-options.js';
import { FrameServiceService, StreamFramesRequest } from './gen/xenvif/v1/frame_service.js';
import { copyWithRoom } from './message-prefix.js';
import { MessageStream } from './message-stream.js';
import { malformedMessage } from './wire-reader.js';

/** A message that the caller of `next` gets: all but the first. */
export type FrameEventMessage = Exclude<FrameMessage, { type: 'opened' }>;

/** Who wants to know of things as they happen, and not when `next` comes to them. */
export interface FrameCallObserver {
  /** Sees every message as it arrives; answers whether it is dealt with and `next` skips it. */
  readonly onMessage?: (message: FrameEventMessage) => boolean;
  /** The call is over; with the error, if it is one. Called once. */
  readonly onEnd?: (error?: XenvifClientError) => void;
}

export class FrameCall {
  readonly #call: ClientDuplexStream<Buffer, Buffer>;
  readonly #messages: MessageStream<Buffer, FrameEventMessage>;
  readonly #observer: FrameCallObserver;
  readonly #opening = new Deferred<OpenedFrames>();
  readonly #creditBytes: number;
  /** Bytes of the batch that the caller of `next` is looking at. */
  #heldBytes = 0;
  /** Bytes consumed that the daemon has not been given credit for. */
  #owedBytes = 0;
  #isOpen = false;
  /** The way past grpc-js, once there is one. */
  #direct: DirectStream | undefined;
  /** Messages that were given to grpc-js. */
  #written = 0;
  #ended = false;

  /**
   * Makes the call and sends the open message.
   * @throws XenvifClientError CREDIT_TOO_SMALL
   */
  constructor(
    connection: Connection,
    purpose: FramePurpose,
    options: FrameStreamOptions,
    observer: FrameCallObserver = {},
  ) {
    const open = openMessage(purpose, options);
    this.#creditBytes = creditBytesOf(options);
    this.#observer = observer;
    this.#call = connection.client.makeBidiStreamRequest(
      FrameServiceService.streamFrames.path,
      (bytes: Buffer) => bytes,
      (bytes: Buffer) => bytes,
      new Metadata(),
    );
    this.#call.once('metadata', () => this.#goDirect());
    this.#request({ message: { $case: 'open', value: open } });
    this.#messages = new MessageStream(this.#call, (bytes: Buffer) => this.#receive(bytes), {
      signal: options.signal,
      timeoutMs: options.timeoutMs,
      connection,
      sizeOf: (message) => (message.type === 'batch' ? message.batch.byteCount : 0),
      // Credit bounds what comes; this only stops a daemon that does not honour it.
      pauseAtBytes: this.#creditBytes * 2,
      onEnd: (error) => this.#end(error),
    });
  }

  /** Settles when the daemon has answered the open message. @throws XenvifClientError */
  get opened(): Promise<OpenedFrames> {
    return this.#opening.promise;
  }

  /**
   * The next message, or undefined when the stream is over. Asking for it says that the batch before
   * is done with.
   * @throws XenvifClientError, once.
   */
  async next(): Promise<FrameEventMessage | undefined> {
    this.giveCredit(this.#heldBytes);
    this.#heldBytes = 0;
    const message = await this.#messages.next();
    if (message?.type === 'batch') this.#heldBytes = message.batch.byteCount;
    return message;
  }

  /** The next message if one waits; the caller gives credit for it. */
  poll(): FrameEventMessage | undefined {
    return this.#messages.poll();
  }

  /** Lets the daemon send `bytes` more, told to it once a quarter of the credit is used up. */
  giveCredit(bytes: number): void {
    this.#owedBytes += bytes;
    if (this.#ended || this.#owedBytes * 4 < this.#creditBytes) return;
    this.#request({ message: { $case: 'credit', value: { bytes: BigInt(this.#owedBytes) } } });
    this.#owedBytes = 0;
  }

  /** Changes which frames the stream takes. */
  select(selection: FrameSelectionOptions): void {
    this.#request({ message: { $case: 'selection', value: selectionToWire(selection) } });
  }

  /**
   * Sends an encoded StreamFramesRequest that has `MESSAGE_PREFIX_BYTES` of room in front of it.
   * `onAccepted` runs when the transport has taken it, and never if the call ends before.
   */
  send(message: Buffer, onAccepted: () => void): void {
    if (this.#ended) return;
    const done = (error?: Error | null): void => {
      if (!error) onAccepted();
    };
    if (this.#mayWriteDirectly) this.#direct?.write(message, done);
    else this.#write(message, done);
  }

  /** Says that nothing more will be sent. The daemon then ends the call. */
  halfClose(): void {
    if (!this.#ended) this.#call.end();
  }

  /** Ends the call, quietly; `next` still answers what has been received. */
  stop(): void {
    this.#messages.stop();
  }

  /** Ends the call at once and quietly. */
  close(): void {
    this.#messages.close();
  }

  #request(request: StreamFramesRequest): void {
    if (this.#ended) return;
    const message = StreamFramesRequest.encode(request).finish();
    if (this.#mayWriteDirectly) this.#direct?.write(copyWithRoom(message), () => {});
    else this.#write(Buffer.from(message), () => {});
  }

  #write(message: Buffer, done: (error?: Error | null) => void): void {
    this.#written += 1;
    this.#call.write(message, done);
  }

  /**
   * The daemon has the open message, for it answers. Had grpc-js any other message, that one could
   * still be on its way through it, to be overtaken: then all others follow that way.
   */
  get #mayWriteDirectly(): boolean {
    return this.#direct !== undefined && this.#written === 1;
  }

  #goDirect(): void {
    this.#direct = DirectStream.of(this.#call, {
      messageBytesMax: MESSAGE_BYTES_MAX,
      receive: (message) => this.#messages.receive(message),
      fail: (error) => this.#messages.refuse(error),
    });
    if (this.#direct !== undefined) this.#messages.readFrom(this.#direct.receiver);
  }

  readonly #recycle = (message: Buffer): void => this.#direct?.receiver.recycle(message);

  #receive(bytes: Buffer): FrameEventMessage | undefined {
    const message = decodeFrameMessage(bytes, this.#recycle);
    if (message === undefined) return undefined;
    if (message.type === 'opened') {
      this.#isOpen = true;
      this.#opening.resolve(openedFromWire(message.opened));
      return undefined;
    }
    if (!this.#isOpen) throw malformedMessage('the stream does not begin with "opened"');
    return this.#observer.onMessage?.(message) ? undefined : message;
  }

  #end(error: XenvifClientError | undefined): void {
    this.#ended = true;
    this.#opening.reject(error ?? closedEarly());
    this.#observer.onEnd?.(error);
  }
}

function closedEarly(): XenvifClientError {
  return cancelled('The stream was closed before it was open.');
}

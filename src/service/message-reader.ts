/**
 * Messages of a client on their way out of HTTP/2, for calls that carry frames in bulk: each is put
 * together where it stays, and its memory used again when its frames have been sent. Who takes them may
 * pause; what the client may send ahead then waits here.
 */
import type { ServerDuplexStream } from '@grpc/grpc-js';
import { MessageReceiver } from '@xenvif/client/message-receiver';
import { InvalidArgumentError, ResourceExhaustedError } from '../errors.js';
import { type CallStream, sendsPlain, streamBelow } from './call-stream.js';
import { BorrowedMemory, type MessagePool } from './message-memory.js';

/** The longest message that a client may send; grpc-js is told the same. */
export const MESSAGE_BYTES_MAX = 1024 * 1024;

/** Where a client's messages come from. */
export interface MessageSource {
  isPaused(): boolean;
  pause(): void;
  resume(): void;
  /** Takes the memory of a message back, which nobody looks at any more. */
  recycle(message: Buffer): void;
  /** Nobody takes messages any more, nor looks at one that was taken. */
  release(): void;
}

export interface MessageReaderOptions<Request> {
  /** Memory for the messages, as far as it goes. */
  readonly pool: MessagePool;
  readonly decode: (bytes: Buffer) => Request;
  readonly take: (request: Request) => void;
  /** Whether a request still points into its message once it was taken, until `recycle`. */
  readonly isKept: (request: Request) => boolean;
  /** The client has sent its last message, and it has been taken. */
  readonly end: () => void;
  /** What comes cannot be read, and nothing more will be. */
  readonly fail: (error: unknown) => void;
}

/** Bytes that wait for who has paused, before the client may send no more. */
const WAITING_BYTES_MAX = 1024 * 1024;

/**
 * Has the messages of `call` taken as they come, past grpc-js where there is a way. To be called when
 * the call begins.
 */
export function readMessages<Request, Response>(
  call: ServerDuplexStream<Request, Response>,
  options: MessageReaderOptions<Request>,
): MessageSource {
  // Also where nothing comes this way: grpc-js tells the end to who reads.
  call.on('data', options.take);
  const stream = streamBelow(call);
  if (stream !== undefined && sendsPlain(call)) {
    const reader = new MessageReader(stream, options);
    call.on('end', () => reader.end());
    return reader;
  }
  call.on('end', options.end);
  return {
    isPaused: () => call.isPaused(),
    pause: () => call.pause(),
    resume: () => call.resume(),
    recycle: () => {},
    release: () => {},
  };
}

class MessageReader<Request> implements MessageSource {
  readonly #options: MessageReaderOptions<Request>;
  readonly #receiver: MessageReceiver;
  readonly #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #isPaused = false;
  #hasEnded = false;
  readonly #memory: BorrowedMemory;
  /** HTTP/2 writes no more, and nobody looks: then the memory is given back. */
  #isClosed = false;
  #isReleased = false;

  constructor(stream: CallStream, options: MessageReaderOptions<Request>) {
    this.#options = options;
    this.#memory = new BorrowedMemory(options.pool);
    stream.once('close', () => {
      this.#isClosed = true;
      if (this.#isReleased) this.#memory.giveAllBack();
    });
    this.#receiver = new MessageReceiver(stream, {
      memory: this.#memory,
      messageBytesMax: MESSAGE_BYTES_MAX,
      receive: (message) => this.#receive(message),
      fail: options.fail,
      refuse: (what, isTooLong) =>
        isTooLong
          ? new ResourceExhaustedError('MESSAGE_TOO_LONG', `A message is too long: ${what}.`)
          : new InvalidArgumentError(
              'MESSAGE_MALFORMED',
              'message',
              'It is compressed, unannounced.',
            ),
    });
  }

  isPaused(): boolean {
    return this.#isPaused;
  }

  pause(): void {
    this.#isPaused = true;
  }

  resume(): void {
    this.#isPaused = false;
    while (!this.#isPaused) {
      const message = this.#waiting.shift();
      if (message === undefined) break;
      this.#waitingBytes -= message.length;
      this.#take(message);
    }
    if (this.#isPaused) return;
    if (this.#receiver.isPaused()) this.#receiver.resume();
    if (this.#hasEnded) this.#options.end();
  }

  /** The client sends no more; what waits comes before the end. */
  end(): void {
    this.#hasEnded = true;
    if (!this.#isPaused) this.#options.end();
  }

  recycle(message: Buffer): void {
    this.#receiver.recycle(message);
  }

  release(): void {
    this.#isReleased = true;
    this.#waiting.length = 0;
    this.#waitingBytes = 0;
    if (this.#isClosed) this.#memory.giveAllBack();
  }

  #receive(message: Buffer): void {
    if (this.#isReleased) {
      this.recycle(message);
      return;
    }
    if (!this.#isPaused) {
      this.#take(message);
      return;
    }
    this.#waiting.push(message);
    this.#waitingBytes += message.length;
    if (this.#waitingBytes > WAITING_BYTES_MAX) this.#receiver.pause();
  }

  #take(message: Buffer): void {
    let request: Request;
    try {
      request = this.#options.decode(message);
    } catch {
      const text = 'The message is none that this call takes.';
      this.#options.fail(new InvalidArgumentError('MESSAGE_MALFORMED', 'message', text));
      return;
    }
    this.#options.take(request);
    if (!this.#options.isKept(request)) this.recycle(message);
  }
}

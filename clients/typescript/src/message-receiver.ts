/**
 * `@xenvif/client/message-receiver`: the messages of a call as its HTTP/2 stream brings them, past
 * grpc-js. The SDK reads what the daemon sends by it, and the daemon what clients send.
 */
import { spinOnBulk } from './bulk-spin.js';
import { MessageAssembler, type MessageMemory, type Refuse } from './message-assembler.js';
import { readInto } from './read-into.js';

export type { MessageMemory } from './message-assembler.js';

/** What is needed of an HTTP/2 stream. */
export interface ByteSource {
  pause(): unknown;
  resume(): unknown;
  read(): unknown;
  isPaused(): boolean;
  on(event: 'data', listener: (piece: Buffer) => void): unknown;
  listeners(event: 'data'): unknown[];
  removeAllListeners(event: 'data'): unknown;
}

export function isByteSource(stream: unknown): stream is ByteSource {
  if (typeof stream !== 'object' || stream === null) return false;
  const methods = ['pause', 'resume', 'read', 'isPaused', 'on', 'listeners', 'removeAllListeners'];
  return methods.every((name) => typeof Reflect.get(stream, name) === 'function');
}

export interface MessageReceiverOptions {
  readonly messageBytesMax: number;
  /** Takes a message; also while the stream is paused, of what the peer may send ahead. */
  readonly receive: (message: Buffer) => void;
  /** What comes cannot be read, and nothing more will. */
  readonly fail: (error: unknown) => void;
  /** The error for a message that is compressed or too long; by default the SDK's. */
  readonly refuse?: Refuse;
  /** Where long messages are to lie; by default in memory of the assembler's own. */
  readonly memory?: MessageMemory;
}

export class MessageReceiver {
  readonly #source: ByteSource;
  readonly #assembler: MessageAssembler;
  readonly #options: MessageReceiverOptions;
  /** Lets the stream receive again after a pause, where it writes to where messages lie. */
  #receiveAgain: (() => void) | undefined;
  #failed = false;

  /** Takes `source` over from whom it tells of its pieces, before any has been told. */
  constructor(source: ByteSource, options: MessageReceiverOptions) {
    this.#source = source;
    this.#options = options;
    const { memory, messageBytesMax, receive, refuse } = options;
    this.#assembler = new MessageAssembler(messageBytesMax, receive, refuse, memory);
    const others = source.listeners('data').filter(isListener);
    source.removeAllListeners('data');
    let isFirst = true;
    source.on('data', (piece) => {
      if (isFirst && piece[0] === 1) {
        // Something between here and there compresses. That is grpc-js's business.
        source.removeAllListeners('data');
        for (const listener of others) {
          source.on('data', listener);
          listener.call(source, piece);
        }
        return;
      }
      this.#take(piece);
      if (isFirst) this.#readIntoMessages();
      isFirst = false;
    });
  }

  /** Gives the memory of a message back, that nobody looks at any more. */
  recycle(message: Buffer): void {
    this.#assembler.recycle(message);
  }

  /** Has no more sent than the peer may send ahead. Of that, messages may still come. */
  pause(): void {
    this.#source.pause();
  }

  resume(): void {
    this.#source.resume();
    this.#receiveAgain?.();
  }

  isPaused(): boolean {
    return this.#source.isPaused();
  }

  /** Hands out what has been received and waits in a stream that was paused. */
  drain(): void {
    for (let piece = this.#source.read(); Buffer.isBuffer(piece); piece = this.#source.read()) {
      this.#take(piece);
    }
  }

  /** From here on pieces are written to where their message is to lie, if Node does that. */
  #readIntoMessages(): void {
    const assembler = this.#assembler;
    this.drain();
    this.#receiveAgain = readInto(this.#source, {
      get place() {
        return assembler.place;
      },
      filled: (byteCount) => {
        spinOnBulk(byteCount);
        this.#guard(() => assembler.filled(byteCount));
      },
    });
  }

  #take(piece: Buffer): void {
    this.#guard(() => this.#assembler.push(piece));
  }

  /** Does a step of the assembler's. What comes after one that failed is nobody's any more. */
  #guard(step: () => void): void {
    if (this.#failed) return;
    try {
      step();
    } catch (error) {
      this.#failed = true;
      this.#options.fail(error);
    }
  }
}

function isListener(listener: unknown): listener is (piece: Buffer) => void {
  return typeof listener === 'function';
}

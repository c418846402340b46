/**
 * One connection to the emulated XenStore: bytes in, messages to the store, replies and watch
 * events out. What waits to be read by the peer is bounded: while replies wait no further request
 * is taken, an event that waits already is not queued again, and a peer that lets events pile up
 * past the limit loses its connection.
 */
import type { Duplex } from 'node:stream';
import { ProtocolError, StoreError } from '../../errors.js';
import {
  emitMessage,
  emitStrings,
  type Message,
  MessageParser,
  MessageType,
  PAYLOAD_BYTES_MAX,
} from '../xenstore/wire.js';
import { ServedWatches } from './served-watches.js';
import type { StoreTransaction } from './store-transaction.js';
import { mayAccess, type StoreCaller, type StoreChange } from './store-tree.js';

/** What a request brings about, in the order in which the peer gets to see it. */
export interface ServedReply {
  readonly payload: Buffer;
  /** Run when the reply was sent: the watch events that the request causes. */
  readonly afterwards: () => void;
}

export interface ServedConnectionOptions {
  readonly domid: number;
  /** How many bytes may wait for the peer to read them. */
  readonly outputBytesMax: number;
  /** Carries out a request; undefined when it shall get no reply. */
  readonly onRequest: (message: Message) => ServedReply | undefined;
  readonly onClose: () => void;
}

export class ServedConnection {
  readonly domid: number;
  /** Set by XS_SET_TARGET. */
  target: number | undefined;
  readonly transactions = new Map<number, StoreTransaction>();
  readonly watches = new ServedWatches();
  /** Why the store ended this connection, when it was not the peer. */
  endedFor: string | undefined;
  readonly #stream: Duplex;
  readonly #options: ServedConnectionOptions;
  readonly #parser = new MessageParser();
  /** What arrived and was not answered yet. Nothing more is read while there is any. */
  readonly #chunks: Buffer[] = [];
  #input: Generator<Message, void, void> | undefined;
  /** What the stream does not take yet; watch events have a key so that equals are found. */
  readonly #output: { bytes: Buffer; eventKey?: string }[] = [];
  readonly #queuedEvents = new Set<string>();
  #outputBytes = 0;
  #blocked = false;
  #nextTransactionId = 1;
  #closed = false;

  constructor(stream: Duplex, options: ServedConnectionOptions) {
    this.domid = options.domid;
    this.#stream = stream;
    this.#options = options;
    stream.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#work();
    });
    stream.on('drain', () => this.#flush());
    // Resets by the peer are its own affair; `close` follows and does what is to do.
    stream.on('error', () => {});
    stream.on('end', () => this.#finish());
    stream.on('close', () => this.#finish());
  }

  get caller(): StoreCaller {
    return this.target === undefined
      ? { domid: this.domid }
      : { domid: this.domid, target: this.target };
  }

  /** Ends the connection from the store's side. */
  end(reason: string): void {
    this.endedFor ??= reason;
    this.#finish();
  }

  takeTransactionId(): number {
    while (this.#nextTransactionId === 0 || this.transactions.has(this.#nextTransactionId)) {
      this.#nextTransactionId = (this.#nextTransactionId + 1) >>> 0;
    }
    const id = this.#nextTransactionId;
    this.#nextTransactionId = (id + 1) >>> 0;
    return id;
  }

  /** Tells the peer of a change, once for each of its watches that hears of it. */
  hear(change: StoreChange): void {
    if (!change.permissions.some((one) => mayAccess(this.caller, one, 'read'))) {
      return;
    }
    for (const { asked, path, token } of this.watches.hearing(change)) {
      // A relative watch is answered in its own terms: the rest of the path follows what was asked.
      this.sendEvent(asked, change.path.slice(path.length), token);
    }
  }

  /** Sends one watch event, unless the same event waits to be sent anyway. */
  sendEvent(asked: string, below: string, token: string): void {
    const path = asked === '/' && below !== '' ? `/${below}` : `${asked}${below}`;
    const payload = emitStrings(path, token);
    if (payload.length > PAYLOAD_BYTES_MAX) {
      // As in xenstored: an event that does not fit into a message cannot be told.
      return;
    }
    const type = MessageType.WATCH_EVENT;
    const bytes = emitMessage({ type, requestId: 0, transactionId: 0, payload });
    this.#send(bytes, `${path}\0${token}`);
  }

  /** Answers what has arrived, as far as the peer takes the answers. */
  #work(): void {
    try {
      while (!this.#blocked && !this.#closed) {
        const next = this.#input?.next();
        if (next?.done === false) {
          this.#answer(next.value);
          continue;
        }
        const chunk = this.#chunks.shift();
        if (chunk === undefined) {
          this.#stream.resume();
          return;
        }
        this.#input = this.#parser.feed(chunk);
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) {
        throw error;
      }
      this.end(error.message);
    }
  }

  #answer(message: Message): void {
    const { type, requestId, transactionId } = message;
    let reply: ServedReply | undefined;
    try {
      reply = this.#options.onRequest(message);
    } catch (error) {
      // Anything but a refusal is a bug of the emulation and must be seen.
      if (!(error instanceof StoreError)) {
        throw error;
      }
      const payload = emitStrings(error.errno);
      this.#send(emitMessage({ type: MessageType.ERROR, requestId, transactionId, payload }));
    }
    if (reply !== undefined) {
      this.#send(emitMessage({ type, requestId, transactionId, payload: reply.payload }));
      reply.afterwards();
    }
  }

  #send(bytes: Buffer, eventKey?: string): void {
    if (this.#closed) {
      return;
    }
    if (!this.#blocked) {
      this.#write(bytes);
      return;
    }
    if (eventKey !== undefined && this.#queuedEvents.has(eventKey)) {
      return;
    }
    if (this.#outputBytes + bytes.length > this.#options.outputBytesMax) {
      this.end(`it let more than ${this.#options.outputBytesMax} bytes wait`);
      return;
    }
    this.#outputBytes += bytes.length;
    if (eventKey === undefined) {
      this.#output.push({ bytes });
    } else {
      this.#queuedEvents.add(eventKey);
      this.#output.push({ bytes, eventKey });
    }
  }

  #flush(): void {
    this.#blocked = false;
    while (!this.#blocked) {
      const next = this.#output.shift();
      if (next === undefined) {
        this.#work();
        return;
      }
      this.#outputBytes -= next.bytes.length;
      if (next.eventKey !== undefined) {
        this.#queuedEvents.delete(next.eventKey);
      }
      this.#write(next.bytes);
    }
  }

  #write(bytes: Buffer): void {
    if (!this.#stream.write(bytes)) {
      // The peer is slow. No more of its requests are taken until it has read what waits.
      this.#blocked = true;
      this.#stream.pause();
    }
  }

  #finish(): void {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    this.transactions.clear();
    this.watches.clear();
    this.#chunks.length = 0;
    this.#output.length = 0;
    this.#queuedEvents.clear();
    this.#stream.destroy();
    this.#options.onClose();
  }
}

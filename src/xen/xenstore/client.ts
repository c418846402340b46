/**
 * XenStore over its wire protocol. The client outlives its connections: when one is lost, whatever
 * waits fails at once with XENSTORE_UNAVAILABLE, requests made meanwhile fail the same way, and a
 * new connection is tried for as long as the client is open. Watches are restored on it before it
 * counts as connected; xenstored fires each when it is set, which tells the watcher to look again.
 */
import type { Duplex } from 'node:stream';
import { StoreError, UnavailableError } from '../../errors.js';
import type { Store, StoreOperations, StorePermissions, StoreWatch } from '../xen.js';
import { StoreConnection } from './connection.js';
import { RequestOperations } from './operations.js';
import { checkPath, quotePath } from './path.js';
import { DOMID_MAX } from './permissions.js';
import { runTransaction } from './transaction.js';
import { WatchTable } from './watch-table.js';
import { emitStrings, MessageType, parseStrings } from './wire.js';

/** Where the client tells what nobody waits for. A pino logger is one. */
export interface StoreLogger {
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

export interface StoreClientOptions {
  /** Opens a stream of bytes to xenstored; called again after every loss. */
  readonly connect: () => Promise<Duplex>;
  /** A connection on which a request waits longer than this is given up, in milliseconds. */
  readonly requestTimeoutMs?: number;
  /** How long to wait before the first attempt to connect again, in milliseconds. */
  readonly reconnectDelayMs?: number;
  /** The delay doubles with every failed attempt, up to this, in milliseconds. */
  readonly reconnectDelayMaxMs?: number;
  /** How often a transaction is repeated after the first EAGAIN. */
  readonly transactionRetriesMax?: number;
  /** How many requests may be on their way at once. */
  readonly requestsMax?: number;
  /** The longest reply to accept, in bytes. */
  readonly replyBytesMax?: number;
  readonly logger?: StoreLogger;
}

const defaults = {
  // xenstored answers within milliseconds; a live update of it may take seconds.
  requestTimeoutMs: 30_000,
  reconnectDelayMs: 50,
  reconnectDelayMaxMs: 5_000,
  // Each attempt waits a random time that grows to 100 ms: a minute of conflicts needs more.
  transactionRetriesMax: 20,
  requestsMax: 4_096,
  // The protocol says 4096, but oxenstored sends a long directory whole over a socket.
  replyBytesMax: 1024 * 1024,
};

const silent: StoreLogger = { info: () => {}, warn: () => {}, error: () => {} };

export class StoreClient implements Store {
  readonly #options: StoreClientOptions & typeof defaults;
  readonly #logger: StoreLogger;
  readonly #watches: WatchTable;
  readonly #listeners = new Set<(connected: boolean) => void>();
  readonly #operations: StoreOperations;
  #connection: StoreConnection | undefined;
  /** A connection whose watches are not restored yet. */
  #opening: StoreConnection | undefined;
  #reconnectTimer: NodeJS.Timeout | undefined;
  #reconnectDelayMs: number;
  #lastLoss = new Error('it was never connected');
  #closed = false;

  private constructor(options: StoreClientOptions) {
    this.#options = { ...defaults, ...options };
    this.#logger = options.logger ?? silent;
    this.#watches = new WatchTable(this.#logger);
    this.#reconnectDelayMs = this.#options.reconnectDelayMs;
    this.#operations = new RequestOperations((type, payload, subject) =>
      this.#request(type, payload, subject),
    );
  }

  /**
   * Connects to xenstored. The first attempt must succeed, so that a wrong setup is told at once.
   * @throws whatever `connect` throws.
   */
  static async open(options: StoreClientOptions): Promise<StoreClient> {
    const client = new StoreClient(options);
    await client.#establish();
    return client;
  }

  get connected(): boolean {
    return this.#connection !== undefined;
  }

  onConnection(listener: (connected: boolean) => void): () => void {
    // A wrapper of our own lets the same function listen twice and end each on its own.
    const entry = (connected: boolean) => listener(connected);
    this.#listeners.add(entry);
    return () => {
      this.#listeners.delete(entry);
    };
  }

  read(path: string): Promise<string> {
    return this.#operations.read(path);
  }

  readIfExists(path: string): Promise<string | undefined> {
    return this.#operations.readIfExists(path);
  }

  readBytes(path: string): Promise<Buffer> {
    return this.#operations.readBytes(path);
  }

  write(path: string, value: string | Uint8Array): Promise<void> {
    return this.#operations.write(path, value);
  }

  mkdir(path: string): Promise<void> {
    return this.#operations.mkdir(path);
  }

  rm(path: string): Promise<void> {
    return this.#operations.rm(path);
  }

  directory(path: string): Promise<string[]> {
    return this.#operations.directory(path);
  }

  getPermissions(path: string): Promise<StorePermissions> {
    return this.#operations.getPermissions(path);
  }

  setPermissions(path: string, permissions: StorePermissions): Promise<void> {
    return this.#operations.setPermissions(path, permissions);
  }

  transaction<T>(body: (transaction: StoreOperations) => Promise<T>): Promise<T> {
    const retriesMax = this.#options.transactionRetriesMax;
    return runTransaction(() => this.#current('start a transaction'), retriesMax, body);
  }

  /** `onChange` may run before the promise resolves: xenstored fires a watch as it is set. */
  async watch(path: string, onChange: (path: string) => void): Promise<StoreWatch> {
    checkPath(path, 'special allowed');
    const token = this.#watches.add(path, onChange);
    const subject = `watch ${quotePath(path)}`;
    try {
      await this.#request(MessageType.WATCH, emitStrings(path, token), subject);
    } catch (error) {
      this.#watches.remove(token);
      throw error;
    }
    let ended: Promise<void> | undefined;
    return {
      path,
      unwatch: () => {
        ended ??= this.#unwatch(path, token);
        return ended;
      },
    };
  }

  async domainPath(domid: number): Promise<string> {
    const subject = `ask for the path of domain ${domid}`;
    const payload = emitStrings(checkDomid(domid));
    const reply = await this.#request(MessageType.GET_DOMAIN_PATH, payload, subject);
    const [path] = parseStrings(reply) ?? [];
    if (path === undefined) {
      throw new StoreError('EIO', `could not ${subject}: XenStore answered no path`);
    }
    return path;
  }

  async isDomainIntroduced(domid: number): Promise<boolean> {
    const subject = `ask whether domain ${domid} is introduced`;
    const payload = emitStrings(checkDomid(domid));
    const reply = await this.#request(MessageType.IS_DOMAIN_INTRODUCED, payload, subject);
    return parseStrings(reply)?.[0] === 'T';
  }

  async close(): Promise<void> {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    clearTimeout(this.#reconnectTimer);
    const reason = new Error('this client was closed');
    this.#lastLoss = reason;
    this.#opening?.close(reason);
    this.#connection?.close(reason);
    this.#watches.clear();
    this.#listeners.clear();
  }

  #request(type: number, payload: Buffer, subject: string): Promise<Buffer> {
    try {
      return this.#current(subject).request(type, 0, payload, subject);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  #current(subject: string): StoreConnection {
    if (this.#connection === undefined) {
      throw new UnavailableError(
        'XENSTORE_UNAVAILABLE',
        `XenStore cannot be reached (${this.#lastLoss.message}); could not ${subject}`,
        {},
        { cause: this.#lastLoss },
      );
    }
    return this.#connection;
  }

  async #unwatch(path: string, token: string): Promise<void> {
    this.#watches.remove(token);
    // Without a connection there is nothing to end: xenstored forgot the watch with its connection.
    const connection = this.#connection;
    if (connection === undefined) {
      return;
    }
    try {
      const subject = `end the watch of ${quotePath(path)}`;
      await connection.request(MessageType.UNWATCH, 0, emitStrings(path, token), subject);
    } catch (error) {
      const gone = error instanceof StoreError && error.errno === 'ENOENT';
      if (!gone && connection.alive) {
        throw error;
      }
    }
  }

  /** Opens a connection, restores the watches on it, and only then lets requests use it. */
  async #establish(): Promise<void> {
    const stream = await this.#options.connect();
    // Every watch fires as soon as it is restored. Who is told then asks, and must not be refused.
    const early: [path: string, token: string][] = [];
    const connection: StoreConnection = new StoreConnection(stream, {
      requestTimeoutMs: this.#options.requestTimeoutMs,
      requestsMax: this.#options.requestsMax,
      replyBytesMax: this.#options.replyBytesMax,
      onWatchEvent: (path, token) => {
        if (this.#connection === connection) this.#watches.fire(path, token);
        else early.push([path, token]);
      },
      onLost: (reason) => this.#onLost(connection, reason),
    });
    if (this.#closed) {
      connection.close(new Error('this client was closed'));
      return;
    }
    this.#opening = connection;
    try {
      await this.#watches.restore(connection);
    } catch (error) {
      // Without its watches a connection is worse than none: nobody would notice what they miss.
      const reason = error instanceof Error ? error : new Error(String(error));
      connection.close(reason);
      throw reason;
    } finally {
      this.#opening = undefined;
    }
    if (!connection.alive) {
      throw this.#lastLoss;
    }
    this.#connection = connection;
    this.#reconnectDelayMs = this.#options.reconnectDelayMs;
    this.#tell(true);
    for (const [path, token] of early) this.#watches.fire(path, token);
  }

  #onLost(connection: StoreConnection, reason: Error): void {
    this.#lastLoss = reason;
    if (this.#connection !== connection) {
      return;
    }
    this.#connection = undefined;
    if (this.#closed) {
      return;
    }
    this.#logger.warn({ reason: reason.message }, 'the connection to xenstored is lost');
    this.#tell(false);
    this.#reconnectLater();
  }

  #reconnectLater(): void {
    if (this.#closed) {
      return;
    }
    // Half of the delay is random, so that many daemons do not come back in step.
    const delayMs = this.#reconnectDelayMs * (0.5 + Math.random() / 2);
    const { reconnectDelayMaxMs } = this.#options;
    this.#reconnectDelayMs = Math.min(this.#reconnectDelayMs * 2, reconnectDelayMaxMs);
    this.#reconnectTimer = setTimeout(() => {
      this.#establish().then(
        () => this.#logger.info({}, 'the connection to xenstored is back'),
        (error: unknown) => {
          if (this.#closed) {
            return;
          }
          const reason = error instanceof Error ? error.message : String(error);
          this.#logger.warn({ reason }, 'xenstored could not be reached, trying again');
          this.#reconnectLater();
        },
      );
    }, delayMs);
  }

  #tell(connected: boolean): void {
    for (const listener of [...this.#listeners]) {
      try {
        listener(connected);
      } catch (error) {
        this.#logger.error({ err: error }, 'a listener for the connection to xenstored threw');
      }
    }
  }
}

function checkDomid(domid: number): string {
  if (!Number.isInteger(domid) || domid < 0 || domid > DOMID_MAX) {
    throw new StoreError('EINVAL', `${domid} is no number of a domain`);
  }
  return String(domid);
}

/**
 * A port that takes connections, with the face of Node's `net.Server`: `listen`, `close`, and the
 * events `listening`, `connection`, `drop`, `error`, `close`. Node's own http server takes its
 * connections by `httpServer.emit('connection', socket)`.
 */
import { EventEmitter } from 'node:events';
import { formatAddress } from './address.js';
import { invalid } from './errors.js';
import type { Ipv4 } from './ipv4.js';
import { BACKLOG_MAX } from './limits.js';
import type { ControlBlock } from './tcp/control-block.js';
import type { Listener } from './tcp/listener.js';
import type { Tcp } from './tcp/tcp.js';
import { type TcpAddress, TcpSocket, type TcpSocketOptions } from './tcp-socket.js';

export interface TcpServerOptions extends Omit<TcpSocketOptions, 'signal'> {
  /** Handshakes under way at a time, 1 to 256. Default 256. */
  readonly backlog?: number | undefined;
  /** Connections at a time; more are refused. Default: as many as the stack takes. */
  readonly maxConnections?: number | undefined;
  /** Closes the server when it is aborted. */
  readonly signal?: AbortSignal | undefined;
}

interface TcpServerEvents {
  listening: [];
  connection: [socket: TcpSocket];
  /** A connection was refused, for there are too many. */
  drop: [remote: TcpAddress];
  error: [error: Error];
  close: [];
}

export class TcpServer extends EventEmitter<TcpServerEvents> {
  readonly #tcp: Tcp;
  readonly #ipv4: Ipv4;
  readonly #options: TcpServerOptions;
  readonly #onClosed: (server: TcpServer) => void;
  readonly #sockets = new Set<TcpSocket>();
  readonly #onAbort = () => void this.close();
  #listener: Listener | undefined;
  #isClosing = false;

  constructor(
    tcp: Tcp,
    ipv4: Ipv4,
    onClosed: (server: TcpServer) => void,
    options: TcpServerOptions = {},
  ) {
    super();
    this.#tcp = tcp;
    this.#ipv4 = ipv4;
    this.#options = options;
    this.#onClosed = onClosed;
    options.signal?.addEventListener('abort', this.#onAbort, { once: true });
  }

  get listening(): boolean {
    return this.#listener !== undefined;
  }

  /** Connections that are open. */
  get connectionCount(): number {
    return this.#sockets.size;
  }

  /**
   * Takes connections to a port; 0 or none: to one that is free. `listening` follows.
   * @throws StackError PORT_INVALID, EADDRINUSE, ALREADY_LISTENING, BACKLOG_INVALID.
   */
  listen(port = 0, onListening?: () => void): this {
    if (this.#listener !== undefined || this.#isClosing) {
      throw invalid('ALREADY_LISTENING', 'The server listens already, or was closed.');
    }
    const { backlog = BACKLOG_MAX } = this.#options;
    if (!Number.isInteger(backlog) || backlog < 1 || backlog > BACKLOG_MAX) {
      throw invalid('BACKLOG_INVALID', `The backlog is 1 to ${BACKLOG_MAX}, not ${backlog}.`);
    }
    const onConnection = (block: ControlBlock) => this.#accept(block);
    this.#listener = this.#tcp.listen(port, { backlog, onConnection });
    if (onListening !== undefined) this.once('listening', onListening);
    process.nextTick(() => {
      if (this.listening) this.emit('listening');
    });
    return this;
  }

  /** Where the server listens; null: nowhere. */
  address(): TcpAddress | null {
    if (this.#listener === undefined) return null;
    return { address: this.#ipv4.ip, family: 'IPv4', port: this.#listener.port };
  }

  /** Takes no more connections; `close` follows when the last open one is closed. */
  close(onClose?: () => void): this {
    if (onClose !== undefined) this.once('close', onClose);
    if (this.#isClosing) return this;
    this.#isClosing = true;
    this.#options.signal?.removeEventListener('abort', this.#onAbort);
    if (this.#listener !== undefined) this.#tcp.unlisten(this.#listener);
    this.#listener = undefined;
    this.#onClosed(this);
    this.#endWhenEmpty();
    return this;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return new Promise((resolve) => this.close(resolve));
  }

  #accept(block: ControlBlock): boolean {
    const { maxConnections = Number.POSITIVE_INFINITY } = this.#options;
    const isTooMany = this.#sockets.size >= maxConnections;
    const { signal: _, ...options } = this.#options;
    if (isTooMany) {
      const { remotePort: port } = block;
      const address = formatAddress(block.remoteAddress);
      this.emit('drop', { address, family: 'IPv4', port });
      return false;
    }
    const socket = TcpSocket.accept(this.#tcp, block, options);
    this.#sockets.add(socket);
    socket.once('close', () => {
      this.#sockets.delete(socket);
      this.#endWhenEmpty();
    });
    this.emit('connection', socket);
    return true;
  }

  #endWhenEmpty(): void {
    if (this.#isClosing && this.#sockets.size === 0) process.nextTick(() => this.emit('close'));
  }
}

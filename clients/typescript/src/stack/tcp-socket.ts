/**
 * A TCP connection with the face of Node's `net.Socket`: a Duplex, with its options, addresses and
 * events. What is written is copied before the write is done; what was read makes room for more.
 */
import { Duplex } from 'node:stream';
import { formatAddress, requireAddress } from './address.js';
import { AbortError, StackError } from './errors.js';
import { type ConnectionOwner, type ControlBlock, NEVER } from './tcp/control-block.js';
import type { Tcp } from './tcp/tcp.js';
import { rearm, startKeepAlive } from './tcp/timers.js';

const KEEP_ALIVE_MS = 7_200_000;
const HIGH_WATER_MARK = 64 * 1024;

export interface TcpSocketOptions {
  /** Go on sending when the peer has ended. Default: false, as with Node. */
  readonly allowHalfOpen?: boolean | undefined;
  /** Send small segments at once. Default: false. */
  readonly noDelay?: boolean | undefined;
  readonly keepAlive?: boolean | undefined;
  /** Milliseconds of silence before the peer is asked. Default: two hours. */
  readonly keepAliveInitialDelay?: number | undefined;
  /** Ends the connection when it is aborted. */
  readonly signal?: AbortSignal | undefined;
}

export interface TcpConnectOptions extends TcpSocketOptions {
  readonly host: string;
  readonly port: number;
  /** Default: one that is free. */
  readonly localPort?: number | undefined;
}

export interface TcpAddress {
  readonly address: string;
  readonly family: 'IPv4';
  readonly port: number;
}

/** A piece of data that was written and has not been copied yet. */
interface Unwritten {
  readonly chunks: readonly Uint8Array[];
  /** Which chunk is next, and from where. */
  chunk: number;
  from: number;
  readonly done: (error?: Error | null) => void;
}

export class TcpSocket extends Duplex {
  readonly #tcp: Tcp;
  readonly #block: ControlBlock;
  readonly #signal: AbortSignal | undefined;
  #wantsData = false;
  #isEndTold = false;
  #unwritten: Unwritten | undefined;
  #afterConnect: (() => void) | undefined;
  #isConnecting: boolean;
  #bytesRead = 0;
  #bytesWritten = 0;
  #timeoutMs = 0;
  #timeout: NodeJS.Timeout | undefined;
  #isReferenced = true;
  readonly #onAbort = () => void this.destroy(new AbortError(this.#signal?.reason));

  private constructor(
    tcp: Tcp,
    options: TcpSocketOptions,
    found: ControlBlock | TcpConnectOptions,
  ) {
    super({
      allowHalfOpen: options.allowHalfOpen ?? false,
      readableHighWaterMark: HIGH_WATER_MARK,
      writableHighWaterMark: HIGH_WATER_MARK,
      emitClose: true,
    });
    this.#tcp = tcp;
    const owner: ConnectionOwner = {
      onConnected: () => this.#onConnected(),
      onReadable: () => this.#deliver(),
      onWritable: () => this.#writeOn(),
      unreadBytes: () => this.readableLength,
      onClosed: (error) => this.#onClosed(error),
    };
    this.#isConnecting = 'host' in found;
    if ('host' in found) {
      const address = requireAddress(found.host);
      this.#block = tcp.connect(address, found.port, found.localPort ?? 0, owner);
    } else {
      this.#block = found;
      found.owner = owner;
    }
    this.#block.noDelay = options.noDelay ?? false;
    if (options.keepAlive) this.setKeepAlive(true, options.keepAliveInitialDelay);
    this.#signal = options.signal;
    if (this.#signal?.aborted) process.nextTick(this.#onAbort);
    else this.#signal?.addEventListener('abort', this.#onAbort, { once: true });
  }

  /**
   * Calls a peer; `connect`, or `error` with ECONNREFUSED, EHOSTUNREACH or ETIMEDOUT, follows.
   * @throws StackError ADDRESS_INVALID, PORT_INVALID, EHOSTUNREACH, EADDRNOTAVAIL, EADDRINUSE,
   *   ECONNLIMIT.
   */
  static connect(tcp: Tcp, options: TcpConnectOptions): TcpSocket {
    return new TcpSocket(tcp, options, options);
  }

  /** A connection that a peer opened. */
  static accept(tcp: Tcp, block: ControlBlock, options: TcpSocketOptions): TcpSocket {
    return new TcpSocket(tcp, options, block);
  }

  get connecting(): boolean {
    return this.#isConnecting;
  }

  get pending(): boolean {
    return this.#isConnecting;
  }

  get readyState(): 'opening' | 'open' | 'readOnly' | 'writeOnly' | 'closed' {
    if (this.#isConnecting) return 'opening';
    if (this.readable && this.writable) return 'open';
    if (this.readable) return 'readOnly';
    return this.writable ? 'writeOnly' : 'closed';
  }

  get bytesRead(): number {
    return this.#bytesRead;
  }

  get bytesWritten(): number {
    return this.#bytesWritten + this.writableLength;
  }

  get localAddress(): string {
    return formatAddress(this.#block.localAddress);
  }

  get localPort(): number {
    return this.#block.localPort;
  }

  get localFamily(): 'IPv4' {
    return 'IPv4';
  }

  get remoteAddress(): string {
    return formatAddress(this.#block.remoteAddress);
  }

  get remotePort(): number {
    return this.#block.remotePort;
  }

  get remoteFamily(): 'IPv4' {
    return 'IPv4';
  }

  /** Milliseconds without traffic until `timeout` is emitted; 0: never. */
  get timeout(): number {
    return this.#timeoutMs;
  }

  /** The connection's state by RFC 9293's name, in lower case. */
  get tcpState(): string {
    return this.#block.state;
  }

  address(): TcpAddress {
    return { address: this.localAddress, family: 'IPv4', port: this.localPort };
  }

  setNoDelay(noDelay = true): this {
    this.#block.noDelay = noDelay;
    if (noDelay) this.#tcp.touch(this.#block);
    return this;
  }

  /** Asks a peer that was silent for `initialDelay` milliseconds (0: two hours) whether it lives. */
  setKeepAlive(enable = false, initialDelay = 0): this {
    const block = this.#block;
    block.keepAliveIdleMs = initialDelay > 0 ? initialDelay : KEEP_ALIVE_MS;
    if (enable) {
      block.lastHeardMs = block.nowMs();
      startKeepAlive(block);
    } else {
      block.keepAliveMs = NEVER;
      rearm(block);
    }
    return this;
  }

  /** Emits `timeout` after so many milliseconds without traffic; 0: never. */
  setTimeout(timeoutMs: number, onTimeout?: () => void): this {
    this.#timeoutMs = timeoutMs;
    if (onTimeout !== undefined) {
      if (timeoutMs > 0) this.once('timeout', onTimeout);
      else this.removeListener('timeout', onTimeout);
    }
    clearTimeout(this.#timeout);
    this.#timeout = undefined;
    if (timeoutMs > 0 && !this.destroyed) {
      this.#timeout = setTimeout(() => this.emit('timeout'), timeoutMs);
      if (!this.#isReferenced) this.#timeout.unref();
    }
    return this;
  }

  ref(): this {
    this.#isReferenced = true;
    this.#timeout?.ref();
    return this;
  }

  /** What the stack waits for keeps the process all the same; only the idle timeout does not. */
  unref(): this {
    this.#isReferenced = false;
    this.#timeout?.unref();
    return this;
  }

  /** Ends writing and, when all is written, the socket. */
  destroySoon(): void {
    if (this.writable) this.end();
    if (this.writableFinished) this.destroy();
    else this.once('finish', () => this.destroy());
  }

  /** Resets the connection and destroys the socket. */
  resetAndDestroy(): this {
    this.#tcp.abort(this.#block);
    return this.destroy();
  }

  /** What was read makes room for more, which the peer has to hear of. */
  override read(size?: number): unknown {
    const data: unknown = super.read(size);
    if (data !== null) this.#tcp.touch(this.#block);
    return data;
  }

  override _read(): void {
    this.#wantsData = true;
    this.#deliver();
  }

  override _write(chunk: Buffer, _: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#begin([chunk], done);
  }

  override _writev(
    pieces: { chunk: Buffer; encoding: BufferEncoding }[],
    done: (error?: Error | null) => void,
  ): void {
    this.#begin(
      pieces.map(({ chunk }) => chunk),
      done,
    );
  }

  override _final(done: (error?: Error | null) => void): void {
    const end = () => {
      this.#tcp.endSending(this.#block);
      done();
    };
    if (this.#isConnecting) this.#afterConnect = end;
    else end();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#signal?.removeEventListener('abort', this.#onAbort);
    clearTimeout(this.#timeout);
    this.#tcp.release(this.#block);
    const unwritten = this.#unwritten;
    this.#unwritten = undefined;
    unwritten?.done(error ?? new StackError('ECANCELED', 'The socket was destroyed.'));
    done(error);
  }

  #onConnected(): void {
    this.#isConnecting = false;
    this.#stirred();
    this.emit('connect');
    this.emit('ready');
    this.#writeOn();
    const after = this.#afterConnect;
    this.#afterConnect = undefined;
    after?.();
  }

  #begin(chunks: readonly Uint8Array[], done: (error?: Error | null) => void): void {
    this.#unwritten = { chunks, chunk: 0, from: 0, done };
    if (!this.#isConnecting) this.#writeOn();
  }

  /** Copies what there is room for; when all is copied, the write is done. */
  #writeOn(): void {
    const unwritten = this.#unwritten;
    if (unwritten === undefined || this.#isConnecting) return;
    const { sendBuffer } = this.#block;
    for (;;) {
      const chunk = unwritten.chunks[unwritten.chunk];
      if (chunk === undefined) break;
      const count = sendBuffer.append(chunk, unwritten.from);
      unwritten.from += count;
      this.#bytesWritten += count;
      if (unwritten.from < chunk.length) {
        this.#wrote();
        return;
      }
      unwritten.chunk += 1;
      unwritten.from = 0;
    }
    this.#unwritten = undefined;
    this.#wrote();
    unwritten.done();
  }

  #wrote(): void {
    this.#stirred();
    this.#tcp.touch(this.#block);
  }

  /** Hands on what has arrived, as much as is wanted. */
  #deliver(): void {
    const block = this.#block;
    while (this.#wantsData) {
      const piece = block.receiveBuffer.take();
      if (piece === undefined) break;
      this.#stirred();
      this.#bytesRead += piece.length;
      // Within, the reader may well say that it wants more.
      this.#wantsData = false;
      if (this.push(piece)) this.#wantsData = true;
    }
    if (block.isEndReceived && block.receiveBuffer.length === 0 && !this.#isEndTold) {
      this.#isEndTold = true;
      this.push(null);
    }
  }

  /** What ended in order is destroyed by the stream itself, when all has been read. */
  #onClosed(error: StackError | undefined): void {
    if (error === undefined) return;
    if (error.code === 'ECONNABORTED') this.destroy();
    else this.destroy(error);
  }

  #stirred(): void {
    this.#timeout?.refresh();
  }
}

/**
 * A UDP socket with the face of Node's `dgram.Socket`: `bind`, `connect`, `send`, `close`, and the
 * events `listening`, `message`, `error`, `close`. Messages are copies; what arrives while nobody
 * listens to `message` is gone.
 */
import { EventEmitter } from 'node:events';
import { formatAddress, requireAddress } from './address.js';
import { invalid, StackError } from './errors.js';
import type { IcmpError } from './icmp.js';
import { type Ipv4, unreachable } from './ipv4.js';
import { checkPort, type Udp } from './udp.js';
import { UDP_PAYLOAD_BYTES_MAX } from './wire/udp.js';

export interface UdpRemote {
  readonly address: string;
  readonly family: 'IPv4';
  readonly port: number;
  /** Bytes of the message. */
  readonly size: number;
}

export interface UdpAddress {
  readonly address: string;
  readonly family: 'IPv4';
  readonly port: number;
}

export interface UdpSocketOptions {
  /** Closes the socket when it is aborted. */
  readonly signal?: AbortSignal | undefined;
}

interface UdpEvents {
  listening: [];
  message: [message: Buffer, remote: UdpRemote];
  error: [error: Error];
  close: [];
}

export type UdpSendCallback = (error: Error | null, bytes: number) => void;

export class UdpSocket extends EventEmitter<UdpEvents> {
  readonly #udp: Udp;
  readonly #ipv4: Ipv4;
  readonly #onClosed: (socket: UdpSocket) => void;
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort = () => void this.close();
  #port = 0;
  #ttl = 64;
  #allowsBroadcast = false;
  #remote: { readonly address: number; readonly port: number } | undefined;
  #isClosed = false;

  constructor(
    udp: Udp,
    ipv4: Ipv4,
    onClosed: (socket: UdpSocket) => void,
    options: UdpSocketOptions = {},
  ) {
    super();
    this.#udp = udp;
    this.#ipv4 = ipv4;
    this.#onClosed = onClosed;
    this.#signal = options.signal;
    if (this.#signal?.aborted) process.nextTick(this.#onAbort);
    else this.#signal?.addEventListener('abort', this.#onAbort, { once: true });
  }

  /**
   * Takes a port; 0 or none: one that is free. `listening` follows.
   * @throws StackError PORT_INVALID, EADDRINUSE, EALREADY_BOUND, ECLOSED.
   */
  bind(port = 0, onListening?: () => void): this {
    this.#checkOpen();
    if (this.#port !== 0) throw invalid('EALREADY_BOUND', 'The socket has a port already.');
    this.#bind(port);
    if (onListening !== undefined) this.once('listening', onListening);
    process.nextTick(() => {
      if (!this.#isClosed) this.emit('listening');
    });
    return this;
  }

  /** Sends to, and hears of, one host alone. @throws StackError PORT_INVALID, ADDRESS_INVALID. */
  connect(port: number, address: string): void {
    this.#checkOpen();
    checkPort(port);
    this.#remote = { address: requireAddress(address), port };
    this.#bindAnywhere();
  }

  disconnect(): void {
    this.#remote = undefined;
  }

  /**
   * Sends a datagram of 0 to 65507 bytes. Without port and address to the one connected to. The callback
   * gets what went wrong, EHOSTUNREACH, EMSGSIZE or ENOBUFS; without one it is the event `error`.
   * @throws StackError PORT_INVALID, ADDRESS_INVALID, NOT_CONNECTED, ECLOSED.
   */
  send(message: Uint8Array | string, callback?: UdpSendCallback): void;
  send(
    message: Uint8Array | string,
    port: number,
    address: string,
    callback?: UdpSendCallback,
  ): void;
  send(
    message: Uint8Array | string,
    portOrCallback?: number | UdpSendCallback,
    address?: string,
    callback?: UdpSendCallback,
  ): void {
    this.#checkOpen();
    const isPlaced = typeof portOrCallback === 'number';
    const payload = typeof message === 'string' ? Buffer.from(message) : message;
    const to = isPlaced ? placeOf(portOrCallback, address) : this.#remote;
    if (to === undefined) throw invalid('NOT_CONNECTED', 'Say to which port and address.');
    this.#bindAnywhere();
    const error = this.#send(payload, to.address, to.port);
    const done = isPlaced ? callback : portOrCallback;
    process.nextTick(() => {
      if (done !== undefined) done(error ?? null, payload.length);
      else if (error !== undefined && !this.#isClosed) this.emit('error', error);
    });
  }

  /** Where the socket is bound. @throws StackError NOT_BOUND. */
  address(): UdpAddress {
    if (this.#port === 0) throw invalid('NOT_BOUND', 'The socket has no port yet.');
    return { address: this.#ipv4.ip, family: 'IPv4', port: this.#port };
  }

  /** @throws StackError TTL_INVALID. */
  setTTL(ttl: number): number {
    if (!Number.isInteger(ttl) || ttl < 1 || ttl > 255) {
      throw invalid('TTL_INVALID', `The time to live is 1 to 255, not ${ttl}.`);
    }
    this.#ttl = ttl;
    return ttl;
  }

  /** Allows datagrams to everybody, which without it are EACCES. */
  setBroadcast(allowed: boolean): void {
    this.#allowsBroadcast = allowed;
  }

  /** Gives the port back. `close` follows; a second call does nothing. */
  close(onClose?: () => void): this {
    if (onClose !== undefined) this.once('close', onClose);
    if (this.#isClosed) return this;
    this.#isClosed = true;
    this.#signal?.removeEventListener('abort', this.#onAbort);
    if (this.#port !== 0) this.#udp.release(this.#port);
    this.#onClosed(this);
    process.nextTick(() => this.emit('close'));
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  #bindAnywhere(): void {
    if (this.#port === 0) this.bind();
  }

  #bind(port: number): void {
    this.#port = this.#udp.bind(port, {
      receive: (source, sourcePort, payload) => this.#receive(source, sourcePort, payload),
      refused: (error, destinationPort) => this.#refused(error, destinationPort),
    });
  }

  #send(payload: Uint8Array, address: number, port: number): Error | undefined {
    if (payload.length > UDP_PAYLOAD_BYTES_MAX) {
      return new StackError('EMSGSIZE', `A datagram has no room for ${payload.length} bytes.`);
    }
    if (this.#ipv4.isBroadcast(address) && !this.#allowsBroadcast) {
      return new StackError('EACCES', 'Sending to everybody has to be allowed: setBroadcast.');
    }
    const outcome = this.#udp.send(this.#port, address, port, payload, { ttl: this.#ttl });
    if (outcome === 'no-route') return unreachable(formatAddress(address));
    if (outcome === 'no-room') return new StackError('ENOBUFS', 'There is no room on the link.');
    return undefined;
  }

  #receive(source: number, port: number, payload: Uint8Array): void {
    const remote = this.#remote;
    if (remote !== undefined && (remote.address !== source || remote.port !== port)) return;
    if (this.listenerCount('message') === 0) return;
    const address = formatAddress(source);
    const size = payload.length;
    this.emit('message', Buffer.from(payload), { address, family: 'IPv4', port, size });
  }

  /** As with Node, only a connected socket hears that nobody is there. */
  #refused({ destination }: IcmpError, port: number): void {
    const remote = this.#remote;
    if (remote === undefined || remote.address !== destination || remote.port !== port) return;
    if (this.listenerCount('error') === 0) return;
    const place = `${formatAddress(destination)}:${port}`;
    this.emit('error', new StackError('ECONNREFUSED', `Nobody receives datagrams at ${place}.`));
  }

  #checkOpen(): void {
    if (this.#isClosed) throw invalid('ECLOSED', 'The socket was closed.');
  }
}

function placeOf(port: number, address: string | undefined) {
  checkPort(port);
  if (address === undefined) throw invalid('ADDRESS_INVALID', 'Say to which address.');
  return { address: requireAddress(address), port };
}

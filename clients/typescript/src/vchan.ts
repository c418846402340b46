/** A vchan by way of the daemon: a byte channel to a program in another domain, as a Duplex. */
import { Duplex } from 'node:stream';
import type { ServiceError } from '@grpc/grpc-js';
import type { Connection } from './connection.js';
import { Deferred } from './deferred.js';
import { cancelled, errorFromStatus, XenvifClientError } from './errors.js';
import { type ConnectResponse, VchanRole } from './gen/xenvif/v1/vchan_service.js';
import { VchanCall } from './vchan-call.js';

/** The contract's bound on a message is 256 KiB; this much is sent best. */
const MESSAGE_BYTES_MAX = 64 * 1024;

export interface VchanOptions {
  /** Makes the rings and waits for the peer, in place of connecting to a server. Default: false. */
  readonly listen?: boolean | undefined;
  /** The peer's domain. */
  readonly domid: number;
  /** The name of the channel: letters, digits, `_` and `-`. */
  readonly port?: string | undefined;
  /** The directory in XenStore in place of the one that domid and port give: below a domain's `data`. */
  readonly path?: string | undefined;
  /** With `listen`: at least so many bytes in each ring, up to 1 MiB. Default: 64 KiB. */
  readonly ringBytes?: number | undefined;
  /** Without `listen`: waits for a server that is not there yet. Default: true. */
  readonly wait?: boolean | undefined;
  /** Emulated Xen only: be a program of this domain. Default: the daemon's own. */
  readonly asDomid?: number | undefined;
  /** Called with the path once the peer can come, where it is waited for. */
  readonly onListening?: ((path: string) => void) | undefined;
  /** Ends the wait, and the channel. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * The channel. `end` ends only our own writing, of which the peer sees nothing, as a vchan knows no half
 * close; the stream is over when the peer has closed or died. `close` delivers what was written and
 * leaves; `destroy` leaves at once.
 */
export class Vchan extends Duplex {
  /** The directory in XenStore where the two met. */
  readonly path: string;
  /** Bytes in the ring that the peer writes. */
  readonly readRingBytes: number;
  /** Bytes in the ring that the peer reads. */
  readonly writeRingBytes: number;
  readonly #call: VchanCall;
  #closing = false;

  private constructor(call: VchanCall, opened: OpenedVchan) {
    super({ allowHalfOpen: false });
    this.#call = call;
    this.path = opened.path;
    this.readRingBytes = opened.readRingBytes;
    this.writeRingBytes = opened.writeRingBytes;
  }

  /** Resolves when the peer is there. @throws XenvifClientError */
  static async open(connection: Connection, options: VchanOptions): Promise<Vchan> {
    const { signal } = options;
    if (signal?.aborted) throw cancelled(signal.reason);
    const opening = new Deferred<Vchan>();
    let vchan: Vchan | undefined;
    const call: VchanCall = new VchanCall(connection, openMessage(options), {
      onMessage: (message) => {
        if (message.$case === 'listening') options.onListening?.(message.value.path);
        if (message.$case === 'data' && vchan !== undefined) vchan.#receive(message.value);
        if (message.$case !== 'opened') return;
        vchan = new Vchan(call, message.value);
        vchan.once('close', () => signal?.removeEventListener('abort', onAbort));
        opening.resolve(vchan);
      },
      onEnd: (failure) => {
        const error = failure === undefined ? undefined : errorOf(failure, connection, signal);
        opening.reject(error ?? closedEarly());
        if (vchan !== undefined) vchan.#finish(error);
      },
    });
    const onAbort = () => call.cancel();
    signal?.addEventListener('abort', onAbort, { once: true });
    return await opening.promise;
  }

  /**
   * Ends our writing and resolves when the peer has read all of it and the channel is closed. What the
   * peer still sends is lost.
   * @throws XenvifClientError PEER_GONE, VCHAN_UNREAD when it has not read all.
   */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => {
      if (this.closed) resolve();
      else this.once('close', resolve);
    });
    this.#closing = true;
    this.resume();
    if (!this.destroyed) this.end();
    await closed;
    if (this.errored) throw this.errored;
  }

  override _read(): void {
    this.#call.resume();
  }

  override _write(
    chunk: Buffer,
    _encoding: BufferEncoding,
    done: (error?: Error | null) => void,
  ): void {
    const rest = chunk.length - MESSAGE_BYTES_MAX;
    if (rest <= 0) {
      this.#call.data(chunk, done);
      return;
    }
    this.#call.data(chunk.subarray(0, MESSAGE_BYTES_MAX), (error) => {
      if (error) done(error);
      else this._write(chunk.subarray(MESSAGE_BYTES_MAX), 'buffer' as BufferEncoding, done);
    });
  }

  override _final(done: (error?: Error | null) => void): void {
    if (this.#closing) this.#call.close();
    this.#call.halfClose();
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#call.cancel();
    done(error);
  }

  #receive(chunk: Uint8Array): void {
    if (!this.destroyed && !this.push(chunk)) this.#call.pause();
  }

  #finish(error: XenvifClientError | undefined): void {
    if (error !== undefined) this.destroy(error);
    else if (!this.destroyed) this.push(null);
  }
}

type OpenedVchan = Extract<NonNullable<ConnectResponse['message']>, { $case: 'opened' }>['value'];

function openMessage(options: VchanOptions) {
  const { asDomid, domid, listen = false, path, port, ringBytes, wait = true } = options;
  return {
    role: listen ? VchanRole.SERVER : VchanRole.CLIENT,
    domid,
    port: port ?? '',
    ringBytes: ringBytes ?? 0,
    basePath: path ?? '',
    noWait: !wait,
    asDomid,
  };
}

function errorOf(
  failure: ServiceError,
  connection: Connection,
  signal: AbortSignal | undefined,
): XenvifClientError {
  return signal?.aborted ? cancelled(signal.reason) : errorFromStatus(failure, connection);
}

function closedEarly(): XenvifClientError {
  const message = 'The channel was closed before it was open.';
  return new XenvifClientError('RESPONSE_MALFORMED', 'INTERNAL', message);
}

/**
 * One call of VchanService.Connect: a client without privileges on one side, a vchan on the other.
 * Both directions wait for who reads slowly: what the peer does not take stays with the client, and
 * what the client does not take stays in the ring.
 */
import type { ServerDuplexStream } from '@grpc/grpc-js';
import type { VchanStream } from '../device/vchan/index.js';
import {
  AbortedError,
  DisconnectedError,
  EventChannelError,
  GrantError,
  InvalidArgumentError,
  ProtocolError,
  UnavailableError,
} from '../errors.js';
import type { ConnectRequest, ConnectResponse, OpenVchan } from '../gen/xenvif/v1/vchan_service.js';

export type VchanCall = ServerDuplexStream<ConnectRequest, ConnectResponse>;

const DATA_BYTES_MAX = 256 * 1024;
/** Bytes that gRPC holds for a client before the ring waits: enough to fill the pipe. */
const IN_FLIGHT_BYTES_MAX = 1024 * 1024;

/** How a call comes by its vchan; the session runs `leave` when it is done with it. */
export interface OpenedVchan {
  readonly stream: VchanStream;
  readonly leave: () => Promise<void>;
}

export type OpenChannel = (
  open: OpenVchan,
  signal: AbortSignal,
  listening: (path: string) => void,
) => Promise<OpenedVchan>;

export class VchanSession {
  readonly #call: VchanCall;
  readonly #abort = new AbortController();
  /** What the client has sent and was not looked at; the call is paused while there is any. */
  readonly #requests: ConnectRequest[] = [];
  #requestsOver = false;
  #wakeUpload: (() => void) | undefined;
  #stream: VchanStream | undefined;
  /** Bytes that may still be sent; Infinity where the client gives no credit. */
  #credit = Number.POSITIVE_INFINITY;
  #inFlightBytes = 0;
  /** Wakes the download when credit came, gRPC took something, or the call is over. */
  #wake: (() => void) | undefined;
  /** The client has asked for the end, and the peer is waited for. */
  #closing = false;
  /** The client has half-closed: no credit will come. */
  #uploadOver = false;
  #uploadFailure: unknown;

  constructor(call: VchanCall) {
    this.#call = call;
    call.on('data', (request: ConnectRequest) => {
      call.pause();
      this.#requests.push(request);
      this.#wakeUpload?.();
    });
    call.on('end', () => {
      this.#requestsOver = true;
      this.#wakeUpload?.();
    });
    call.on('cancelled', () => this.stop(new AbortedError('CANCELLED', 'The client has gone.')));
  }

  /** Ends the session for a reason that the client is told. */
  stop(reason: Error): void {
    this.#abort.abort(reason);
    this.#stream?.destroy();
    this.#wake?.();
    this.#wakeUpload?.();
  }

  /** Serves the call until the channel or the client ends. @throws what the client is to be told. */
  async run(openChannel: OpenChannel): Promise<void> {
    const { signal } = this.#abort;
    const first = await this.#next();
    signal.throwIfAborted();
    if (first?.message?.$case !== 'open') throw openExpected();
    const open = first.message.value;
    if (open.initialCreditBytes !== undefined) this.#credit = Number(open.initialCreditBytes);
    const opening = openChannel(open, signal, (path) => {
      this.#send({ message: { $case: 'listening', value: { path } } });
    });
    const { stream, leave } = await opening.catch(rethrowForClient);
    this.#stream = stream;
    // What ends the stream is told by those who use it; without a listener it would end the process.
    stream.on('error', () => undefined);
    stream.once('close', () => this.#wake?.());
    try {
      signal.throwIfAborted();
      const { path, readRingBytes, writeRingBytes } = stream;
      this.#send({ message: { $case: 'opened', value: { path, readRingBytes, writeRingBytes } } });
      await this.#serve(stream);
    } finally {
      await closed(stream);
      await leave();
    }
  }

  async #serve(stream: VchanStream): Promise<void> {
    const { signal } = this.#abort;
    const upload = this.#upload(stream).catch((error: unknown) => {
      this.#uploadFailure = error;
      stream.destroy();
    });
    let failure: unknown;
    try {
      await this.#download(stream);
    } catch (error) {
      failure = error;
    }
    signal.throwIfAborted();
    if (this.#closing) await upload;
    if (this.#uploadFailure !== undefined) rethrowForClient(this.#uploadFailure);
    // A stream that we have closed ourselves ends in the midst of its reading.
    if (this.#closing) return;
    if (failure ?? stream.errored) rethrowForClient(failure ?? stream.errored);
  }

  /** From the client to the peer, until the half-close. */
  async #upload(stream: VchanStream): Promise<void> {
    for (let request = await this.#next(); request !== undefined; request = await this.#next()) {
      const { message } = request;
      switch (message?.$case) {
        case 'data':
          await this.#write(stream, message.value);
          break;
        case 'creditBytes':
          this.#credit += Number(message.value);
          this.#wake?.();
          break;
        case 'close':
          this.#closing = true;
          await stream.close();
          return;
        case 'open':
          throw new InvalidArgumentError('ALREADY_OPEN', 'open', 'The channel is open already.');
        default:
          throw new InvalidArgumentError('MESSAGE_EMPTY', 'message', 'The message holds nothing.');
      }
    }
    this.#uploadOver = true;
    this.#wake?.();
    stream.end();
  }

  async #write(stream: VchanStream, data: Uint8Array): Promise<void> {
    if (data.length > DATA_BYTES_MAX) {
      const text = `A message carries at most ${DATA_BYTES_MAX} bytes; this one has ${data.length}.`;
      throw new InvalidArgumentError('DATA_TOO_LONG', 'data', text);
    }
    const written = new Promise<void>((resolve) => {
      stream.write(data, () => resolve());
    });
    if (stream.writableNeedDrain) await written;
  }

  /** From the peer to the client, until the channel ends. */
  async #download(stream: VchanStream): Promise<void> {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      for (let at = 0; at < chunk.length; ) {
        while (this.#credit < 1 || this.#inFlightBytes >= IN_FLIGHT_BYTES_MAX) {
          if (this.#abort.signal.aborted || this.#isRestLost(stream)) return;
          await new Promise<void>((resolve) => {
            this.#wake = resolve;
          });
        }
        const value = chunk.subarray(at, at + this.#credit);
        this.#credit -= value.length;
        at += value.length;
        this.#send({ message: { $case: 'data', value } }, value.length);
      }
    }
  }

  /**
   * Whether what was read of the peer need not reach the client any more. A stream that is over by
   * itself has often given its last chunk just then, and the client is still owed that.
   */
  #isRestLost(stream: VchanStream): boolean {
    if (!stream.destroyed) return false;
    if (this.#closing || this.#uploadFailure !== undefined) return true;
    return this.#credit < 1 && this.#uploadOver;
  }

  #send(response: ConnectResponse, bytes = 0): void {
    if (this.#abort.signal.aborted || this.#call.destroyed) return;
    this.#inFlightBytes += bytes;
    this.#call.write(response, () => {
      this.#inFlightBytes -= bytes;
      this.#wake?.();
    });
  }

  /** The client's next message; undefined once it has half-closed, or is gone. */
  async #next(): Promise<ConnectRequest | undefined> {
    for (;;) {
      const request = this.#requests.shift();
      if (request !== undefined) return request;
      if (this.#requestsOver || this.#abort.signal.aborted) return undefined;
      this.#call.resume();
      await new Promise<void>((resolve) => {
        this.#wakeUpload = resolve;
      });
    }
  }
}

function closed(stream: VchanStream): Promise<void> {
  return new Promise((resolve) => {
    if (stream.closed) resolve();
    else stream.once('close', resolve).destroy();
  });
}

/** What went wrong below, as a client may be told of it. */
function rethrowForClient(error: unknown): never {
  if (error instanceof ProtocolError) throw new AbortedError(error.code, error.message);
  if (error instanceof DisconnectedError) {
    throw new AbortedError('PEER_GONE', 'The peer left before it had read everything.');
  }
  if (error instanceof GrantError || error instanceof EventChannelError) {
    throw new UnavailableError(error.code, 'Xen has not given what the channel needs.');
  }
  throw error;
}

function openExpected(): InvalidArgumentError {
  const text = 'The first message of a stream must be `open`.';
  return new InvalidArgumentError('OPEN_EXPECTED', 'open', text);
}

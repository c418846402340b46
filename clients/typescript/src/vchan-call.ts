/**
 * The messages of one VchanService.Connect call. What comes is held back by pausing the call, and not by
 * credit: that would stand in line behind the data that we send, and wait with it for the peer.
 */
import { type ClientDuplexStream, Metadata, type ServiceError } from '@grpc/grpc-js';
import { cancelCall } from './cancel-call.js';
import type { Connection } from './connection.js';
import {
  type ConnectRequest,
  type ConnectResponse,
  type OpenVchan,
  VchanServiceService,
} from './gen/xenvif/v1/vchan_service.js';

export interface VchanCallEvents {
  readonly onMessage: (message: NonNullable<ConnectResponse['message']>) => void;
  /** The stream is over; with the failure, if it is one. */
  readonly onEnd: (failure?: ServiceError) => void;
}

export class VchanCall {
  readonly #call: ClientDuplexStream<ConnectRequest, ConnectResponse>;
  #over = false;

  constructor(connection: Connection, open: OpenVchan, events: VchanCallEvents) {
    const method = VchanServiceService.connect;
    const call = connection.client.makeBidiStreamRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      new Metadata(),
    );
    this.#call = call;
    connection.calls.add(call);
    const end = (failure?: ServiceError) => {
      if (this.#over) return;
      this.#over = true;
      connection.calls.delete(call);
      events.onEnd(failure);
    };
    call.on('data', ({ message }: ConnectResponse) => {
      if (message !== undefined) events.onMessage(message);
    });
    call.on('end', () => end());
    call.on('error', (failure: ServiceError) => end(failure));
    this.#send({ message: { $case: 'open', value: open } });
  }

  /** Sends bytes; `done` runs when the transport has taken them. */
  data(value: Buffer, done: (error?: Error | null) => void): void {
    // How the call ended is told by its end.
    if (this.#over) done();
    else this.#call.write({ message: { $case: 'data', value } }, done);
  }

  /** Nothing more is to come for now: HTTP/2 stops the daemon, and the ring its peer. */
  pause(): void {
    this.#call.pause();
  }

  resume(): void {
    this.#call.resume();
  }

  /** Asks for the end of the channel once the peer has read everything. */
  close(): void {
    this.#send({ message: { $case: 'close', value: {} } });
  }

  halfClose(): void {
    if (!this.#over) this.#call.end();
  }

  cancel(): void {
    if (!this.#over) cancelCall(this.#call);
  }

  #send(request: ConnectRequest): void {
    if (!this.#over) this.#call.write(request);
  }
}

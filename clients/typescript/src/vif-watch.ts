/** VifService.WatchVifs: the state and its changes, across restarts of the connection. */
import { Metadata } from '@grpc/grpc-js';
import type { CallOptions } from './call.js';
import type { Connection } from './connection.js';
import type { XenvifClientError } from './errors.js';
import { VifServiceService, type WatchVifsResponse } from './gen/xenvif/v1/vif_service.js';
import { MessageStream } from './message-stream.js';
import { ResumingStream } from './resuming-stream.js';
import { type Vif, vifFromWire } from './vif.js';

/** Watch messages wait in the client up to this; one is counted as a KiB. */
const QUEUE_BYTES = 1024 * 1024;

export interface WatchOptions extends CallOptions {
  /** Only vifs of this guest. */
  readonly domid?: number | undefined;
  /** Only vifs that have all of these labels. */
  readonly labels?: Readonly<Record<string, string>> | undefined;
  /** Go on behind the event that had this token, instead of the whole state first. */
  readonly resumeToken?: string | undefined;
  /** Open the watch again after the connection was lost. Default true. */
  readonly reconnect?: boolean | undefined;
}

/** What a watch yields. */
export type WatchEvent =
  /** A vif of the whole state, a new one, or one that changed. */
  | { readonly type: 'updated'; readonly vif: Vif; readonly resumeToken: string }
  /** A vif that is gone, as it was last. */
  | { readonly type: 'deleted'; readonly vif: Vif; readonly resumeToken: string }
  /** The whole state has been sent; what follows are changes. */
  | { readonly type: 'synced'; readonly resumeToken: string }
  /** The connection was lost and is back; nothing was missed. */
  | { readonly type: 'resumed' }
  /**
   * The connection was lost and the daemon cannot tell what was missed. Forget every vif: the whole
   * state follows, and another `synced`.
   */
  | { readonly type: 'restarted' };

/**
 * A running watch. It starts with the loop over it and ends when the loop is left, by `close`, or by
 * the signal (which makes the loop throw CANCELLED). After a lost connection it goes on behind the
 * last event; where the daemon no longer knows that event it starts over and says so.
 */
export class VifWatch extends ResumingStream<WatchVifsResponse, WatchEvent> {
  readonly #connection: Connection;
  readonly #options: WatchOptions;
  #resumeToken: string;
  #restarted = false;

  constructor(connection: Connection, options: WatchOptions) {
    super(options);
    this.#connection = connection;
    this.#options = options;
    this.#resumeToken = options.resumeToken ?? '';
  }

  protected override open(): MessageStream<WatchVifsResponse, WatchVifsResponse> {
    const { domid, labels } = this.#options;
    const method = VifServiceService.watchVifs;
    const request = { domid, labels: { ...labels }, resumeToken: this.#resumeToken };
    this.#restarted = this.#resumeToken === '';
    const call = this.#connection.client.makeServerStreamRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      new Metadata(),
    );
    return new MessageStream(call, (message: WatchVifsResponse) => message, {
      signal: this.#options.signal,
      // A resumed watch is silent until something changes; only the whole state is due at once.
      timeoutMs: this.#resumeToken === '' ? this.#options.timeoutMs : Number.POSITIVE_INFINITY,
      connection: this.#connection,
      sizeOf: () => 1024,
      pauseAtBytes: QUEUE_BYTES,
    });
  }

  protected override event(message: WatchVifsResponse): WatchEvent | undefined {
    const { event, resumeToken } = message;
    if (resumeToken !== '') this.#resumeToken = resumeToken;
    switch (event?.$case) {
      case 'updated':
        return { type: 'updated', vif: vifFromWire(event.value), resumeToken };
      case 'deleted':
        return { type: 'deleted', vif: vifFromWire(event.value), resumeToken };
      case 'synced':
        return { type: 'synced', resumeToken };
      default:
        return undefined;
    }
  }

  protected override reopened(): WatchEvent {
    return { type: this.#restarted ? 'restarted' : 'resumed' };
  }

  protected override restartsAfter(error: XenvifClientError): boolean {
    // A token that the caller gave is the caller's to deal with: it knows what it has seen.
    if (error.code !== 'RESUME_TOKEN_EXPIRED') return false;
    if (this.#resumeToken === (this.#options.resumeToken ?? '')) return false;
    this.#resumeToken = '';
    return true;
  }
}

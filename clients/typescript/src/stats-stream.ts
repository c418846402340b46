/** StatsService.StreamStats: counters at intervals or when they change. */
import { Metadata } from '@grpc/grpc-js';
import type { CallOptions } from './call.js';
import type { Connection } from './connection.js';
import { durationFromMs } from './duration.js';
import {
  StatsMode,
  StatsServiceService,
  type StreamStatsRequest,
  type StreamStatsResponse,
} from './gen/xenvif/v1/stats_service.js';
import { MessageStream } from './message-stream.js';
import { ResumingStream } from './resuming-stream.js';
import { statsFromWire, type VifStats } from './stats.js';
import { vifName } from './vif-name.js';

/** Messages wait in the client up to this; one is counted as a KiB. */
const QUEUE_BYTES = 1024 * 1024;

export interface StatsStreamOptions extends CallOptions {
  /** Which vifs; empty or absent: all, also those that come later. */
  readonly names?: readonly string[] | undefined;
  /**
   * `sample`: every vif once an interval. `on-change`: a vif whose counters changed, looked at once
   * an interval. Default `sample`.
   */
  readonly mode?: 'sample' | 'on-change' | undefined;
  /** 10 ms to 1 h. Default 1 s. */
  readonly intervalMs?: number | undefined;
  /** With `on-change`: yield an unchanged vif after this long, too. Default: never. */
  readonly heartbeatMs?: number | undefined;
  /** Open the stream again after the connection was lost. Default true. */
  readonly reconnect?: boolean | undefined;
}

/** What a stream of statistics yields. */
export type StatsEvent =
  | { readonly type: 'stats'; readonly stats: VifStats }
  /** Every vif has been yielded once. */
  | { readonly type: 'synced' }
  /** The connection was lost and is back; every vif follows once, then `synced`. */
  | { readonly type: 'restarted' };

/** A running stream of statistics: starts with the loop over it, ends when the loop is left. */
export class StatsStream extends ResumingStream<StreamStatsResponse, StatsEvent> {
  readonly #connection: Connection;
  readonly #options: StatsStreamOptions;

  constructor(connection: Connection, options: StatsStreamOptions) {
    super(options);
    this.#connection = connection;
    this.#options = options;
  }

  protected override open(): MessageStream<StreamStatsResponse, StreamStatsResponse> {
    const method = StatsServiceService.streamStats;
    const call = this.#connection.client.makeBidiStreamRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      new Metadata(),
    );
    call.write(this.#request());
    return new MessageStream(call, (message: StreamStatsResponse) => message, {
      signal: this.#options.signal,
      timeoutMs: this.#options.timeoutMs,
      connection: this.#connection,
      sizeOf: () => 1024,
      pauseAtBytes: QUEUE_BYTES,
    });
  }

  protected override event(message: StreamStatsResponse): StatsEvent | undefined {
    switch (message.event?.$case) {
      case 'stats':
        return { type: 'stats', stats: statsFromWire(message.event.value) };
      case 'synced':
        return { type: 'synced' };
      default:
        return undefined;
    }
  }

  protected override reopened(): StatsEvent {
    return { type: 'restarted' };
  }

  #request(): StreamStatsRequest {
    const { names = [], mode, intervalMs, heartbeatMs } = this.#options;
    return {
      names: names.map(vifName),
      mode: mode === 'on-change' ? StatsMode.ON_CHANGE : StatsMode.SAMPLE,
      interval: intervalMs === undefined ? undefined : durationFromMs(intervalMs),
      heartbeat: heartbeatMs === undefined ? undefined : durationFromMs(heartbeatMs),
    };
  }
}

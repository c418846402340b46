/** StatsService: counters once, their reset, and their stream. */
import { type CallOptions, callUnary } from './call.js';
import type { Connection } from './connection.js';
import { XenvifClientError } from './errors.js';
import {
  StatsServiceService,
  type DropCounter as WireDropCounter,
  type FrameCounters as WireFrameCounters,
  type QueueStats as WireQueueStats,
  type VifStats as WireVifStats,
} from './gen/xenvif/v1/stats_service.js';
import { StatsStream, type StatsStreamOptions } from './stats-stream.js';
import { vifName } from './vif-name.js';

/** Frames dropped for one cause at one stage. */
export type DropCounter = Readonly<WireDropCounter>;

/** Frames of one direction. */
export interface FrameCounters {
  readonly packets: bigint;
  readonly bytes: bigint;
  readonly drops: readonly DropCounter[];
}

/** Counters of one queue pair. */
export interface QueueStats {
  readonly index: number;
  readonly tx: FrameCounters;
  readonly rx: FrameCounters;
  /** Requests on the TX ring that the daemon has not taken. */
  readonly txRingPending: number;
  /** Buffers on the RX ring that the daemon has not filled. */
  readonly rxRingPosted: number;
  /** Bytes that wait for RX buffers. */
  readonly rxQueueBytes: bigint;
  readonly eventsReceived: bigint;
  readonly eventsSent: bigint;
  /** The guest has posted no RX buffers for long: what is for it is dropped at once. */
  readonly rxStalled: boolean;
  /** The rate limit holds back what the guest has put on its ring. */
  readonly txThrottled: boolean;
}

/** Counters of a vif. Directions are the guest's: it transmits (tx) and receives (rx). */
export interface VifStats {
  readonly name: string;
  readonly uid: string;
  /** When the counters were read. */
  readonly time: Date;
  /** When they were last zero. */
  readonly since: Date;
  readonly tx: FrameCounters;
  readonly rx: FrameCounters;
  readonly queues: readonly QueueStats[];
}

/** `client.stats`. Every method throws `XenvifClientError`. */
export class Stats {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** The counters of the vifs `names`; of all vifs without. @throws XenvifClientError VIF_NOT_FOUND */
  async get(names: readonly string[] = [], options: CallOptions = {}): Promise<VifStats[]> {
    const request = { names: names.map(vifName) };
    const method = StatsServiceService.getStats;
    const response = await callUnary(this.#connection, method, request, options);
    return response.stats.map(statsFromWire);
  }

  /** Sets the counters of a vif to zero; answers what they were. @throws VIF_NOT_FOUND */
  async reset(name: string, options: CallOptions = {}): Promise<VifStats> {
    const request = { name: vifName(name) };
    const method = StatsServiceService.resetStats;
    const { stats } = await callUnary(this.#connection, method, request, options);
    if (stats !== undefined) return statsFromWire(stats);
    const message = 'The daemon answered without the statistics.';
    throw new XenvifClientError('RESPONSE_MALFORMED', 'INTERNAL', message);
  }

  /** Yields every vif once, then `synced`, and then what the mode says. See `StatsStream`. */
  stream(options: StatsStreamOptions = {}): StatsStream {
    return new StatsStream(this.#connection, options);
  }
}

export function statsFromWire(wire: WireVifStats): VifStats {
  const time = wire.time ?? new Date(0);
  return {
    name: wire.name,
    uid: wire.uid,
    time,
    since: wire.since ?? time,
    tx: countersFromWire(wire.tx),
    rx: countersFromWire(wire.rx),
    queues: wire.queues.map(queueFromWire),
  };
}

function queueFromWire(wire: WireQueueStats): QueueStats {
  return { ...wire, tx: countersFromWire(wire.tx), rx: countersFromWire(wire.rx) };
}

export function countersFromWire(wire: WireFrameCounters | undefined): FrameCounters {
  return wire ?? { packets: 0n, bytes: 0n, drops: [] };
}

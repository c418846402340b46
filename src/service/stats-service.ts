/** StatsService: counters of each device, asked for or streamed. */
import type { ServerDuplexStream } from '@grpc/grpc-js';
import type { Logger } from 'pino';
import type { FrameCounters } from '../device/metrics.js';
import type { NetbackDevice } from '../device/netback/device.js';
import { ResourceExhaustedError } from '../errors.js';
import {
  GetStatsResponse,
  ResetStatsResponse,
  StatsMode,
  type StatsServiceServer,
  type StreamStatsRequest,
  type StreamStatsResponse,
  VifStats,
} from '../gen/xenvif/v1/stats_service.js';
import { failCall, unary } from './calls.js';
import { checkDurationMs } from './validate.js';
import type { VifRegistry } from './vif-registry.js';

const INTERVAL = { unset: 1000, min: 10, max: 3_600_000 };
const HEARTBEAT = { unset: Number.POSITIVE_INFINITY, min: 10, max: 86_400_000 };
/** Messages that may wait for a client: beyond it rounds are left out, for counters coalesce. */
const PENDING_MAX = 1024;
const NAMES_MAX = 10_000;

type StatsCall = ServerDuplexStream<StreamStatsRequest, StreamStatsResponse>;

export class StatsService {
  readonly #registry: VifRegistry;
  readonly #logger: Logger;

  constructor(registry: VifRegistry, logger: Logger) {
    this.#registry = registry;
    this.#logger = logger;
  }

  handlers(): StatsServiceServer {
    return {
      getStats: unary(this.#logger, ({ names }) =>
        GetStatsResponse.fromPartial({ stats: this.#select(names).map(toVifStats) }),
      ),
      resetStats: unary(this.#logger, ({ name }) => {
        const device = this.#registry.find(name);
        const stats = toVifStats(device);
        this.#registry.netback.resetStats(device);
        return ResetStatsResponse.fromPartial({ stats });
      }),
      streamStats: (call) => this.#stream(call),
    };
  }

  #select(names: readonly string[]): NetbackDevice[] {
    if (names.length > NAMES_MAX) {
      throw new ResourceExhaustedError('TOO_MANY_NAMES', `Over ${NAMES_MAX} names in a call.`);
    }
    if (names.length === 0) return this.#registry.netback.list();
    return names.map((name, index) => this.#registry.find(name, `names[${index}]`));
  }

  #stream(call: StatsCall): void {
    let timer: NodeJS.Timeout | undefined;
    const stop = () => clearInterval(timer);
    call.on('data', (request) => {
      stop();
      try {
        const subscription = new StatsSubscription(request, (names) => this.#select(names));
        subscription.first(call);
        timer = setInterval(() => {
          if (call.writableLength < PENDING_MAX) subscription.round(call);
        }, subscription.intervalMs);
      } catch (error) {
        failCall(call, error, this.#logger);
      }
    });
    call.on('end', () => {
      stop();
      call.end();
    });
    call.on('cancelled', stop);
    call.on('error', stop);
  }
}

interface Sent {
  readonly digest: string;
  readonly timeMs: number;
}

/** What one message of a client asked for. */
class StatsSubscription {
  readonly intervalMs: number;
  readonly #heartbeatMs: number;
  readonly #onChange: boolean;
  readonly #names: readonly string[];
  readonly #select: (names: readonly string[]) => NetbackDevice[];
  readonly #sent = new Map<string, Sent>();

  constructor(request: StreamStatsRequest, select: (names: readonly string[]) => NetbackDevice[]) {
    this.intervalMs = checkDurationMs(request.interval, 'interval', INTERVAL);
    this.#heartbeatMs = checkDurationMs(request.heartbeat, 'heartbeat', HEARTBEAT);
    this.#onChange = request.mode === StatsMode.ON_CHANGE;
    this.#names = request.names;
    this.#select = select;
  }

  /** Sends every device and the marker. @throws NotFoundError for a name that is none. */
  first(call: StatsCall): void {
    for (const device of this.#select(this.#names)) this.#send(call, device);
    call.write({ event: { $case: 'synced', value: {} } });
  }

  round(call: StatsCall): void {
    const wanted = new Set(this.#names);
    const devices = this.#select([]).filter(({ name }) => wanted.size === 0 || wanted.has(name));
    for (const device of devices) this.#send(call, device);
    const uids = new Set(devices.map(({ uid }) => uid));
    for (const uid of this.#sent.keys()) if (!uids.has(uid)) this.#sent.delete(uid);
  }

  #send(call: StatsCall, device: NetbackDevice): void {
    if (this.#onChange) {
      const digest = digestOf(device);
      const last = this.#sent.get(device.uid);
      const timeMs = performance.now();
      const due = last === undefined || timeMs - last.timeMs >= this.#heartbeatMs;
      if (!due && last.digest === digest) return;
      this.#sent.set(device.uid, { digest, timeMs });
    }
    call.write({ event: { $case: 'stats', value: toVifStats(device) } });
  }
}

/** Changes when, and only when, a counter changes. */
function digestOf({ metrics }: NetbackDevice): string {
  const parts = [metrics.tx, metrics.rx].flatMap((counters) => [
    counters.packets,
    counters.bytes,
    ...[...counters.drops.values()].map((drop) => drop.packets),
  ]);
  return [...parts, metrics.sinceMs].join(' ');
}

/** The counters of a device as the API shows them. */
export function toVifStats(device: NetbackDevice): VifStats {
  const { connection, metrics } = device;
  const tx = toFrameCounters(metrics.tx);
  const rx = toFrameCounters(metrics.rx);
  return VifStats.fromPartial({
    name: device.name,
    uid: device.uid,
    time: new Date(),
    since: new Date(metrics.sinceMs),
    tx,
    rx,
    queues: metrics.queues.map((queue, index) => ({
      index,
      tx: toFrameCounters(queue.tx),
      rx: toFrameCounters(queue.rx),
      txRingPending: connection?.queues[index]?.txPending ?? 0,
      rxRingPosted: connection?.queues[index]?.rxPosted ?? 0,
      rxQueueBytes: BigInt(connection?.queues[index]?.rx.queuedBytes ?? 0),
      eventsReceived: BigInt(queue.eventsReceived),
      eventsSent: BigInt(queue.eventsSent),
      rxStalled: connection?.queues[index]?.rx.stalled ?? false,
      txThrottled: connection?.queues[index]?.throttled ?? false,
    })),
  });
}

/** Counters of frames as the API shows them. */
export function toFrameCounters(counters: FrameCounters) {
  return {
    packets: BigInt(counters.packets),
    bytes: BigInt(counters.bytes),
    drops: [...counters.drops.values()].map(({ cause, stage, packets }) => ({
      cause,
      stage,
      packets: BigInt(packets),
    })),
  };
}

/** `ping` and `traceroute` as async iterators: each result is yielded as soon as it is known. */
import { formatAddress, requireAddress } from './address.js';
import { pause } from './clock.js';
import { invalid, throwIfAborted } from './errors.js';
import type { EchoAnswer, Icmp } from './icmp.js';
import type { Ipv4 } from './ipv4.js';
import { ICMP_HEADER_BYTES, ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE } from './wire/icmp.js';
import { IPV4_HEADER_BYTES, IPV4_PACKET_BYTES_MAX } from './wire/ipv4.js';

/** The most data that an echo request has room for. */
export const PING_BYTES_MAX = IPV4_PACKET_BYTES_MAX - IPV4_HEADER_BYTES - ICMP_HEADER_BYTES;

const PING_BYTES = 56;
const INTERVAL_MS = 1_000;
const TIMEOUT_MS = 1_000;
const HOPS_MAX = 30;
const PROBES_PER_HOP = 3;

export interface PingOptions {
  /** How many; default: until the signal is aborted or the loop is left. */
  readonly count?: number | undefined;
  /** Milliseconds from one to the next. Default 1000. */
  readonly intervalMs?: number | undefined;
  /** Milliseconds that each is waited for. Default 1000. */
  readonly timeoutMs?: number | undefined;
  /** Bytes of data, 0 to 65507. Default 56. */
  readonly bytes?: number | undefined;
  readonly ttl?: number | undefined;
  readonly dontFragment?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface PingResult {
  /**
   * `reply`: it came back as it was; `damaged`: with other data; `timeout`: nothing came; `error`: a
   * router or the host said why; `unsent`: there is no route, no room on the link, or it is too long.
   */
  readonly outcome: 'reply' | 'damaged' | 'timeout' | 'error' | 'unsent';
  /** From 1 on. */
  readonly sequence: number;
  /** Who answered. */
  readonly from: string | undefined;
  readonly bytes: number;
  /** What was left of the answer's time to live. */
  readonly ttl: number | undefined;
  readonly roundTripMs: number | undefined;
  /** Of an error: its ICMP type and code. */
  readonly icmpType: number | undefined;
  readonly icmpCode: number | undefined;
}

export interface TracerouteOptions {
  /** The most routers that are asked for. Default 30. */
  readonly hopsMax?: number | undefined;
  /** Probes for each hop. Default 3. */
  readonly probes?: number | undefined;
  /** Milliseconds that each probe is waited for. Default 1000. */
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface TracerouteProbe {
  /** How many hops away. */
  readonly hop: number;
  /** From 1 on. */
  readonly probe: number;
  /** `hop`: a router on the way; `reached`: the host itself; `unreachable`: who says so is `from`. */
  readonly outcome: 'hop' | 'reached' | 'unreachable' | 'timeout';
  readonly from: string | undefined;
  readonly roundTripMs: number | undefined;
}

/**
 * Sends echo requests, one at a time.
 * @throws StackError ADDRESS_INVALID, PING_BYTES_INVALID, TTL_INVALID; AbortError.
 */
export async function* ping(
  ipv4: Ipv4,
  icmp: Icmp,
  host: string,
  options: PingOptions = {},
): AsyncGenerator<PingResult, void, undefined> {
  const destination = requireAddress(host);
  const { count = Number.POSITIVE_INFINITY, intervalMs = INTERVAL_MS, signal } = options;
  const data = pattern(options.bytes ?? PING_BYTES);
  for (let sequence = 1; sequence <= count; sequence += 1) {
    throwIfAborted(signal);
    const startedMs = ipv4.clock.nowMs();
    yield await pingOnce(ipv4, icmp, destination, sequence, data, options);
    if (sequence === count) return;
    const leftMs = intervalMs - (ipv4.clock.nowMs() - startedMs);
    if (leftMs > 0) await pause(ipv4.clock, leftMs, signal);
  }
}

/**
 * Finds the routers on the way to a host by echo requests that live for so many hops.
 * @throws StackError ADDRESS_INVALID; AbortError.
 */
export async function* traceroute(
  ipv4: Ipv4,
  icmp: Icmp,
  host: string,
  options: TracerouteOptions = {},
): AsyncGenerator<TracerouteProbe, void, undefined> {
  const destination = requireAddress(host);
  const { hopsMax = HOPS_MAX, probes = PROBES_PER_HOP, timeoutMs, signal } = options;
  const data = pattern(PING_BYTES);
  for (let hop = 1; hop <= hopsMax; hop += 1) {
    let isOver = false;
    for (let probe = 1; probe <= probes; probe += 1) {
      throwIfAborted(signal);
      const settings = { ttl: hop, timeoutMs, signal };
      const result = await pingOnce(ipv4, icmp, destination, probe, data, settings);
      const outcome = probeOutcome(result);
      if (outcome === 'reached' || outcome === 'unreachable') isOver = true;
      yield { hop, probe, outcome, from: result.from, roundTripMs: result.roundTripMs };
    }
    if (isOver) return;
  }
}

function probeOutcome({ outcome, icmpType }: PingResult): TracerouteProbe['outcome'] {
  if (outcome === 'reply' || outcome === 'damaged') return 'reached';
  if (outcome === 'error' && icmpType === ICMP_TIME_EXCEEDED) return 'hop';
  const isRefused = outcome === 'error' && icmpType === ICMP_UNREACHABLE;
  return isRefused || outcome === 'unsent' ? 'unreachable' : 'timeout';
}

async function pingOnce(
  ipv4: Ipv4,
  icmp: Icmp,
  destination: number,
  sequence: number,
  data: Uint8Array,
  options: PingOptions,
): Promise<PingResult> {
  const { clock } = ipv4;
  const { timeoutMs = TIMEOUT_MS, signal } = options;
  const answered = new AbortController();
  let answer: EchoAnswer | undefined;
  const startedMs = clock.nowMs();
  let endedMs = startedMs;
  const { outcome, stop } = icmp.sendEcho(destination, data, options, (first) => {
    answer ??= first;
    endedMs = clock.nowMs();
    answered.abort();
  });
  const over = signal ? AbortSignal.any([signal, answered.signal]) : answered.signal;
  try {
    if (outcome === 'sent') await pause(clock, timeoutMs, over);
  } finally {
    stop();
  }
  if (answer === undefined) throwIfAborted(signal);
  return {
    outcome: outcome === 'sent' ? outcomeOf(answer, data) : 'unsent',
    sequence,
    from: answer === undefined ? undefined : formatAddress(answer.from),
    bytes: data.length,
    ttl: answer?.ttl,
    roundTripMs: answer === undefined ? undefined : endedMs - startedMs,
    icmpType: answer?.type === 'error' ? answer.icmpType : undefined,
    icmpCode: answer?.type === 'error' ? answer.icmpCode : undefined,
  };
}

function outcomeOf(answer: EchoAnswer | undefined, data: Uint8Array): PingResult['outcome'] {
  if (answer === undefined) return 'timeout';
  if (answer.type === 'error') return 'error';
  return Buffer.compare(answer.data, data) === 0 ? 'reply' : 'damaged';
}

/** Data in which no damage repeats itself soon. @throws StackError PING_BYTES_INVALID. */
function pattern(length: number): Uint8Array {
  if (!Number.isInteger(length) || length < 0 || length > PING_BYTES_MAX) {
    throw invalid('PING_BYTES_INVALID', `A ping has 0 to ${PING_BYTES_MAX} bytes, not ${length}.`);
  }
  return Uint8Array.from({ length }, (_, index) => index * 7 + (index >> 8));
}

/** iperf3 between two peers: what its JSON tells, as the few figures that tests look at. */

import type { Peer } from './peer.js';

/** Beyond what iperf3 itself takes: it starts, shakes hands and ends slowly under emulation. */
const OVERHEAD_MS = 180_000;

export interface TcpFigures {
  readonly bytes: number;
  /** Rounded, to be read. */
  readonly megabitsPerSecond: number;
  readonly bitsPerSecond: number;
  readonly retransmits: number;
}

export interface UdpFigures {
  readonly bytes: number;
  readonly megabitsPerSecond: number;
  readonly sent: number;
  readonly lost: number;
}

interface Report {
  readonly error?: string;
  readonly end: {
    readonly sum_sent: { readonly bytes: number; readonly retransmits?: number };
    readonly sum_received: { readonly bytes: number; readonly bits_per_second: number };
    readonly sum?: {
      readonly bytes: number;
      readonly bits_per_second: number;
      readonly packets: number;
      readonly lost_packets: number;
    };
  };
}

/** Makes a peer answer iperf3 as long as it lives. */
export async function serveIperf(peer: Peer): Promise<void> {
  await peer.check('busybox killall iperf3 2>/dev/null; iperf3 -s -D');
}

/** TCP from `peer` to `address`; with reverse the other way. Ends after `bytes`, or `seconds`. */
export async function tcp(
  peer: Peer,
  address: string,
  options: { seconds?: number; megabytes?: number; reverse?: boolean; flows?: number },
): Promise<TcpFigures> {
  const { end } = await run(peer, address, options, options.reverse === true ? '-R' : '');
  return {
    // The receiver stops its account when the sender says so, with the last bytes still on their way.
    bytes: end.sum_sent.bytes,
    megabitsPerSecond: rounded(end.sum_received.bits_per_second),
    bitsPerSecond: end.sum_received.bits_per_second,
    retransmits: end.sum_sent.retransmits ?? 0,
  };
}

/** UDP at a bitrate that leaves loss to the account, not to chance. */
export async function udp(
  peer: Peer,
  address: string,
  options: { seconds?: number; megabytes?: number; reverse?: boolean; megabitsPerSecond: number },
): Promise<UdpFigures> {
  const more = `-u -b ${options.megabitsPerSecond}M ${options.reverse === true ? '-R' : ''}`;
  const { end } = await run(peer, address, options, more);
  const { bytes = 0, bits_per_second = 0, packets = 0, lost_packets = 0 } = end.sum ?? {};
  return {
    bytes,
    megabitsPerSecond: rounded(bits_per_second),
    sent: packets,
    lost: lost_packets,
  };
}

async function run(
  peer: Peer,
  address: string,
  options: { seconds?: number; megabytes?: number; flows?: number },
  more: string,
): Promise<Report> {
  const { seconds, megabytes, flows = 1 } = options;
  const length = megabytes === undefined ? `-t ${seconds ?? 3}` : `-n ${megabytes}M`;
  // A megabyte takes a quarter of a second here, and four where others work on the machine.
  const timeoutMs = OVERHEAD_MS + (seconds ?? 0) * 2000 + (megabytes ?? 0) * 4000;
  const text = await peer.check(
    // Without --json's long list of intervals, which the console would carry for seconds.
    `iperf3 -c ${address} ${length} -i 0 -P ${flows} ${more} --json`,
    { timeoutMs },
  );
  const report = JSON.parse(text) as Report;
  if (report.error !== undefined) throw new Error(`iperf3 in ${peer.name}: ${report.error}`);
  return report;
}

/** Megabits with one digit behind the point. */
function rounded(bitsPerSecond: number): number {
  return Math.round(bitsPerSecond / 1e5) / 10;
}

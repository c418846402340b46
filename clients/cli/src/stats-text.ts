/** Counters as a table: totals, rates where there is an earlier sample, and drops by cause. */
import type { FrameCounters, QueueStats, VifStats } from '@xenvif/client';
import type { Output } from './output.js';
import { bitRateText, bytesText, packetRateText, shortName } from './units.js';

/** The table of `stats`. `previous`, by uid, are the samples before, from which rates come. */
export function statsText(
  out: Output,
  stats: readonly VifStats[],
  previous?: ReadonlyMap<string, VifStats>,
): string {
  const rates = previous !== undefined;
  const perDirection = ['PKTS', ...(rates ? ['PKT/S', 'BIT/S'] : ['BYTES']), 'DROPS'];
  const head = ['VIF', ...['TX', 'RX'].flatMap((way) => perDirection.map((t) => `${way} ${t}`))];
  head.push('RX QUEUED');
  const rows = stats.map((vif) => {
    const before = previous?.get(vif.uid);
    const seconds = before ? (vif.time.getTime() - before.time.getTime()) / 1_000 : 0;
    const queued = vif.queues.reduce((sum, queue) => sum + queue.rxQueueBytes, 0n);
    return [
      shortName(vif.name),
      ...counterCells(out, vif.tx, before?.tx, seconds, rates),
      ...counterCells(out, vif.rx, before?.rx, seconds, rates),
      bytesText(queued),
    ];
  });
  const numbers = head.map((_, index) => index).slice(1);
  return [out.tableText(head, rows, numbers), dropsText(out, stats)].filter(Boolean).join('\n');
}

/** The table of `stats --queues`: each queue, what is on its rings, and its drops. */
export function queuesText(out: Output, stats: readonly VifStats[]): string {
  const head = ['VIF', 'QUEUE', 'TX PKTS', 'TX BYTES', 'TX PENDING', 'RX PKTS', 'RX BYTES'];
  head.push('RX POSTED', 'RX QUEUED', 'EVENTS IN', 'EVENTS OUT', 'STATE');
  const rows = stats.flatMap(({ name, queues }) =>
    queues.map((queue) => [
      shortName(name),
      String(queue.index),
      String(queue.tx.packets),
      bytesText(queue.tx.bytes),
      String(queue.txRingPending),
      String(queue.rx.packets),
      bytesText(queue.rx.bytes),
      String(queue.rxRingPosted),
      bytesText(queue.rxQueueBytes),
      String(queue.eventsReceived),
      String(queue.eventsSent),
      queueState(out, queue),
    ]),
  );
  const numbers = head.map((_, index) => index).slice(1, -1);
  const queues = stats.flatMap(({ name, queues: all }) =>
    all.map(({ index, rx, tx }) => ({ name: `${name} queue ${index}`, rx, tx })),
  );
  return [out.tableText(head, rows, numbers), dropsText(out, queues)].filter(Boolean).join('\n');
}

function queueState(out: Output, { rxStalled, txThrottled }: QueueStats): string {
  if (rxStalled) return out.styled('stalled', 'bad');
  return txThrottled ? out.styled('throttled', 'warning') : '-';
}

function counterCells(
  out: Output,
  counters: FrameCounters,
  before: FrameCounters | undefined,
  seconds: number,
  rates: boolean,
): string[] {
  const cells = [String(counters.packets)];
  if (!rates) cells.push(bytesText(counters.bytes));
  else {
    // After a reset the counters are behind: there is no rate until the next sample.
    const known = before !== undefined && seconds > 0 && counters.packets >= before.packets;
    const rate = (now: bigint, then: bigint): number => Number(now - then) / seconds;
    cells.push(known ? packetRateText(rate(counters.packets, before.packets)) : '-');
    cells.push(known ? bitRateText(rate(counters.bytes, before.bytes)) : '-');
  }
  const drops = counters.drops.reduce((sum, drop) => sum + drop.packets, 0n);
  return [...cells, out.styled(String(drops), drops > 0n ? 'bad' : undefined)];
}

function dropsText(out: Output, stats: readonly Pick<VifStats, 'name' | 'rx' | 'tx'>[]): string {
  const rows = stats.flatMap(({ name, tx, rx }) =>
    [
      ...tx.drops.map((drop) => ({ direction: 'TX', ...drop })),
      ...rx.drops.map((drop) => ({ direction: 'RX', ...drop })),
    ]
      .filter(({ packets }) => packets > 0n)
      .map(({ direction, cause, stage, packets }) => [
        shortName(name),
        direction,
        cause,
        stage,
        String(packets),
      ]),
  );
  if (rows.length === 0) return '';
  return `\n${out.tableText(['VIF', 'WAY', 'DROP CAUSE', 'STAGE', 'PKTS'], rows, [4])}`;
}

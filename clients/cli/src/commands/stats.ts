/** `xenvif stats`: counters once, after a reset, or again and again. */
import type { VifStats } from '@xenvif/client';
import { type Command, InvalidArgumentError } from 'commander';
import { usageError } from '../failure.js';
import { inSession, type Session } from '../session.js';
import { queuesText, statsText } from '../stats-text.js';
import { durationMs } from '../units.js';

interface StatsOptions {
  /** True without a value. */
  readonly watch?: number | true;
  readonly reset?: boolean;
  readonly queues?: boolean;
}

const EXAMPLES = `
Directions are the guest's: TX is what it sent, RX what it received. Write VIFs before --watch.

Examples:
  xenvif stats
  xenvif stats 1.0 --json
  xenvif stats 1.0 --queues
  xenvif stats 1.0 2.0 --watch 0.5
  xenvif stats 1.0 --reset        prints the counters and sets them to zero`;

export function registerStats(program: Command): void {
  program
    .command('stats [vif...]')
    .description('show counters and drops')
    .option('--watch [duration]', 'show them again at each interval (default 1s)', interval)
    .option('--queues', 'show each queue by itself, with its rings and events')
    .option('--reset', 'set the counters to zero, and show what they were')
    .addHelpText('after', EXAMPLES)
    .action((names: string[], options: StatsOptions, command: Command) =>
      inSession(command, async (session) => {
        if (options.watch !== undefined && options.reset) {
          throw usageError('--watch and --reset do not go together.');
        }
        if (options.watch !== undefined && options.queues) {
          throw usageError('--watch and --queues do not go together.');
        }
        if (options.watch === undefined) return showOnce(session, names, options);
        const intervalMs = options.watch === true ? 1_000 : options.watch;
        await (session.out.json
          ? streamJson(session, names, intervalMs)
          : showAgain(session, names, intervalMs));
      }),
    );
}

function interval(text: string): number {
  const ms = durationMs(text);
  if (ms >= 10 && ms <= 3_600_000) return ms;
  throw new InvalidArgumentError('Write 10ms to 1h.');
}

async function showOnce(
  session: Session,
  names: string[],
  { reset, queues }: StatsOptions,
): Promise<void> {
  const { client, out, interrupt: signal } = session;
  let stats = await client.stats.get(names, { signal });
  if (reset) {
    stats = [];
    const all = names.length > 0 ? names : (await client.stats.get([], { signal })).map(nameOf);
    for (const name of all) stats.push(await client.stats.reset(name, { signal }));
  }
  if (out.json) out.document(stats);
  else out.line(queues ? queuesText(out, stats) : statsText(out, stats));
}

function nameOf({ name }: VifStats): string {
  return name;
}

async function streamJson(session: Session, names: string[], intervalMs: number): Promise<void> {
  const { client, out, interrupt } = session;
  const stream = client.stats.stream({ names, intervalMs });
  interrupt.addEventListener('abort', () => stream.close(), { once: true });
  for await (const event of stream) out.jsonLine(event);
}

/** Shows a table each time all vifs have been told; on a terminal in the place of the one before. */
async function showAgain(session: Session, names: string[], intervalMs: number): Promise<void> {
  const { client, out, interrupt } = session;
  const stream = client.stats.stream({ names, intervalMs });
  interrupt.addEventListener('abort', () => stream.close(), { once: true });
  const previous = new Map<string, VifStats>();
  const current = new Map<string, VifStats>();
  let shown = '';
  const show = (): void => {
    if (current.size === 0) return;
    if (shown !== '' && out.isTerminal) out.erase(shown);
    else if (shown !== '') out.line();
    shown = statsText(out, [...current.values()], previous);
    out.line(shown);
    for (const stats of current.values()) previous.set(stats.uid, stats);
    current.clear();
  };
  for await (const event of stream) {
    if (event.type === 'synced') show();
    if (event.type === 'restarted') current.clear();
    if (event.type !== 'stats') continue;
    // A vif that comes round again opens the next sample.
    if (current.has(event.stats.uid)) show();
    current.set(event.stats.uid, event.stats);
  }
}

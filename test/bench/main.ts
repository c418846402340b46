/**
 * `npm run bench`: what the project promises of its speed, each figure beside its limits and peers,
 * measured in the same run and in alternation. The table has medians and the spread; a ratio is the median
 * of those of each round. Absolute figures drift with the machine; ratios hold.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { orchestration } from './orchestration-rows.js';
import type { Group, Place, Ratio } from './rows.js';
import {
  clientToRing,
  latency,
  neverReads,
  ringCost,
  ringToClient,
  subscribers,
  switching,
  vifToVif,
} from './rows.js';
import { connections, controlPlane, manyVifs, standing } from './scale-rows.js';
import { iperfSelf, stackOverTap } from './stack-rows.js';
import { vchan } from './vchan-rows.js';
import { crossings, ringInWorker } from './worker-rows.js';

const here = fileURLToPath(new URL('.', import.meta.url));
const sources = fileURLToPath(new URL('../../test/bench/', import.meta.url));

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '1' },
    only: { type: 'string' },
    against: { type: 'string' },
    json: { type: 'string' },
    write: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});
const HELP = `npm run bench [-- --rounds N --seconds S --only TEXT --against FOLDER --json FILE --write]

  --rounds   rounds of each measurement, alternated (3)
  --seconds  how long one measurement lasts (1)
  --only     only groups whose name has this in it
  --against  the folder of another revision, built with its benchmark: measured round by round beside
             this one
  --json     write all figures to a file as well
  --write    put the table into test/bench/RESULTS.md, and the figures into RESULTS.json beside it`;

interface Series {
  readonly name: string;
  readonly unit: string;
  readonly figures: number[];
}

interface Result {
  readonly name: string;
  readonly series: readonly Series[];
  readonly ratios: readonly (Ratio & { readonly value: number })[];
}

function groups(place: Place): Group[] {
  const all = [
    ...([64, 256, 1514, 9000, 'imix'] as const).map((size) => ringToClient(place, size)),
    ...[64, 1514].map((size) => clientToRing(place, size)),
    ...[64, 1514].map((size) => ringCost(place, size)),
    ...[1000, 10_000].flatMap((perSecond) =>
      (['p50', 'p99', 'p999'] as const).map((part) => latency(place, perSecond, part)),
    ),
    neverReads(place),
    ...[1, 10, 100].map((count) => subscribers(place, count)),
    ...[64, 1514].map((size) => vifToVif(place, size)),
    ...[64, 1514].flatMap((size) => [1, 2, 3, 4].map((count) => switching(place, size, count))),
    manyVifs(place),
    controlPlane(place),
    connections(place),
    standing(place),
    orchestration(place),
    vchan(place),
    iperfSelf(place),
    stackOverTap(place),
    ...[64, 1514].map((size) => ringInWorker(place, size)),
    crossings(place),
  ];
  return all.filter(({ name }) => name.includes(values.only ?? ''));
}

/** A group that fails costs the others nothing: it is told in its place, and at the end. */
async function takeIfPossible(group: Group): Promise<Result> {
  try {
    return await take(group, Number(values.rounds));
  } catch (error) {
    process.exitCode = 1;
    const reason = error instanceof Error ? error.message : String(error);
    console.error(`\u001b[31m${group.name}: not measured. ${reason}\u001b[39m`);
    return { name: `${group.name}: **not measured**`, series: [], ratios: [] };
  }
}

async function take(group: Group, rounds: number): Promise<Result> {
  const series = group.measures.map(({ name, unit }): Series => ({ name, unit, figures: [] }));
  const last = Math.min(rounds, group.roundsMax ?? rounds);
  for (let round = 1; round <= last; round += 1) {
    process.stderr.write(`${group.name}: round ${round} of ${last}\n`);
    for (const [index, measure] of group.measures.entries()) {
      series[index]?.figures.push(await measure.run());
    }
  }
  const of = (name: string) => series.find((each) => each.name === name)?.figures ?? [];
  // Two figures of one round have seen the same machine; those of different rounds need not have.
  const ratios = group.ratios.map((ratio) => {
    const [ours, theirs] = [of(ratio.of[0]), of(ratio.of[1])];
    return { ...ratio, value: median(ours.map((figure, index) => figure / (theirs[index] ?? 0))) };
  });
  return { name: group.name, series, ratios };
}

function median(figures: readonly number[]): number {
  const sorted = [...figures].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

function table(results: readonly Result[]): string {
  const lines = ['| row | path | median | min to max | ours is |', '|---|---|---|---|---|'];
  for (const { name, ratios, series } of results) {
    if (series.length === 0) lines.push(`| ${name} |  |  |  |  |`);
    for (const { figures, name: path, unit } of series) {
      const range = `${digits(Math.min(...figures))} to ${digits(Math.max(...figures))}`;
      const about = ratios.filter(({ of }) => of[1] === path).map(ratioText);
      const cells = [name, path, `${digits(median(figures))} ${unit}`, range, about.join('; ')];
      lines.push(`| ${cells.join(' | ')} |`);
    }
  }
  return lines.join('\n');
}

function ratioText({ atLeast, atMost, text: what, value }: Result['ratios'][number]): string {
  const text = `${digits(value)} ${what}`;
  if (atLeast !== undefined) return `${text} (at least ${atLeast}: ${verdict(value >= atLeast)})`;
  if (atMost !== undefined) return `${text} (at most ${atMost}: ${verdict(value <= atMost)})`;
  return text;
}

function verdict(isKept: boolean): string {
  return isKept ? 'kept' : '**missed**';
}

function digits(figure: number): string {
  return figure >= 100 ? figure.toFixed(0) : figure.toPrecision(3);
}

function report(text: string, rounds: number, seconds: string, loads: readonly number[]): string {
  const [cpu] = cpus();
  const kernel = readFileSync('/proc/version', 'utf8').split(' ')[2];
  return [
    '# Benchmark results',
    '',
    'Made by `npm run bench -- --write`. Absolute figures drift with the machine; ratios hold.',
    '',
    `${cpus().length} x ${cpu?.model}, Linux ${kernel}, Node ${process.version}; ${rounds} alternated rounds of ${seconds} s, medians. Load of the machine before: ${loads.map((load) => load.toFixed(1)).join(', ')}.`,
    '',
    text,
    '',
  ].join('\n');
}

async function main(): Promise<void> {
  if (values.help) {
    console.log(HELP);
    return;
  }
  const loads = loadavg();
  const scratch = mkdtempSync(join(tmpdir(), 'xenvif-bench-'));
  const limits = join(scratch, 'limits');
  const flags = ['-O2', '-mavx2', '-pthread', '-o', limits];
  execFileSync('gcc', [...flags, join(sources, 'limits.c')]);
  const other = values.against === undefined ? undefined : join(values.against, 'dist/bench');
  const place = { here, limits, scratch, seconds: Number(values.seconds), other };
  const results: Result[] = [];
  try {
    for (const group of groups(place)) results.push(await takeIfPossible(group));
  } finally {
    rmSync(scratch, { recursive: true });
  }
  const text = table(results);
  console.log(text);
  const figures = `${JSON.stringify(results, null, 2)}\n`;
  if (values.json !== undefined) writeFileSync(values.json, figures);
  if (!values.write) return;
  writeFileSync(
    join(sources, 'RESULTS.md'),
    report(text, Number(values.rounds), values.seconds, loads),
  );
  writeFileSync(join(sources, 'RESULTS.json'), figures);
}

// The programs run in groups of their own, which a terminal's signals do not reach.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1));
await main();

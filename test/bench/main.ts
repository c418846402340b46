/**
 * `npm run bench`: how many frames a second go from an emulated ring to a gRPC client in another
 * process, beside two limits measured in the same run: a C program that makes the memory copies, and
 * a plain Node TCP stream of the same bytes. The three alternate, round by round; the table has the
 * medians and the spread, and the ratios are of medians. Absolute figures drift with the machine;
 * ratios hold. After that the switch, beside the plainest hub.
 */
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { switchingRows, switchingTable } from './switching-rows.js';
import { vchanRows, vchanTable } from './vchan-rows.js';

const SIZES = [64, 1514];
const here = fileURLToPath(new URL('.', import.meta.url));
const sources = fileURLToPath(new URL('../../test/bench/', import.meta.url));

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '2' },
    json: { type: 'string' },
    write: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});
const HELP = `npm run bench [-- --rounds N --seconds S --json FILE --write]

  --rounds   rounds of each measurement, alternated (5)
  --seconds  how long one measurement lasts (2)
  --json     write the figures to a file as well
  --write    put the table into test/bench/RESULTS.md`;

interface Series {
  readonly name: string;
  readonly rates: number[];
}

/** Runs a program to its end and returns what it printed. */
function output(command: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    child.stdout.on('data', (chunk) => {
      text += chunk;
    });
    child.on('close', (code) => {
      if (code === 0) resolve(text.trim());
      else reject(new Error(`${command} ${args.join(' ')} ended with ${code}`));
    });
  });
}

/** Runs a server that prints where it is, then a client against it, and returns the client's rate. */
async function measure(server: readonly string[], client: (address: string) => string[]) {
  const child = spawn(process.execPath, server, { stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    const address = await new Promise<string>((resolve, reject) => {
      child.stdout.once('data', (chunk) => resolve(String(chunk).trim()));
      child.once('close', (code) => reject(new Error(`${server[0]} ended with ${code}`)));
    });
    const result: unknown = JSON.parse(await output(process.execPath, client(address)));
    if (typeof result !== 'object' || result === null || !('rate' in result)) {
      throw new Error('The client printed no rate.');
    }
    if ('lost' in result && result.lost !== 0)
      process.stderr.write(`  lost ${result.lost} frames\n`);
    return Number(result.rate);
  } finally {
    child.removeAllListeners('close');
    child.kill();
  }
}

async function main(): Promise<void> {
  if (values.help) {
    console.log(HELP);
    return;
  }
  const rounds = Number(values.rounds);
  const { seconds } = values;
  const directory = mkdtempSync(join(tmpdir(), 'xenvif-bench-'));
  const copies = join(directory, 'copies');
  execFileSync('gcc', ['-O2', '-o', copies, join(sources, 'copies.c')]);
  const rows: { size: number; series: Series[] }[] = [];
  for (const size of SIZES) {
    const ours: Series = { name: 'ring to gRPC client', rates: [] };
    const tcp: Series = { name: 'plain Node TCP', rates: [] };
    const c: Series = { name: 'C, copies only', rates: [] };
    for (let round = 1; round <= rounds; round += 1) {
      process.stderr.write(`${size} B, round ${round} of ${rounds}\n`);
      c.rates.push(Number(await output(copies, [String(size), seconds])));
      tcp.rates.push(
        await measure([join(here, 'tcp.js'), 'server', String(size)], (port) => [
          join(here, 'tcp.js'),
          'client',
          port,
          seconds,
          String(size),
        ]),
      );
      ours.rates.push(
        await measure([join(here, 'ring-server.js'), String(size)], (address) => [
          join(here, 'ring-client.js'),
          address,
          seconds,
        ]),
      );
    }
    rows.push({ size, series: [ours, tcp, c] });
  }
  rmSync(directory, { recursive: true });
  const switching = await switchingRows(here, SIZES, rounds, seconds, output);
  const vchan = await vchanRows(here, rounds, seconds, output);
  const tables = [table(rows), switchingTable(switching, median), vchanTable(vchan, median)];
  const text = tables.join('\n\n');
  console.log(text);
  if (values.json !== undefined) {
    writeFileSync(values.json, `${JSON.stringify({ rows, switching, vchan }, null, 2)}\n`);
  }
  if (values.write) writeFileSync(join(sources, 'RESULTS.md'), report(text, rounds, seconds));
}

function median(rates: readonly number[]): number {
  const sorted = [...rates].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

function table(rows: readonly { size: number; series: readonly Series[] }[]): string {
  const lines = ['| frame | path | Mframes/s | min to max | ours is |', '|---|---|---|---|---|'];
  for (const { size, series } of rows) {
    const [ours] = series;
    for (const { name, rates } of series) {
      const ratio = median(ours?.rates ?? []) / median(rates);
      const range = `${mega(Math.min(...rates))} to ${mega(Math.max(...rates))}`;
      const of = name === ours?.name ? '' : `${ratio.toFixed(3)} of it`;
      lines.push(`| ${size} B | ${name} | ${mega(median(rates))} | ${range} | ${of} |`);
    }
  }
  return lines.join('\n');
}

function mega(rate: number): string {
  return (rate / 1e6).toFixed(2);
}

function report(text: string, rounds: number, seconds: string): string {
  const [cpu] = cpus();
  const kernel = readFileSync('/proc/version', 'utf8').split(' ')[2];
  return [
    '# Benchmark results',
    '',
    'Made by `npm run bench -- --write`. Absolute figures drift with the machine; ratios hold.',
    '',
    `${cpus().length} x ${cpu?.model}, Linux ${kernel}, Node ${process.version}; ${rounds} alternated rounds of ${seconds} s, medians.`,
    '',
    text,
    '',
  ].join('\n');
}

await main();

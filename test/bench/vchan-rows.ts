/** The rows of the vchan: rings of several sizes, beside a Unix socket in one process as well. */
import { join } from 'node:path';

const SOCKET = 'Unix socket';
const ROWS = [
  { mode: 'socket', ring: 0, name: SOCKET },
  { mode: 'vchan', ring: 1024, name: 'vchan, rings in the page' },
  { mode: 'vchan', ring: 4096, name: 'vchan, rings of 4 KiB' },
  { mode: 'vchan', ring: 65_536, name: 'vchan, rings of 64 KiB' },
  { mode: 'vchan', ring: 1_048_576, name: 'vchan, rings of 1 MiB' },
] as const;

export interface VchanRow {
  readonly name: string;
  readonly rates: number[];
}

/** Measures each row in each round; `run` runs a program to its end and returns its output. */
export async function vchanRows(
  directory: string,
  rounds: number,
  seconds: string,
  run: (command: string, args: readonly string[]) => Promise<string>,
): Promise<VchanRow[]> {
  const rows = ROWS.map(({ name }) => ({ name, rates: [] as number[] }));
  for (let round = 1; round <= rounds; round += 1) {
    process.stderr.write(`vchan, round ${round} of ${rounds}\n`);
    for (const [index, { mode, ring }] of ROWS.entries()) {
      const args = [join(directory, 'vchan.js'), mode, String(ring), seconds];
      const { rate }: { rate: number } = JSON.parse(await run(process.execPath, args));
      rows[index]?.rates.push(rate);
    }
  }
  return rows;
}

/** A table of the rows, one direction, with each as a share of what the socket does. */
export function vchanTable(
  rows: readonly VchanRow[],
  median: (rates: readonly number[]) => number,
): string {
  const lines = ['| stream, one way | MB/s | min to max | of the socket |', '|---|---|---|---|'];
  const mega = (rate: number) => (rate / 1e6).toFixed(0);
  const socket = median(rows.find(({ name }) => name === SOCKET)?.rates ?? []);
  for (const { name, rates } of rows) {
    const range = `${mega(Math.min(...rates))} to ${mega(Math.max(...rates))}`;
    const share = name === SOCKET ? '' : (median(rates) / socket).toFixed(2);
    lines.push(`| ${name} | ${mega(median(rates))} | ${range} | ${share} |`);
  }
  return lines.join('\n');
}

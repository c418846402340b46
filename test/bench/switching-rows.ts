/** The rows of the switch: itself and its hub, beside the plainest hub, measured round by round. */
import { join } from 'node:path';

const MODES = [
  { mode: 'switch', name: 'switch' },
  { mode: 'hub', name: 'switch as a hub' },
  { mode: 'plain', name: 'plain hub: a promise and a copy each' },
] as const;
const LISTENERS = [1, 4];

export interface SwitchingRow {
  readonly size: number;
  readonly listeners: number;
  readonly name: string;
  readonly rates: number[];
}

/** Measures each mode in each round; `run` runs a program to its end and returns its output. */
export async function switchingRows(
  directory: string,
  sizes: readonly number[],
  rounds: number,
  seconds: string,
  run: (command: string, args: readonly string[]) => Promise<string>,
): Promise<SwitchingRow[]> {
  const rows: SwitchingRow[] = [];
  for (const size of sizes) {
    for (const listeners of LISTENERS) {
      const group = MODES.map(({ name }) => ({ size, listeners, name, rates: [] as number[] }));
      for (let round = 1; round <= rounds; round += 1) {
        process.stderr.write(`switch, ${size} B to ${listeners}, round ${round} of ${rounds}\n`);
        for (const [index, { mode }] of MODES.entries()) {
          const args = [join(directory, 'switching.js'), mode, `${size}`, `${listeners}`, seconds];
          const { rate }: { rate: number } = JSON.parse(await run(process.execPath, args));
          group[index]?.rates.push(rate);
        }
      }
      rows.push(...group);
    }
  }
  return rows;
}

/** A table of the rows, with each mode's rate as a multiple of the plain hub's. */
export function switchingTable(
  rows: readonly SwitchingRow[],
  median: (rates: readonly number[]) => number,
): string {
  const lines = [
    '| frame | listeners | path | Mframes/s in | min to max | of the plain hub |',
    '|---|---|---|---|---|---|',
  ];
  const mega = (rate: number) => (rate / 1e6).toFixed(2);
  for (const { listeners, name, rates, size } of rows) {
    const plain = rows.find(
      (row) => row.size === size && row.listeners === listeners && row.name === MODES[2].name,
    );
    const ratio = (median(rates) / median(plain?.rates ?? [])).toFixed(1);
    const range = `${mega(Math.min(...rates))} to ${mega(Math.max(...rates))}`;
    const isPlain = name === MODES[2].name;
    lines.push(
      `| ${size} B | ${listeners} | ${name} | ${mega(median(rates))} | ${range} | ${isPlain ? '' : `${ratio} times`} |`,
    );
  }
  return lines.join('\n');
}

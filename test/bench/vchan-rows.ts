/** The vchan: rings of several sizes, beside a Unix socket within one process as well. */
import { join } from 'node:path';
import { node } from './programs.js';
import type { Group, Measure, Place } from './rows.js';

const SOCKET = 'Unix socket';
const RINGS = [
  { ringBytes: 1024, name: 'rings in the page' },
  { ringBytes: 4096, name: 'rings of 4 KiB' },
  { ringBytes: 65_536, name: 'rings of 64 KiB' },
  { ringBytes: 1_048_576, name: 'rings of 1 MiB' },
] as const;

/** A stream one way. */
export function vchan({ here, seconds }: Place): Group {
  const measure = (name: string, mode: string, ringBytes: number): Measure => ({
    name,
    unit: 'MB/s',
    run: async () => {
      const program = node(join(here, 'vchan.js'), mode, `${ringBytes}`, `${seconds}`);
      const { rate }: { rate: number } = JSON.parse(await program.line());
      return rate / 1e6;
    },
  });
  return {
    name: 'vchan, one way',
    measures: [
      measure(SOCKET, 'socket', 0),
      ...RINGS.map(({ name, ringBytes }) => measure(name, 'vchan', ringBytes)),
    ],
    ratios: RINGS.map(({ name }) => ({ text: `${name}, of the socket`, of: [name, SOCKET] })),
  };
}

/** What threads would bring: the plainest path on two of them, and what it costs to go between. */
import { join } from 'node:path';
import { against, node } from './programs.js';
import { type Group, type Place, rate } from './rows.js';
import { measuresOf } from './scale-rows.js';

/** The ring on a thread of its own, beside all on one. */
export function ringInWorker({ here, seconds }: Place, size: number): Group {
  const path = (name: string, file: string, ...args: string[]) =>
    rate(name, () =>
      against(node(join(here, file), ...args, `${size}`), (address) =>
        node(join(here, 'net-path.js'), 'client', address, `${seconds}`),
      ),
    );
  const [two, one] = ['on two threads', 'on one'];
  return {
    name: `plain Node net, ${size} B`,
    measures: [path(two, 'worker-path.js'), path(one, 'net-path.js', 'server')],
    ratios: [{ text: 'of it: on two threads', of: [two, one] }],
  };
}

export function crossings({ here }: Place): Group {
  const run = async () =>
    JSON.parse(await node(join(here, 'worker-path.js'), 'crossings').line()) as Record<
      string,
      number
    >;
  const copies = [64, 1514].flatMap((size) => [
    { name: `a copy of ${size} B, ArrayBuffer`, unit: 'ns' as const, key: `own${size}` },
    { name: `a copy of ${size} B, SharedArrayBuffer`, unit: 'ns' as const, key: `shared${size}` },
  ]);
  return {
    name: 'between two threads',
    measures: measuresOf(run, [
      { name: 'there and back by postMessage', unit: 'µs', key: 'post' },
      { name: 'there and back by Atomics', unit: 'µs', key: 'wait' },
      ...copies,
    ]),
    ratios: [],
  };
}

/** Many vifs and many clients: what each costs, and what the control plane has to say meanwhile. */
import { join } from 'node:path';
import { against, node, type Program, pause } from './programs.js';
import type { Group, Measure, Place } from './rows.js';

const MOST_VIFS = 1000;
const VIF_COUNTS = [1, 10, 100, MOST_VIFS] as const;
const LOADED_VIFS = 100;
const STATS_CLIENTS = 100;
const STATS_VIFS = 10;
const IDLE_VIFS = 100;
/** Counters come once a second, so that it takes some seconds to see how many do. */
const STATS_SECONDS = 4;
const IDLE_SECONDS = 4;

/** What is shown of what a program says. */
interface Shown {
  readonly name: string;
  readonly unit: Measure['unit'];
  readonly key: string;
  readonly scale?: number;
}

/** Measures of which the first has the program run, and each shows a part of what it says. */
export function measuresOf(
  run: () => Promise<Record<string, number>>,
  shown: readonly Shown[],
): Measure[] {
  let said: Record<string, number> = {};
  return shown.map(({ key, name, scale = 1, unit }, index) => ({
    name,
    unit,
    run: async () => {
      if (index === 0) said = await run();
      return (said[key] ?? Number.NaN) * scale;
    },
  }));
}

/** Processor time for a frame, memory and handshakes, by the number of vifs. */
export function manyVifs({ here, seconds }: Place): Group {
  const frame = (vifs: number) => `a frame, of ${vifs}`;
  return {
    name: 'vifs by their number',
    roundsMax: 1,
    measures: VIF_COUNTS.flatMap((vifs) =>
      measuresOf(
        async () =>
          JSON.parse(await node(join(here, 'many-vifs.js'), `${vifs}`, `${seconds}`).line()),
        [
          { name: frame(vifs), unit: 'ns', key: 'ns' },
          { name: `memory of a vif, of ${vifs}`, unit: 'KiB', key: 'bytes', scale: 1 / 1024 },
          { name: `handshakes, of ${vifs} at once`, unit: '/s', key: 'handshakes' },
        ],
      ),
    ),
    ratios: VIF_COUNTS.slice(0, -1).map((vifs) => ({
      text: `of it with ${MOST_VIFS}`,
      of: [frame(MOST_VIFS), frame(vifs)] as const,
    })),
  };
}

/** GetVif while guests send as much as they can, beside a daemon with as many that are silent. */
export function controlPlane({ here, seconds }: Place): Group {
  const calls = (mode: 'idle' | 'load', suffix: string) =>
    measuresOf(
      () =>
        against(node(join(here, 'busy-daemon.js'), `${LOADED_VIFS}`, mode), (address) =>
          node(join(here, 'control-client.js'), address, `${seconds}`, 'calls'),
        ),
      [
        { name: `p50 ${suffix}`, unit: 'ms', key: 'p50' },
        { name: `p99 ${suffix}`, unit: 'ms', key: 'p99' },
      ],
    );
  return {
    name: `GetVif, ${LOADED_VIFS} vifs`,
    measures: [...calls('load', 'under full load'), ...calls('idle', 'while all are silent')],
    ratios: ['p50', 'p99'].map((part) => ({
      text: 'of it under full load',
      of: [`${part} under full load`, `${part} while all are silent`] as const,
    })),
  };
}

/** Connections that are made, one after the other. */
export function connections({ here, seconds }: Place): Group {
  const run = () =>
    against(node(join(here, 'busy-daemon.js'), '1', 'idle'), (address) =>
      node(join(here, 'control-client.js'), address, `${seconds}`, 'connects'),
    );
  return {
    name: 'gRPC connections',
    measures: measuresOf(run, [{ name: 'made and answered', unit: '/s', key: 'rate' }]),
    ratios: [],
  };
}

/** A daemon with vifs that are silent, and with clients that want all counters once a second. */
export function standing({ here }: Place): Group {
  const received = `counters to ${STATS_CLIENTS} clients`;
  const due = 'counters that are due';
  const silent = `processor, ${IDLE_VIFS} silent vifs`;
  const whole = 'a whole processor';
  return {
    name: 'standing cost',
    roundsMax: 1,
    measures: [
      { name: silent, unit: '%', run: () => idleShare(here) },
      { name: whole, unit: '%', run: async () => 100 },
      ...measuresOf(
        () => streamStats(here),
        [
          { name: received, unit: '/s', key: 'rate' },
          { name: 'processor for these', unit: '%', key: 'share' },
        ],
      ),
      { name: due, unit: '/s', run: async () => STATS_CLIENTS * STATS_VIFS },
    ],
    ratios: [
      { text: 'of it, with silent vifs', of: [silent, whole], atMost: 0.01 },
      { text: 'of it arrives', of: [received, due] },
    ],
  };
}

async function idleShare(here: string): Promise<number> {
  const server = node(join(here, 'busy-daemon.js'), `${IDLE_VIFS}`, 'idle');
  try {
    await server.line();
    await pause(1000);
    return await shareOf(server, () => pause(IDLE_SECONDS * 1000));
  } finally {
    server.stop();
  }
}

/** Hundredths of a processor that a server takes while something else goes on. */
async function shareOf(server: Program, meanwhile: () => Promise<unknown>): Promise<number> {
  const before = await server.ask();
  await meanwhile();
  const after = await server.ask();
  const cpuMs = (after['cpuMs'] ?? 0) - (before['cpuMs'] ?? 0);
  return (100 * cpuMs) / ((after['ms'] ?? 0) - (before['ms'] ?? 0));
}

async function streamStats(here: string): Promise<Record<string, number>> {
  const server = node(join(here, 'busy-daemon.js'), `${STATS_VIFS}`, 'idle');
  let client: Program | undefined;
  try {
    const address = await server.line();
    const args = [address, `${STATS_SECONDS}`, 'stats', `${STATS_CLIENTS}`];
    const watcher = node(join(here, 'control-client.js'), ...args);
    client = watcher;
    await watcher.line();
    let rate = Number.NaN;
    const share = await shareOf(server, async () => {
      ({ rate } = JSON.parse(await watcher.line()));
    });
    return { rate, share };
  } finally {
    client?.stop();
    server.stop();
  }
}

/**
 * What is measured: groups of measures that are taken in alternation, and the ratios between them
 * that the project holds itself to.
 */
import { writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { meanSize, sizesOf } from './frame-sizes.js';
import { against, node, nodeOn, Program, pause, programOn } from './programs.js';

/** Something that gives a number, each time that it is asked. */
export interface Measure {
  readonly name: string;
  readonly unit: 'Mframes/s' | 'MB/s' | '/s' | 'ns' | 'µs' | 'ms' | '%' | 'KiB' | 'MB';
  run(): Promise<number>;
}

export interface Ratio {
  readonly text: string;
  /** Names of measures: the first is divided by the second. */
  readonly of: readonly [string, string];
  readonly atLeast?: number;
  readonly atMost?: number;
}

export interface Group {
  readonly name: string;
  /** Fewer rounds, for what takes long and varies little. */
  readonly roundsMax?: number;
  readonly measures: readonly Measure[];
  readonly ratios: readonly Ratio[];
}

/** Where the programs are, and how long a measure lasts. */
export interface Place {
  /** The folder of the built programs, `dist/bench`. */
  readonly here: string;
  /** The built limits.c. */
  readonly limits: string;
  /** A folder for files that go away. */
  readonly scratch: string;
  readonly seconds: number;
  /** Another revision's `dist/bench`, measured beside ours. */
  readonly other: string | undefined;
}

/** How long a stream of frames runs before it is measured. */
const WARM_UP_MS = 3000;

const OURS = 'ours';
const OTHER = 'the other revision';

/** A measure of frames a second, of a program that says them. */
export function rate(name: string, run: () => Promise<Record<string, number>>): Measure {
  return { name, unit: 'Mframes/s', run: async () => ((await run())['rate'] ?? Number.NaN) / 1e6 };
}

function observe(place: Place, here: string, size: number | 'imix', name = OURS): Measure {
  return rate(name, () =>
    against(node(join(here, 'ring-server.js'), `${size}`), (address) =>
      node(join(here, 'ring-client.js'), address, `${place.seconds}`),
    ),
  );
}

/** From a guest's ring to a client in another process, beside everything else that does the like. */
export function ringToClient(place: Place, size: number | 'imix'): Group {
  const { here, limits, seconds } = place;
  const small = size === 64;
  const pair = (file: string) => () =>
    against(node(join(here, file), 'server', `${size}`), (address) =>
      node(join(here, file), 'client', address, `${seconds}`),
    );
  const measures: Measure[] = [
    observe(place, here, size),
    rate('plain Node net', pair('net-path.js')),
    rate('C over TCP', () =>
      against(
        new Program(limits, ['serve', `${size}`]),
        (port) => new Program(limits, ['walk', port, `${seconds}`]),
      ),
    ),
    rate('gRPC by ts-proto', pair('ts-proto-path.js')),
    rate('tcpdump -r into nc', () => tcpdump(place, size)),
  ];
  const isTable = size === 64 || size === 1514;
  const bounds = (atLeast: number) => (isTable ? { atLeast } : {});
  return {
    name: size === 'imix' ? 'ring to client, IMIX' : `ring to client, ${size} B`,
    measures: withOther(measures, place, (other) => observe(place, other, size, OTHER)),
    ratios: [
      { text: 'of C over TCP', of: [OURS, 'C over TCP'], ...bounds(small ? 0.22 : 0.33) },
      { text: 'of plain Node net', of: [OURS, 'plain Node net'], ...bounds(small ? 0.65 : 0.7) },
      { text: 'of ts-proto', of: [OURS, 'gRPC by ts-proto'], ...bounds(small ? 3 : 2) },
      { text: 'of tcpdump', of: [OURS, 'tcpdump -r into nc'], ...bounds(small ? 2 : 1.3) },
      ...otherRatio(place),
    ],
  };
}

/** From a client to a guest's ring. */
export function clientToRing(place: Place, size: number): Group {
  const { here } = place;
  const upload = (folder: string, name: string): Measure => ({
    name,
    unit: 'Mframes/s',
    run: () => uploadRate(place, folder, size),
  });
  return {
    name: `client to ring, ${size} B`,
    measures: withOther(
      [upload(here, OURS), observe(place, here, size, 'ring to client')],
      place,
      (other) => upload(other, OTHER),
    ),
    ratios: [
      { text: 'of ring to client', of: [OURS, 'ring to client'], atLeast: 0.7 },
      ...otherRatio(place),
    ],
  };
}

/** What a frame costs on its ring, without any socket. */
export function ringCost(place: Place, size: number): Group {
  const { here, limits, seconds } = place;
  const cost = (folder: string, name: string, mode: string): Measure => ({
    name,
    unit: 'ns',
    run: async () => {
      const program = node(join(folder, 'ring-cost.js'), `${size}`, `${seconds}`, mode);
      return JSON.parse(await program.line()).ns;
    },
  });
  return {
    name: `a frame on its ring, ${size} B`,
    measures: withOther(
      [
        cost(here, OURS, 'ring'),
        cost(here, 'into a message, too', 'observe'),
        {
          name: 'C, inline copy',
          unit: 'ns',
          run: async () =>
            Number(await new Program(limits, ['ring', `${size}`, `${seconds}`]).line()),
        },
      ],
      place,
      (other) => cost(other, OTHER, 'ring'),
    ),
    ratios: [
      { text: 'of C', of: [OURS, 'C, inline copy'], atMost: size < 128 ? 8 : 1.3 },
      ...otherRatio(place),
    ],
  };
}

/**
 * From an event of the guest's until the frame is in the client's hands, with so many a second. The daemon
 * has a processor for itself, as a driver domain has beside its guests: else the kernel now and then puts
 * all three on one, where a step is a third as long, and a ratio says no more than where they were.
 */
export function latency(place: Place, perSecond: number, part: 'p50' | 'p99' | 'p999'): Group {
  const { here, limits, seconds } = place;
  const interval = `${1e6 / perSecond}`;
  const daemon = 0;
  const client = Math.min(1, availableParallelism() - 1);
  const guest = `${Math.min(2, availableParallelism() - 1)}`;
  const measure = (name: string, run: () => Promise<Record<string, number>>): Measure => ({
    name,
    unit: 'µs',
    run: async () => (await run())[part] ?? Number.NaN,
  });
  const ours = (folder: string, name: string) =>
    measure(name, () =>
      against(
        nodeOn(daemon, join(folder, 'ring-server.js'), '64', 'kick', interval, guest),
        (address) =>
          nodeOn(client, join(folder, 'ring-client.js'), address, `${seconds}`, 'latency'),
      ),
    );
  const bound = { p50: { atMost: 2.3 }, p99: { atMost: 2.2 }, p999: {} }[part];
  return {
    name: `event to client, ${perSecond}/s, ${part}`,
    measures: withOther(
      [
        ours(here, OURS),
        measure('C over TCP', () =>
          against(programOn(daemon, limits, 'ping', interval, guest), (port) =>
            programOn(client, limits, 'pong', port, `${Math.round(seconds * perSecond * 0.8)}`),
          ),
        ),
      ],
      place,
      (other) => ours(other, OTHER),
    ),
    ratios: [{ text: 'of C', of: [OURS, 'C over TCP'], ...bound }, ...otherRatio(place)],
  };
}

/** Another subscriber that never reads, and what it costs the one that does. */
export function neverReads(place: Place): Group {
  const { here, seconds } = place;
  return {
    name: 'one subscriber never reads, 64 B',
    measures: [
      rate(OURS, async () => {
        const server = node(join(here, 'ring-server.js'), '64');
        let idle: Program | undefined;
        return await against(server, (address) => {
          idle = node(join(here, 'ring-client.js'), address, `${seconds}`, 'idle');
          return node(join(here, 'ring-client.js'), address, `${seconds}`);
        }).finally(() => idle?.stop());
      }),
      observe(place, here, 64, 'alone'),
    ],
    ratios: [{ text: 'of the rate without it', of: [OURS, 'alone'], atLeast: 0.95 }],
  };
}

/**
 * Subscribers to the same frames in one process: what each gets, and what the daemon takes for all of them,
 * in processors and in memory.
 */
export function subscribers(place: Place, count: number): Group {
  const { here, seconds } = place;
  let taken = { rate: Number.NaN, cpu: Number.NaN, memory: Number.NaN };
  const run = async () => {
    const server = node(join(here, 'ring-server.js'), '64');
    let client: Program | undefined;
    try {
      const args = [await server.line(), `${seconds}`, 'many', `${count}`];
      const before = await server.ask();
      client = node(join(here, 'ring-client.js'), ...args);
      const { rate: each } = JSON.parse(await client.line());
      const after = await server.ask();
      const busyMs = (after['cpuMs'] ?? 0) - (before['cpuMs'] ?? 0);
      taken = {
        rate: each / 1e6,
        cpu: (busyMs / ((after['ms'] ?? 0) - (before['ms'] ?? 0))) * 100,
        memory: (after['rssBytes'] ?? 0) / 1e6,
      };
    } finally {
      client?.stop();
      server.stop();
    }
    return taken.rate;
  };
  return {
    name: `subscribers: ${count}, 64 B`,
    measures: [
      { name: 'frames to each', unit: 'Mframes/s', run },
      { name: 'processor of the daemon', unit: '%', run: async () => taken.cpu },
      { name: 'memory of the daemon', unit: 'MB', run: async () => taken.memory },
    ],
    ratios: [],
  };
}

/** The switch beside the plainest hub: a promise and a fresh copy for each listener. */
export function switching(place: Place, size: number, listeners: number): Group {
  const run = (folder: string, name: string, mode: string) =>
    rate(name, async () => {
      const args = [mode, `${size}`, `${listeners}`, `${place.seconds / 2}`];
      return JSON.parse(await node(join(folder, 'switching.js'), ...args).line());
    });
  const bound = listeners === 1 ? { atLeast: 4 } : {};
  return {
    name: `switch, ${size} B to ${listeners}`,
    measures: withOther(
      [
        run(place.here, OURS, 'switch'),
        run(place.here, 'frames that lie apart', 'apart'),
        run(place.here, 'as a hub', 'hub'),
        run(place.here, 'the plainest hub', 'plain'),
      ],
      place,
      (other) => run(other, OTHER, 'switch'),
    ),
    ratios: [
      { text: 'of the plainest hub', of: [OURS, 'the plainest hub'], ...bound },
      { text: 'of it: frames that lie apart', of: ['frames that lie apart', 'the plainest hub'] },
      ...otherRatio(place),
    ],
  };
}

/** What a guest sends goes through the switch into another guest's buffers. */
export function vifToVif(place: Place, size: number): Group {
  const { here, limits, seconds } = place;
  const ours = (folder: string, name: string) =>
    rate(name, async () =>
      JSON.parse(await node(join(folder, 'vif-to-vif.js'), `${size}`, `${seconds}`).line()),
    );
  return {
    name: `vif to vif, ${size} B`,
    measures: withOther(
      [
        ours(here, OURS),
        rate('C, the same copies', async () => ({
          rate: Number(await new Program(limits, ['copy', `${size}`, `${seconds}`]).line()),
        })),
      ],
      place,
      (other) => ours(other, OTHER),
    ),
    ratios: [
      {
        text: 'of C',
        of: [OURS, 'C, the same copies'],
        ...(size > 128 ? { atLeast: 0.5 } : {}),
      },
      ...otherRatio(place),
    ],
  };
}

function withOther(
  measures: Measure[],
  { other }: Place,
  measure: (folder: string) => Measure,
): Measure[] {
  return other === undefined ? measures : [...measures, measure(other)];
}

function otherRatio({ other }: Place): Ratio[] {
  return other === undefined ? [] : [{ text: `of ${OTHER}`, of: [OURS, OTHER] }];
}

async function uploadRate(place: Place, folder: string, size: number): Promise<number> {
  const server = node(join(folder, 'ring-server.js'), `${size}`, 'receive');
  let client: Program | undefined;
  try {
    const address = await server.line();
    const forSeconds = `${place.seconds + 10}`;
    client = node(join(folder, 'ring-sender.js'), address, forSeconds, `${size}`);
    await pause(WARM_UP_MS);
    const before = await server.ask();
    await pause(place.seconds * 1000);
    const after = await server.ask();
    const frames = (after['received'] ?? 0) - (before['received'] ?? 0);
    return frames / 1000 / ((after['ms'] ?? 0) - (before['ms'] ?? 0));
  } finally {
    client?.stop();
    server.stop();
  }
}

/** A file of frames, read by tcpdump and written to a pipe, which is sent over TCP. */
async function tcpdump(place: Place, size: number | 'imix'): Promise<Record<string, number>> {
  const file = join(place.scratch, `frames-${size}.pcap`);
  writeFileSync(file, captureFile(sizesOf(`${size}`)));
  // The one file again and again, for as long as somebody takes it.
  const command = `while tcpdump -q -r ${file} -w - 2>/dev/null; do :; done | ${place.limits} relay`;
  return await against(new Program('sh', ['-c', command]), (port) => {
    const recordBytes = `${meanSize(`${size}`) + 16}`;
    return new Program(place.limits, ['count', port, `${place.seconds}`, recordBytes]);
  });
}

const CAPTURE_BYTES = 256 * 1024 * 1024;

/** A capture (libpcap's format, nanoseconds) of frames that have these lengths by turns. */
function captureFile(sizes: readonly number[]): Buffer {
  const turn = sizes.reduce((sum, size) => sum + size + 16, 0);
  const bytes = Buffer.alloc(24 + Math.floor(CAPTURE_BYTES / turn) * turn);
  bytes.writeUInt32LE(0xa1b23c4d, 0);
  bytes.writeUInt16LE(2, 4);
  bytes.writeUInt16LE(4, 6);
  bytes.writeUInt32LE(65535, 16);
  bytes.writeUInt32LE(1, 20);
  for (let at = 24, index = 0; at < bytes.length; index += 1) {
    const size = sizes[index % sizes.length] as number;
    bytes.writeUInt32LE(size, at + 8);
    bytes.writeUInt32LE(size, at + 12);
    at += size + 16;
  }
  return bytes;
}

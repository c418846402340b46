/**
 * A thousand vifs on ten switches, declared in a file and made by `xenvif apply` on an emulated Xen whose
 * guests connect; then a hundred watchers that see each of a thousand changes. Beside them the least that the
 * same takes: the transactions in XenStore alone, and as many bare calls.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { against, node, type Program, pause } from './programs.js';
import type { Group, Place } from './rows.js';
import { measuresOf } from './scale-rows.js';

const GUESTS = 50;
const VIFS_PER_GUEST = 20;
const VIFS = GUESTS * VIFS_PER_GUEST;
const SWITCHES = 10;
const WATCHERS = 100;
const CONNECTED_POLL_MS = 100;
const KIB = 1024;
const COMMAND = fileURLToPath(new URL('../../clients/cli/bin/xenvif.js', import.meta.url));

const APPLY = 'apply';
const AGAIN = 'apply again';
const LIST = 'xenvif ls';
const CHANGES = `until ${WATCHERS} watchers have ${VIFS} changes`;
const TRANSACTIONS = 'the transactions alone';
const PROCESSOR = 'processor of daemon and guests for it';
const BARE_PROCESSOR = 'processor for the transactions alone';
const BARE_CALLS = 'bare calls of grpc-js';
const BARE_WATCHES = 'bare watches of grpc-js';

export function orchestration(place: Place): Group {
  const { here } = place;
  return {
    name: `${VIFS} vifs on ${SWITCHES} switches`,
    roundsMax: 1,
    measures: [
      ...measuresOf(
        () => orchestrate(place),
        [
          { name: APPLY, unit: 'ms', key: 'applyMs' },
          { name: PROCESSOR, unit: 'ms', key: 'cpuMs' },
          { name: 'memory of the daemon before', unit: 'MB', key: 'rssBefore', scale: 1e-6 },
          { name: 'memory of the daemon after', unit: 'MB', key: 'rssAfter', scale: 1e-6 },
          { name: AGAIN, unit: 'ms', key: 'againMs' },
          { name: LIST, unit: 'ms', key: 'listMs' },
          { name: `until ${WATCHERS} watchers have them`, unit: 'ms', key: 'syncedMs' },
          { name: CHANGES, unit: 'ms', key: 'changesMs' },
          { name: 'a watcher in the daemon', unit: 'KiB', key: 'daemonBytes', scale: 1 / KIB },
          { name: 'a watcher in its process', unit: 'KiB', key: 'watcherBytes', scale: 1 / KIB },
        ],
      ),
      ...measuresOf(async () => {
        const program = node(join(here, 'bare-store.js'), `${GUESTS}`, `${VIFS_PER_GUEST}`);
        return JSON.parse(await program.line());
      }, [
        { name: TRANSACTIONS, unit: 'ms', key: 'ms' },
        { name: BARE_PROCESSOR, unit: 'ms', key: 'cpuMs' },
      ]),
      ...measuresOf(() => bare(here, 0), [{ name: BARE_CALLS, unit: 'ms', key: 'ms' }]),
      ...measuresOf(() => bare(here, WATCHERS), [{ name: BARE_WATCHES, unit: 'ms', key: 'ms' }]),
    ],
    ratios: [
      { text: 'of it: apply', of: [APPLY, TRANSACTIONS] },
      { text: 'of it: daemon and guests', of: [PROCESSOR, BARE_PROCESSOR] },
      { text: 'of it: apply', of: [APPLY, BARE_CALLS] },
      { text: 'of it: apply again', of: [AGAIN, LIST] },
      { text: 'of it: the watchers', of: [CHANGES, BARE_WATCHES] },
    ],
  };
}

function bare(here: string, watchers: number): Promise<Record<string, number>> {
  const file = join(here, 'bare-grpc.js');
  return against(node(file, 'server'), (address) =>
    node(file, 'client', address, `${watchers}`, `${VIFS}`),
  );
}

async function orchestrate({ here, scratch }: Place): Promise<Record<string, number>> {
  const file = join(scratch, 'declared.json');
  writeFileSync(file, JSON.stringify(declared()));
  const socket = join(scratch, 'declared.sock');
  const daemon = node(join(here, 'declared-daemon.js'), `${GUESTS}`, `${VIFS_PER_GUEST}`, socket);
  let watching: Program | undefined;
  try {
    const address = await daemon.line();
    const before = await daemon.ask();
    const applyMs = await command(address, ['apply', '-f', file]);
    const after = await allConnected(daemon);
    const againMs = await command(address, ['apply', '-f', file]);
    const listMs = await command(address, ['ls']);
    const { usedBytes: unwatched = Number.NaN } = await daemon.ask();
    watching = node(join(here, 'watching-client.js'), address, `${WATCHERS}`, `${VIFS}`);
    const synced = JSON.parse(await watching.line());
    const { usedBytes: watched = Number.NaN } = await daemon.ask();
    const changes = await watching.ask();
    return {
      applyMs,
      againMs,
      listMs,
      cpuMs: (after['cpuMs'] ?? Number.NaN) - (before['cpuMs'] ?? Number.NaN),
      rssBefore: before['rssBytes'] ?? Number.NaN,
      rssAfter: after['rssBytes'] ?? Number.NaN,
      daemonBytes: (watched - unwatched) / WATCHERS,
      ...synced,
      ...changes,
    };
  } finally {
    watching?.stop();
    daemon.stop();
  }
}

function declared() {
  return {
    xenvif: 1,
    name: 'bench',
    switches: Array.from({ length: SWITCHES }, (_, index) => ({ name: `lan${index}` })),
    vifs: Array.from({ length: VIFS }, (_, index) => ({
      domain: `guest${1 + Math.floor(index / VIFS_PER_GUEST)}`,
      handle: index % VIFS_PER_GUEST,
      switch: `lan${index % SWITCHES}`,
      policy: { lockMac: true },
      labels: { number: String(index) },
    })),
  };
}

/** Runs `xenvif` to its end; how long it took, in milliseconds. */
async function command(address: string, args: readonly string[]): Promise<number> {
  const env = { ...process.env, XENVIF_ADDRESS: address };
  const startMs = performance.now();
  const child: ChildProcess = spawn(process.execPath, [COMMAND, ...args], {
    env,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const code = await new Promise((resolve) => child.on('close', resolve));
  if (code !== 0) throw new Error(`xenvif ${args.join(' ')} ended with ${code}.`);
  return performance.now() - startMs;
}

async function allConnected(daemon: Program): Promise<Record<string, number>> {
  for (;;) {
    const answer = await daemon.ask();
    if (answer['connected'] === VIFS) return answer;
    await pause(CONNECTED_POLL_MS);
  }
}

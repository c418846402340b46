/**
 * Clients that watch all vifs, in a process of their own, while it changes each vif once.
 * Usage: watching-client ADDRESS WATCHERS VIFS; prints { syncedMs, watcherBytes } when all have the whole
 * state, and, asked by a line on its standard input, changes the vifs and prints { changesMs } when the last
 * watcher has every change. One that misses a change, sees it twice or out of order is an error.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { type VifWatch, XenvifClient } from '@xenvif/client';

/** A connection has a hundred calls at most, and the changes need some, too. */
const CONNECTIONS = 4;
const CHANGES_AT_ONCE = 8;

const [address = '', watchersText = '1', vifsText = '1'] = process.argv.slice(2);
const watchers = Number(watchersText);
const vifs = Number(vifsText);
setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

const clients = Array.from(
  { length: CONNECTIONS },
  () => new XenvifClient({ address, channelOptions: { 'grpc.use_local_subchannel_pool': 1 } }),
);
const [changer] = clients as [XenvifClient];
const names: string[] = [];
for await (const { name } of changer.vifs.list({ pageSize: vifs })) names.push(name);

function bytesInUse(): number {
  collectGarbage();
  const { arrayBuffers, heapUsed } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

/** Resume tokens count the changes of a run of the daemon. */
function sequenceOf(token: string): number {
  return Number(token.split(':')[1]);
}

/** Reads the whole state, and gives what reads the changes. */
async function synced(watch: VifWatch) {
  const events = watch[Symbol.asyncIterator]();
  let seen = 0;
  for (;;) {
    const { value: event } = await events.next();
    if (event === undefined) throw new Error('A watch ended.');
    if (event.type === 'updated') seen += 1;
    if (event.type === 'synced') return { events, seen, sequence: sequenceOf(event.resumeToken) };
  }
}

/** Waits until a watch has seen the change of each vif, one after the other. */
async function changed({ events, sequence }: Awaited<ReturnType<typeof synced>>): Promise<void> {
  const left = new Set(names);
  for (let next = sequence + 1; left.size > 0; next += 1) {
    const { value: event } = await events.next();
    const isNext =
      event?.type === 'updated' &&
      sequenceOf(event.resumeToken) === next &&
      event.vif.labels['round'] === 'next' &&
      left.delete(event.vif.name);
    if (!isNext) throw new Error(`Change ${next} is not there, or not alone.`);
  }
}

async function changeAll(): Promise<void> {
  const queue = [...names];
  const work = async () => {
    for (let name = queue.shift(); name !== undefined; name = queue.shift()) {
      await changer.vifs.update(name, { labels: { round: 'next' } });
    }
  };
  await Promise.all(Array.from({ length: CHANGES_AT_ONCE }, work));
}

const before = bytesInUse();
const startMs = performance.now();
const opened = Array.from({ length: watchers }, (_, index) =>
  synced((clients[index % CONNECTIONS] as XenvifClient).vifs.watch()),
);
const watches = await Promise.all(opened);
const syncedMs = performance.now() - startMs;
if (watches.some(({ seen }) => seen !== vifs)) throw new Error('Not every watcher has every vif.');
console.log(JSON.stringify({ syncedMs, watcherBytes: (bytesInUse() - before) / watchers }));

process.stdin.once('data', async () => {
  const fromMs = performance.now();
  await Promise.all([changeAll(), ...watches.map(changed)]);
  console.log(JSON.stringify({ changesMs: performance.now() - fromMs }));
  process.exit(0);
});

/**
 * Clients of the control plane, in a process of their own.
 * Usage: control-client ADDRESS SECONDS calls            GetVif, one after the other, in milliseconds:
 *                                                        { p50, p99 }
 *        control-client ADDRESS SECONDS connects         connections made, each with one answer: { rate }
 *        control-client ADDRESS SECONDS stats CLIENTS    each streams all counters once a second: { rate }
 *                                                        of counters that arrive
 */
import { XenvifClient } from '@xenvif/client';

const [address = '', secondsText = '1', mode = 'calls', clientsText = '1'] = process.argv.slice(2);
const durationMs = Number(secondsText) * 1000;
const WARM_UP_MS = 1000;
/** A client that shares no connection with the others of its process. */
const open = () =>
  new XenvifClient({ address, channelOptions: { 'grpc.use_local_subchannel_pool': 1 } });

if (mode === 'calls') await calls();
else if (mode === 'connects') await connects();
else await stats(Number(clientsText));
process.exit(0);

async function calls(): Promise<void> {
  const client = open();
  const times: number[] = [];
  const from = performance.now() + WARM_UP_MS;
  for (let now = performance.now(); now < from + durationMs; ) {
    await client.vifs.get('vifs/1.0');
    const end = performance.now();
    if (now >= from) times.push(end - now);
    now = end;
  }
  times.sort((a, b) => a - b);
  const at = (part: number) => times[Math.floor((times.length - 1) * part)];
  console.log(JSON.stringify({ p50: at(0.5), p99: at(0.99) }));
}

async function connects(): Promise<void> {
  const from = performance.now() + WARM_UP_MS;
  let count = 0;
  while (performance.now() < from + durationMs) {
    const client = open();
    await client.health();
    client.close();
    if (performance.now() >= from) count += 1;
  }
  console.log(JSON.stringify({ rate: (count * 1000) / durationMs }));
}

async function stats(clients: number): Promise<void> {
  let count = 0;
  let synced = 0;
  let allSynced: () => void = () => undefined;
  const ready = new Promise<void>((resolve) => {
    allSynced = resolve;
  });
  const watch = async () => {
    for await (const event of open().stats.stream({ intervalMs: 1000 })) {
      if (event.type === 'stats') count += 1;
      if (event.type !== 'synced') continue;
      synced += 1;
      if (synced === clients) allSynced();
    }
  };
  for (let client = 0; client < clients; client += 1) void watch();
  await ready;
  // The parent asks the daemon what it has spent between these two lines.
  console.log(JSON.stringify({ synced }));
  const before = count;
  await new Promise((resolve) => setTimeout(resolve, durationMs));
  console.log(JSON.stringify({ rate: ((count - before) * 1000) / durationMs }));
}

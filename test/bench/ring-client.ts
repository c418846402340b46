/**
 * A client in a process of its own that looks at every frame of a batch by its offsets.
 * Usage: ring-client ADDRESS SECONDS [latency|idle|many COUNT]; prints frames per second, and how many
 * were lost; with `latency`, microseconds from the guest's event until the frame is here; `idle` never
 * reads; `many` opens so many streams and prints what each gets.
 */
import { type FrameBatchView, XenvifClient } from '@xenvif/client';

const [address = '', secondsText = '1', mode = 'rate', countText = '1'] = process.argv.slice(2);
const durationMs = Number(secondsText) * 1000;
const WARM_UP_MS = 3000;
/** Events before everything on their way has been compiled; what comes after them is warm. */
const WARM_UP_EVENTS = 6000;
const client = new XenvifClient({ address });

if (mode === 'latency') await latency();
else if (mode === 'idle') client.observeBatches('vifs/1.0', { direction: 'from-guest' });
else if (mode === 'many') await many(Number(countText));
else await rate();

async function many(count: number): Promise<void> {
  let frames = 0;
  const streams = Array.from({ length: count }, () =>
    client.observeBatches('vifs/1.0', { direction: 'from-guest' }),
  );
  const taking = streams.map(async (stream) => {
    for await (const batch of stream) {
      frames += batch.count;
      batch.release();
    }
  });
  await new Promise((resolve) => setTimeout(resolve, WARM_UP_MS));
  const from = performance.now();
  frames = 0;
  await new Promise((resolve) => setTimeout(resolve, durationMs));
  const seconds = (performance.now() - from) / 1000;
  console.log(JSON.stringify({ rate: frames / count / seconds }));
  for (const stream of streams) stream.close();
  await Promise.all(taking);
  client.close();
}

async function rate(): Promise<void> {
  const stream = client.observeBatches('vifs/1.0', { direction: 'from-guest' });
  const start = performance.now();
  let from = 0;
  let frames = 0;
  let sum = 0;
  for await (const batch of stream) {
    for (let index = 0; index < batch.count; index += 1) {
      sum += batch.bytes[batch.offset(index)] as number;
    }
    const { count } = batch;
    batch.release();
    const now = performance.now();
    if (from === 0) {
      if (now - start > WARM_UP_MS) from = now;
      continue;
    }
    frames += count;
    if (now - from > durationMs) break;
  }
  const perSecond = frames / ((performance.now() - from) / 1000);
  console.log(JSON.stringify({ rate: perSecond, lost: Number(stream.lost.frames), sum: sum > 0 }));
  client.close();
}

async function latency(): Promise<void> {
  const delays: number[] = [];
  let from = 0;
  for await (const batch of client.observeBatches('vifs/1.0', { direction: 'from-guest' })) {
    addDelaysUs(batch, delays);
    batch.release();
    if (from === 0 && delays.length >= WARM_UP_EVENTS) from = performance.now();
    if (from > 0 && performance.now() - from > durationMs) break;
  }
  const warm = delays.slice(WARM_UP_EVENTS).sort((a, b) => a - b);
  const at = (part: number) => warm[Math.floor((warm.length - 1) * part)];
  console.log(JSON.stringify({ p50: at(0.5), p99: at(0.99), p999: at(0.999) }));
  client.close();
}

/** How long ago the guest sent each frame of the batch. */
function addDelaysUs(batch: FrameBatchView, delays: number[]): void {
  const now = Number(process.hrtime.bigint());
  for (let index = 0; index < batch.count; index += 1) {
    delays.push((now - batch.bytes.readDoubleLE(batch.offset(index) + 14)) / 1000);
  }
}

/**
 * A client in a process of its own that looks at every frame of a batch by its offsets.
 * Usage: ring-client ADDRESS SECONDS; prints frames per second, and how many were lost.
 */
import { XenvifClient } from '@xenvif/client';

const [address = '', seconds = '1'] = process.argv.slice(2);
const WARM_UP_MS = 500;

const client = new XenvifClient({ address });
const stream = client.observeBatches('vifs/1.0', { direction: 'from-guest' });
const start = performance.now();
let from = 0;
let frames = 0;
let sum = 0;
for await (const batch of stream) {
  for (let index = 0; index < batch.count; index += 1) {
    sum += batch.bytes[batch.offset(index)] as number;
  }
  const now = performance.now();
  if (from === 0) {
    if (now - start > WARM_UP_MS) from = now;
    continue;
  }
  frames += batch.count;
  if (now - from > Number(seconds) * 1000) break;
}
const rate = frames / ((performance.now() - from) / 1000);
console.log(JSON.stringify({ rate, lost: Number(stream.lost.frames), sum: sum > 0 }));
client.close();

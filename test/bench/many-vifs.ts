/**
 * What a daemon with many vifs pays for each: processor time for a frame when all of them are busy,
 * memory, and the time of a handshake. All in one process; what the guests take is not counted but for
 * handshakes.
 * Usage: many-vifs COUNT SECONDS; prints { "ns": for a frame, "bytes": of a vif, "handshakes": a second }.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { VifFarm } from './vif-farm.js';

const FRAME_BYTES = 64;

const [vifs = 1, seconds = 1] = process.argv.slice(2).map(Number);
setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

/** Memory in use: of the process, and of what grant copies reach. */
function bytesInUse({ xen }: VifFarm): number {
  collectGarbage();
  const { arrayBuffers, heapUsed } = process.memoryUsage();
  return heapUsed + arrayBuffers + xen.memory.allocatedBytes;
}

const farm = await VifFarm.open(vifs, FRAME_BYTES);
const { guests, netback } = farm;

let awaited = 0;
let allTaken: () => void = () => undefined;
for (const device of netback.list()) {
  device.listenBatch(({ count }) => {
    awaited -= count;
    if (awaited === 0) allTaken();
  });
}

/** Processor time of this process, in nanoseconds. */
function spentNs(): number {
  const { system, user } = process.cpuUsage();
  return (system + user) * 1000;
}

/** Has every guest fill its ring again and again; nanoseconds a frame from then until it is taken. */
async function run(forMs: number): Promise<number> {
  let spent = 0;
  let frames = 0;
  const end = performance.now() + forMs;
  while (performance.now() < end) {
    const taken = new Promise<void>((resolve) => {
      allTaken = resolve;
    });
    awaited = 0;
    for (const guest of guests) {
      awaited += guest.turn();
      guest.awaitRoom();
    }
    frames += awaited;
    const startNs = spentNs();
    await taken;
    // The answers to the last batches are written behind the listeners.
    await new Promise((resolve) => setImmediate(resolve));
    spent += spentNs() - startNs;
  }
  return spent / frames;
}

await run(seconds * 500);
const ns = await run(seconds * 1000);
const before = bytesInUse(farm);
await netback.stop({ closeDevices: false, closeTimeoutMs: 0 });
const bytes = (before - bytesInUse(farm)) / vifs;
const handshakes = (vifs * 1000) / farm.handshakesMs;
console.log(JSON.stringify({ ns, bytes, handshakes }));
process.exit(0);

/**
 * What a frame costs on its ring, without any socket: netback takes requests off an emulated ring,
 * copies the frames and answers. The guest's part, writing the requests, is not counted.
 * Usage: ring-cost FRAME_BYTES SECONDS [observe]; prints { "ns": nanoseconds a frame }.
 *
 * With `observe`, an observer's stream packs the frames into messages as well, which nobody gets.
 */
import { pino } from 'pino';
import { Netback } from '../../dist/device/netback/index.js';
import { plugVif } from '../../dist/device/netback/toolstack.js';
import { OverflowPolicy } from '../../dist/gen/xenvif/v1/frame_service.js';
import { FrameStream } from '../../dist/service/frame-stream.js';
import { Hypervisor } from '../../dist/xen/emulated/index.js';
import { RingGuest } from './ring-guest.js';

const [frameBytesText, secondsText, mode] = process.argv.slice(2);
const frameBytes = Number(frameBytesText);
const durationMs = Number(secondsText) * 1000;

/** Events wait here, so that the guest's time and netback's can be told apart. */
let due: (() => void) | undefined;
const deliverDue = () => {
  const deliver = due;
  due = undefined;
  deliver?.();
  return deliver !== undefined;
};
const hypervisor = new Hypervisor({
  schedule: (deliver) => {
    due = deliver;
  },
});
const xen = await hypervisor.dom0.open({ localMemoryBytes: 64 * 1024 * 1024 });
const netback = new Netback(xen, pino({ level: 'silent' }));
await netback.start();
const guest = await hypervisor.createDomain();
const guestXen = await guest.open({ localMemoryBytes: 4096 * 64 });
const vif = { backendDomid: 0, domid: guest.domid, handle: 0, mac: '00:16:3e:00:00:01', mtu: 1500 };
await plugVif(xen.store, { ...vif, labels: {}, uid: 'bench' });
const pause = () => new Promise((resolve) => setTimeout(resolve, 1));
while (netback.get(guest.domid, 0)?.status.backendState !== 2) await pause();
const producer = await RingGuest.connect(guestXen, [frameBytes]);
while (netback.get(guest.domid, 0)?.status.backendState !== 4) await pause();
await pause();

const nextRound = () => new Promise((resolve) => setImmediate(resolve));

let sum = 0;
if (mode === 'observe') {
  const stream = new FrameStream(
    { direction: 0, snaplen: 65535, sampleOneIn: 1 },
    {
      memory: xen.memory,
      chunk: { bytes: 65536, frames: 2048 },
      lingerMs: 0,
      queueBytes: 4 * 1024 * 1024,
      inFlightBytes: 1024 * 1024,
      policy: OverflowPolicy.DROP_OLDEST,
      creditBytes: undefined,
      framesMax: 0,
      write: (message, done) => {
        sum += Buffer.isBuffer(message) ? message.length : 0;
        done();
      },
      end: () => undefined,
    },
  );
  netback.get(guest.domid, 0)?.observeBatch((batch) => stream.push(batch, 0));
}

/**
 * Nanoseconds that netback took for a frame: the median over rings full of them, so that it does not
 * count what else the machine did.
 */
async function run(forMs: number): Promise<number> {
  const end = performance.now() + forMs;
  const costs: number[] = [];
  for (let now = performance.now(); now < end; ) {
    const frames = producer.turn();
    producer.awaitRoom();
    const start = performance.now();
    while (deliverDue());
    now = performance.now();
    costs.push(((now - start) * 1e6) / frames);
    // Queues have a slice of each round of the event loop; each ring here has a round of its own.
    await nextRound();
  }
  return costs.sort((a, b) => a - b)[costs.length >> 1] ?? Number.NaN;
}

await run(durationMs / 2);
const ns = await run(durationMs);
console.log(JSON.stringify({ ns, sum: sum > 0 }));
process.exit(0);

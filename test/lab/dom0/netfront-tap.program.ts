/**
 * Runs in dom0: our netfront, joined by the hub to a TAP of dom0's kernel. What the backend of the
 * vif sends comes out of the TAP, and the other way. Answers questions as vif-answers.mjs does, and
 * gives everything up, in order, when its input ends.
 *
 *     node netfront-tap.mjs TAP QUEUES
 */
import { createInterface } from 'node:readline';
import { pino } from 'pino';
import type { NetfrontDevice } from '../../../src/device/netfront/device.js';
import { Netfront } from '../../../src/device/netfront/index.js';
import { TapDevice } from '../../../src/device/tap/index.js';
import { openNativeXen } from '../../../src/xen/native/index.js';
import { Hub } from '../../support/hub.js';

interface Question {
  readonly id: number;
  readonly question: string;
}

const [name = 'tap0', queues = '1'] = process.argv.slice(2);
const logger = pino({ level: 'info' }, pino.destination(2));
const xen = await openNativeXen({ logger });
const tap = TapDevice.open({ memory: xen.memory, name, mtu: 9000 });
const hub = new Hub();
hub.plug(tap);
let nic: NetfrontDevice | undefined;
const netfront = new Netfront(
  xen,
  logger,
  (device) => {
    nic = device;
    hub.plug(device);
  },
  { queuesMax: Number(queues) },
);
await netfront.start();

const dropsOf = (counters: { readonly drops: ReadonlyMap<string, { packets: number }> }) =>
  [...counters.drops].map(([cause, { packets }]) => ({ cause, packets }));

/** The state of the device, as `NetfrontView` in netfront.test.ts has it. */
function view(): unknown {
  if (nic === undefined) return { connected: false };
  const { connected, carrier, mac, mtu, features, fault, quarantinedPages, metrics } = nic;
  return {
    ...{ connected, carrier, mac, mtu, features, fault, quarantinedPages },
    queues: metrics.queues.map(({ tx, rx }) => ({ tx: tx.packets, rx: rx.packets })),
    drops: [...dropsOf(metrics.tx), ...dropsOf(metrics.rx)],
    tapDrops: [...dropsOf(tap.metrics.tx), ...dropsOf(tap.metrics.rx)],
    residentMiB: Math.round(process.memoryUsage.rss() / 1_048_576),
  };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id } = JSON.parse(line) as Question;
  console.log(JSON.stringify({ id, value: view() }));
}
await netfront.stop();
await tap.disconnect();
await xen.close();

/**
 * Frames of one guest through the switch into another guest's buffers, all in one process, which is
 * never idle. Seconds are of its processor time, so that what else the machine does counts for nothing.
 * Usage: vif-to-vif FRAME_BYTES SECONDS; prints { "rate": frames a second that arrived }.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { pino } from 'pino';
import { Netback } from '../../dist/device/netback/index.js';
import { plugVif } from '../../dist/device/netback/toolstack.js';
import { Switch } from '../../dist/switch/switch.js';
import { Hypervisor } from '../../dist/xen/emulated/index.js';
import { RingGuest } from './ring-guest.js';

const [frameBytes = 64, seconds = 1] = process.argv.slice(2).map(Number);
const hypervisor = new Hypervisor();
const xen = await hypervisor.dom0.open({ localMemoryBytes: 64 * 1024 * 1024 });
const netback = new Netback(xen, pino({ level: 'silent' }));
await netback.start();
const device = new Switch(xen.memory);

async function connect(last: number): Promise<RingGuest> {
  const domain = await hypervisor.createDomain();
  const guestXen = await domain.open({ localMemoryBytes: 4096 * 64 });
  const mac = `00:16:3e:00:00:0${last}`;
  const vif = { backendDomid: 0, domid: domain.domid, handle: 0, mac, mtu: 1500 };
  await plugVif(xen.store, { ...vif, labels: {}, uid: mac });
  const found = () => netback.get(domain.domid, 0);
  while (found()?.status.backendState !== 2) await pause(1);
  const guest = await RingGuest.connect(guestXen, [frameBytes], last);
  while (found()?.status.backendState !== 4) await pause(1);
  const network = found();
  if (network !== undefined) device.plug(`guest-${last}`, network);
  return guest;
}

const sender = await connect(1);
const receiver = await connect(2);
// The receiver says who it is.
receiver.kick();
await pause(10);
sender.onRoom = () => {
  sender.turn();
  sender.awaitRoom();
};
sender.onRoom();

/** Processor time of this process, in seconds. */
function spent(): number {
  const { system, user } = process.cpuUsage();
  return (system + user) / 1e6;
}

/** Lets the frames go on for so many seconds; returns how many those were. */
async function goOn(forSeconds: number): Promise<number> {
  const start = spent();
  while (spent() < start + forSeconds) await pause(1);
  return spent() - start;
}

await goOn(Math.max(0.5, seconds / 2));
const before = receiver.received;
const took = await goOn(seconds);
const rate = (receiver.received - before) / took;
console.log(JSON.stringify({ rate, dropped: sender.sent - receiver.received }));
process.exit(0);

/**
 * The product's own path between an emulated ring and a socket, through netback and FrameService.
 * Usage: ring-server FRAME_BYTES|imix [receive|kick MICROSECONDS PROCESSOR]; prints the address and serves
 * until its parent ends it. The guest sends frames to who observes it; with `receive` it only takes what is
 * sent to it, and with `kick` a thread on that processor has it send one frame, with the time in it, every
 * so many microseconds. Asked by a line on its standard input, it prints { sent, received, ms, cpuMs,
 * rssBytes }.
 */
import { pino } from 'pino';
import { loadConfig } from '../../dist/config.js';
import { Netback } from '../../dist/device/netback/index.js';
import { plugVif } from '../../dist/device/netback/toolstack.js';
import { GrpcServer } from '../../dist/service/server.js';
import { Switches } from '../../dist/switch/switches.js';
import { Hypervisor } from '../../dist/xen/emulated/index.js';
import { sizesOf } from './frame-sizes.js';
import { startKicks } from './kicker.js';
import { RingGuest } from './ring-guest.js';

/**
 * Frames are made while less than this waits, so that what is measured is delivery, not loss; enough
 * to last while the server sleeps, for a millisecond and what a busy machine adds.
 */
const WAITING_BYTES_MAX = 3 * 1024 * 1024;
const LOCAL_MEMORY_BYTES = 64 * 1024 * 1024;

const [sizesText = '64', mode = 'send', intervalText = '1000', processorText = '0'] =
  process.argv.slice(2);
const sizes = sizesOf(sizesText);
const logger = pino({ level: 'silent' });
/** Events of a kick that wait to be delivered: they come with the descriptor, as Xen's do. */
let kicked: (() => void) | undefined;
let isKicking = false;
const hypervisor = new Hypervisor({
  schedule: (deliver) => {
    if (isKicking) kicked = deliver;
    else setImmediate(deliver);
  },
});
const xen = await hypervisor.dom0.open({ localMemoryBytes: LOCAL_MEMORY_BYTES });
const netback = new Netback(xen, logger);
const switches = new Switches({ xen, netback, logger, policyOf: () => ({}) });
const server = new GrpcServer(xen, netback, switches, loadConfig({ tcp: 'off' }), logger);
const port = await server.listen('127.0.0.1:0');
await netback.start();
const guest = await hypervisor.createDomain();
const guestXen = await guest.open({ localMemoryBytes: 4096 * 64 });
const vif = { backendDomid: 0, domid: guest.domid, handle: 0, mac: '00:16:3e:00:00:01', mtu: 1500 };
await plugVif(xen.store, { ...vif, labels: {}, uid: 'bench' });
while (netback.get(guest.domid, 0)?.status.backendState !== 2) {
  await new Promise((resolve) => setTimeout(resolve, 1));
}
const ring = await RingGuest.connect(guestXen, sizes);

/** Sends while somebody listens and keeps up; looks again in a millisecond while nobody does. */
function send(): void {
  if (server.frames.streams > 0 && server.frames.leastWaitingBytes < WAITING_BYTES_MAX) {
    ring.turn();
    ring.awaitRoom();
  } else {
    ring.onRoom = () => undefined;
    // What is on its way lasts longer; a server that spins takes a processor from its client.
    setTimeout(() => {
      ring.onRoom = send;
      send();
    }, 1);
  }
}
if (mode === 'send') {
  ring.onRoom = send;
  send();
}
if (mode === 'kick') {
  startKicks(Number(intervalText), Number(processorText), (sentNs) => {
    isKicking = true;
    ring.kick(sentNs);
    isKicking = false;
    kicked?.();
    kicked = undefined;
  });
}

process.stdin.on('data', () => {
  const { system, user } = process.cpuUsage();
  const { received, sent } = ring;
  const cpuMs = (system + user) / 1000;
  const rssBytes = process.memoryUsage.rss();
  console.log(JSON.stringify({ sent, received, ms: performance.now(), cpuMs, rssBytes }));
});
process.on('SIGINT', () => process.exit(0));
console.log(`127.0.0.1:${port}`);

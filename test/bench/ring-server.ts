/**
 * The product's own path, from an emulated ring through netback and FrameService to a socket.
 * Usage: ring-server FRAME_BYTES; prints the address and serves until its parent ends it.
 */
import { pino } from 'pino';
import { loadConfig } from '../../dist/config.js';
import { Netback } from '../../dist/device/netback/index.js';
import { plugVif } from '../../dist/device/netback/toolstack.js';
import { GrpcServer } from '../../dist/service/server.js';
import { Switches } from '../../dist/switch/switches.js';
import { Hypervisor } from '../../dist/xen/emulated/index.js';
import { RingProducer } from './ring-producer.js';

/** Frames are made while less than this waits, so that what is measured is delivery, not loss. */
const WAITING_BYTES_MAX = 1024 * 1024;
const LOCAL_MEMORY_BYTES = 64 * 1024 * 1024;

const frameBytes = Number(process.argv[2]);
const logger = pino({ level: 'silent' });
const hypervisor = new Hypervisor();
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
const producer = await RingProducer.connect(guestXen, frameBytes);

/** Sends while somebody listens and keeps up; looks again at every turn while nobody does. */
function send(): void {
  if (server.frames.streams > 0 && server.frames.waitingBytes < WAITING_BYTES_MAX) {
    producer.turn();
    producer.awaitRoom();
  } else {
    setImmediate(send);
  }
}
producer.onRoom = send;
send();
process.on('SIGUSR2', () =>
  process.stderr.write(`${JSON.stringify(process.cpuUsage())} ${producer.sent}\n`),
);
console.log(`127.0.0.1:${port}`);

/**
 * A whole daemon on a machine with many guests and not one vif: whoever asks makes them. Each guest
 * connects interfaces as they are plugged in, at the price of a few pages, and sends nothing.
 * Usage: declared-daemon GUESTS VIFS_PER_GUEST SOCKET; prints the address and serves until its parent ends
 * it. Asked by a line on its standard input, it prints { connected, cpuMs, rssBytes, usedBytes }: vifs,
 * processor time of it and its guests, and memory, without garbage in the last.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { pino } from 'pino';
import { loadConfig } from '../../dist/config.js';
import { Daemon } from '../../dist/daemon.js';
import { Hypervisor } from '../../dist/xen/emulated/index.js';
import type { Xen } from '../../dist/xen/xen.js';
import { RingGuest } from './ring-guest.js';

const LOCAL_MEMORY_BYTES = 64 * 1024 * 1024;
const MACHINE_BYTES = 512 * 1024 * 1024;
/** For what a guest sends and for what it receives. */
const PAGES_PER_VIF = 1;
const FRAME_BYTES = 64;
const INIT_WAIT = '2';

const [guestsText = '1', vifsText = '1', socket = ''] = process.argv.slice(2);
setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;
const logger = pino({ level: 'silent' });
const hypervisor = new Hypervisor({ memoryBytes: MACHINE_BYTES });
const xen = await hypervisor.dom0.open({ localMemoryBytes: LOCAL_MEMORY_BYTES });
for (let guest = 1; guest <= Number(guestsText); guest += 1) {
  const domain = await hypervisor.createDomain({ name: `guest${guest}` });
  const guestXen = await domain.open({ localMemoryBytes: 4096 });
  for (let handle = 0; handle < Number(vifsText); handle += 1) await connectOnce(guestXen, handle);
}
const config = loadConfig({ xen: 'emulated', socket, tcp: 'off' });
const daemon = await Daemon.start({ xen, config, logger, socket });

/** Shakes hands for an interface as soon as its backend has made its offer. */
async function connectOnce(guestXen: Xen, handle: number): Promise<void> {
  const { domid, store } = guestXen;
  const state = `/local/domain/0/backend/vif/${domid}/${handle}/state`;
  let isTaken = false;
  const look = async () => {
    // Before there is an interface, it is not the guest's to read either.
    const value = await store.readIfExists(state).catch(() => undefined);
    if (value !== INIT_WAIT || isTaken) return;
    isTaken = true;
    await RingGuest.connect(guestXen, [FRAME_BYTES], 1, { handle, pages: PAGES_PER_VIF });
  };
  await store.watch(state, () => void look());
}

process.stdin.on('data', () => {
  const { system, user } = process.cpuUsage();
  const { rss } = process.memoryUsage();
  collectGarbage();
  const { arrayBuffers, heapUsed } = process.memoryUsage();
  const vifs = daemon.netback.list();
  const answer = {
    connected: vifs.filter(({ status }) => status.phase === 'connected').length,
    cpuMs: (system + user) / 1000,
    rssBytes: rss,
    usedBytes: heapUsed + arrayBuffers,
  };
  console.log(JSON.stringify(answer));
});
console.log(`unix:${socket}`);

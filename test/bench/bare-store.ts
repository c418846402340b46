/**
 * What vifs take that are only written: transactions in an emulated XenStore, with nobody who serves them.
 * Usage: bare-store GUESTS VIFS_PER_GUEST; prints { ms, cpuMs }.
 */
import { randomUUID } from 'node:crypto';
import { plugVif } from '../../dist/device/netback/toolstack.js';
import { Hypervisor } from '../../dist/xen/emulated/index.js';

const MIB = 1024 * 1024;
/** As many as `xenvif apply` has under way. */
const AT_ONCE = 8;

const [guests = 1, vifs = 1] = process.argv.slice(2).map(Number);
const hypervisor = new Hypervisor();
const xen = await hypervisor.dom0.open({ localMemoryBytes: MIB });
const queue: { readonly domid: number; readonly handle: number }[] = [];
for (let guest = 0; guest < guests; guest += 1) {
  const { domid } = await hypervisor.createDomain();
  for (let handle = 0; handle < vifs; handle += 1) queue.push({ domid, handle });
}

async function work(): Promise<void> {
  for (let place = queue.shift(); place !== undefined; place = queue.shift()) {
    const mac = '00:16:3e:00:00:01';
    const vif = { backendDomid: 0, mac, mtu: 1500, labels: {}, uid: randomUUID(), ...place };
    await plugVif(xen.store, vif);
  }
}

const before = process.cpuUsage();
const startMs = performance.now();
await Promise.all(Array.from({ length: AT_ONCE }, work));
const { system, user } = process.cpuUsage(before);
console.log(JSON.stringify({ ms: performance.now() - startMs, cpuMs: (system + user) / 1000 }));
process.exit(0);

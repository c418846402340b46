/**
 * Guests for an emulated Xen, so that a newcomer sees living traffic: each is a domain with a
 * netfront and a small host, 10.0.0.1 and on, and pings the next one once a second.
 */
import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import { plugVif } from '../device/netback/toolstack.js';
import { Netfront } from '../device/netfront/index.js';
import type { Hypervisor } from '../xen/emulated/index.js';
import type { Store, Xen } from '../xen/xen.js';
import { Host } from './host.js';

const PING_INTERVAL_MS = 1000;
const GUEST_MEMORY_BYTES = 1024 * 1024;

export class DemoGuests {
  readonly #hypervisor: Hypervisor;
  readonly #logger: Logger;
  readonly #running: { xen: Xen; netfront: Netfront; hosts: Host[] }[] = [];

  constructor(hypervisor: Hypervisor, logger: Logger) {
    this.#hypervisor = hypervisor;
    this.#logger = logger;
  }

  /** Makes `count` guests, each with a vif whose backend is domain 0. */
  async start(store: Store, count: number): Promise<void> {
    for (let index = 1; index <= count; index += 1) {
      const domain = await this.#hypervisor.createDomain({ name: `guest${index}` });
      const xen = await domain.open({ localMemoryBytes: GUEST_MEMORY_BYTES });
      await plugVif(store, {
        backendDomid: 0,
        domid: domain.domid,
        handle: 0,
        mac: `00:16:3e:00:00:${index.toString(16).padStart(2, '0')}`,
        mtu: 1500,
        labels: { demo: 'true' },
        uid: randomUUID(),
      });
      const hosts: Host[] = [];
      const target = index === count ? 1 : index + 1;
      const netfront = new Netfront(xen, this.#logger, (device) => {
        const host = new Host(device, addressOf(index));
        hosts.push(host);
        if (device.handle === 0 && count > 1)
          host.startPinging(addressOf(target), PING_INTERVAL_MS);
      });
      await netfront.start();
      this.#running.push({ xen, netfront, hosts });
    }
  }

  async stop(): Promise<void> {
    for (const { hosts } of this.#running) for (const host of hosts) host.stop();
    await Promise.all(this.#running.map(({ netfront }) => netfront.stop()));
    await Promise.all(this.#running.map(({ xen }) => xen.close()));
  }
}

function addressOf(index: number): Uint8Array {
  return Uint8Array.of(10, 0, 0, index);
}

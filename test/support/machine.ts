/**
 * An emulated machine with our backend in domain 0 and guests of ours: what most tests of devices
 * start from. `end` takes everything down in order and fails on whatever was left behind.
 */
import { randomUUID } from 'node:crypto';
import { pino } from 'pino';
import { Netback } from '../../src/device/netback/index.js';
import { plugVif } from '../../src/device/netback/toolstack.js';
import type { NetfrontDevice } from '../../src/device/netfront/device.js';
import { Netfront } from '../../src/device/netfront/index.js';
import { Switches } from '../../src/switch/switches.js';
import { type Domain, Hypervisor } from '../../src/xen/emulated/index.js';
import type { Xen } from '../../src/xen/xen.js';
import { joinToHub } from './hub-ports.js';

export const silent = pino({ level: 'silent' });
const WAIT_MS = 5000;

/** Waits until `condition` holds; fails with `what` when it does not within five seconds. */
export async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = performance.now() + WAIT_MS;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`Not within ${WAIT_MS} ms: ${what}.`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

export interface GuestUnderTest {
  readonly domain: Domain;
  readonly xen: Xen;
  readonly netfront: Netfront;
  /** Interface 0, connected. */
  readonly device: NetfrontDevice;
}

export class Machine {
  readonly hypervisor: Hypervisor;
  xen: Xen;
  netback: Netback;
  readonly guests: GuestUnderTest[] = [];
  #onBackend: (netback: Netback) => void = () => undefined;

  private constructor(hypervisor: Hypervisor, xen: Xen, netback: Netback) {
    this.hypervisor = hypervisor;
    this.xen = xen;
    this.netback = netback;
  }

  static async start(): Promise<Machine> {
    const hypervisor = new Hypervisor();
    const xen = await hypervisor.dom0.open();
    const netback = new Netback(xen, silent);
    await netback.start();
    return new Machine(hypervisor, xen, netback);
  }

  /** Plugs a vif into a domain, as a toolstack does. */
  async plug(domid: number, handle = 0): Promise<void> {
    await plugVif(this.xen.store, {
      backendDomid: 0,
      domid,
      handle,
      mac: `00:16:3e:00:${handle.toString(16).padStart(2, '0')}:${domid.toString(16).padStart(2, '0')}`,
      mtu: 1500,
      labels: {},
      uid: randomUUID(),
    });
  }

  /** A guest with interface 0 connected to our backend. */
  async addGuest(): Promise<GuestUnderTest> {
    const domain = await this.hypervisor.createDomain();
    const xen = await domain.open({ localMemoryBytes: 4 * 1024 * 1024 });
    const netfront = new Netfront(xen, silent, () => undefined);
    await netfront.start();
    await this.plug(domain.domid);
    await until('the guest connects', () => netfront.get(0)?.connected === true);
    const device = netfront.get(0);
    if (device === undefined) throw new Error('The guest has no interface.');
    const guest = { domain, xen, netfront, device };
    this.guests.push(guest);
    return guest;
  }

  /** Switches that were not started, and so have nothing plugged in. */
  switches(): Switches {
    const { netback, xen } = this;
    return new Switches({ xen, netback, logger: silent, policyOf: () => ({}) });
  }

  /** Makes every vif a port of a hub, as the daemon does. */
  joinToHub(): void {
    this.#onBackend = joinToHub;
    joinToHub(this.netback);
  }

  /** Stops the backend as SIGTERM does, and starts the next one on the same machine. */
  async restartBackend(): Promise<void> {
    await this.netback.stop({ closeDevices: false, closeTimeoutMs: 0 });
    await this.xen.close();
    this.xen = await this.hypervisor.dom0.open();
    this.netback = new Netback(this.xen, silent);
    this.#onBackend(this.netback);
    await this.netback.start();
  }

  async end(): Promise<void> {
    for (const guest of this.guests) {
      await guest.netfront.stop();
      await guest.xen.close();
    }
    await this.netback.stop({ closeDevices: false, closeTimeoutMs: 0 });
    await this.xen.close();
    this.hypervisor.assertNoLeaks();
    await this.hypervisor.shutdown();
  }
}

/**
 * Guests for an emulated Xen, so that a newcomer sees living traffic: each is a domain with a
 * netfront and the user-space IPv4 stack on it, 10.0.0.1 and on, and pings the next one once a second.
 */
import { randomUUID } from 'node:crypto';
import { Stack } from '@xenvif/client/stack';
import type { Logger } from 'pino';
import { plugVif } from '../device/netback/toolstack.js';
import type { NetfrontDevice } from '../device/netfront/device.js';
import { Netfront } from '../device/netfront/index.js';
import { NetworkLink } from '../stack/network-link.js';
import type { Hypervisor } from '../xen/emulated/index.js';
import type { Store, Xen } from '../xen/xen.js';

const PING_INTERVAL_MS = 1000;
const GUEST_MEMORY_BYTES = 2 * 1024 * 1024;
const SEND_BYTES = 256 * 1024;

export class DemoGuests {
  readonly #hypervisor: Hypervisor;
  readonly #logger: Logger;
  readonly #running: Guest[] = [];

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
      const guest = new Guest(xen, this.#logger, index, index === count ? 1 : index + 1);
      this.#running.push(guest);
      await guest.start();
    }
  }

  async stop(): Promise<void> {
    await Promise.all(this.#running.map((guest) => guest.stop()));
  }
}

/** A domain whose every interface is a host: the first at 10.0.0.N, the next at 10.0.1.N and so on. */
class Guest {
  readonly #xen: Xen;
  readonly #index: number;
  readonly #target: number;
  readonly #netfront: Netfront;
  /** By the handle of the interface: one that is plugged in again is a new host. */
  readonly #hosts = new Map<number, Stack>();
  readonly #ending = new AbortController();

  constructor(xen: Xen, logger: Logger, index: number, target: number) {
    this.#xen = xen;
    this.#index = index;
    this.#target = target;
    this.#netfront = new Netfront(xen, logger, (device) => this.#plugged(device));
  }

  start(): Promise<void> {
    return this.#netfront.start();
  }

  async stop(): Promise<void> {
    this.#ending.abort();
    for (const host of this.#hosts.values()) await host.disconnect();
    await this.#netfront.stop();
    await this.#xen.close();
  }

  #plugged(device: NetfrontDevice): void {
    const { handle } = device;
    const before = this.#hosts.get(handle);
    const link = new NetworkLink(device, { memory: this.#xen.memory, sendBytes: SEND_BYTES });
    const host = Stack.connect(link, { cidr: `10.0.${handle & 255}.${this.#index}/24` });
    this.#hosts.set(handle, host);
    void before?.disconnect();
    if (handle === 0 && this.#target !== this.#index) void this.#ping(host);
  }

  async #ping(host: Stack): Promise<void> {
    const options = { intervalMs: PING_INTERVAL_MS, signal: this.#ending.signal };
    try {
      for await (const _ of host.ping(`10.0.0.${this.#target}`, options)) {
        // It is for the traffic's sake, until the host has been unplugged.
        if (this.#hosts.get(0) !== host) return;
      }
    } catch (error) {
      if (!this.#ending.signal.aborted) throw error;
    }
  }
}

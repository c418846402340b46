/**
 * Many guests that connect every vif they are given, at the price of two pages and a port each: the
 * handshake and the rings are real, and nothing is sent.
 */
import type { Domain, Hypervisor } from '../../src/xen/emulated/index.js';
import type { Xen } from '../../src/xen/xen.js';
import { HostileGuest } from '../hostile/guest.js';

const LOCAL_MEMORY_BYTES = 65536;
const INIT_WAIT = '2';
const CLOSING = '5';

export class Crowd {
  readonly domains: Domain[] = [];
  readonly #processes: { readonly xen: Xen; readonly frontends: HostileGuest[] }[] = [];

  /** Adds a guest that connects interfaces 0 to `vifs - 1` whenever they are plugged in. */
  async add(hypervisor: Hypervisor, name: string, vifs: number): Promise<Domain> {
    const domain = await hypervisor.createDomain({ name });
    const xen = await domain.open({ localMemoryBytes: LOCAL_MEMORY_BYTES });
    const frontends: HostileGuest[] = [];
    for (let handle = 0; handle < vifs; handle += 1) {
      const frontend = new HostileGuest(domain, xen, handle);
      frontends.push(frontend);
      await follow(frontend);
    }
    this.domains.push(domain);
    this.#processes.push({ xen, frontends });
    return domain;
  }

  /** Frontends that have connected. */
  get connected(): number {
    const all = this.#processes.flatMap(({ frontends }) => frontends);
    return all.filter(({ queues }) => queues.length > 0).length;
  }

  async end(): Promise<void> {
    for (const { frontends, xen } of this.#processes) {
      for (const frontend of frontends) frontend.forget();
      await (xen as Awaited<ReturnType<Domain['open']>>).kill();
    }
  }
}

/** Connects when the backend offers, and lets go when it closes. */
async function follow(frontend: HostileGuest): Promise<void> {
  const { store } = frontend.xen;
  const state = `/local/domain/0/backend/vif/${frontend.domid}/${frontend.handle}/state`;
  let busy = Promise.resolve();
  const look = async () => {
    const value = await store.readIfExists(state).catch(() => undefined);
    if (value === INIT_WAIT && frontend.queues.length === 0) await frontend.shake();
    if (value !== CLOSING || frontend.queues.length === 0) return;
    await frontend.setState('6').catch(() => undefined);
    frontend.forget();
  };
  await store.watch(state, () => {
    busy = busy.then(look).catch(() => undefined);
  });
}

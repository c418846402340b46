/**
 * Many vifs of one daemon on an emulated Xen, each with a guest that has shaken hands and can send and
 * receive. Guests have several vifs each, and few pages for each of them.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { pino } from 'pino';
import { Netback } from '../../dist/device/netback/index.js';
import { plugVif } from '../../dist/device/netback/toolstack.js';
import { Hypervisor } from '../../dist/xen/emulated/index.js';
import type { Xen } from '../../dist/xen/xen.js';
import { RingGuest } from './ring-guest.js';

const VIFS_PER_GUEST = 20;
/** Guests whose vifs are plugged in side by side. */
const GUESTS_AT_ONCE = 4;
const PAGES_PER_VIF = 8;
const LOCAL_MEMORY_BYTES = 64 * 1024 * 1024;
const MACHINE_BYTES = 512 * 1024 * 1024;
const INIT_WAIT = 2;
const CONNECTED = 4;

export const logger = pino({ level: 'silent' });

export class VifFarm {
  readonly hypervisor: Hypervisor;
  readonly xen: Awaited<ReturnType<Hypervisor['dom0']['open']>>;
  readonly netback: Netback;
  /** In the order of their stations, from 1 on: each sends to its neighbour, 1 to 2 and 2 to 1. */
  readonly guests: RingGuest[] = [];
  /** How long it took until all were connected. */
  handshakesMs = 0;

  private constructor(hypervisor: Hypervisor, xen: VifFarm['xen']) {
    this.hypervisor = hypervisor;
    this.xen = xen;
    this.netback = new Netback(xen, logger);
  }

  static async open(vifs: number, frameBytes: number): Promise<VifFarm> {
    const hypervisor = new Hypervisor({ memoryBytes: MACHINE_BYTES });
    const xen = await hypervisor.dom0.open({ localMemoryBytes: LOCAL_MEMORY_BYTES });
    const farm = new VifFarm(hypervisor, xen);
    await farm.netback.start();
    const waiting: (() => Promise<void>)[] = [];
    const plugGuest = async (first: number) => {
      const domain = await hypervisor.createDomain();
      const guestXen = await domain.open({ localMemoryBytes: 4096 });
      for (let station = first; station < first + VIFS_PER_GUEST && station <= vifs; station += 1) {
        const handle = station - first;
        await farm.#plug(guestXen.domid, handle, station);
        waiting.push(() => farm.#connect(guestXen, handle, station, frameBytes));
      }
    };
    for (let first = 1; first <= vifs; first += VIFS_PER_GUEST * GUESTS_AT_ONCE) {
      const firsts = Array.from({ length: GUESTS_AT_ONCE }, (_, at) => first + at * VIFS_PER_GUEST);
      await Promise.all(firsts.map((each) => plugGuest(each)));
    }
    const startMs = performance.now();
    await Promise.all(waiting.map((connect) => connect()));
    farm.handshakesMs = performance.now() - startMs;
    return farm;
  }

  /** Plugs a vif in, and waits until its backend has made its offer. */
  async #plug(domid: number, handle: number, station: number): Promise<void> {
    const bytes = [0, 0x16, 0x3e, 0, station >>> 8, station & 0xff];
    const mac = bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(':');
    const vif = { backendDomid: 0, domid, handle, mac, mtu: 1500, labels: {}, uid: mac };
    await plugVif(this.xen.store, vif);
    while (this.#state(domid, handle) !== INIT_WAIT) await pause(1);
  }

  async #connect(
    guestXen: Xen,
    handle: number,
    station: number,
    frameBytes: number,
  ): Promise<void> {
    const place = { handle, pages: PAGES_PER_VIF, to: ((station - 1) ^ 1) + 1 };
    this.guests[station - 1] = await RingGuest.connect(guestXen, [frameBytes], station, place);
    while (this.#state(guestXen.domid, handle) !== CONNECTED) await pause(1);
  }

  #state(domid: number, handle: number): number | undefined {
    return this.netback.get(domid, handle)?.status.backendState;
  }
}

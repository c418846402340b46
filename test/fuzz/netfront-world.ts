/**
 * What a case against our netfront runs on: a machine with a backend by hand in a driver domain, and
 * our netfront in a guest, connected anew for each case.
 */
import { FrameBatch } from '../../src/device/frame-batch.js';
import type { NetfrontDevice } from '../../src/device/netfront/device.js';
import type { LocalRegion } from '../../src/xen/local-memory.js';
import { type BackHalf, HostileBackend } from '../hostile/backend.js';
import { Machine } from '../support/machine.js';
import { spin, turn } from './engine.js';
import type { ReceivedFrame } from './model-netfront.js';

const STAGING_BYTES = 128 * 1024;

export class NetfrontWorld {
  readonly machine: Machine;
  readonly backend: HostileBackend;
  readonly received: ReceivedFrame[] = [];
  readonly #staging: LocalRegion;
  #isConnected = false;

  private constructor(machine: Machine, backend: HostileBackend) {
    this.machine = machine;
    this.backend = backend;
    this.#staging = backend.guestXen.memory.allocate(STAGING_BYTES);
    backend.device.listenBatch((batch) => this.#take(batch));
  }

  static async open(): Promise<NetfrontWorld> {
    const machine = await Machine.start();
    return new NetfrontWorld(machine, await HostileBackend.open(machine));
  }

  async close(broken: boolean): Promise<void> {
    if (broken) {
      await this.machine.hypervisor.shutdown();
      return;
    }
    this.#staging.free();
    await this.backend.end();
    const granted = this.backend.grants();
    if (granted.length > 0) throw new Error(`The frontend still grants ${granted.join(', ')}.`);
    await this.machine.end();
  }

  get device(): NetfrontDevice {
    return this.backend.device;
  }

  get rings(): { tx: BackHalf; rx: BackHalf } {
    return this.backend.rings;
  }

  /** Why the frontend has cut us off; undefined while it has not. */
  get killed(): string | undefined {
    return this.device.fault?.code;
  }

  /** Connects with these features, after ending a connection of the case before. */
  async connect(features: Readonly<Record<string, string>>): Promise<void> {
    const { backend } = this;
    if (this.#isConnected) await this.#disconnect();
    this.received.length = 0;
    this.device.resetStats();
    await backend.connect(features);
    this.#isConnected = true;
  }

  /** Writes one frame as a batch, from local memory that is the test's own. */
  send(frame: Uint8Array, flags: number): number {
    const { memory } = this.backend.guestXen;
    memory.bytes.set(frame, this.#staging.offset);
    const batch = new FrameBatch(memory.bytes, 1);
    batch.add(this.#staging.offset, frame.length, flags);
    const outcomes = new Uint8Array(1);
    this.device.writeBatch(batch, outcomes);
    return outcomes[0] as number;
  }

  /** What the guest lets the backend see of a page, as a copy. */
  readPage(gref: number): Uint8Array {
    const { backend } = this;
    const mapped = backend.xen.grants.map(backend.guest.domid, gref, 'read');
    const copy = mapped.page.bytes.slice();
    mapped.unmap();
    return copy;
  }

  /** Fills a page that the guest posted; returns what is in it then. */
  fillPage(gref: number, fill: (bytes: Uint8Array) => void): Uint8Array {
    const { backend } = this;
    const mapped = backend.xen.grants.map(backend.guest.domid, gref, 'write');
    fill(mapped.page.bytes);
    const copy = mapped.page.bytes.slice();
    mapped.unmap();
    return copy;
  }

  /** Frames dropped in a direction, by cause. */
  drops(direction: 'tx' | 'rx'): { cause: string; packets: number }[] {
    return [...this.device.metrics[direction].drops.values()].map(({ cause, packets }) => ({
      cause,
      packets,
    }));
  }

  async #disconnect(): Promise<void> {
    const { backend } = this;
    await backend.setState(5);
    backend.disconnect();
    await backend.untilFrontend('6', '5');
    await backend.setState(6);
    await backend.untilFrontend('6');
    await spin('all grants are ended', () => backend.grants().length === 0);
    await this.device.reconnect();
    await turn();
    this.#isConnected = false;
  }

  #take(batch: FrameBatch): void {
    for (let index = 0; index < batch.count; index += 1) {
      const start = batch.offset(index);
      const flags = batch.flag(index);
      this.received.push({
        bytes: batch.bytes.slice(start, start + batch.length(index)),
        checksumBlank: (flags & 4) !== 0,
        validated: (flags & 8) !== 0,
        gsoType: (flags >>> 4) & 3,
        gsoSize: flags >>> 16,
      });
    }
  }
}

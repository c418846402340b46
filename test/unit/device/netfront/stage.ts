/** A guest of ours whose backend is played by hand: what the tests of the netfront's rings begin with. */
import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import { FrameBatch } from '../../../../src/device/frame-batch.js';
import { plugVif } from '../../../../src/device/netback/toolstack.js';
import { NetfrontDevice } from '../../../../src/device/netfront/device.js';
import type { NetfrontOptions } from '../../../../src/device/netfront/options.js';
import type { EmulatedXen } from '../../../../src/xen/emulated/emulated-xen.js';
import { type Domain, Hypervisor } from '../../../../src/xen/emulated/index.js';
import { silent, until } from '../../../support/machine.js';
import { RawBackend, type RawPacket, type RawQueue } from './raw-backend.js';

export const MAC = '00:16:3e:00:00:01';

export class Stage {
  readonly hypervisor = new Hypervisor();
  readonly #toolstackXen: EmulatedXen;
  readonly #backends: RawBackend[] = [];
  guest!: Domain;
  xen!: EmulatedXen;
  backend!: RawBackend;
  device!: NetfrontDevice;

  private constructor(hypervisor: Hypervisor, toolstackXen: EmulatedXen) {
    this.hypervisor = hypervisor;
    this.#toolstackXen = toolstackXen;
  }

  /** A guest with a vif, and the device opened, but no backend that offers anything yet. */
  static async open(options: NetfrontOptions = {}, logger: Logger = silent): Promise<Stage> {
    const hypervisor = new Hypervisor();
    const stage = new Stage(hypervisor, await hypervisor.dom0.open());
    stage.guest = await hypervisor.createDomain();
    stage.xen = await stage.guest.open({ localMemoryBytes: 2 * 1024 * 1024 });
    stage.backend = await stage.addBackend();
    await stage.plug(stage.backend);
    stage.device = await NetfrontDevice.open(stage.xen, 0, logger, options);
    return stage;
  }

  /** A guest whose device is connected to a backend with `offer`. */
  static async connected(
    options: NetfrontOptions = {},
    offer?: Readonly<Record<string, string>>,
    logger?: Logger,
  ): Promise<Stage> {
    const stage = await Stage.open(options, logger);
    await stage.connect(offer);
    return stage;
  }

  get store() {
    return this.#toolstackXen.store;
  }

  get queue(): RawQueue {
    const [queue] = this.backend.queues;
    if (queue === undefined) throw new Error('The backend is not connected.');
    return queue;
  }

  async connect(offer?: Readonly<Record<string, string>>): Promise<void> {
    await this.backend.connect(offer);
    await until('connected', () => this.device.connected);
  }

  async addBackend(): Promise<RawBackend> {
    const domain = await this.hypervisor.createDomain();
    const xen = await domain.open({ localMemoryBytes: 1024 * 1024 });
    const backend = new RawBackend(this.store, domain, xen, this.guest.domid);
    this.#backends.push(backend);
    return backend;
  }

  async plug(backend: RawBackend, domid = this.guest.domid): Promise<void> {
    await plugVif(this.store, {
      backendDomid: backend.domain.domid,
      domid,
      handle: 0,
      mac: MAC,
      mtu: 1500,
      labels: {},
      uid: randomUUID(),
    });
  }

  /** Writes frames with metadata; returns how many were accepted, and each outcome. */
  writeBatch(frames: readonly Uint8Array[], flags = 0): { accepted: number; outcomes: number[] } {
    const bytes = frames.reduce((sum, frame) => sum + frame.length, 0);
    const region = this.xen.memory.allocate(bytes);
    const batch = new FrameBatch(this.xen.memory.bytes, frames.length);
    let offset = region.offset;
    for (const frame of frames) {
      batch.bytes.set(frame, offset);
      batch.add(offset, frame.length, flags);
      offset += frame.length;
    }
    const outcomes = new Uint8Array(frames.length);
    const accepted = this.device.writeBatch(batch, outcomes);
    region.free();
    return { accepted, outcomes: [...outcomes] };
  }

  /** Takes the next packet off the TX ring and answers it. */
  serve(queue = this.queue, status = 0): RawPacket {
    const packet = this.backend.take(queue);
    if (packet === undefined) throw new Error('There is no packet on the ring.');
    this.backend.answer(queue, packet, status);
    return packet;
  }

  /** Collects frames with their flags, as the batch face gives them. */
  collect(): { frame: Buffer; flags: number }[] {
    const received: { frame: Buffer; flags: number }[] = [];
    this.device.listenBatch((batch) => {
      for (let index = 0; index < batch.count; index += 1) {
        const start = batch.offset(index);
        const frame = Buffer.from(batch.bytes.slice(start, start + batch.length(index)));
        received.push({ frame, flags: batch.flag(index) });
      }
    });
    return received;
  }

  /** Takes everything down in order; fails on whatever was left behind. */
  async end(): Promise<void> {
    for (const backend of this.#backends) await backend.letGo();
    await this.device.disconnect();
    await this.xen.close();
    for (const backend of this.#backends) await backend.end();
    await this.#toolstackXen.close();
    this.hypervisor.assertNoLeaks();
    await this.hypervisor.shutdown();
  }
}

/**
 * Where every case takes place: a machine with our backend, two bystanders under traffic, and a
 * hostile guest. When the case is over no frame of the bystanders is lost, and what the hostile
 * guest had made the backend take, memory, mappings and ports, is given back.
 */
import { expect, test } from 'vitest';
import type { NetbackDevice } from '../../src/device/netback/device.js';
import { XenbusState } from '../../src/xen/xenbus.js';
import { Machine, until } from '../support/machine.js';
import { Bystanders } from './bystanders.js';
import { type HandshakeOptions, HostileGuest } from './guest.js';
import { txRequest } from './slots.js';

/** A frame that the backend took from the guest. */
export interface Taken {
  readonly bytes: Uint8Array;
  readonly flags: number;
}

export interface SceneOptions {
  /** The handshake at the start; `false` leaves the guest in Initialising. */
  readonly handshake?: HandshakeOptions | false;
  /** The hostile guest is on the hub of the bystanders, so that it hears all they say. */
  readonly onHub?: boolean;
}

export class Scene {
  readonly machine: Machine;
  readonly bystanders: Bystanders;
  readonly guest: HostileGuest;
  /** What arrived from the guest, in order. */
  readonly taken: Taken[] = [];
  readonly #localBytes: number;

  private constructor(machine: Machine, bystanders: Bystanders, guest: HostileGuest) {
    this.machine = machine;
    this.bystanders = bystanders;
    this.guest = guest;
    this.#localBytes = machine.xen.memory.allocatedBytes;
    this.listen();
  }

  static async open(options: SceneOptions = {}): Promise<Scene> {
    const machine = await Machine.start();
    const bystanders = await Bystanders.join(machine);
    const domain = await machine.hypervisor.createDomain();
    const guest = new HostileGuest(domain, await domain.open({ localMemoryBytes: 65536 }));
    await machine.plug(domain.domid);
    await until('the backend waits', () => {
      const device = machine.netback.get(domain.domid, 0);
      return device?.status.backendState === XenbusState.initWait;
    });
    const scene = new Scene(machine, bystanders, guest);
    if (options.onHub) bystanders.hub.plug(scene.device);
    bystanders.begin();
    if (options.handshake !== false) await scene.connect(options.handshake);
    return scene;
  }

  /** The backend's end of the hostile guest's vif. */
  get device(): NetbackDevice {
    const device = this.machine.netback.get(this.guest.domid, this.guest.handle);
    if (device === undefined) throw new Error('The hostile guest has no vif.');
    return device;
  }

  get backend(): string {
    return `/local/domain/0/backend/vif/${this.guest.domid}/${this.guest.handle}`;
  }

  /** Records what the guest's vif receives from now on. */
  listen(): void {
    this.device.listenBatch((batch) => {
      for (let index = 0; index < batch.count; index += 1) {
        const start = batch.offset(index);
        const bytes = batch.bytes.slice(start, start + batch.length(index));
        this.taken.push({ bytes, flags: batch.flag(index) });
      }
    });
  }

  /** Shakes hands and waits until the vif is connected. */
  async connect(options: HandshakeOptions = {}): Promise<void> {
    await this.guest.shake(options);
    await until('the hostile guest connects', () => this.device.status.phase === 'connected');
  }

  /** Packets of the guest dropped for `cause`, whatever the stage. */
  dropped(direction: 'tx' | 'rx', cause: string): number {
    const drops = [...this.device.metrics[direction].drops.values()];
    return drops.reduce((sum, drop) => sum + (drop.cause === cause ? drop.packets : 0), 0);
  }

  /** What the backend holds of the hostile guest, for people to read. */
  held(): string[] {
    const ours = new RegExp(`(of|to) domain ${this.guest.domid}$`);
    return this.machine.hypervisor
      .leaks()
      .filter((text) => text.startsWith('domain 0 ') && ours.test(text));
  }

  /** Outcome K: the vif has stopped for `reason`, said so, and has let go of everything. */
  async expectKilled(reason: string): Promise<void> {
    await until(`the vif is stopped (it is ${this.device.status.reason})`, () => {
      const { phase, backendState } = this.device.status;
      return phase === 'failed' && backendState >= XenbusState.closing;
    });
    expect(this.device.status.reason).toBe(reason);
    const { store } = this.machine.xen;
    const state = await store.read(`${this.backend}/state`);
    expect([String(XenbusState.closing), String(XenbusState.closed)]).toContain(state);
    expect(await store.read(`${this.backend}/error`)).not.toBe('');
    expect(this.held()).toEqual([]);
    expect(this.guest.mappings).toBe(0);
  }

  /** Outcome R: the connect is refused for `reason`; nothing was ever connected. */
  async expectRefused(reason: string): Promise<void> {
    const { connects } = this.device.status;
    await this.expectKilled(reason);
    expect(this.device.status.connects).toBe(connects);
  }

  /** Closes the guest's side and starts anew, up to where the backend waits for the handshake. */
  async startOver(): Promise<void> {
    const { device, guest } = this;
    await guest.setState('6');
    await until('the backend closes', () => device.status.backendState === XenbusState.closed);
    guest.forget();
    await guest.setState('1');
    await until('the backend waits', () => device.status.backendState === XenbusState.initWait);
  }

  /** Shows that the vif works: a frame each way. */
  async expectAlive(): Promise<void> {
    const { guest, device } = this;
    const frame = Uint8Array.from({ length: 60 }, (_, index) => index * 3);
    const out = guest.page(frame);
    const before = this.taken.length;
    guest.queue.takeTx();
    guest.queue.send([txRequest({ gref: out.ref, size: frame.length, id: 4711 })]);
    expect(await guest.queue.answers(1)).toMatchObject([{ id: 4711, status: 0 }]);
    await until('the frame is in', () => this.taken.length > before);
    expect(this.taken.at(-1)?.bytes).toEqual(frame);

    // Which queue the frame comes back on is the backend's choice.
    const back = guest.page();
    for (const queue of guest.queues) {
      queue.takeRx();
      queue.post([back.ref], 815);
    }
    await device.write(frame);
    await until('the frame is out', () => guest.queues.some(({ rx }) => rx.answered >= 1));
    const answers = guest.queues.flatMap((queue) => queue.takeRx());
    expect(answers.at(-1)).toMatchObject({ status: frame.length });
  }

  /** After a kill or a refusal: only a guest that starts anew gets its vif back, and it works. */
  async expectRevived(options: HandshakeOptions = {}): Promise<void> {
    const { connects } = this.device.status;
    await this.startOver();
    await this.connect(options);
    expect(this.device.status).toMatchObject({ reason: 'CONNECTED', connects: connects + 1 });
    await this.expectAlive();
  }

  /** Ends the talk, the guest and the machine; fails on what was lost or not given back. */
  async end(): Promise<void> {
    await this.bystanders.finish();
    await this.#letGo();
    expect(this.held()).toEqual([]);
    expect(this.machine.xen.memory.allocatedBytes).toBe(this.#localBytes);
    await this.guest.end();
    await this.machine.end();
  }

  /** Takes everything down without a look at it, after a case that has failed already. */
  async abandon(): Promise<void> {
    await this.machine.hypervisor.shutdown();
  }

  async #letGo(): Promise<void> {
    const { guest, machine } = this;
    if (!guest.domain.alive || machine.netback.get(guest.domid, guest.handle) === undefined) return;
    if ((await guest.xen.store.readIfExists(`${guest.base}/state`)) === undefined) return;
    await guest.setState('6');
    await until('the backend lets go', () => this.device.status.backendState !== 4);
    await this.device.settled();
  }
}

/** A test of what a hostile guest may do. */
export function hostile(
  name: string,
  body: (scene: Scene) => Promise<void>,
  options: SceneOptions = {},
): void {
  test(name, async () => {
    const scene = await Scene.open(options);
    try {
      await body(scene);
    } catch (error) {
      await scene.abandon();
      throw error;
    }
    await scene.end();
  });
}

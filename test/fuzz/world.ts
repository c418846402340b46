/**
 * What a case runs on: a machine with our backend and one raw guest, connected anew for each case.
 * Guest pages that nobody may touch are filled with a pattern and looked at after each step.
 */
import type { FrameBatch } from '../../src/device/frame-batch.js';
import type { NetbackDevice } from '../../src/device/netback/device.js';
import type { ReadHook } from '../../src/xen/emulated/watched-page.js';
import type { Page } from '../../src/xen/page.js';
import { type HandshakeOptions, HostileGuest, type RingKind } from '../hostile/guest.js';
import { Machine } from '../support/machine.js';
import { spin, turn } from './engine.js';

export const PAGE = 4096;

/** What the toolstack wrote cannot be meant: said, but no reason to stop. */
const COMPLAINTS = new Set(['IP_INVALID', 'MTU_INVALID', 'RATE_INVALID', 'VLAN_INVALID']);

/** A frame that the backend took from the guest. */
export interface TakenFrame {
  readonly bytes: Uint8Array;
  readonly flags: number;
}

export class World {
  readonly machine: Machine;
  readonly guest: HostileGuest;
  readonly taken: TakenFrame[] = [];
  readonly #ungranted: Page[] = [];
  #guards: { page: Page; copy: Uint8Array; what: string }[] = [];

  private constructor(machine: Machine, guest: HostileGuest) {
    this.machine = machine;
    this.guest = guest;
  }

  static async open(): Promise<World> {
    const machine = await Machine.start();
    const domain = await machine.hypervisor.createDomain();
    const guest = new HostileGuest(domain, await domain.open({ localMemoryBytes: 65536 }));
    await machine.plug(domain.domid);
    const world = new World(machine, guest);
    await spin('the backend waits', () => {
      return machine.netback.get(domain.domid, 0)?.status.backendState === 2;
    });
    world.device.listenBatch((batch) => world.#take(batch));
    return world;
  }

  async close(broken: boolean): Promise<void> {
    if (broken) {
      await this.machine.hypervisor.shutdown();
      return;
    }
    await this.guest.end();
    await this.machine.end();
  }

  get device(): NetbackDevice {
    const device = this.machine.netback.get(this.guest.domid, 0);
    if (device === undefined) throw new Error('The guest has no vif.');
    return device;
  }

  get connected(): boolean {
    return this.device.status.phase === 'connected';
  }

  /** Why the vif has stopped; undefined while it has not. */
  get killed(): string | undefined {
    const { phase, reason } = this.device.status;
    return phase === 'failed' && !COMPLAINTS.has(reason) ? reason : undefined;
  }

  async connect(options: HandshakeOptions): Promise<void> {
    this.taken.length = 0;
    this.device.resetStats();
    this.guardMemory();
    await this.guest.shake(options);
    this.guardMemory();
    await spin('the guest connects', () => {
      if (this.killed !== undefined) throw new Error(`The connect was refused: ${this.killed}.`);
      return this.connected;
    });
    await turn();
  }

  /** Ends a case: closes the guest's side and starts anew, to where the backend waits. */
  async disconnect(): Promise<void> {
    const { guest, machine, device } = this;
    await guest.setState('6');
    await spin('the backend closes', () => device.status.backendState === 6);
    this.checkNothingHeld();
    this.checkGuards();
    this.#guards = [];
    for (const page of this.#ungranted.splice(0)) guest.domain.raw.freePage(page);
    guest.forget();
    const bytes = machine.xen.memory.allocatedBytes;
    await guest.setState('1');
    await spin('the backend waits', () => device.status.backendState === 2);
    if (machine.xen.memory.allocatedBytes !== bytes) throw new Error('Memory was taken.');
  }

  /** After a kill or a disconnect the backend has nothing of the guest's. */
  checkNothingHeld(): void {
    const ours = new RegExp(`(of|to) domain ${this.guest.domid}$`);
    const held = this.machine.hypervisor.leaks().filter((text) => {
      return text.startsWith('domain 0 ') && ours.test(text);
    });
    if (held.length > 0) throw new Error(`The backend still ${held.join('; ')}.`);
  }

  /** From now on the page must stay as it is. */
  guard(what: string, page: Page): void {
    this.#guards.push({ page, copy: page.bytes.slice(), what });
  }

  /** Puts a page that is granted to nobody into the guest's memory, behind what it has there. */
  guardMemory(): void {
    const page = this.guest.domain.raw.allocatePage();
    for (let index = 0; index < PAGE; index += 1) page.bytes[index] = 0xc3 ^ index;
    this.#ungranted.push(page);
    this.guard('a page that is granted to nobody', page);
  }

  checkGuards(): void {
    for (const { page, copy, what } of this.#guards) expectBytes(what, page.bytes, copy);
  }

  /** Packets dropped in a direction, by cause. */
  drops(direction: 'tx' | 'rx'): Map<string, number> {
    const drops = new Map<string, number>();
    for (const { cause, packets } of this.device.metrics[direction].drops.values()) {
      drops.set(cause, (drops.get(cause) ?? 0) + packets);
    }
    return drops;
  }

  #take(batch: FrameBatch): void {
    for (let index = 0; index < batch.count; index += 1) {
      const start = batch.offset(index);
      const bytes = batch.bytes.slice(start, start + batch.length(index));
      this.taken.push({ bytes, flags: batch.flag(index) });
    }
  }
}

/**
 * A guest that rewrites each word of a slot as soon as the backend has read it: what is read twice
 * is not what it was.
 */
export function rewriteSlots(page: Page, kind: RingKind, which: RingKind): ReadHook | undefined {
  if (kind !== which) return undefined;
  return (offset, bytes) => {
    if (offset >= 64) page.bytes.fill(0xff, offset, offset + bytes);
  };
}

/** Compares bytes; the message names the first that differs. */
export function expectBytes(what: string, actual: Uint8Array, expected: Uint8Array): void {
  if (Buffer.compare(actual, expected) === 0) return;
  if (actual.length !== expected.length) {
    throw new Error(`${what}: ${actual.length} bytes instead of ${expected.length}.`);
  }
  const at = actual.findIndex((byte, index) => byte !== expected[index]);
  throw new Error(`${what}: byte ${at} is ${actual[at]} instead of ${expected[at]}.`);
}

/** Compares anything that JSON can show. */
export function expectSame(what: string, actual: unknown, expected: unknown): void {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${what}: ${a} instead of ${b}.`);
}

import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { removeVif, requestUnplug } from '../../../../src/device/netback/toolstack.js';
import { Netfront } from '../../../../src/device/netfront/index.js';
import type { EmulatedXen } from '../../../../src/xen/emulated/emulated-xen.js';
import type { Domain } from '../../../../src/xen/emulated/index.js';
import { XenbusState } from '../../../../src/xen/xenbus.js';
import { Machine, silent, until } from '../../../support/machine.js';
import { type SeededRandom, seededRandom } from '../../../support/random.js';

let machine: Machine;
beforeEach(async () => {
  machine = await Machine.start();
});
afterEach(async () => {
  await machine.end();
});

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

describe('netfront and netback', () => {
  for (const seed of [1, 2, 3, 4]) {
    test(`whatever befalls them in whatever order, frames flow in the end (seed ${seed})`, async () => {
      const life = await Life.begin(seededRandom(seed));
      for (let step = 0; step < 25; step += 1) await life.step();
      await life.settle();
      await life.end();
    });
  }

  test('20,000 frames of random lengths cross three queues both ways, byte for byte', async () => {
    const life = await Life.begin(seededRandom(99));
    const random = seededRandom(5);
    const device = life.netfront.get(0);
    const backend = machine.netback.get(life.domain.domid, 0);
    if (device === undefined || backend === undefined) throw new Error('There is no vif.');
    await until('connected', () => device.connected);
    const expected = new Map<number, Buffer[]>();
    let received = 0;
    let wrong = 0;
    const check = (frame: Uint8Array) => {
      const next = expected.get(frame[0] as number)?.shift();
      if (next === undefined || Buffer.compare(next, frame) !== 0) wrong += 1;
      received += 1;
    };
    void backend.listen(check);
    void device.listen(check);
    for (const from of [device, backend]) {
      expected.clear();
      received = 0;
      for (let index = 0; index < 10_000; index += 1) {
        const isLong = random.below(50) === 0;
        const frame = Buffer.alloc(18 + random.below(isLong ? 65_000 : 1501), random.u32() & 0xff);
        // The first byte is the flow. It is no IP, so that the addresses choose the queue.
        const flow = random.below(8) * 2;
        frame.fill(0, 0, 12).writeUInt8(flow, 0);
        frame.writeUInt16BE(0x88b5, 12);
        frame.writeUInt32LE(index, 14);
        const waiting = expected.get(flow) ?? [];
        waiting.push(frame);
        expected.set(flow, waiting);
        await from.write(frame);
        // The backend's queue for a guest is bounded in bytes, and its writers do not wait.
        if (from === backend && index % 8 === 7) {
          await until('they are in', () => received === index + 1);
        }
      }
      await until('all are in', () => received === 10_000);
      expect(wrong).toBe(0);
    }
    expect(device.metrics.queues.filter(({ tx }) => tx.packets > 0).length).toBe(3);
    await life.end();
  });

  test('XenStore refuses now and then: the frontend tries again', async () => {
    const life = await Life.begin(seededRandom(1));
    for (const answer of ['EQUOTA', 'EAGAIN', 'EIO'] as const) {
      const fault = machine.hypervisor.store.fail({
        domid: life.domain.domid,
        request: 'TRANSACTION_END',
        answer,
        times: 2,
      });
      await life.netfront.get(0)?.reconnect();
      await until('it was refused', () => fault.hits === 2);
      await life.settle();
    }
    await life.end();
  });
});

/** A guest and what may befall it. */
class Life {
  readonly domain: Domain;
  readonly xen: EmulatedXen;
  netfront: Netfront;
  readonly #random: SeededRandom;
  #last: Promise<unknown> = Promise.resolve();
  readonly #events: (() => Promise<unknown> | unknown)[] = [
    () => this.netfront.get(0)?.reconnect(),
    () => this.netfront.get(0)?.resume(),
    () => this.netfront.resume(),
    () => this.#afterOthers(async () => await this.#backend()?.close()),
    () => this.#afterOthers(() => machine.restartBackend()),
    () => this.#reload(false),
    () => this.#reload(true),
    () => this.#afterOthers(() => this.#replug()),
    () => this.#write('1'),
    () => this.#write('6'),
    () => this.#write('99'),
    () => this.#traffic(),
    () => this.#traffic(),
  ];

  private constructor(domain: Domain, xen: EmulatedXen, random: SeededRandom) {
    this.domain = domain;
    this.xen = xen;
    this.#random = random;
    this.netfront = this.#newNetfront();
  }

  static async begin(random: SeededRandom): Promise<Life> {
    const domain = await machine.hypervisor.createDomain();
    const xen = await domain.open({ localMemoryBytes: 4 * 1024 * 1024 });
    const life = new Life(domain, xen, random);
    await life.netfront.start();
    await machine.plug(domain.domid);
    await life.settle();
    return life;
  }

  async step(): Promise<void> {
    const event = this.#events[this.#random.below(this.#events.length)];
    // A device that was given up meanwhile says so; that is no fault.
    const done = Promise.resolve(event?.()).catch(() => undefined);
    // Half of the time the next event comes while this one still goes on.
    if (this.#random.below(2) === 0) await done;
    await pause(this.#random.below(8));
  }

  /** What befalls the backend comes one after another: there is one toolstack and one daemon. */
  #afterOthers(event: () => Promise<unknown>): Promise<unknown> {
    const done = this.#last.then(event);
    this.#last = done.catch(() => undefined);
    return done;
  }

  /** Makes the device work again if it does not by itself, as its owner would. */
  async settle(): Promise<void> {
    await this.#last;
    let next = performance.now() + 500;
    await until('the device is there', () => this.netfront.get(0) !== undefined);
    await until('connected', () => {
      const device = this.netfront.get(0);
      if (device?.connected !== true && performance.now() > next) {
        next += 1000;
        void device?.reconnect().catch(() => undefined);
      }
      return device?.connected === true;
    });
    const backend = this.#backend();
    let received = 0;
    const end = backend?.listenBatch((batch) => {
      received += batch.count;
    });
    await this.netfront.get(0)?.write(new Uint8Array(60));
    await until('a frame is in', () => received > 0);
    end?.();
  }

  async end(): Promise<void> {
    await this.netfront.stop();
    await this.xen.close();
  }

  #newNetfront(): Netfront {
    return new Netfront(this.xen, silent, () => undefined, { queuesMax: 3, closeTimeoutMs: 1000 });
  }

  #backend() {
    return machine.netback.get(this.domain.domid, 0);
  }

  async #reload(skipClosing: boolean): Promise<void> {
    const device = this.netfront.get(0);
    if (skipClosing) await device?.disconnect({ skipClosing });
    await this.netfront.stop();
    await this.netfront.start();
  }

  async #replug(): Promise<void> {
    const { domid } = this.domain;
    const { store } = machine.xen;
    await requestUnplug(store, 0, domid, 0);
    const deadline = performance.now() + 1000;
    while (performance.now() < deadline) {
      if (this.#backend()?.status.backendState === XenbusState.closed) break;
      await pause(2);
    }
    await removeVif(store, 0, domid, 0);
    await machine.plug(domid);
  }

  async #write(state: string): Promise<void> {
    const path = `/local/domain/${this.domain.domid}/device/vif/0/state`;
    await this.xen.store.transaction(async (transaction) => {
      if ((await transaction.readIfExists(path)) === undefined) return;
      await transaction.write(path, state);
    });
  }

  async #traffic(): Promise<void> {
    const frame = new Uint8Array(14 + this.#random.below(5000));
    const writes = Array.from({ length: 50 }, () => this.netfront.get(0)?.write(frame));
    void Promise.allSettled(writes);
    await this.#backend()
      ?.write(frame)
      .catch(() => undefined);
  }
}

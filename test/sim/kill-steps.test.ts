/**
 * A backend that dies between any two steps of its work, and one that goes on where it ended. Guests
 * send each other frames of every layout; before each effect that the daemon has on a shared page, an
 * event channel, a grant or XenStore, it is killed once, and the next daemon adopts.
 *
 * What must hold after each death: every request gets one answer and no more, in ring order; a frame
 * that was acknowledged has arrived; one that was under way arrives once or twice; and no guest sees its
 * backend leave Connected.
 */
import { randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import { Netback } from '../../src/device/netback/index.js';
import { plugVif, removeVif } from '../../src/device/netback/toolstack.js';
import { type EmulatedXen, Hypervisor } from '../../src/xen/emulated/index.js';
import type { Store } from '../../src/xen/xen.js';
import type { HandshakeOptions } from '../hostile/guest.js';
import { joinToHub } from '../support/hub-ports.js';
import { silent } from '../support/machine.js';
import { SteppedXen } from '../support/stepped-xen.js';
import { CountingGuest } from './kill-guest.js';

const STEPS_MAX = 5000;
/** Turns of the event loop in which whatever is still to be done after an answer is done. */
const CALM_TURNS = 12;
const WAIT_MS = 5000;
/** As many as the backend takes for a batch that needs nothing done, and some more. */
const PLAIN_FRAMES = 36;

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** Two guests, and one daemon after another between them. */
class KillingGround {
  readonly hypervisor = new Hypervisor();
  readonly guests: CountingGuest[] = [];
  deaths = 0;
  duplicates = 0;
  /** Deaths since the guests sent last. */
  #deathsNow = 0;
  #xen: SteppedXen | undefined;
  #netback: Netback | undefined;
  #lastStep: string | undefined;
  #toolstack: EmulatedXen | undefined;
  /** Frames under way when the daemon died last. */
  #inFlight = new Set<number>();

  get xen(): SteppedXen {
    if (this.#xen === undefined) throw new Error('There is no daemon.');
    return this.#xen;
  }

  get netback(): Netback {
    if (this.#netback === undefined) throw new Error('There is no daemon.');
    return this.#netback;
  }

  /** Starts a daemon, which dies before its `killBefore`th step if it comes to that. */
  async startDaemon(killBefore = Number.POSITIVE_INFINITY): Promise<void> {
    const xen = new SteppedXen(await this.hypervisor.dom0.open(), () => {
      for (const guest of this.guests)
        for (const frame of guest.inFlight()) this.#inFlight.add(frame);
    });
    xen.killBefore(killBefore);
    // The hypervisor copies segment by segment, and may be left in between.
    this.hypervisor.faults.duringCopy = () => xen.step('segment');
    this.#xen = xen;
    this.#netback = new Netback(xen, silent);
    joinToHub(this.#netback);
    await this.#netback.start().catch((error: unknown) => {
      if (!xen.isKilled) throw error;
    });
  }

  #whatIsWrong(expected: readonly (readonly number[])[]): string {
    return this.guests
      .map(({ faults, guest, isCalm, received, states }, index) => {
        const missing = expected[index]?.filter((number) => !received.has(number));
        const backend = this.netback.get(guest.domid, 0)?.status;
        return JSON.stringify({ faults, isCalm, missing, states, backend });
      })
      .join('; ');
  }

  /** The next daemon, after the death of the one before; what is left of that is taken down. */
  async replaceDaemon(killBefore?: number): Promise<void> {
    this.#countDeath();
    const dead = this.netback;
    this.#lastStep = this.xen.lastStep;
    await this.xen.kill();
    await this.startDaemon(killBefore);
    await dead.stop({ closeDevices: false, closeTimeoutMs: 0 }).catch(() => undefined);
  }

  async addGuest(options: HandshakeOptions): Promise<CountingGuest> {
    const domain = await this.hypervisor.createDomain();
    const guest = new CountingGuest(
      domain,
      await domain.open({ localMemoryBytes: 65536 }),
      1 + (this.guests.length % 2),
    );
    await this.plug(domain.domid);
    await this.#untilState(guest, 2);
    await guest.connect(options);
    await this.#untilState(guest, 4);
    await guest.watchBackend();
    this.guests.push(guest);
    return guest;
  }

  async plug(domid: number): Promise<void> {
    const mac = `00:16:3e:00:00:${domid.toString(16).padStart(2, '0')}`;
    const labels = {};
    const uid = randomUUID();
    const vif = { backendDomid: 0, domid, handle: 0, mac, mtu: 1500, labels, uid };
    this.#toolstack ??= await this.hypervisor.dom0.open({ localMemoryBytes: 65536 });
    await plugVif(this.#toolstack.store, vif);
  }

  get #toolstackStore(): Store {
    if (this.#toolstack === undefined) throw new Error('There is no toolstack.');
    return this.#toolstack.store;
  }

  /** Waits for a state of a guest's backend in XenStore, from whichever daemon it comes. */
  async #untilState({ guest }: CountingGuest, state: number): Promise<void> {
    const path = `/local/domain/0/backend/vif/${guest.domid}/0/state`;
    const deadline = performance.now() + WAIT_MS;
    while ((await this.#toolstackStore.readIfExists(path)) !== String(state)) {
      if (this.xen.isKilled) await this.replaceDaemon();
      await turn();
      if (performance.now() < deadline) continue;
      throw new Error(`After death before "${this.#lastStep}": no backend state ${state}.`);
    }
  }

  /** Waits until the daemon of the moment has all it needs of a guest. */
  async #untilServed({ guest }: CountingGuest): Promise<void> {
    const device = () => this.netback.get(guest.domid, 0);
    const deadline = performance.now() + WAIT_MS;
    for (let calm = 0; calm < CALM_TURNS; ) {
      await turn();
      if (this.xen.isKilled) await this.replaceDaemon();
      calm = device()?.status.phase === 'connected' ? calm + 1 : 0;
      if (performance.now() > deadline) throw new Error(`After "${this.#lastStep}": not served.`);
    }
  }

  /**
   * Every guest sends; returns when all has arrived and the daemon has nothing left to do. A daemon
   * that dies is replaced, in the first place by one that dies before its `second` step.
   */
  async exchange(how: { first?: number; second?: number; plain?: number } = {}): Promise<void> {
    if (how.first !== undefined) this.xen.killBefore(how.first);
    await this.#settle(this.#send(how.plain), how.second);
  }

  /** Every guest sends while the daemon stops in good order, or dies before its `killBefore`th step. */
  async handOver(killBefore: number): Promise<boolean> {
    const expected = this.#send();
    const { netback, xen } = this;
    xen.killBefore(killBefore);
    const stopped = netback.stop({ closeDevices: false, closeTimeoutMs: 0 });
    await stopped.catch((error: unknown) => {
      if (!xen.isKilled) throw error;
    });
    const died = xen.isKilled;
    if (died) this.#countDeath();
    this.#lastStep = xen.lastStep;
    // What was killed after the last thing it did for Xen is as good as stopped.
    await (died ? xen.kill() : xen.close());
    await this.startDaemon();
    await this.#settle(expected);
    return died;
  }

  /** A guest connects for the first time, and goes again; the daemon may die meanwhile. */
  async connectAnother(): Promise<void> {
    const domain = await this.hypervisor.createDomain();
    const xen = await domain.open({ localMemoryBytes: 65536 });
    const guest = new CountingGuest(domain, xen, 1);
    await this.plug(domain.domid);
    await this.#untilState(guest, 2);
    await guest.connect({});
    await this.#untilState(guest, 4);
    await this.#untilServed(guest);
    await guest.guest.end();
    await this.hypervisor.destroyDomain(domain.domid);
    await removeVif(this.#toolstackStore, 0, domain.domid, 0);
  }

  #countDeath(): void {
    this.deaths += 1;
    this.#deathsNow += 1;
  }

  /** Returns what each guest is to receive. */
  #send(plain = 0): number[][] {
    this.#inFlight.clear();
    this.#deathsNow = 0;
    for (const guest of this.guests) guest.received.clear();
    const sent = this.guests.map((guest) => guest.send(plain));
    return [sent[1] ?? [], sent[0] ?? []];
  }

  async #settle(expected: readonly (readonly number[])[], killBefore?: number): Promise<void> {
    let nextDeath = killBefore;
    const deadline = performance.now() + WAIT_MS;
    for (let calm = 0; calm < CALM_TURNS; ) {
      await turn();
      for (const guest of this.guests) guest.work();
      if (this.xen.isKilled) {
        await this.replaceDaemon(nextDeath);
        nextDeath = undefined;
        calm = 0;
      }
      const isDone = this.guests.every(
        ({ isCalm, received }, index) =>
          isCalm && expected[index]?.every((number) => received.has(number)),
      );
      calm = isDone ? calm + 1 : 0;
      if (performance.now() > deadline) {
        throw new Error(`After death before "${this.#lastStep}": ${this.#whatIsWrong(expected)}.`);
      }
    }
    this.#check(expected);
  }

  #check(expected: readonly (readonly number[])[]): void {
    for (const [index, guest] of this.guests.entries()) {
      expect(new Set(guest.states)).toEqual(new Set(['4']));
      expect([...guest.received.keys()].sort()).toEqual([...(expected[index] ?? [])].sort());
      for (const [number, count] of guest.received) {
        if (count === 1) continue;
        this.duplicates += count - 1;
        // Each death may have a frame sent once more, and only one that was not acknowledged.
        const isRight = this.#inFlight.has(number) && count <= 1 + this.#deathsNow;
        if (!isRight) guest.faults.push(`frame ${number} has come ${count} times`);
      }
      expect(guest.faults).toEqual([]);
    }
  }

  async end(what: string, steps: number): Promise<void> {
    const empty = this.guests.reduce((sum, { emptyBuffers }) => sum + emptyBuffers, 0);
    process.stdout.write(
      `${what}: ${steps} steps, ${this.deaths} deaths, ${this.duplicates} frames twice, ${empty} empty buffers\n`,
    );
    await this.netback.stop({ closeDevices: false, closeTimeoutMs: 0 });
    await this.xen.close();
    for (const guest of this.guests) await guest.end();
    await this.#toolstack?.close();
    this.hypervisor.assertNoLeaks();
    await this.hypervisor.shutdown();
  }
}

const KINDS: Readonly<Record<string, HandshakeOptions>> = {
  'one queue with one event channel': {},
  'two queues with split event channels, and a control ring': {
    queues: 2,
    split: true,
    control: true,
    // The indices of all rings wrap on the way.
    start: 2 ** 32 - 60,
  },
};

/** A ground with two guests that are connected. */
async function groundOf(options: HandshakeOptions): Promise<KillingGround> {
  const ground = new KillingGround();
  await ground.startDaemon();
  for (let index = 0; index < 2; index += 1) await ground.addGuest(options);
  return ground;
}

for (const [kind, options] of Object.entries(KINDS)) {
  test(`death before each step of a frame's way, ${kind}`, async () => {
    const ground = await groundOf(options);
    let step = 0;
    for (let died = true; died && step < STEPS_MAX; ) {
      step += 1;
      const before = ground.deaths;
      ground.xen.killBefore(step);
      await ground.exchange();
      died = ground.deaths > before;
    }
    // Every slot of five frames each way is written one after another: there are many steps to die at.
    expect(ground.deaths).toBeGreaterThan(100);
    await ground.end(`frames, ${kind}`, step);
  });

  test(`death before each step of taking over, with work left by the one before, ${kind}`, async () => {
    const ground = await groundOf(options);
    let step = 0;
    for (let died = true; died && step < STEPS_MAX; ) {
      step += 1;
      // The first dies at another place of its work each time; the second as it goes on from there.
      const before = ground.deaths;
      await ground.exchange({ first: 1 + ((step * 7) % 150), second: step });
      died = ground.deaths > before + 1;
    }
    expect(ground.deaths).toBeGreaterThan(100);
    await ground.end(`taking over, ${kind}`, step);
  });

  test(`death before each step of handing over, ${kind}`, async () => {
    const ground = await groundOf(options);
    let step = 0;
    for (let died = true; died && step < STEPS_MAX; ) {
      step += 1;
      died = await ground.handOver(step);
    }
    expect(ground.deaths).toBeGreaterThan(50);
    await ground.end(`handing over, ${kind}`, step);
  });
}

test("death before each step of a whole batch's way, whose answers are written at once", async () => {
  const ground = await groundOf({});
  let step = 0;
  for (let died = true; died && step < STEPS_MAX; ) {
    step += 1;
    const before = ground.deaths;
    ground.xen.killBefore(step);
    await ground.exchange({ plain: PLAIN_FRAMES });
    died = ground.deaths > before;
  }
  expect(ground.deaths).toBeGreaterThan(PLAIN_FRAMES * 2 * 6);
  await ground.end('whole batches', step);
});

test('death before each step of a handshake: the next daemon ends it', async () => {
  const ground = await groundOf({});
  let step = 0;
  for (let died = true; died && step < STEPS_MAX; ) {
    step += 1;
    const before = ground.deaths;
    ground.xen.killBefore(step);
    await ground.connectAnother();
    died = ground.deaths > before;
    ground.xen.killBefore(Number.POSITIVE_INFINITY);
    await ground.exchange();
  }
  expect(ground.deaths).toBeGreaterThan(20);
  await ground.end('handshakes', step);
});

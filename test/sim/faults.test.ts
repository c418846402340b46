/**
 * Faults that come again and again on an emulated machine, beside two guests that lose no frame: vifs that
 * come and go by the hundred, grants and event channels that Xen refuses, and a wall clock that jumps.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterEach, expect, test, vi } from 'vitest';
import { removeVif, requestUnplug } from '../../src/device/netback/toolstack.js';
import type { FaultRates } from '../../src/xen/emulated/faults.js';
import { XenbusState } from '../../src/xen/xenbus.js';
import { Bystanders } from '../hostile/bystanders.js';
import { Scene } from '../hostile/scene.js';
import { type GuestUnderTest, Machine, until } from '../support/machine.js';

/** The check's three hundred, and the soak's ten thousand. */
const ATTACHES = process.env['XENVIF_LONG'] === '1' ? 10_000 : 300;
/** What the first of them leave in caches, of code and of memory that is used again. */
const WARM_UP = 50;
/** Of the whole heap: a vif that leaves but a closure behind is over it long before the end. */
const GROWTH_BYTES = 16 * 1024 * 1024;
const DAY_MS = 86_400_000;

afterEach(() => {
  vi.useRealTimers();
});

// Without it the heap would be measured with whatever garbage there happens to be.
setFlagsFromString('--expose-gc');
const collectGarbage: () => void = runInNewContext('gc');

/** What domain 0 holds, and how much memory is in use once the garbage is gone. */
function holdings(machine: Machine) {
  const held = machine.hypervisor.leaks().filter((text) => text.startsWith('domain 0 '));
  collectGarbage();
  return {
    held: held.length,
    localBytes: machine.xen.memory.allocatedBytes,
    heapBytes: process.memoryUsage().heapUsed,
  };
}

/** Plugs in interface 1, has a frame pass, and takes it away as libxl does. */
async function attachAndDetach(machine: Machine, guest: GuestUnderTest): Promise<void> {
  const { domid } = guest.domain;
  await machine.plug(domid, 1);
  await until('it connects', () => guest.netfront.get(1)?.connected === true);
  const device = machine.netback.get(domid, 1);
  let heard = 0;
  device?.listenBatch(({ count }) => {
    heard += count;
  });
  await guest.netfront.get(1)?.write(new Uint8Array(60));
  await until('the frame is there', () => heard === 1);
  const { store } = machine.xen;
  await requestUnplug(store, 0, domid, 1);
  await until('it closes', () => device?.status.backendState === XenbusState.closed);
  await removeVif(store, 0, domid, 1);
  await until('it is gone', () => {
    return machine.netback.get(domid, 1) === undefined && guest.netfront.get(1) === undefined;
  });
}

test(`${ATTACHES} vifs attached and detached leave nothing behind`, async () => {
  const machine = await Machine.start();
  const bystanders = await Bystanders.join(machine);
  const guest = await machine.addGuest();
  for (let round = 0; round < WARM_UP; round += 1) await attachAndDetach(machine, guest);
  const before = holdings(machine);
  bystanders.begin();
  for (let round = 0; round < ATTACHES; round += 1) await attachAndDetach(machine, guest);
  await bystanders.finish();
  const { heapBytes, ...after } = holdings(machine);
  console.log(
    `${ATTACHES} attaches: heap ${before.heapBytes} -> ${heapBytes}, holdings ${after.held}`,
  );
  expect(after).toEqual({ held: before.held, localBytes: before.localBytes });
  expect(heapBytes - before.heapBytes).toBeLessThan(GROWTH_BYTES);
  await machine.end();
});

const REFUSALS: readonly (keyof FaultRates)[] = ['grantMap', 'bind'];

test.each(REFUSALS)(
  'a vif for which every Nth %s fails is refused or served whole, and is served once it does not',
  async (kind) => {
    let refused = 0;
    for (let every = 1; every <= 6; every += 1) {
      const scene = await Scene.open({ handshake: false });
      scene.machine.hypervisor.failEvery({ [kind]: every });
      await scene.guest.shake({ split: true });
      const { device } = scene;
      await until('it is decided', () => ['connected', 'failed'].includes(device.status.phase));
      if (device.status.phase === 'failed') {
        refused += 1;
        await until('it lets go', () => device.status.backendState >= XenbusState.closing);
        expect(scene.held()).toEqual([]);
        scene.machine.hypervisor.failEvery({});
        await scene.expectRevived({ split: true });
      } else {
        scene.machine.hypervisor.failEvery({});
        await scene.expectAlive();
      }
      await scene.end();
    }
    expect(refused).toBeGreaterThanOrEqual(2);
  },
);

test('a wall clock that jumps, both ways, changes nothing that is timed', async () => {
  const scene = await Scene.open({ handshake: { split: true } });
  const { device, guest } = scene;
  vi.useFakeTimers({ toFake: ['Date'] });
  for (const jumpMs of [DAY_MS, -2 * DAY_MS]) {
    // Without buffers it waits, up to ten seconds, not to some time of the day.
    await device.write(new Uint8Array(60).fill(1));
    vi.setSystemTime(Date.now() + jumpMs);
    await sleep(1500);
    expect(scene.dropped('rx', 'RX_EXPIRED')).toBe(0);
    const { ref } = guest.page();
    guest.queue.post([ref]);
    await until('it has what waited', () => guest.queue.rx.answered >= 1);
    guest.queue.takeRx();
    await scene.expectAlive();
  }
  await scene.end();
});

import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect } from 'vitest';
import type { NetbackDevice } from '../../src/device/netback/device.js';
import { removeVif, requestUnplug } from '../../src/device/netback/toolstack.js';
import { XenbusState } from '../../src/xen/xenbus.js';
import { until } from '../support/machine.js';
import { RSP_PROD } from './raw-ring.js';
import { hostile } from './scene.js';
import { controlRequest, MORE_DATA, txRequest } from './slots.js';

/** `XEN_NETIF_CTRL_TYPE_*`. */
const GET_HASH_FLAGS = 1;
const SET_HASH_FLAGS = 2;
const SET_HASH_KEY = 3;
const GET_HASH_MAPPING_SIZE = 4;
const SET_HASH_MAPPING_SIZE = 5;
const SET_HASH_MAPPING = 6;
const SET_HASH_ALGORITHM = 7;
const TOEPLITZ = 1;
/** `XEN_NETIF_CTRL_STATUS_*`. */
const SUCCESS = 0;
const NOT_SUPPORTED = 1;
const INVALID_PARAMETER = 2;
const BUFFER_OVERFLOW = 3;

/** Events that were delivered to any queue of a vif. */
function eventsHandled({ metrics }: NetbackDevice): number {
  return metrics.queues.reduce((sum, { eventsReceived }) => sum + eventsReceived, 0);
}

/** How long a storm lasts. */
const STORM_MS = 300;

describe('events', () => {
  for (const split of [false, true]) {
    const ports = split ? 'two ports' : 'one port';
    hostile(
      `case 33: a storm of events on ${ports} with nothing on the rings`,
      async (scene) => {
        const { guest, device, bystanders } = scene;
        const { queue } = guest;
        await sleep(20);
        const handled = eventsHandled(device);
        const heard = bystanders.received;
        let rounds = 0;
        const end = performance.now() + STORM_MS;
        while (performance.now() < end) {
          for (let index = 0; index < 1000; index += 1) {
            queue.txChannel.notify();
            queue.rxChannel.notify();
          }
          rounds += 1;
          await new Promise((resolve) => setImmediate(resolve));
        }
        expect(rounds).toBeGreaterThan(50);
        // A spurious event delays the next unmask, so the guest cannot buy our time with them.
        expect(eventsHandled(device) - handled).toBeLessThan(rounds / 8);
        expect(bystanders.received - heard).toBeGreaterThan(50);
        await scene.expectAlive();
      },
      { handshake: { split } },
    );
  }

  hostile(
    'case 33: a guest that fills its ring at each turn leaves others theirs',
    async (scene) => {
      const { guest, bystanders } = scene;
      const { queue } = guest;
      const { ref } = guest.page(randomBytes(60));
      scene.taken.length = 0;
      const heard = bystanders.received;
      let sent = 0;
      const end = performance.now() + STORM_MS;
      while (performance.now() < end) {
        const free = 256 - ((queue.tx.reqProd - queue.tx.rspCons) >>> 0);
        sent += free;
        queue.send(Array.from({ length: free }, () => txRequest({ gref: ref, size: 60 })));
        await new Promise((resolve) => setImmediate(resolve));
        queue.takeTx();
      }
      await until('all of it is in', () => scene.taken.length === sent);
      expect(sent).toBeGreaterThan(256);
      expect(bystanders.received - heard).toBeGreaterThan(50);
    },
  );

  let reads = 0;
  hostile(
    'case 34: a ring is not looked at without an event',
    async (scene) => {
      const { guest } = scene;
      const { queue } = guest;
      const { ref } = guest.page(randomBytes(60));
      await scene.expectAlive();
      await sleep(30);
      reads = 0;
      queue.tx.push([txRequest({ gref: ref, size: 60 })]);
      await sleep(150);
      expect(reads).toBe(0);
      expect(queue.tx.answered).toBe(0);
      queue.txChannel.notify();
      expect(await queue.answers(1)).toMatchObject([{ status: 0 }]);
      expect(reads).toBeGreaterThan(0);
    },
    {
      handshake: {
        watch: () => () => {
          reads += 1;
        },
      },
    },
  );

  for (const first of ['malformed', 'storm'] as const) {
    hostile(`case 36: a guest that is ${first}, then a detach: one teardown`, async (scene) => {
      const { guest, machine } = scene;
      const { store } = machine.xen;
      const { ref } = guest.page(randomBytes(60));
      if (first === 'malformed') {
        guest.queue.send([txRequest({ gref: ref, size: 60, flags: MORE_DATA })]);
      } else guest.queue.txChannel.notify();
      // Both at once: the fault is found while the toolstack's wish is on its way.
      await requestUnplug(store, 0, guest.domid, 0);
      await until('closing', () => scene.device.status.backendState >= XenbusState.closing);
      await guest.setState('6');
      await until('closed', () => scene.device.status.backendState === XenbusState.closed);
      expect(scene.held()).toEqual([]);
      await removeVif(store, 0, guest.domid, 0);
      await until('gone', () => machine.netback.get(guest.domid, 0) === undefined);
      await removeVif(store, 0, guest.domid, 0);
      await machine.hypervisor.destroyDomain(guest.domid);
      expect(scene.held()).toEqual([]);
    });
  }
});

describe('the control ring', () => {
  hostile(
    'case 35: keys and mappings that are too long, or past the end',
    async (scene) => {
      const { guest } = scene;
      const table = guest.page();
      const ask = async (type: number, data: readonly number[]) => {
        const [answer] = await guest.ask([controlRequest(0x1234, type, data)]);
        expect(answer).toMatchObject({ id: 0x1234, type, rest: 0 });
        return answer?.status;
      };
      expect(await ask(GET_HASH_FLAGS, [])).toBe(NOT_SUPPORTED);
      expect(await ask(SET_HASH_ALGORITHM, [9])).toBe(INVALID_PARAMETER);
      expect(await ask(SET_HASH_ALGORITHM, [TOEPLITZ])).toBe(SUCCESS);
      expect(await ask(SET_HASH_FLAGS, [0x10])).toBe(INVALID_PARAMETER);
      expect(await ask(SET_HASH_FLAGS, [0xf])).toBe(SUCCESS);

      for (const length of [41, 4097, 0xffff_ffff]) {
        expect(await ask(SET_HASH_KEY, [table.ref, length])).toBe(BUFFER_OVERFLOW);
      }
      expect(await ask(SET_HASH_KEY, [0xffff_ffff, 40])).toBe(INVALID_PARAMETER);
      expect(await ask(SET_HASH_KEY, [table.ref, 40])).toBe(SUCCESS);
      expect(await ask(SET_HASH_KEY, [0xffff_ffff, 0])).toBe(SUCCESS);

      const [size] = await guest.ask([controlRequest(1, GET_HASH_MAPPING_SIZE)]);
      const most = size?.data ?? 0;
      expect(most).toBeGreaterThan(0);
      for (const entries of [most + 1, 0xffff_ffff]) {
        expect(await ask(SET_HASH_MAPPING_SIZE, [entries])).toBe(INVALID_PARAMETER);
      }
      expect(await ask(SET_HASH_MAPPING_SIZE, [16])).toBe(SUCCESS);
      for (const [length, offset] of [
        [17, 0],
        [1, 16],
        [8, 9],
        [2, 0xffff_ffff],
      ] as const) {
        expect(await ask(SET_HASH_MAPPING, [table.ref, length, offset])).toBe(INVALID_PARAMETER);
      }
      // More entries than the backend supports in any table is the other error (netif.h).
      for (const length of [most + 1, 1025, 0xffff_ffff]) {
        expect(await ask(SET_HASH_MAPPING, [table.ref, length, 1])).toBe(BUFFER_OVERFLOW);
      }
      expect(await ask(SET_HASH_MAPPING, [0xffff_ffff, 16, 0])).toBe(INVALID_PARAMETER);
      table.page.writeU32(12, 1);
      expect(await ask(SET_HASH_MAPPING, [table.ref, 16, 0])).toBe(INVALID_PARAMETER);
      table.page.writeU32(12, 0);
      expect(await ask(SET_HASH_MAPPING, [table.ref, 16, 0])).toBe(SUCCESS);
      expect(guest.domain.raw.mappings(table.ref)).toBe(0);
      await scene.expectAlive();
    },
    { handshake: { control: true } },
  );

  hostile(
    'case 35: types that nobody knows',
    async (scene) => {
      const { guest } = scene;
      const types = [0, 8, 9, 10, 11, 255, 0xffff];
      const answers = await guest.ask(types.map((type) => controlRequest(7, type, [1, 2, 3])));
      expect(answers.map(({ id, type, status }) => [id, type, status])).toEqual(
        types.map((type) => [7, type, NOT_SUPPORTED]),
      );
      await scene.expectAlive();
    },
    { handshake: { control: true } },
  );

  for (const ahead of [129, 0x8000_0000]) {
    hostile(
      `case 35: a control producer ${ahead} ahead stops the vif`,
      async (scene) => {
        const { guest } = scene;
        guest.control?.claim(ahead);
        guest.controlChannel?.notify();
        await scene.expectKilled('RING_OVERFLOW');
        expect(guest.control?.index(RSP_PROD)).toBe(0);
        await scene.expectRevived({ control: true });
      },
      { handshake: { control: true } },
    );
  }

  hostile(
    'case 35: a control request that is rewritten as soon as it was read',
    async (scene) => {
      const [answer] = await scene.guest.ask([controlRequest(3, SET_HASH_ALGORITHM, [TOEPLITZ])]);
      expect(answer).toMatchObject({ id: 3, type: SET_HASH_ALGORITHM, status: SUCCESS });
    },
    {
      handshake: {
        control: true,
        watch: (page, kind) => {
          if (kind !== 'control') return undefined;
          return (offset, bytes) => {
            if (offset >= 64) page.bytes.fill(0xff, offset, offset + bytes);
          };
        },
      },
    },
  );
});

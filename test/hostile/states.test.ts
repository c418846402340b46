import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect } from 'vitest';
import { XenbusState } from '../../src/xen/xenbus.js';
import { until } from '../support/machine.js';
import { hostile } from './scene.js';

describe('states', () => {
  hostile(
    'case 37: a frontend that changes its state 300 times',
    async (scene) => {
      const { guest, device, machine } = scene;
      const seen: string[] = [];
      const path = `${scene.backend}/state`;
      const watch = await machine.xen.store.watch(path, () => {
        void machine.xen.store.read(path).then((state) => {
          if (seen.at(-1) !== state) seen.push(state);
        });
      });
      const states = ['4', '5', '6', '1', '3', '2', '4', '1', '6', '7', '8'];
      guest.offer();
      const writes: Promise<void>[] = [];
      for (let index = 0; index < 300; index += 1) {
        writes.push(guest.setState(states[(index * 7) % states.length] as string));
        if (index % 30 === 0) await sleep(2);
      }
      await Promise.all(writes);
      await scene.startOver();
      await scene.connect();
      await scene.expectAlive();
      await watch.unwatch();
      // Never from Connected to InitWait or back to Initialising: Closing is not skipped.
      for (const [index, state] of seen.entries()) {
        const before = seen[index - 1];
        if (before === '4') expect(['5', '6']).toContain(state);
        if (state === '4') expect(before).toBe('2');
      }
      expect(device.status.phase).toBe('connected');
    },
    { handshake: false },
  );

  const rubbish = ['99', '', '4 x', '0', '-1', '9', '04', 'connected', '4'.repeat(2000)];
  hostile(
    'case 38: states that are none are ignored while the backend waits',
    async (scene) => {
      const { guest, device } = scene;
      for (const state of rubbish) {
        await guest.setState(state);
        await until('it is seen', () => device.status.frontendState === XenbusState.unknown);
        await sleep(5);
        expect(device.status).toMatchObject({ phase: 'connecting', connects: 0 });
        expect(device.status.backendState).toBe(XenbusState.initWait);
      }
      await scene.connect();
      await scene.expectAlive();
    },
    { handshake: false },
  );

  hostile('case 38: states that are none are ignored while frames flow', async (scene) => {
    const { guest, device } = scene;
    for (const state of rubbish) {
      await guest.setState(state);
      await sleep(5);
      expect(device.status).toMatchObject({ phase: 'connected', connects: 1 });
    }
    await scene.expectAlive();
    await guest.setState('4');
    await scene.expectAlive();
  });
});

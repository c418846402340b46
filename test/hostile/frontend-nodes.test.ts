import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect } from 'vitest';
import { XenbusState } from '../../src/xen/xenbus.js';
import { until } from '../support/machine.js';
import type { Nodes } from './guest.js';
import { hostile, type Scene } from './scene.js';

/** What a node may hold that is no decimal number of 32 bits. */
const NO_NUMBERS: readonly (string | Uint8Array)[] = [
  '',
  ' ',
  '-1',
  '+1',
  '0x8',
  '08',
  '1e1',
  '8 ',
  ' 8',
  '8x',
  '4294967296',
  '99999999999999999999',
  'NaN',
  Uint8Array.of(0x38, 0),
  Uint8Array.of(0xff, 0xfe),
  '8'.repeat(2048),
];

/** Offers `nodes` on top of a correct handshake; the vif must refuse for `reason`. */
async function expectRefusal(scene: Scene, nodes: Nodes, reason: string): Promise<void> {
  await scene.guest.shake({ nodes });
  await scene.expectRefused(reason);
}

/** A text for a test's name, of any value. */
function show(value: string | Uint8Array): string {
  const text = typeof value === 'string' ? value : [...value].map((byte) => `\\x${byte}`).join('');
  return text.length > 20 ? `${text.length} times 8` : `"${text}"`;
}

describe('what the frontend writes', () => {
  hostile(
    'case 39: numbers of queues that are none',
    async (scene) => {
      const { guest, machine } = scene;
      const most = Number(await machine.xen.store.read(`${scene.backend}/multi-queue-max-queues`));
      for (const queues of [0, most + 1, 1000, 4294967295]) {
        await expectRefusal(scene, { 'multi-queue-num-queues': String(queues) }, 'QUEUES_INVALID');
        await scene.startOver();
      }
      for (const queues of ['4294967296', '-1', '', '2x']) {
        await guest.shake({ nodes: { 'multi-queue-num-queues': queues } });
        await until('it is refused', () => scene.device.status.phase === 'failed');
        const reason = scene.device.status.reason;
        expect(['QUEUES_INVALID', 'FRONTEND_KEY_INVALID']).toContain(reason);
        await scene.expectRefused(reason);
        await scene.startOver();
      }
      await scene.connect();
      await scene.expectAlive();
    },
    { handshake: false },
  );

  hostile(
    'case 39: fewer queues written than announced',
    async (scene) => {
      const { machine } = scene;
      const most = Number(await machine.xen.store.read(`${scene.backend}/multi-queue-max-queues`));
      expect(most).toBeGreaterThanOrEqual(2);
      await scene.guest.shake({ queues: 2, nodes: { 'queue-1/rx-ring-ref': undefined } });
      await scene.expectRefused('FRONTEND_KEY_MISSING');
      await scene.expectRevived({ queues: 2 });
    },
    { handshake: false },
  );

  for (const key of ['tx-ring-ref', 'rx-ring-ref', 'event-channel'] as const) {
    hostile(
      `case 40: ${key} is missing or no number`,
      async (scene) => {
        await expectRefusal(scene, { [key]: undefined }, 'FRONTEND_KEY_MISSING');
        await scene.startOver();
        for (const value of NO_NUMBERS) {
          await scene.guest.shake({ nodes: { [key]: value } });
          await until(`${show(value)} is refused`, () => scene.device.status.phase === 'failed');
          await scene.expectRefused('FRONTEND_KEY_INVALID');
          await scene.startOver();
        }
        await scene.connect();
        await scene.expectAlive();
      },
      { handshake: false },
    );
  }

  hostile(
    'case 40: one of two split ports is missing or no number',
    async (scene) => {
      for (const key of ['event-channel-tx', 'event-channel-rx']) {
        await scene.guest.shake({ split: true, nodes: { [key]: undefined } });
        await scene.expectRefused('FRONTEND_KEY_MISSING');
        await scene.startOver();
        await scene.guest.shake({ split: true, nodes: { [key]: '0x10' } });
        await scene.expectRefused('FRONTEND_KEY_INVALID');
        await scene.startOver();
      }
      await scene.connect({ split: true });
      await scene.expectAlive();
    },
    { handshake: false },
  );

  hostile(
    'case 40: a value of 4 KiB, which only domain 0 can write',
    async (scene) => {
      const { guest, machine } = scene;
      const long = '7'.repeat(4000);
      await expect(guest.xen.store.write(`${guest.base}/tx-ring-ref`, long)).rejects.toThrow();
      const nodes = { ...guest.offer(), state: undefined };
      await guest.write({ ...nodes, state: '1' });
      await machine.xen.store.write(`${guest.base}/tx-ring-ref`, long);
      await guest.setState('4');
      await scene.expectRefused('FRONTEND_KEY_INVALID');
      await scene.expectRevived();
    },
    { handshake: false },
  );

  hostile(
    'case 40: references that grant no page',
    async (scene) => {
      for (const key of ['tx-ring-ref', 'rx-ring-ref']) {
        for (const ref of ['0', '7', '4294967295', '123456']) {
          await expectRefusal(scene, { [key]: ref }, 'GRANT_FAILED');
          await scene.startOver();
        }
      }
      const readOnly = scene.guest.page(undefined, 'read');
      await expectRefusal(scene, { 'rx-ring-ref': String(readOnly.ref) }, 'GRANT_FAILED');
      await scene.expectRevived();
    },
    { handshake: false },
  );

  hostile(
    'case 41: both rings in one page',
    async (scene) => {
      const { ref } = scene.guest.page();
      const nodes = { 'tx-ring-ref': String(ref), 'rx-ring-ref': String(ref) };
      await expectRefusal(scene, nodes, 'RING_REFS_EQUAL');
      await scene.expectRevived();
    },
    { handshake: false },
  );

  hostile(
    'case 42: ports that are closed, taken or for another domain',
    async (scene) => {
      const { guest } = scene;
      const closed = guest.channel();
      const port = String(closed.port);
      guest.close(closed);
      const foreign = guest.xen.events.allocate(1, () => undefined);
      for (const channel of ['0', '1023', '4294967295', port, String(foreign.port)]) {
        await expectRefusal(scene, { 'event-channel': channel }, 'EVENT_CHANNEL_FAILED');
        await scene.startOver();
      }
      // The same port for both directions of a split pair: the second bind finds it taken.
      const one = String(guest.channel().port);
      const nodes = { 'event-channel-tx': one, 'event-channel-rx': '0' };
      await expectRefusal(scene, nodes, 'EVENT_CHANNEL_FAILED');
      foreign.close();
      await scene.expectRevived();
    },
    { handshake: false },
  );

  hostile(
    'case 43: nodes that vanish in the midst of the handshake',
    async (scene) => {
      const { guest, machine } = scene;
      for (const key of ['tx-ring-ref', 'rx-ring-ref', 'event-channel', 'request-rx-copy']) {
        const fault = machine.hypervisor.store.fail({
          request: 'READ',
          path: `${guest.base}/${key}`,
          answer: 'ENOENT',
        });
        await guest.shake();
        await until(`${key} is missed`, () => scene.device.status.phase === 'failed');
        expect(fault.hits).toBeGreaterThan(0);
        fault.end();
        const { reason } = scene.device.status;
        expect(['FRONTEND_KEY_MISSING', 'RX_COPY_REQUIRED']).toContain(reason);
        await scene.expectRefused(reason);
        await scene.startOver();
      }
      await scene.connect();
      await scene.expectAlive();
    },
    { handshake: false },
  );

  hostile(
    'case 43: the whole directory is removed while the backend reads it',
    async (scene) => {
      const { guest, device, machine } = scene;
      for (let delay = 0; delay < 6; delay += 1) {
        await guest.shake();
        if (delay > 0) await sleep(delay - 1);
        await machine.xen.store.rm(guest.base);
        await until('let go', () => device.status.backendState === XenbusState.closed);
        expect(scene.held()).toEqual([]);
        guest.forget();
        await machine.xen.store.mkdir(guest.base);
        await machine.xen.store.setPermissions(guest.base, {
          owner: guest.domid,
          others: 'n',
          domains: [{ domid: 0, access: 'r' }],
        });
        await guest.setState('1');
        await until('waits', () => device.status.backendState === XenbusState.initWait);
      }
      await scene.connect();
      await scene.expectAlive();
    },
    { handshake: false },
  );
});

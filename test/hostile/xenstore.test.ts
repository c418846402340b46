import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect } from 'vitest';
import { removeVif } from '../../src/device/netback/toolstack.js';
import { XenbusState } from '../../src/xen/xenbus.js';
import { until } from '../support/machine.js';
import { HostileGuest, type Nodes } from './guest.js';
import { hostile, type Scene } from './scene.js';
import { EXTRA_INFO, EXTRA_MCAST_ADD, extra, txRequest } from './slots.js';

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

/** Starts anew up to the point where the backend waits for us. */
async function startOver(scene: Scene): Promise<void> {
  const { guest, device } = scene;
  await guest.setState('6');
  await until('closed', () => device.status.backendState === XenbusState.closed);
  guest.forget();
  await guest.setState('1');
  await until('waits', () => device.status.backendState === XenbusState.initWait);
}

/** A text for a test's name, of any value. */
function show(value: string | Uint8Array): string {
  const text = typeof value === 'string' ? value : [...value].map((byte) => `\\x${byte}`).join('');
  return text.length > 20 ? `${text.length} times 8` : `"${text}"`;
}

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
      await startOver(scene);
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

describe('what the frontend writes', () => {
  hostile(
    'case 39: numbers of queues that are none',
    async (scene) => {
      const { guest, machine } = scene;
      const most = Number(await machine.xen.store.read(`${scene.backend}/multi-queue-max-queues`));
      for (const queues of [0, most + 1, 1000, 4294967295]) {
        await expectRefusal(scene, { 'multi-queue-num-queues': String(queues) }, 'QUEUES_INVALID');
        await startOver(scene);
      }
      for (const queues of ['4294967296', '-1', '', '2x']) {
        await guest.shake({ nodes: { 'multi-queue-num-queues': queues } });
        await until('it is refused', () => scene.device.status.phase === 'failed');
        const reason = scene.device.status.reason;
        expect(['QUEUES_INVALID', 'FRONTEND_KEY_INVALID']).toContain(reason);
        await scene.expectRefused(reason);
        await startOver(scene);
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
        await startOver(scene);
        for (const value of NO_NUMBERS) {
          await scene.guest.shake({ nodes: { [key]: value } });
          await until(`${show(value)} is refused`, () => scene.device.status.phase === 'failed');
          await scene.expectRefused('FRONTEND_KEY_INVALID');
          await startOver(scene);
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
        await startOver(scene);
        await scene.guest.shake({ split: true, nodes: { [key]: '0x10' } });
        await scene.expectRefused('FRONTEND_KEY_INVALID');
        await startOver(scene);
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
          await startOver(scene);
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
        await startOver(scene);
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
        await startOver(scene);
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

describe('what the toolstack wrote', () => {
  hostile(
    'case 44: a link that leads anywhere but to the frontend is not followed',
    async (scene) => {
      const { guest, machine } = scene;
      const { store } = machine.xen;
      const link = `${scene.backend}/frontend`;
      const right = await store.read(link);
      const wrong = [
        '/local/domain/1/device/vif/0',
        `${right}/../0`,
        right.replace('/device', '//device'),
        `${right}/`,
        right.slice(1),
        `${right}0`,
        '/',
        '',
        `/${'a'.repeat(3900)}`,
      ];
      await expect(guest.xen.store.write(link, wrong[0] ?? '')).rejects.toThrow();
      for (const path of wrong) {
        await store.write(link, path);
        await guest.shake();
        await scene.expectRefused('FRONTEND_PATH_INVALID');
        await startOver(scene);
      }
      await store.rm(link);
      await guest.shake();
      await scene.expectRefused('FRONTEND_PATH_INVALID');
      await store.write(link, right);
      await scene.expectRevived();
    },
    { handshake: false },
  );

  hostile('case 44: a guest can write nothing into the backend directory', async (scene) => {
    const { guest } = scene;
    for (const node of ['state', 'online', 'frontend', 'mac', 'xenvif/uid', 'new']) {
      const write = guest.xen.store.write(`${scene.backend}/${node}`, '0');
      await expect(write).rejects.toMatchObject({ errno: 'EACCES' });
    }
    await scene.expectAlive();
  });

  hostile('case 45: features count as they were at the connect', async (scene) => {
    const { guest, device } = scene;
    const features = { ...device.features };
    await guest.write({
      'feature-sg': '0',
      'request-rx-copy': '0',
      'feature-gso-tcpv4': '0',
      'feature-no-csum-offload': '1',
      'multi-queue-num-queues': '8',
      'tx-ring-ref': '99999',
      'event-channel': '1',
    });
    await sleep(30);
    expect(device.features).toEqual(features);
    const buffers = [guest.page(), guest.page()];
    guest.queue.post(buffers.map(({ ref }) => ref));
    await device.write(new Uint8Array(6000).fill(7));
    const answers = await guest.queue.received(2);
    expect(answers.map(({ status }) => status)).toEqual([4096, 1904]);
    expect(device.status).toMatchObject({ phase: 'connected', connects: 1 });
    await scene.expectAlive();
  });

  hostile('case 45: only the wish for multicast control is live', async (scene) => {
    const { guest, device } = scene;
    const frameTo = (last: number) => {
      const frame = new Uint8Array(60);
      frame.set([1, 0, 0x5e, 0, 0, last]);
      return frame;
    };
    const add = [
      txRequest({ flags: EXTRA_INFO }),
      extra(EXTRA_MCAST_ADD, 0, [1, 0, 0x5e, 0, 0, 1]),
    ];
    guest.queue.send(add);
    await guest.queue.answers(2);
    const buffers = Array.from({ length: 8 }, () => guest.page());
    guest.queue.post(buffers.map(({ ref }) => ref));
    await device.write(frameTo(2));
    await guest.queue.received(1);
    await guest.write({ 'request-multicast-control': '1' });
    await sleep(50);
    await device.write(frameTo(2)).catch(() => undefined);
    await device.write(frameTo(1));
    await guest.queue.received(1);
    expect(buffers[1]?.page.bytes[5]).toBe(1);
    await guest.write({ 'request-multicast-control': '0' });
    await sleep(50);
    await device.write(frameTo(2));
    await guest.queue.received(1);
    expect(buffers[2]?.page.bytes[5]).toBe(2);
  });

  hostile('case 46: a domid that comes back is another domain', async (scene) => {
    const { guest, machine } = scene;
    const { hypervisor, xen } = machine;
    const { domid } = guest;
    const before = scene.device;
    const { ref } = guest.page(new Uint8Array(60));
    const oldStore = guest.xen.store;
    await hypervisor.destroyDomain(domid);
    await until('without a guest', () => before.status.reason === 'FRONTEND_GONE');
    expect(scene.held()).toEqual([]);
    await removeVif(xen.store, 0, domid, 0);
    await until('gone', () => machine.netback.get(domid, 0) === undefined);

    const domain = await hypervisor.createDomain({ domid });
    const next = new HostileGuest(domain, await domain.open({ localMemoryBytes: 65536 }));
    await machine.plug(domid);
    await until('a new vif', () => machine.netback.get(domid, 0)?.status.backendState === 2);
    const device = machine.netback.get(domid, 0);
    expect(device?.uid).not.toBe(before.uid);
    expect(device?.metrics.tx.packets).toBe(0);
    expect(() => xen.grants.map(domid, ref, 'read')).toThrow();
    await expect(oldStore.read(`${next.base}/state`)).rejects.toThrow();
    await next.shake();
    await until('it connects', () => device?.status.phase === 'connected');
    next.queue.send([txRequest({ gref: next.page(new Uint8Array(60)).ref, size: 60 })]);
    expect(await next.queue.answers(1)).toMatchObject([{ status: 0 }]);
    await next.setState('6');
    await until('closed', () => device?.status.backendState === XenbusState.closed);
    await next.end();
  });
});

describe('a XenStore that refuses', () => {
  for (const answer of ['EAGAIN', 'EQUOTA'] as const) {
    hostile(
      `case 47: a flood of ${answer} ends in a bounded number of attempts`,
      async (scene) => {
        const { guest, device, machine } = scene;
        const fault = machine.hypervisor.store.fail({
          request: 'TRANSACTION_END',
          domid: 0,
          answer,
        });
        await guest.shake();
        await sleep(1500);
        const { hits } = fault;
        await sleep(500);
        expect(hits).toBeGreaterThan(0);
        expect(hits).toBeLessThan(500);
        // It has either given up or waits longer and longer: it does not spin.
        expect(fault.hits - hits).toBeLessThan(50);
        expect(scene.held()).toEqual([]);
        fault.end();
        await startOver(scene);
        await scene.connect();
        await scene.expectAlive();
        expect(device.status.reason).toBe('CONNECTED');
      },
      { handshake: false },
    );

    hostile(
      `case 47: a few ${answer} cost nothing but time`,
      async (scene) => {
        const rule = { request: 'TRANSACTION_END', domid: 0, answer, times: 3 } as const;
        const fault = scene.machine.hypervisor.store.fail(rule);
        await scene.connect();
        await scene.expectAlive();
        expect(fault.hits).toBeGreaterThan(0);
      },
      { handshake: false },
    );
  }

  hostile('case 47: a guest fills its quota of nodes', async (scene) => {
    const { guest } = scene;
    const fill = async () => {
      for (let index = 0; ; index += 1) {
        await guest.xen.store.write(`/local/domain/${guest.domid}/data/${index}`, 'x');
      }
    };
    await expect(fill()).rejects.toThrow();
    await scene.expectAlive();
    await scene.expectRevived();
  });
});

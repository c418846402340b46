import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect } from 'vitest';
import { removeVif } from '../../src/device/netback/toolstack.js';
import { XenbusState } from '../../src/xen/xenbus.js';
import { until } from '../support/machine.js';
import { HostileGuest } from './guest.js';
import { hostile } from './scene.js';
import { EXTRA_INFO, EXTRA_MCAST_ADD, extra, txRequest } from './slots.js';

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
        await scene.startOver();
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
        await scene.startOver();
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

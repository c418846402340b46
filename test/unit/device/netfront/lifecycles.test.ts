import { afterEach, describe, expect, test } from 'vitest';
import { removeVif } from '../../../../src/device/netback/toolstack.js';
import { NetfrontDevice } from '../../../../src/device/netfront/device.js';
import { Netfront } from '../../../../src/device/netfront/index.js';
import { silent, until } from '../../../support/machine.js';
import { EVERYTHING } from './raw-backend.js';
import { Stage } from './stage.js';

let stage: Stage;
afterEach(async () => {
  await stage.end();
});

/** Grants that the guest has given to a domain. */
function grantsTo(domid: number): number {
  let count = 0;
  for (let ref = 0; ref < 8192; ref += 1) {
    if (stage.guest.grantTable.entry(ref)?.domid === domid) count += 1;
  }
  return count;
}

async function exchangeFrames(): Promise<void> {
  const before = stage.device.metrics.rx.packets;
  await stage.device.write(new Uint8Array(60).fill(1));
  expect(stage.serve().frame.length).toBe(60);
  stage.backend.fill(stage.queue, new Uint8Array(60));
  stage.backend.pushRx(stage.queue);
  await until('a frame is in', () => stage.device.metrics.rx.packets === before + 1);
}

describe('the backend', () => {
  test('closes and offers again: the frontend comes back, and frames that waited go', async () => {
    stage = await Stage.connected();
    for (let round = 0; round < 5; round += 1) {
      await exchangeFrames();
      await stage.backend.state(5);
      stage.backend.unmap();
      await stage.backend.untilFrontend(6);
      const waiting = stage.device.write(new Uint8Array(61));
      await stage.backend.state(6);
      await stage.connect();
      await waiting;
      expect(stage.serve().frame.length).toBe(61);
      expect(grantsTo(stage.backend.domain.domid)).toBe(514);
    }
  });

  test('is back at InitWait without having closed: the frontend starts anew', async () => {
    stage = await Stage.connected();
    await stage.backend.state(2);
    stage.backend.unmap();
    await until('given up', () => !stage.device.connected);
    await stage.backend.untilFrontend(4);
    await stage.backend.mapRings();
    await stage.backend.state(4);
    await until('connected', () => stage.device.connected);
    await exchangeFrames();
  });

  test('closes for good, and the frontend waits', async () => {
    stage = await Stage.connected();
    await stage.backend.write({ online: '0', state: '5' });
    stage.backend.unmap();
    await stage.backend.untilFrontend(6);
    await stage.backend.state(6);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(await stage.backend.frontend('state')).toBe('6');
    expect(grantsTo(stage.backend.domain.domid)).toBe(0);
  });

  test('vanishes with its directory', async () => {
    stage = await Stage.connected();
    stage.backend.unmap();
    await stage.store.rm(stage.backend.path);
    await stage.backend.untilFrontend(6);
    expect(stage.device.connected).toBe(false);
    expect(grantsTo(stage.backend.domain.domid)).toBe(0);
  });

  test('is replaced by one in another domain', async () => {
    stage = await Stage.connected();
    const old = stage.backend;
    const next = await stage.addBackend();
    old.unmap();
    await removeVif(stage.store, old.domain.domid, stage.guest.domid, 0);
    await stage.plug(next);
    stage.backend = next;
    await stage.connect();
    await exchangeFrames();
    expect(grantsTo(old.domain.domid)).toBe(0);
    expect(grantsTo(next.domain.domid)).toBe(514);
  });

  test('is replaced while the frontend’s own state stays: it closes the old connection first', async () => {
    stage = await Stage.connected();
    const old = stage.backend;
    const next = await stage.addBackend();
    stage.backend = next;
    const base = next.frontendPath;
    await stage.store.transaction(async (transaction) => {
      await transaction.write(`${next.path}/state`, '1');
      const { domid } = next.domain;
      await transaction.setPermissions(next.path, {
        owner: domid,
        others: 'n',
        domains: [{ domid: stage.guest.domid, access: 'r' }],
      });
      await transaction.setPermissions(`${next.path}/state`, {
        owner: domid,
        others: 'n',
        domains: [{ domid: stage.guest.domid, access: 'r' }],
      });
      await transaction.write(`${base}/backend`, next.path);
      await transaction.write(`${base}/backend-id`, String(domid));
    });
    await stage.connect();
    await exchangeFrames();
    old.unmap();
    await until('the old one holds nothing', () => grantsTo(old.domain.domid) === 0);
  });

  test('named under another domain’s number gets nothing', async () => {
    stage = await Stage.connected();
    await stage.backend.state(5);
    stage.backend.unmap();
    await stage.backend.untilFrontend(6);
    await stage.backend.state(6);
    const base = stage.backend.frontendPath;
    const other = await stage.addBackend();
    await stage.store.write(`${base}/backend-id`, String(other.domain.domid));
    await stage.store.write(`${base}/state`, '1');
    await stage.backend.write({ ...EVERYTHING, state: '2' });
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(grantsTo(other.domain.domid)).toBe(0);
  });
});

describe('the frontend', () => {
  test('closes by way of Closing, waits for the backend to let go, and opens again', async () => {
    stage = await Stage.connected();
    const ending = stage.device.disconnect();
    await stage.backend.untilFrontend(5);
    expect(grantsTo(stage.backend.domain.domid)).toBe(514);
    stage.backend.unmap();
    await stage.backend.state(5);
    await ending;
    expect(await stage.backend.frontend('state')).toBe('6');
    expect(grantsTo(stage.backend.domain.domid)).toBe(0);
    await expect(stage.device.write(new Uint8Array(60))).rejects.toMatchObject({
      code: 'DISCONNECTED',
    });
    await stage.device.disconnect();
    await stage.backend.state(6);
    stage.device = await NetfrontDevice.open(stage.xen, 0, silent);
    await stage.connect();
    await exchangeFrames();
  });

  test('fails writers that wait when it is given up', async () => {
    stage = await Stage.open();
    const writes = Promise.allSettled(
      Array.from({ length: 10 }, () => stage.device.write(new Uint8Array(60))),
    );
    await stage.device.disconnect();
    for (const result of await writes) {
      expect(result).toMatchObject({ status: 'rejected', reason: { code: 'DISCONNECTED' } });
    }
  });

  test('goes straight to Closed where it is told to', async () => {
    stage = await Stage.connected();
    const states: (string | undefined)[] = [];
    const path = `${stage.backend.frontendPath}/state`;
    const watch = await stage.store.watch(path, () => {
      void stage.store.readIfExists(path).then((state) => states.push(state));
    });
    const ending = stage.device.disconnect({ skipClosing: true });
    await stage.backend.untilFrontend(6);
    stage.backend.unmap();
    await ending;
    await watch.unwatch();
    expect(states).not.toContain('5');
  });

  test('closes within its limit when the backend never lets go', async () => {
    stage = await Stage.connected({ closeTimeoutMs: 50 });
    const begun = performance.now();
    const ending = stage.device.disconnect();
    await stage.backend.untilFrontend(6);
    await ending;
    // Its own limit is not the usual one of five seconds.
    expect(performance.now() - begun).toBeLessThan(4000);
    expect(stage.device.quarantinedPages).toBe(2);
    stage.backend.unmap();
    await until('let go', () => stage.device.quarantinedPages === 0);
    expect(grantsTo(stage.backend.domain.domid)).toBe(0);
  });

  test('that finds a former life’s connection closes it and begins its own', async () => {
    stage = await Stage.connected();
    await stage.xen.kill();
    const waiting = stage.device.disconnect();
    stage.xen = await stage.guest.open({ localMemoryBytes: 2 * 1024 * 1024 });
    stage.device = await NetfrontDevice.open(stage.xen, 0, silent);
    await stage.backend.untilFrontend(5);
    stage.backend.unmap();
    await stage.backend.state(5);
    await stage.backend.untilFrontend(6);
    await stage.backend.state(6);
    await stage.backend.untilFrontend(1);
    await stage.connect();
    await exchangeFrames();
    await waiting;
  });

  test('starts anew when it is told to, and when the toolstack sets it to Initialising', async () => {
    stage = await Stage.connected();
    for (const begin of [
      () => stage.device.reconnect(),
      () => stage.store.write(`${stage.backend.frontendPath}/state`, '1'),
    ]) {
      await begin();
      await until('given up', () => !stage.device.connected);
      stage.backend.unmap();
      await stage.backend.state(5);
      await stage.backend.state(6);
      await stage.backend.untilFrontend(1);
      await stage.connect();
      await exchangeFrames();
    }
  });

  test('makes nothing of rubbish in its own state, and writes over it when it moves on', async () => {
    stage = await Stage.connected();
    await stage.store.write(`${stage.backend.frontendPath}/state`, '99');
    await new Promise((resolve) => setTimeout(resolve, 20));
    await exchangeFrames();
    await stage.backend.state(5);
    stage.backend.unmap();
    await stage.backend.untilFrontend(6);
    await stage.store.write(`${stage.backend.frontendPath}/state`, '4 x');
    await stage.backend.untilFrontend(6);
    await stage.connect();
    await exchangeFrames();
  });

  test('tries again when memory or event channels were short', async () => {
    stage = await Stage.open();
    for (const fault of ['share', 'allocate'] as const) {
      stage.hypervisor.failEvery({ [fault]: 1 });
      await stage.backend.write({ ...EVERYTHING, state: '2' });
      await new Promise((resolve) => setTimeout(resolve, 30));
      expect(grantsTo(stage.backend.domain.domid)).toBe(0);
      stage.hypervisor.failEvery({});
      await stage.connect();
      await exchangeFrames();
      await stage.backend.state(5);
      stage.backend.unmap();
      await stage.backend.untilFrontend(6);
      await stage.backend.state(6);
    }
  });
});

describe('resume', () => {
  /** What xl restore does: another domain number, fresh directories, nothing granted or bound. */
  async function restore(netfront: { resume(xen: typeof stage.xen): Promise<void> }) {
    const next = await stage.addBackend();
    const old = stage.guest;
    // A suspended guest sees nothing of what happens to its old name.
    await stage.xen.kill();
    stage.guest = await stage.hypervisor.createDomain();
    const xen = await stage.guest.open({ localMemoryBytes: 2 * 1024 * 1024 });
    stage.backend.unmap();
    await removeVif(stage.store, stage.backend.domain.domid, old.domid, 0);
    await stage.hypervisor.destroyDomain(old.domid);
    next.guestDomid = stage.guest.domid;
    await stage.plug(next);
    stage.backend = next;
    stage.xen = xen;
    return netfront.resume(xen);
  }

  test('in a domain with another number, at another backend: counters, listeners, writes stay', async () => {
    stage = await Stage.connected();
    const received = stage.collect();
    await exchangeFrames();
    await restore(stage.device);
    const waiting = stage.device.write(new Uint8Array(70));
    await stage.connect();
    await waiting;
    expect(stage.serve().frame.length).toBe(70);
    await exchangeFrames();
    expect(received.length).toBe(2);
    expect(stage.device.stats).toMatchObject({ rxPackets: 2n, txPackets: 3n });
  });

  test('on the same Xen, with nothing left of what was granted before', async () => {
    stage = await Stage.connected();
    for (let round = 0; round < 5; round += 1) {
      stage.backend.unmap();
      await stage.backend.state(5);
      await stage.store.write(`${stage.backend.frontendPath}/state`, '1');
      await stage.device.resume();
      await stage.backend.state(6);
      await stage.connect();
      await exchangeFrames();
      expect(grantsTo(stage.backend.domain.domid)).toBe(514);
    }
  });

  for (const moment of ['before', 'during', 'after'] as const) {
    test(`the vif is removed ${moment} it: nothing is left`, async () => {
      stage = await Stage.connected();
      const remove = () => removeVif(stage.store, stage.backend.domain.domid, stage.guest.domid, 0);
      stage.backend.unmap();
      if (moment === 'before') await remove();
      const resumed = stage.device.resume();
      if (moment === 'during') await remove();
      await resumed;
      if (moment === 'after') await remove();
      const ended = moment === 'during' ? stage.device.resume() : Promise.resolve();
      await stage.device.disconnect();
      await ended.catch(() => undefined);
      expect(grantsTo(stage.backend.domain.domid)).toBe(0);
      expect(stage.xen.leftovers()).toEqual([]);
    });
  }

  test('of a whole guest: vifs that are gone are given up, new ones are found', async () => {
    stage = await Stage.open();
    await stage.device.disconnect();
    const opened: number[] = [];
    const netfront = new Netfront(stage.xen, silent, ({ handle }) => opened.push(handle));
    await netfront.start();
    await stage.store.write(`${stage.backend.frontendPath}/state`, '1');
    stage.device = netfront.get(0) as NetfrontDevice;
    await stage.connect();
    await exchangeFrames();
    await restore(netfront);
    expect(netfront.get(0)).toBe(stage.device);
    await stage.connect();
    await exchangeFrames();
    stage.backend.unmap();
    await removeVif(stage.store, stage.backend.domain.domid, stage.guest.domid, 0);
    await netfront.resume();
    await until('gone', () => netfront.get(0) === undefined);
    expect(opened).toEqual([0]);
    await netfront.stop();
  });
});

describe('a backend that breaks the rules', () => {
  test('is cut off, and only our own decision gives it another chance', async () => {
    stage = await Stage.connected();
    stage.queue.tx.page.storeIndex(8, 1000);
    stage.queue.notify();
    await until('cut off', () => stage.device.fault !== undefined);
    expect(stage.device.fault?.code).toBe('RING_OVERFLOW');
    expect(stage.device.connected).toBe(false);
    stage.backend.unmap();
    await stage.backend.untilFrontend(5);
    await stage.backend.state(5);
    await stage.backend.untilFrontend(6);
    await stage.backend.state(6);
    await stage.backend.state(2);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(await stage.backend.frontend('state')).toBe('6');
    await until('nothing is granted', () => grantsTo(stage.backend.domain.domid) === 0);
    await stage.device.reconnect();
    await stage.connect();
    expect(stage.device.fault).toBeUndefined();
    await exchangeFrames();
  });

  for (const [what, code, act] of [
    [
      'an answer to a request that is not under way',
      'RESPONSE_ID_INVALID',
      () => stage.backend.respondTx(stage.queue, 3, 0),
    ],
    [
      'an answer to an extra that was not sent',
      'RESPONSE_UNEXPECTED',
      () => stage.backend.respondTx(stage.queue, 0, 1),
    ],
    [
      'a buffer of another slot',
      'RESPONSE_ID_INVALID',
      () => stage.backend.respondRx(stage.queue, 1, 0, 0, 60),
    ],
    [
      'a response outside its page',
      'RESPONSE_CROSSES_PAGE',
      () => stage.backend.respondRx(stage.queue, 0, 4000, 0, 97),
    ],
    [
      'a frame without an end',
      'CHAIN_TRUNCATED',
      () => stage.backend.respondRx(stage.queue, 0, 0, 4, 60),
    ],
    [
      'an extra that is not there',
      'EXTRA_MISSING',
      () => stage.backend.respondRx(stage.queue, 0, 0, 8, 60),
    ],
    [
      'an extra of no type',
      'EXTRA_TYPE_INVALID',
      () => {
        stage.backend.respondRx(stage.queue, 0, 0, 8, 60);
        stage.backend.extraRx(stage.queue, 9, 0);
      },
    ],
  ] as const) {
    test(`${what} cuts it off; traffic while that happens harms nobody`, async () => {
      stage = await Stage.connected();
      await stage.device.write(new Uint8Array(60));
      act();
      stage.queue.tx.page.storeIndex(8, stage.queue.tx.rspProd);
      stage.backend.pushRx(stage.queue);
      const later = stage.device.write(new Uint8Array(60)).catch((error: unknown) => error);
      await until('cut off', () => stage.device.fault?.code === code);
      expect(stage.device.metrics.rx.packets).toBe(0);
      await stage.backend.letGo();
      await stage.device.disconnect();
      await later;
    });
  }

  test('a page that it still maps when it answers is used for no other frame until it lets go', async () => {
    stage = await Stage.connected();
    await stage.device.write(new Uint8Array(60).fill(1));
    const packet = stage.backend.take(stage.queue);
    const gref = packet?.requests[0]?.gref ?? 0;
    const kept = stage.backend.xen.grants.map(stage.guest.domid, gref, 'read');
    if (packet !== undefined) stage.backend.answer(stage.queue, packet);
    const used = async () => {
      await stage.device.write(new Uint8Array(60).fill(2));
      return stage.serve().requests[0]?.gref;
    };
    const seen = new Set<number | undefined>();
    for (let index = 0; index < 600; index += 1) seen.add(await used());
    expect(seen.has(gref)).toBe(false);
    expect(kept.page.bytes[0]).toBe(1);
    kept.unmap();
    await new Promise((resolve) => setTimeout(resolve, 80));
    for (let index = 0; index < 600; index += 1) seen.add(await used());
    expect(seen.has(gref)).toBe(true);
  });

  test('a buffer that it still maps is not posted again until it lets go', async () => {
    stage = await Stage.connected();
    const { queue, backend } = stage;
    const gref = queue.rx.page.readU32(queue.rx.slot(0) + 4);
    const kept = backend.xen.grants.map(stage.guest.domid, gref, 'write');
    backend.fill(queue, new Uint8Array(60));
    backend.pushRx(queue);
    await until('it is in', () => stage.device.metrics.rx.packets === 1);
    const posted = () => {
      const count = queue.rx.pendingRequests();
      return Array.from({ length: count }, (_, index) =>
        queue.rx.page.readU32(queue.rx.slot(queue.rx.reqCons + index) + 4),
      );
    };
    expect(posted()).toHaveLength(255);
    expect(posted()).not.toContain(gref);
    kept.unmap();
    await until('it is posted again', () => posted().length === 256);
    expect(posted()).toContain(gref);
  });

  test('pages that it keeps from one connection to the next cost it the connection in the end', async () => {
    stage = await Stage.connected({ closeTimeoutMs: 20 });
    const kept: { unmap(): void }[] = [];
    let rounds = 0;
    for (; rounds < 20 && stage.device.quarantinedPages < 2048; rounds += 1) {
      const gref = stage.queue.rx.page.readU32(stage.queue.rx.slot(0) + 4);
      await stage.device.write(new Uint8Array(60));
      const sent = stage.serve().requests[0]?.gref ?? 0;
      kept.push(stage.backend.xen.grants.map(stage.guest.domid, gref, 'write'));
      kept.push(stage.backend.xen.grants.map(stage.guest.domid, sent, 'read'));
      await stage.backend.state(5);
      stage.backend.unmap();
      await stage.backend.untilFrontend(6);
      await stage.backend.state(6);
      if (stage.device.quarantinedPages < 2048) await stage.connect();
    }
    expect(rounds).toBe(4);
    await stage.backend.write({ ...EVERYTHING, state: '2' });
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(await stage.backend.frontend('state')).toBe('1');
    for (const mapping of kept) mapping.unmap();
    await stage.connect();
    await exchangeFrames();
    expect(grantsTo(stage.backend.domain.domid)).toBe(514);
  });

  test('events without anything behind them are heard less and less', async () => {
    stage = await Stage.connected();
    const { metrics } = stage.device;
    let rounds = 0;
    const end = performance.now() + 200;
    while (performance.now() < end) {
      rounds += 1;
      stage.queue.notify();
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(metrics.eventsReceived).toBeLessThan(Math.max(rounds / 4, 120));
    await exchangeFrames();
  });
});

import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { removeVif } from '../../src/device/netback/toolstack.js';
import { Machine, until } from '../support/machine.js';
import { HostileBackend, rxAnswer, txAnswer } from './backend.js';
import { Bystanders } from './bystanders.js';
import type { Words } from './raw-ring.js';
import { EXTRA_INFO, MORE_DATA } from './slots.js';

interface Stage {
  readonly machine: Machine;
  readonly bystanders: Bystanders;
  readonly backend: HostileBackend;
}

/** A test of what a hostile backend may do to our netfront, with bystanders all the while. */
function hostile(name: string, body: (stage: Stage) => Promise<void>): void {
  test(name, async () => {
    const machine = await Machine.start();
    const bystanders = await Bystanders.join(machine);
    const backend = await HostileBackend.open(machine);
    const memory = backend.guestXen.memory.allocatedBytes;
    bystanders.begin();
    try {
      await backend.connect();
      await body({ machine, bystanders, backend });
    } catch (error) {
      await machine.hypervisor.shutdown();
      throw error;
    }
    await bystanders.finish();
    await backend.end();
    expect(backend.guestXen.memory.allocatedBytes).toBe(memory);
    expect(backend.grants()).toEqual([]);
    await machine.end();
  });
}

/** The frontend has cut the backend off, for a reason that it names; its process lives. */
async function expectCutOff({ backend }: Stage, ...reasons: string[]): Promise<void> {
  await until('netfront cuts its backend off', () => !backend.device.connected);
  await backend.untilFrontend('5', '6');
  const named = reasons.some((reason) => backend.audit.some((line) => line.includes(reason)));
  expect(named, `one of ${reasons} in ${backend.audit}`).toBe(true);
}

/** After a new handshake frames flow both ways. */
async function expectRevived({ backend }: Stage): Promise<void> {
  await backend.reconnect();
  const { device, received } = backend;
  const { tx, rx } = backend.rings;
  const frame = randomBytes(60);
  await device.write(frame);
  const [request = []] = tx.take();
  const ref = request[0] as number;
  const page = backend.xen.grants.map(backend.guest.domid, ref, 'read');
  expect(Buffer.from(page.page.bytes.slice(0, 60))).toEqual(frame);
  page.unmap();
  tx.push([txAnswer((request[2] as number) & 0xffff, 0)]);
  const before = received.length;
  fill(backend, rx.take()[0] ?? [], frame);
  rx.push([rxAnswer(0, 0, 0, 60)]);
  backend.notify();
  await until('the frame is in', () => received.length > before);
  expect(Buffer.from(received.at(-1) ?? [])).toEqual(frame);
}

/** Writes a frame into the buffer of an RX request. */
function fill(backend: HostileBackend, request: Words, frame: Uint8Array): void {
  const mapped = backend.xen.grants.map(backend.guest.domid, request[1] as number, 'write');
  mapped.page.bytes.set(frame);
  mapped.unmap();
}

const idOf = (request: Words | undefined) => (request?.[0] as number) & 0xffff;

describe('a hostile backend', () => {
  for (const ring of ['tx', 'rx'] as const) {
    for (const ahead of [1, 300, 0x8000_0000]) {
      hostile(`case 48: rsp_prod ${ahead} past req_prod of the ${ring} ring`, async (stage) => {
        const half = stage.backend.rings[ring];
        half.claim(half.reqProd + ahead);
        stage.backend.notify();
        await expectCutOff(stage, 'RING_OVERFLOW');
        await expectRevived(stage);
      });
    }
  }

  hostile('case 48: rsp_prod that goes backwards', async (stage) => {
    const { backend } = stage;
    await backend.device.write(randomBytes(60));
    const { tx } = backend.rings;
    const [request = []] = tx.take();
    tx.push([txAnswer((request[2] as number) & 0xffff, 0)]);
    backend.notify();
    await backend.device.write(randomBytes(60));
    await sleep(5);
    tx.claim(0xffff_ffff);
    backend.notify();
    await expectCutOff(stage, 'RING_OVERFLOW');
    await expectRevived(stage);
  });

  for (const id of [300, 0xffff]) {
    hostile(`case 49: a TX answer with the unknown id ${id}`, async (stage) => {
      const { backend } = stage;
      await backend.device.write(randomBytes(60));
      backend.rings.tx.push([txAnswer(id, 0)]);
      backend.notify();
      await expectCutOff(stage, 'RESPONSE_ID_INVALID');
      await expectRevived(stage);
    });
  }

  hostile('case 49: a TX answer to a request that is not under way', async (stage) => {
    const { backend } = stage;
    await backend.device.write(randomBytes(60));
    const { tx } = backend.rings;
    const [request = []] = tx.take();
    const id = (request[2] as number) & 0xffff;
    tx.push([txAnswer(id === 0 ? 1 : 0, 0)]);
    backend.notify();
    await expectCutOff(stage, 'RESPONSE_ID_INVALID');
    await expectRevived(stage);
  });

  hostile('case 49: a TX answer given twice', async (stage) => {
    const { backend } = stage;
    await backend.device.write(randomBytes(60));
    await backend.device.write(randomBytes(60));
    const { tx } = backend.rings;
    const [request = []] = tx.take();
    const id = (request[2] as number) & 0xffff;
    tx.push([txAnswer(id, 0), txAnswer(id, 0)]);
    backend.notify();
    await expectCutOff(stage, 'RESPONSE_ID_INVALID');
    await expectRevived(stage);
  });

  for (const [offset, status] of [
    [4096, 1],
    [4000, 97],
    [0, 4097],
    [0xffff, 0x7fff],
  ] as const) {
    hostile(`case 50: ${status} bytes at ${offset} of a buffer`, async (stage) => {
      const { backend } = stage;
      const [request] = backend.rings.rx.take();
      backend.rings.rx.push([rxAnswer(idOf(request), offset, 0, status)]);
      backend.notify();
      await expectCutOff(stage, 'RESPONSE_CROSSES_PAGE');
      expect(backend.received).toEqual([]);
      await expectRevived(stage);
    });
  }

  hostile('case 50: a frame of more slots than any frame may have', async (stage) => {
    const { backend } = stage;
    const requests = backend.rings.rx.take();
    const slots = requests.map((request) => rxAnswer(idOf(request), 0, MORE_DATA, 4096));
    backend.rings.rx.push(slots);
    backend.notify();
    await until('cut off, or dropped', () => {
      return !backend.device.connected || backend.device.metrics.rx.drops.size > 0;
    });
    expect(backend.received).toEqual([]);
    await expectRevived(stage);
  });

  hostile('case 50: a frame that goes on past the last response', async (stage) => {
    const { backend } = stage;
    const [request] = backend.rings.rx.take();
    backend.rings.rx.push([rxAnswer(idOf(request), 0, MORE_DATA, 100)]);
    backend.notify();
    await expectCutOff(stage, 'CHAIN_TRUNCATED');
    await expectRevived(stage);
  });

  for (const type of [0, 5, 200]) {
    hostile(`case 50: an extra of type ${type} in a received frame`, async (stage) => {
      const { backend } = stage;
      const [first] = backend.rings.rx.take();
      backend.rings.rx.push([rxAnswer(idOf(first), 0, EXTRA_INFO, 60), [type, 0]]);
      backend.notify();
      await until('cut off, or dropped', () => {
        return !backend.device.connected || backend.device.metrics.rx.drops.size > 0;
      });
      expect(backend.received).toEqual([]);
      await expectRevived(stage);
    });
  }

  hostile('case 50: frames too short or failed are dropped, the next is good', async (stage) => {
    const { backend } = stage;
    const { rx } = backend.rings;
    const requests = rx.take();
    const frame = randomBytes(60);
    fill(backend, requests[3] ?? [], frame);
    rx.push([
      rxAnswer(idOf(requests[0]), 0, 0, 13),
      rxAnswer(idOf(requests[1]), 0, 0, -1),
      rxAnswer(idOf(requests[2]), 0, 0, 0),
      rxAnswer(idOf(requests[3]), 0, 0, 60),
    ]);
    backend.notify();
    await until('the good one is in', () => backend.received.length > 0);
    expect(backend.received.map((bytes) => Buffer.from(bytes))).toEqual([frame]);
    const drops = [...backend.device.metrics.rx.drops.values()];
    expect(drops.reduce((sum, { packets }) => sum + packets, 0)).toBe(3);
    expect(backend.device.connected).toBe(true);
  });

  hostile(
    'case 51: a page that the backend still maps is never used for another',
    async (stage) => {
      const { backend } = stage;
      const { tx, rx } = backend.rings;
      await backend.device.write(new Uint8Array(60).fill(1));
      const [request = []] = tx.take();
      const domid = backend.guest.domid;
      const kept = backend.xen.grants.map(domid, request[0] as number, 'read');
      const [buffer = []] = rx.take();
      const keptBuffer = backend.xen.grants.map(domid, buffer[1] as number, 'write');
      tx.push([txAnswer((request[2] as number) & 0xffff, 0)]);
      backend.notify();
      await sleep(5);
      const memory = backend.guestXen.memory.allocatedBytes;
      await expectRevived(stage);
      await expectRevived(stage);
      // What the guest allocates now must not be what the backend still sees.
      const fresh = backend.guestXen.grants.share(0, 600, 'write');
      for (const page of fresh.pages) page.bytes.fill(0x77);
      expect(kept.page.bytes.includes(0x77)).toBe(false);
      expect(keptBuffer.page.bytes.includes(0x77)).toBe(false);
      fresh.unshare();
      expect(backend.guestXen.memory.allocatedBytes).toBe(memory);
      kept.unmap();
      keptBuffer.unmap();
      await expectRevived(stage);
    },
  );

  hostile('case 52: whole granted pages hold nothing but frames and zeros', async (stage) => {
    const { backend } = stage;
    // Secrets lie in the guest's memory before anything is granted.
    const secret = backend.guestXen.memory.allocate(64 * 4096);
    const { bytes } = backend.guestXen.memory;
    bytes.fill(0xee, secret.offset, secret.offset + secret.length);
    secret.free();
    await backend.reconnect();
    for (const length of [1514, 60, 4096, 100, 9000]) {
      await backend.device.write(new Uint8Array(length).fill(0x11));
      const requests = backend.rings.tx.take();
      backend.rings.tx.push(
        requests.map((request) => txAnswer((request[2] as number) & 0xffff, 0)),
      );
      backend.notify();
    }
    let pages = 0;
    const rings = [backend.rings.tx.mapped.page, backend.rings.rx.mapped.page];
    for (const ref of backend.grants()) {
      const mapped = backend.xen.grants.map(backend.guest.domid, ref, 'read');
      const content = mapped.page.bytes;
      const isRing = rings.some((ring) => ring.bytes.byteOffset === content.byteOffset);
      if (!isRing) {
        expect(content.every((byte) => byte === 0 || byte === 0x11)).toBe(true);
        pages += 1;
      }
      mapped.unmap();
    }
    expect(pages).toBeGreaterThan(256);
  });

  hostile('case 53: fifty reconnects leave nothing behind', async (stage) => {
    const { backend } = stage;
    await backend.reconnect();
    const grants = backend.grants().length;
    const memory = backend.guestXen.memory.allocatedBytes;
    for (let round = 0; round < 50; round += 1) await backend.reconnect();
    expect(backend.grants()).toHaveLength(grants);
    expect(backend.guestXen.memory.allocatedBytes).toBe(memory);
    await expectRevived(stage);
  });

  for (const moment of ['at once', 'with rings made', 'after the frontend is up'] as const) {
    hostile(`case 53: the vif is removed during a resume, ${moment}`, async (stage) => {
      const { backend, machine } = stage;
      await backend.setState(5);
      backend.disconnect();
      await backend.untilFrontend('6', '5');
      await backend.setState(6);
      await backend.untilFrontend('6');
      await backend.device.reconnect();
      const offer = backend.write({ 'feature-sg': '1', 'feature-rx-copy': '1', state: '2' });
      if (moment !== 'at once') await offer;
      if (moment === 'after the frontend is up') await backend.untilFrontend('4');
      const { store } = machine.xen;
      await removeVif(store, backend.domain.domid, backend.guest.domid, 0);
      await offer.catch(() => undefined);
      await removeVif(store, backend.domain.domid, backend.guest.domid, 0);
      await until('netfront has given it up', () => backend.netfront.get(0) === undefined);
      await until('nothing is shared', () => backend.grants().length === 0);
      expect(backend.guestXen.memory.allocatedBytes).toBe(0);
    });
  }
});

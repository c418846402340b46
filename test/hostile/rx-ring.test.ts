import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, vi } from 'vitest';
import { until } from '../support/machine.js';
import { REQ_EVENT, RSP_PROD } from './raw-ring.js';
import { hostile, type Scene } from './scene.js';
import { MORE_DATA } from './slots.js';

/** What the backend may keep for a guest that posts no buffers. */
const QUEUE_BYTES = 512 * 1024;

/** The frame that lies in buffers, put together by their answers. */
function gather(
  pages: readonly { bytes: Uint8Array }[],
  answers: readonly { offset: number; status: number }[],
): Buffer {
  return Buffer.concat(
    answers.map(({ offset, status }, index) =>
      (pages[index]?.bytes ?? new Uint8Array()).slice(offset, offset + status),
    ),
  );
}

/** Frames of one length, each of one byte value, that tell their number by it. */
async function writeNumbered(scene: Scene, count: number, length: number): Promise<void> {
  for (let index = 0; index < count; index += 1) {
    await scene.device.write(new Uint8Array(length).fill(index & 0xff));
  }
}

describe('buffers of the RX ring', () => {
  hostile('case 28: without buffers 512 KiB wait, and the rest is dropped', async (scene) => {
    const { guest, device, machine } = scene;
    const before = machine.xen.memory.allocatedBytes;
    await writeNumbered(scene, 600, 1000);
    const kept = Math.floor(QUEUE_BYTES / 1000);
    expect(scene.dropped('rx', 'RX_QUEUE_FULL')).toBe(600 - kept);
    await writeNumbered(scene, 600, 1000);
    expect(scene.dropped('rx', 'RX_QUEUE_FULL')).toBe(1200 - kept);
    const held = machine.xen.memory.allocatedBytes - before;
    expect(held).toBeLessThanOrEqual(QUEUE_BYTES + 64 * 1024);
    expect(guest.queue.rx.index(RSP_PROD)).toBe(0);

    const buffer = guest.page();
    const firstBytes: number[] = [];
    while (firstBytes.length < kept) {
      guest.queue.post([buffer.ref]);
      const answers = await guest.queue.received(1);
      expect(answers).toMatchObject([{ offset: 0, flags: 0, status: 1000 }]);
      firstBytes.push(buffer.page.bytes[0] as number);
    }
    expect(firstBytes).toEqual(Array.from({ length: kept }, (_, index) => index & 0xff));
    expect(device.metrics.rx.packets).toBe(kept);
    expect(machine.xen.memory.allocatedBytes).toBe(before);
  });

  hostile(
    'case 28: a guest on a busy hub that posts no buffers keeps nobody waiting',
    async (scene) => {
      const { bystanders } = scene;
      const start = bystanders.received;
      await until('the bystanders fill the queue', () => scene.dropped('rx', 'RX_QUEUE_FULL') > 50);
      expect(bystanders.received - start).toBeGreaterThan(50);
    },
    { onHub: true },
  );

  hostile('case 29: one buffer where a frame needs two is a stall, not a start', async (scene) => {
    const { guest, device } = scene;
    const [first, second, third] = [guest.page(), guest.page(), guest.page()];
    const long = randomBytes(5000);
    const short = randomBytes(60);
    guest.queue.post([first.ref], 11);
    await device.write(long);
    await device.write(short);
    await sleep(20);
    expect(guest.queue.rx.index(RSP_PROD)).toBe(0);
    expect(first.page.bytes.every((byte) => byte === 0)).toBe(true);
    // The wish is for an event when the second buffer is there, not before.
    expect(guest.queue.rx.index(REQ_EVENT)).toBe(2);

    guest.queue.post([second.ref], 12);
    const answers = await guest.queue.received(2);
    expect(answers).toEqual([
      { id: 11, offset: 0, flags: MORE_DATA, status: 4096 },
      { id: 12, offset: 0, flags: 0, status: 904 },
    ]);
    expect(gather([first.page, second.page], answers)).toEqual(long);
    guest.queue.post([third.ref], 13);
    const [answer] = await guest.queue.received(1);
    expect(answer).toEqual({ id: 13, offset: 0, flags: 0, status: 60 });
    expect(Buffer.from(third.page.bytes.slice(0, 60))).toEqual(short);
  });

  hostile(
    'case 29: a guest that stays one buffer short is stalled, and then is not',
    async (scene) => {
      const { guest, device, machine } = scene;
      const before = machine.xen.memory.allocatedBytes;
      const [first, second, third] = [guest.page(), guest.page(), guest.page()];
      guest.queue.post([first.ref], 1);
      await device.write(randomBytes(5000));
      const now = performance.now.bind(performance);
      const clock = vi.spyOn(performance, 'now').mockImplementation(() => now() + 61_000);
      try {
        await until('the frame that waits is given up', () => {
          return scene.dropped('rx', 'RX_EXPIRED') + scene.dropped('rx', 'RX_STALLED') === 1;
        });
        expect(machine.xen.memory.allocatedBytes).toBe(before);
        await device.write(randomBytes(60));
        expect(scene.dropped('rx', 'RX_STALLED')).toBeGreaterThan(0);
        expect(guest.queue.rx.index(RSP_PROD)).toBe(0);
        guest.queue.post([second.ref, third.ref], 2);
        await sleep(20);
        await device.write(randomBytes(5000));
        expect((await guest.queue.received(2)).map(({ id }) => id)).toEqual([1, 2]);
      } finally {
        clock.mockRestore();
      }
    },
  );

  hostile(
    'case 28: frames for a guest that will not tell of buffers wait for milliseconds',
    async (scene) => {
      const { guest, device, machine } = scene;
      const before = machine.xen.memory.allocatedBytes;
      await writeNumbered(scene, 20, 1000);
      await until('they are given up', () => scene.dropped('rx', 'RX_EXPIRED') === 20);
      expect(machine.xen.memory.allocatedBytes).toBe(before);
      const buffer = guest.page();
      await device.write(randomBytes(60));
      guest.queue.rx.push([[5, buffer.ref]]);
      expect(await guest.queue.received(1)).toMatchObject([{ id: 5, status: 60 }]);
    },
    { handshake: { nodes: { 'feature-rx-notify': undefined } } },
  );

  hostile('case 30: buffers that cannot be written are answered with an error', async (scene) => {
    const { guest, device, machine } = scene;
    const page = guest.domain.raw.allocatePage();
    page.bytes.fill(0x5a);
    const readOnly = guest.grant(page, 'read');
    const foreign = guest.grant(page, 'write', 1);
    const good = guest.page();
    const refs = [readOnly, foreign, 0, 0xffff_ffff, good.ref];
    guest.queue.post(refs, 100);
    const frame = randomBytes(60);
    for (let index = 0; index < refs.length; index += 1) await device.write(frame);
    const answers = await guest.queue.received(refs.length);
    expect(answers.map(({ id, status }) => [id, status < 0])).toEqual([
      [100, true],
      [101, true],
      [102, true],
      [103, true],
      [104, false],
    ]);
    expect(Buffer.from(good.page.bytes.slice(0, 60))).toEqual(frame);
    expect(page.bytes.every((byte) => byte === 0x5a)).toBe(true);
    expect(scene.dropped('rx', 'BAD_GRANT')).toBe(4);
    expect(device.metrics.rx.packets).toBe(1);
    expect(machine.netback.get(guest.domid, 0)?.status.phase).toBe('connected');
    await scene.expectAlive();
  });

  hostile('case 30: a frame of three buffers of which one is bad', async (scene) => {
    const { guest, device } = scene;
    const [first, third] = [guest.page(), guest.page()];
    guest.queue.post([first.ref, 0xffff_ffff, third.ref], 1);
    await device.write(randomBytes(9000));
    const answers = await guest.queue.received(3);
    expect(answers.map(({ id }) => id)).toEqual([1, 2, 3]);
    expect(answers[1]?.status).toBeLessThan(0);
    expect(answers.map(({ flags }) => flags & MORE_DATA)).toEqual([MORE_DATA, MORE_DATA, 0]);
    expect(scene.dropped('rx', 'BAD_GRANT')).toBe(1);
    expect(device.metrics.rx.packets).toBe(0);
    await scene.expectAlive();
  });

  for (const posted of [257, 0x8000_0000, 0xffff_ffff]) {
    hostile(`case 31: ${posted} buffers on a ring of 256`, async (scene) => {
      const { guest, device } = scene;
      guest.queue.rx.claim(posted);
      guest.queue.rxChannel.notify();
      await device.write(randomBytes(60)).catch(() => undefined);
      await scene.expectKilled('RING_OVERFLOW');
      expect(guest.queue.rx.index(RSP_PROD)).toBe(0);
      await scene.expectRevived();
    });
  }

  hostile(
    'case 3: a buffer that is rewritten as soon as it was read',
    async (scene) => {
      const { guest, device } = scene;
      const buffer = guest.page();
      guest.queue.post([buffer.ref], 77);
      const frame = randomBytes(60);
      await device.write(frame);
      expect(await guest.queue.received(1)).toEqual([{ id: 77, offset: 0, flags: 0, status: 60 }]);
      expect(Buffer.from(buffer.page.bytes.slice(0, 60))).toEqual(frame);
    },
    {
      handshake: {
        watch: (page, kind) => {
          if (kind !== 'rx') return undefined;
          return (offset, bytes) => {
            if (offset < 64) return;
            page.bytes.fill(0xff, offset, offset + bytes);
          };
        },
      },
    },
  );

  hostile('case 4: a rsp_prod that the guest writes on the RX ring', async (scene) => {
    const { guest, device } = scene;
    const buffer = guest.page();
    for (let round = 1; round <= 3; round += 1) {
      guest.queue.post([buffer.ref], round);
      guest.queue.rx.setIndex(RSP_PROD, 0x1000 * round);
      await device.write(randomBytes(60));
      await until('it is answered', () => guest.queue.rx.index(RSP_PROD) === round);
      expect(guest.queue.takeRx()).toMatchObject([{ id: round, status: 60 }]);
    }
  });

  for (const direction of ['tx', 'rx'] as const) {
    hostile(`case 32: the domain dies in the midst of a copy (${direction})`, async (scene) => {
      const { guest, device, machine } = scene;
      const { faults } = machine.hypervisor;
      const pages = Array.from({ length: 8 }, () => guest.page(randomBytes(4096)));
      let destroyed: Promise<void> | undefined;
      faults.duringCopy = (segment) => {
        if (segment !== 4) return;
        faults.duringCopy = undefined;
        guest.domain.grantTable.clear();
        destroyed = machine.hypervisor.destroyDomain(guest.domid);
      };
      if (direction === 'rx') {
        guest.queue.post(pages.map(({ ref }) => ref));
        await device.write(randomBytes(30_000));
      } else {
        guest.queue.send(pages.map(({ ref }, id) => [ref, 0, id | (4096 << 16)]));
      }
      await until('the domain dies', () => destroyed !== undefined);
      await destroyed;
      await until('the vif has no guest', () => device.status.reason === 'FRONTEND_GONE');
      expect(scene.held()).toEqual([]);
      await device.write(randomBytes(60)).catch(() => undefined);
    });
  }
});

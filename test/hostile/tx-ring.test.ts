import { randomBytes } from 'node:crypto';
import { describe, expect } from 'vitest';
import { until } from '../support/machine.js';
import { chain, expectAnswered, times } from './packets.js';
import { RSP_PROD } from './raw-ring.js';
import { hostile } from './scene.js';
import { ERROR, OKAY, txRequest } from './slots.js';

describe('indices of the TX ring', () => {
  for (const ahead of [257, 1000, 0x7fffffff, 0x80000000]) {
    hostile(`case 1: a producer ${ahead} ahead stops the vif`, async (scene) => {
      const { guest } = scene;
      guest.queue.tx.claim(ahead);
      guest.queue.txChannel.notify();
      await scene.expectKilled('RING_OVERFLOW');
      expect(guest.queue.tx.index(RSP_PROD)).toBe(0);
      expect(scene.taken).toEqual([]);
      await scene.expectRevived();
    });
  }

  hostile('case 1: a full ring of 256 requests is no overflow', async (scene) => {
    const { guest } = scene;
    const { ref } = guest.page(randomBytes(60));
    guest.queue.send(
      Array.from({ length: 256 }, (_, id) => txRequest({ gref: ref, size: 60, id })),
    );
    const answers = await guest.queue.answers(256);
    expect(answers.map(({ id }) => id)).toEqual(Array.from({ length: 256 }, (_, id) => id));
    expect(scene.taken).toHaveLength(256);
  });

  hostile('case 2: a producer that goes backwards stops the vif', async (scene) => {
    const { guest } = scene;
    const { ref } = guest.page(randomBytes(60));
    guest.queue.send(times(3, txRequest({ gref: ref, size: 60 })));
    await guest.queue.answers(3);
    guest.queue.tx.claim(2);
    guest.queue.txChannel.notify();
    await scene.expectKilled('RING_OVERFLOW');
    expect(guest.queue.tx.index(RSP_PROD)).toBe(3);
    expect(scene.taken).toHaveLength(3);
    await scene.expectRevived();
  });

  hostile(
    'case 2: the wrap at 2^32 is legal',
    async (scene) => {
      const { guest } = scene;
      for (let round = 0; round < 4; round += 1) {
        const content = randomBytes(100);
        const { ref } = guest.page(content);
        guest.queue.send(
          Array.from({ length: 10 }, (_, id) => txRequest({ gref: ref, size: 100, id })),
        );
        expect(await guest.queue.answers(10)).toHaveLength(10);
        expect(Buffer.from(scene.taken.at(-1)?.bytes ?? [])).toEqual(content);
      }
      expect(guest.queue.tx.index(RSP_PROD)).toBe(24);
      expect(scene.taken).toHaveLength(40);
    },
    { handshake: { start: 0xfffffff0 } },
  );

  let overwrites = 0;
  hostile(
    'case 3: a slot that is rewritten as soon as it was read counts as it was read',
    async (scene) => {
      const { guest } = scene;
      const parts = [randomBytes(40), randomBytes(30), randomBytes(20)] as const;
      const pages = parts.map((part) => guest.page(part));
      const [head, second, third] = pages.map(({ ref }) => ({ gref: ref }));
      if (head === undefined || second === undefined || third === undefined) throw new Error();
      overwrites = 0;
      guest.queue.send(
        chain(90, head, [
          { ...second, size: 30 },
          { ...third, size: 20 },
        ]),
      );
      const answers = await guest.queue.answers(3);
      expect(overwrites).toBeGreaterThanOrEqual(9);
      expect(answers.map(({ id, status }) => [id, status])).toEqual([
        [1, OKAY],
        [2, OKAY],
        [3, OKAY],
      ]);
      expect(Buffer.from(scene.taken[0]?.bytes ?? [])).toEqual(Buffer.concat(parts));
    },
    {
      handshake: {
        watch: (page, kind) => {
          if (kind !== 'tx') return undefined;
          return (offset) => {
            if (offset < 64) return;
            page.writeU32(offset & ~3, 0xffffffff);
            overwrites += 1;
          };
        },
      },
    },
  );

  hostile('case 4: a rsp_prod that the guest writes is not believed', async (scene) => {
    const { guest } = scene;
    const { ref } = guest.page(randomBytes(60));
    guest.queue.send([txRequest({ gref: ref, size: 60, id: 9 })]);
    await guest.queue.answers(1);
    for (const lie of [0x77, 0xffffffff, 0]) {
      guest.queue.tx.setIndex(RSP_PROD, lie);
      guest.queue.tx.push(times(2, txRequest({ gref: ref, size: 60, id: 9 })));
      guest.queue.txChannel.notify();
      const answered = guest.queue.tx.rspCons + 2;
      await until('both are answered', () => guest.queue.tx.index(RSP_PROD) === answered);
      expect(guest.queue.takeTx()).toHaveLength(2);
    }
    expect(scene.taken).toHaveLength(7);
  });
});

describe('grants of the TX ring', () => {
  hostile('case 22: references that grant nothing to the backend', async (scene) => {
    const { guest } = scene;
    const page = guest.domain.raw.allocatePage();
    const revoked = guest.domain.raw.grantPage(page, 0);
    guest.domain.raw.revoke(revoked);
    const foreign = guest.grant(page, 'write', 1);
    for (const gref of [revoked, foreign, 0, 7, 0x7fff_ffff, 0xffff_ffff]) {
      await expectAnswered(guest, [txRequest({ gref, size: 60, id: 6 })], ERROR);
    }
    expect(scene.dropped('tx', 'BAD_GRANT')).toBe(6);
    expect(scene.taken).toEqual([]);
    await scene.expectAlive();
  });

  hostile('case 22: a read-only grant is enough to send', async (scene) => {
    const { guest } = scene;
    const { ref } = guest.page(randomBytes(60), 'read');
    await expectAnswered(guest, [txRequest({ gref: ref, size: 60 })], OKAY);
  });

  for (const bad of [0, 1, 2, 3]) {
    hostile(`case 23: of four slots only number ${bad} has a bad grant`, async (scene) => {
      const { guest } = scene;
      const { ref } = guest.page(randomBytes(200));
      const gref = (slot: number) => (slot === bad ? 0x1234 : ref);
      const fragments = [1, 2, 3].map((slot) => ({ gref: gref(slot), size: 20 }));
      await expectAnswered(guest, chain(160, { gref: gref(0) }, fragments), ERROR);
      expect(scene.dropped('tx', 'BAD_GRANT')).toBe(1);
      expect(scene.taken).toEqual([]);
      expect(guest.domain.raw.mappings(ref)).toBe(0);
      guest.domain.raw.revoke(ref);
      await scene.expectAlive();
    });
  }

  hostile('case 24: one page under many slots', async (scene) => {
    const { guest } = scene;
    const content = randomBytes(4096);
    const { ref } = guest.page(content);
    const fragments = times(14, { gref: ref, size: 4096 });
    await expectAnswered(guest, chain(14 * 4096 + 4096, { gref: ref }, fragments), OKAY);
    const { bytes } = scene.taken[0] ?? { bytes: new Uint8Array() };
    expect(Buffer.compare(bytes, Buffer.concat(times(15, content)))).toBe(0);
  });

  hostile('case 25: ids are echoed and never used as an index', async (scene) => {
    const { guest } = scene;
    const { ref } = guest.page(randomBytes(60));
    const ids = [7, 7, 7, 0xffff, 0xffff, 0x8000, 256, 0];
    guest.queue.send(ids.map((id) => txRequest({ gref: ref, size: 60, id })));
    const answers = await guest.queue.answers(ids.length);
    expect(answers.map(({ id, status }) => [id, status])).toEqual(ids.map((id) => [id, OKAY]));
    expect(scene.taken).toHaveLength(ids.length);
  });

  hostile('case 26: a grant that is revoked in the midst of a copy', async (scene) => {
    const { guest, machine } = scene;
    const { faults } = machine.hypervisor;
    const safe = guest.page(randomBytes(60));
    const fleeting = guest.page(randomBytes(60));
    faults.duringCopy = (segment) => {
      if (segment !== 1) return;
      faults.duringCopy = undefined;
      guest.domain.raw.revoke(fleeting.ref);
    };
    const slots = [
      ...chain(120, { gref: safe.ref }, [{ gref: fleeting.ref, size: 60 }]),
      txRequest({ gref: safe.ref, size: 60, id: 9 }),
    ];
    guest.queue.send(slots);
    const answers = await guest.queue.answers(3);
    faults.duringCopy = undefined;
    expect(answers.map(({ id, status }) => [id, status])).toEqual([
      [1, ERROR],
      [2, ERROR],
      [9, OKAY],
    ]);
    expect(scene.dropped('tx', 'BAD_GRANT')).toBe(1);
    expect(scene.taken).toHaveLength(1);
  });

  hostile('case 27: a response leaves nothing of what was in its slot', async (scene) => {
    const { guest } = scene;
    const { ref } = guest.page(randomBytes(60));
    guest.queue.tx.page.bytes.fill(0xa5, 64);
    const offset = 0xa5a5;
    const slots = [
      txRequest({ gref: ref, size: 60, id: 1 }),
      txRequest({ gref: 0xa5a5a5a5, size: 60, id: 2, offset: 5 }),
      txRequest({ gref: ref, size: 3, id: 3, offset }),
    ];
    guest.queue.send(slots);
    expect(await guest.queue.answers(3)).toEqual([
      { id: 1, status: OKAY, rest: [0, 0] },
      { id: 2, status: ERROR, rest: [0, 0] },
      { id: 3, status: ERROR, rest: [0, 0] },
    ]);
    const untouched = guest.queue.tx.page.bytes.subarray(64 + 3 * 12);
    expect(untouched.every((byte) => byte === 0xa5)).toBe(true);
  });
});

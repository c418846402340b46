import { randomBytes } from 'node:crypto';

import { describe, expect } from 'vitest';
import { until } from '../support/machine.js';
import type { HostileGuest } from './guest.js';
import { RSP_PROD, type Words } from './raw-ring.js';
import { hostile, type Scene } from './scene.js';
import { CSUM_BLANK, DROPPED, ERROR, MORE_DATA, OKAY, txRequest } from './slots.js';

/** A packet: a head that declares `total`, then fragments; `more_data` on all but the last. */
function chain(
  total: number,
  head: { gref: number; offset?: number },
  fragments: readonly { gref: number; offset?: number; size: number }[],
): Words[] {
  return [{ ...head, size: total }, ...fragments].map((fields, index) =>
    txRequest({ ...fields, id: index + 1, flags: index < fragments.length ? MORE_DATA : 0 }),
  );
}

/** `count` copies of one fragment. */
function times<T>(count: number, value: T): T[] {
  return Array.from({ length: count }, () => value);
}

/** Sends one packet; every slot must be answered once, in order, with `status`. */
async function expectAnswered(guest: HostileGuest, slots: Words[], status: number): Promise<void> {
  guest.queue.send(slots);
  const answers = await guest.queue.answers(slots.length);
  expect(answers).toEqual(
    slots.map((words) => ({ id: (words[2] as number) & 0xffff, status, rest: [0, 0] })),
  );
}

/** Sends slots that must stop the vif; nothing of them is answered or handed on. */
async function expectKill(scene: Scene, slots: readonly Words[], reason: string): Promise<void> {
  const { guest, taken } = scene;
  const before = taken.length;
  guest.queue.send(slots);
  await scene.expectKilled(reason);
  expect(guest.queue.tx.answered).toBe(0);
  expect(taken.length).toBe(before);
}

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

describe('packets that stop the vif', () => {
  for (const [offset, size] of [
    [4000, 200],
    [0xffff, 60],
    [1, 4096],
    [0, 4097],
    [4083, 14],
  ] as const) {
    hostile(`case 5: a head of ${size} bytes at ${offset} leaves its page`, async (scene) => {
      const { ref } = scene.guest.page(randomBytes(4096));
      await expectKill(scene, [txRequest({ gref: ref, offset, size })], 'HEAD_CROSSES_PAGE');
      await scene.expectRevived();
    });
  }

  hostile('case 5: a head that ends with its page is legal', async (scene) => {
    const { guest } = scene;
    const content = randomBytes(4096);
    const { ref } = guest.page(content);
    await expectAnswered(guest, [txRequest({ gref: ref, offset: 4082, size: 14 })], OKAY);
    await expectAnswered(guest, [txRequest({ gref: ref, size: 4096 })], OKAY);
    expect(Buffer.from(scene.taken[0]?.bytes ?? [])).toEqual(content.subarray(4082));
    expect(Buffer.from(scene.taken[1]?.bytes ?? [])).toEqual(content);
  });

  for (const [offset, size] of [
    [4096, 1],
    [4000, 97],
    [0xffff, 0xffff],
    [0xffff, 0],
  ] as const) {
    hostile(`case 6: a fragment of ${size} bytes at ${offset} leaves its page`, async (scene) => {
      const { ref } = scene.guest.page(randomBytes(4096));
      const slots = chain(0xffff, { gref: ref }, [{ gref: ref, offset, size }]);
      await expectKill(scene, slots, 'FRAGMENT_CROSSES_PAGE');
      await scene.expectRevived();
    });
  }

  hostile('case 6: an empty fragment at the very end of its page is legal', async (scene) => {
    const { ref } = scene.guest.page(randomBytes(100));
    const slots = chain(100, { gref: ref }, [{ gref: ref, offset: 4096, size: 0 }]);
    await expectAnswered(scene.guest, slots, OKAY);
  });

  for (const fragments of [21, 22, 100, 254]) {
    hostile(`case 11: a head with ${fragments} fragments is an attack`, async (scene) => {
      const { ref } = scene.guest.page(randomBytes(4096));
      const slots = chain(4000, { gref: ref }, times(fragments, { gref: ref, size: 1 }));
      await expectKill(scene, slots, 'CHAIN_TOO_LONG');
      await scene.expectRevived();
    });
  }

  for (const fragments of [0, 1, 17]) {
    hostile(`case 14: more_data after ${fragments} fragments, and no request`, async (scene) => {
      const { ref } = scene.guest.page(randomBytes(4096));
      const whole = chain(4000, { gref: ref }, times(fragments + 1, { gref: ref, size: 1 }));
      await expectKill(scene, whole.slice(0, -1), 'CHAIN_TRUNCATED');
      await scene.expectRevived();
    });
  }

  hostile('case 14: what stands before the fault is answered and handed on', async (scene) => {
    const { guest } = scene;
    const content = randomBytes(60);
    const { ref } = guest.page(content);
    const good = txRequest({ gref: ref, size: 60, id: 5 });
    guest.queue.send([good, good, txRequest({ gref: ref, size: 60, flags: MORE_DATA })]);
    await scene.expectKilled('CHAIN_TRUNCATED');
    expect(guest.queue.takeTx().map(({ id, status }) => [id, status])).toEqual([
      [5, OKAY],
      [5, OKAY],
    ]);
    expect(scene.taken.map(({ bytes }) => Buffer.from(bytes))).toEqual([content, content]);
    await scene.expectRevived();
  });
});

describe('packets that are refused', () => {
  for (const size of [0, 1, 13]) {
    hostile(`case 7: a packet of ${size} bytes is no frame`, async (scene) => {
      const { guest } = scene;
      const { ref } = guest.page(randomBytes(60));
      await expectAnswered(guest, [txRequest({ gref: ref, size, id: 3 })], ERROR);
      expect(scene.dropped('tx', 'TOO_SHORT')).toBe(1);
      expect(scene.taken).toEqual([]);
      await scene.expectAlive();
    });
  }

  for (const head of [0, 13]) {
    hostile(`case 7: a first slot of ${head} bytes before its fragments`, async (scene) => {
      const { guest } = scene;
      const { ref } = guest.page(randomBytes(4096));
      const slots = chain(head + 90, { gref: ref }, times(3, { gref: ref, size: 30 }));
      await expectAnswered(guest, slots, ERROR);
      expect(scene.dropped('tx', 'TOO_SHORT')).toBe(1);
      await scene.expectAlive();
    });
  }

  hostile('case 8: fragments of no bytes are legal, and their grants untouched', async (scene) => {
    const { guest } = scene;
    const content = randomBytes(100);
    const { ref } = guest.page(content);
    const empty = { gref: 0xdeadbeef, size: 0 };
    await expectAnswered(guest, chain(100, { gref: ref }, times(18, empty)), OKAY);
    const mixed = chain(100, { gref: ref }, [empty, { gref: ref, offset: 60, size: 40 }, empty]);
    await expectAnswered(guest, mixed, OKAY);
    expect(scene.taken.map(({ bytes }) => Buffer.from(bytes))).toEqual([content, content]);
    expect(scene.device.metrics.tx.drops.size).toBe(0);
  });

  hostile('case 9: fragments of more bytes than the packet declares', async (scene) => {
    const { guest } = scene;
    const { ref } = guest.page(randomBytes(4096));
    const slots = chain(100, { gref: ref }, times(2, { gref: ref, size: 60 }));
    await expectAnswered(guest, slots, ERROR);
    await expectAnswered(guest, chain(100, { gref: ref }, [{ gref: ref, size: 101 }]), ERROR);
    expect(scene.dropped('tx', 'FRAGMENTS_EXCEED_TOTAL')).toBe(2);
    expect(scene.taken).toEqual([]);
    await scene.expectAlive();
  });

  hostile('case 9: a packet of 64 KiB whose declared size overflowed', async (scene) => {
    const { guest } = scene;
    const { ref } = guest.page(randomBytes(4096));
    const slots = chain(65_536 & 0xffff, { gref: ref }, times(15, { gref: ref, size: 4096 }));
    await expectAnswered(guest, slots, ERROR);
    await scene.expectAlive();
  });

  for (const fragments of [19, 20]) {
    hostile(`case 10: a head with ${fragments} fragments is a mistake`, async (scene) => {
      const { guest } = scene;
      const { ref } = guest.page(randomBytes(4096));
      const slots = chain(4000, { gref: ref }, times(fragments, { gref: ref, size: 1 }));
      await expectAnswered(guest, slots, ERROR);
      expect(scene.dropped('tx', 'TOO_MANY_FRAGMENTS')).toBe(1);
      expect(scene.taken).toEqual([]);
      await scene.expectAlive();
    });
  }

  hostile('case 12: a head with 18 fragments in at most 128 bytes arrives right', async (scene) => {
    const { guest } = scene;
    const content = randomBytes(4096);
    const { ref } = guest.page(content);
    for (const headBytes of [14, 74, 110]) {
      const fragments = Array.from({ length: 18 }, (_, index) => ({
        gref: ref,
        offset: 2000 + index * 2,
        size: 1,
      }));
      const slots = chain(headBytes + 18, { gref: ref, offset: 10 }, fragments);
      await expectAnswered(guest, slots, OKAY);
      const tail = fragments.map(({ offset }) => content[offset] as number);
      const expected = Buffer.concat([content.subarray(10, 10 + headBytes), Buffer.from(tail)]);
      expect(Buffer.from(scene.taken.at(-1)?.bytes ?? [])).toEqual(expected);
    }
  });

  hostile('case 13: headers in fragments of one byte arrive in one piece', async (scene) => {
    const { guest } = scene;
    const frame = udpFrame(randomBytes(10));
    const { ref } = guest.page(frame);
    const head = frame.length - 18;
    const fragments = Array.from({ length: 18 }, (_, index) => ({
      gref: ref,
      offset: head + index,
      size: 1,
    }));
    const slots = chain(frame.length, { gref: ref }, fragments);
    (slots[0] as number[])[1] = (CSUM_BLANK | MORE_DATA) << 16;
    await expectAnswered(guest, slots, OKAY);
    expect(scene.taken).toHaveLength(1);
    expect(Buffer.from(scene.taken[0]?.bytes ?? [])).toEqual(frame);
  });

  hostile('case 21: a blank checksum in a frame that has no place for one', async (scene) => {
    const { guest } = scene;
    const whole = udpFrame(randomBytes(30));
    const arp = Buffer.from(whole);
    arp.writeUInt16BE(0x0806, 12);
    for (const frame of [arp, whole.subarray(0, 30), whole.subarray(0, 39), randomBytes(14)]) {
      const { ref } = guest.page(frame);
      const slot = txRequest({ gref: ref, size: frame.length, flags: CSUM_BLANK, id: 8 });
      await expectAnswered(guest, [slot], DROPPED);
    }
    expect(scene.dropped('tx', 'CHECKSUM_OFFSET_INVALID')).toBe(4);
    expect(scene.taken).toEqual([]);
    await scene.expectAlive();
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

/** An Ethernet frame with UDP over IPv4, its UDP checksum left blank. */
function udpFrame(payload: Uint8Array): Buffer {
  const frame = Buffer.alloc(14 + 20 + 8 + payload.length);
  frame.fill(0x52, 0, 12);
  frame.writeUInt16BE(0x0800, 12);
  frame[14] = 0x45;
  frame.writeUInt16BE(frame.length - 14, 16);
  frame[22] = 64;
  frame[23] = 17;
  frame.set([10, 0, 0, 1, 10, 0, 0, 2], 26);
  frame.writeUInt16BE(5000, 34);
  frame.writeUInt16BE(5001, 36);
  frame.writeUInt16BE(8 + payload.length, 38);
  frame.set(payload, 42);
  return frame;
}

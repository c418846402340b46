import { randomBytes } from 'node:crypto';
import { describe, expect, onTestFinished, vi } from 'vitest';
import { silent } from '../support/machine.js';
import { chain, expectAnswered, expectKill, times, udpFrame } from './packets.js';
import { hostile, type Scene } from './scene.js';
import { CSUM_BLANK, DROPPED, ERROR, MORE_DATA, OKAY, txRequest } from './slots.js';

/** Counts the lines about the vif that are logged from now on, at levels that are on by default. */
function logLines({ device }: Scene): { count: () => number } {
  const { name } = device;
  const spies = (['info', 'warn', 'error', 'fatal'] as const).map((level) => {
    return vi.spyOn(silent, level);
  });
  onTestFinished(() => {
    for (const spy of spies) spy.mockRestore();
  });
  const isAboutVif = ([fields]: readonly unknown[]) =>
    typeof fields === 'object' && fields !== null && 'vif' in fields && fields.vif === name;
  const countOf = (calls: readonly (readonly unknown[])[]) => calls.filter(isAboutVif).length;
  return { count: () => spies.reduce((sum, spy) => sum + countOf(spy.mock.calls), 0) };
}

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

  hostile(
    'case 14: a guest that is stopped again and again does not fill the log',
    async (scene) => {
      const { guest } = scene;
      const { ref } = guest.page(randomBytes(60));
      const broken = txRequest({ gref: ref, size: 60, flags: MORE_DATA });
      const lines = logLines(scene);
      const rounds = 40;
      for (let round = 0; round < rounds; round += 1) {
        guest.queue.send([broken]);
        await scene.expectKilled('CHAIN_TRUNCATED');
        await scene.startOver();
        await scene.connect();
      }
      // It is said, but not each time.
      expect(lines.count()).toBeGreaterThan(0);
      expect(lines.count()).toBeLessThan(rounds);
    },
  );

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

  hostile('case 7: ten thousand refused packets write nothing to the log', async (scene) => {
    const { guest } = scene;
    const lines = logLines(scene);
    for (let round = 0; round < 40; round += 1) {
      guest.queue.send(times(256, txRequest({ gref: 0xffff, size: round % 2 === 0 ? 60 : 3 })));
      await guest.queue.answers(256);
    }
    expect(scene.dropped('tx', 'TOO_SHORT') + scene.dropped('tx', 'BAD_GRANT')).toBe(40 * 256);
    expect(lines.count()).toBe(0);
  });

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

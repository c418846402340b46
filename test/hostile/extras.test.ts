import { randomBytes } from 'node:crypto';
import { describe, expect } from 'vitest';
import type { Words } from './raw-ring.js';
import { hostile, type Scene } from './scene.js';
import {
  CSUM_BLANK,
  DATA_VALIDATED,
  ERROR,
  EXTRA_HASH,
  EXTRA_INFO,
  EXTRA_MCAST_ADD,
  EXTRA_MCAST_DEL,
  EXTRA_MORE,
  extra,
  gsoExtra,
  NULL,
  OKAY,
  txRequest,
} from './slots.js';

const GSO_TCPV4 = 1;
const GSO_TCPV6 = 2;

/** An Ethernet frame with TCP over IPv4, as a guest hands it over to be cut. */
function tcpFrame(payloadBytes: number): Buffer {
  const frame = Buffer.alloc(14 + 20 + 20 + payloadBytes);
  frame.fill(0x52, 0, 12);
  frame.writeUInt16BE(0x0800, 12);
  frame[14] = 0x45;
  frame.writeUInt16BE(frame.length - 14, 16);
  frame[22] = 64;
  frame[23] = 6;
  frame.set([10, 0, 0, 1, 10, 0, 0, 2], 26);
  frame.writeUInt16BE(5000, 34);
  frame.writeUInt16BE(5001, 36);
  frame[46] = 5 << 4;
  frame[47] = 0x18;
  frame.set(randomBytes(payloadBytes), 54);
  return frame;
}

/** The request that a multicast extra rides on. */
const dummy = (id: number): Words => txRequest({ id, flags: EXTRA_INFO });

async function expectKill(scene: Scene, slots: readonly Words[], reason: string): Promise<void> {
  const { guest } = scene;
  guest.queue.send(slots);
  await scene.expectKilled(reason);
  expect(guest.queue.tx.answered).toBe(0);
  expect(scene.taken).toEqual([]);
  await scene.expectRevived();
}

/** Sends slots and returns ids and statuses of as many answers. */
async function answersTo(scene: Scene, slots: readonly Words[]): Promise<[number, number][]> {
  const { queue } = scene.guest;
  queue.send(slots);
  const answers = await queue.answers(slots.length);
  expect(answers).toHaveLength(slots.length);
  for (const { rest } of answers) expect(rest).toEqual([0, 0]);
  return answers.map(({ id, status }) => [id, status]);
}

describe('extras on the TX ring', () => {
  hostile('case 15: an extra that was announced and is not there', async (scene) => {
    const { ref } = scene.guest.page(randomBytes(60));
    const slot = txRequest({ gref: ref, size: 60, flags: EXTRA_INFO });
    await expectKill(scene, [slot], 'EXTRA_MISSING');
  });

  hostile('case 15: a second extra that was announced and is not there', async (scene) => {
    const { ref } = scene.guest.page(randomBytes(60));
    const slot = txRequest({ gref: ref, size: 60, flags: EXTRA_INFO });
    await expectKill(scene, [slot, gsoExtra(1448, GSO_TCPV4, EXTRA_MORE)], 'EXTRA_MISSING');
  });

  for (const type of [0, 5, 6, 255]) {
    hostile(`case 16: an extra of type ${type}`, async (scene) => {
      const { ref } = scene.guest.page(randomBytes(60));
      const slot = txRequest({ gref: ref, size: 60, flags: EXTRA_INFO });
      await expectKill(scene, [slot, extra(type)], 'EXTRA_TYPE_INVALID');
    });
  }

  hostile('case 17: 255 extras, each of which announces another', async (scene) => {
    const { ref } = scene.guest.page(randomBytes(60));
    const slot = txRequest({ gref: ref, size: 60, flags: EXTRA_INFO });
    const extras = Array.from({ length: 255 }, () => gsoExtra(1448, GSO_TCPV4, EXTRA_MORE));
    await expectKill(scene, [slot, ...extras], 'EXTRA_MISSING');
  });

  hostile(
    'case 17: 255 extras that come to an end are read, bounded by the ring',
    async (scene) => {
      const frame = tcpFrame(3000);
      const { ref } = scene.guest.page(frame);
      const flags = EXTRA_INFO | CSUM_BLANK | DATA_VALIDATED;
      const slots = [txRequest({ gref: ref, size: frame.length, flags, id: 2 })];
      for (let index = 0; index < 255; index += 1) {
        slots.push(gsoExtra(1000, GSO_TCPV4, index < 254 ? EXTRA_MORE : 0));
      }
      const answers = await answersTo(scene, slots);
      expect(answers[0]).toEqual([2, OKAY]);
      expect(answers.slice(1).every(([, status]) => status === NULL)).toBe(true);
      expect(Buffer.from(scene.taken[0]?.bytes ?? [])).toEqual(frame);
    },
  );

  hostile('case 18: of two extras of a type the last counts', async (scene) => {
    const frame = tcpFrame(3000);
    const { ref } = scene.guest.page(frame);
    const flags = EXTRA_INFO | CSUM_BLANK | DATA_VALIDATED;
    const answers = await answersTo(scene, [
      txRequest({ gref: ref, size: frame.length, flags, id: 2 }),
      gsoExtra(0, 77, EXTRA_MORE),
      extra(EXTRA_HASH, EXTRA_MORE, [1, 1, 1, 2, 3, 4]),
      gsoExtra(1448, GSO_TCPV4),
    ]);
    expect(answers.map(([, status]) => status)).toEqual([OKAY, NULL, NULL, NULL]);
    expect(scene.taken).toHaveLength(1);
    const { bytes, flags: metadata } = scene.taken[0] ?? { bytes: new Uint8Array(), flags: 0 };
    expect(Buffer.from(bytes)).toEqual(frame);
    expect([metadata >>> 16, (metadata >> 4) & 3]).toEqual([1448, GSO_TCPV4]);
  });

  for (const [size, type] of [
    [0, GSO_TCPV4],
    [0, GSO_TCPV6],
    [1448, 0],
    [1448, 3],
    [1448, 255],
  ] as const) {
    hostile(`case 19: segmentation of type ${type} and size ${size}`, async (scene) => {
      const frame = tcpFrame(3000);
      const { ref } = scene.guest.page(frame);
      const slot = txRequest({ gref: ref, size: frame.length, flags: EXTRA_INFO });
      await expectKill(scene, [slot, gsoExtra(size, type)], 'GSO_INVALID');
    });
  }

  hostile('case 20: more than 64 multicast addresses', async (scene) => {
    const add = (id: number) => [dummy(id), extra(EXTRA_MCAST_ADD, 0, [1, 0, 0x5e, 0, 0, id])];
    for (let id = 1; id <= 64; id += 1) {
      expect(await answersTo(scene, add(id))).toEqual([
        [id, OKAY],
        [expect.any(Number), NULL],
      ]);
    }
    for (const id of [65, 66]) expect((await answersTo(scene, add(id)))[0]).toEqual([id, ERROR]);
    expect(scene.dropped('tx', 'MULTICAST_LIST_FULL')).toBe(2);
    const remove = [dummy(7), extra(EXTRA_MCAST_DEL, 0, [1, 0, 0x5e, 0, 0, 64])];
    expect((await answersTo(scene, remove))[0]).toEqual([7, OKAY]);
    expect((await answersTo(scene, add(65)))[0]).toEqual([65, OKAY]);
    expect(scene.taken).toEqual([]);
    await scene.expectAlive();
  });
});

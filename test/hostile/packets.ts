/** Packets for the TX ring, and what must become of them. */
import { expect } from 'vitest';
import type { HostileGuest } from './guest.js';
import type { Words } from './raw-ring.js';
import type { Scene } from './scene.js';
import { MORE_DATA, txRequest } from './slots.js';

/** A packet: a head that declares `total`, then fragments; `more_data` on all but the last. */
export function chain(
  total: number,
  head: { gref: number; offset?: number },
  fragments: readonly { gref: number; offset?: number; size: number }[],
): Words[] {
  return [{ ...head, size: total }, ...fragments].map((fields, index) =>
    txRequest({ ...fields, id: index + 1, flags: index < fragments.length ? MORE_DATA : 0 }),
  );
}

/** `count` copies of one fragment. */
export function times<T>(count: number, value: T): T[] {
  return Array.from({ length: count }, () => value);
}

/** Sends one packet; every slot must be answered once, in order, with `status`. */
export async function expectAnswered(
  guest: HostileGuest,
  slots: Words[],
  status: number,
): Promise<void> {
  guest.queue.send(slots);
  const answers = await guest.queue.answers(slots.length);
  expect(answers).toEqual(
    slots.map((words) => ({ id: (words[2] as number) & 0xffff, status, rest: [0, 0] })),
  );
}

/** Sends slots that must stop the vif; nothing of them is answered or handed on. */
export async function expectKill(
  scene: Scene,
  slots: readonly Words[],
  reason: string,
): Promise<void> {
  const { guest, taken } = scene;
  const before = taken.length;
  guest.queue.send(slots);
  await scene.expectKilled(reason);
  expect(guest.queue.tx.answered).toBe(0);
  expect(taken.length).toBe(before);
}

/** An Ethernet frame with UDP over IPv4, its UDP checksum left blank. */
export function udpFrame(payload: Uint8Array): Buffer {
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

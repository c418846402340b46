import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  DIRECTION_FROM_GUEST,
  FrameBatch,
  GSO_SIZE_SHIFT,
  GSO_TYPE_SHIFT,
} from '../../../../src/device/frame-batch.js';
import { WriteOutcome } from '../../../../src/device/network.js';
import type { HostileGuest, HostileQueue as Queue } from '../../../hostile/guest.js';
import { Scene } from '../../../hostile/scene.js';
import {
  CSUM_BLANK,
  controlRequest,
  DROPPED,
  EXTRA_INFO,
  EXTRA_MCAST_ADD,
  EXTRA_MCAST_DEL,
  extra,
  gsoExtra,
  MORE_DATA,
  NULL,
  OKAY,
  RX_CSUM_BLANK,
  RX_DATA_VALIDATED,
  DATA_VALIDATED as TX_DATA_VALIDATED,
  txRequest,
} from '../../../hostile/slots.js';
import { until } from '../../../support/machine.js';
import { blankTcpFrame, hasRightTcpChecksum } from '../../../support/tcp-frames.js';

/** A guest that we write slot by slot; nothing of our own netfront has a part in this. */
let scene: Scene;
let guest: HostileGuest;

async function open(options: Parameters<typeof Scene.open>[0] = {}): Promise<void> {
  scene = await Scene.open(options);
  guest = scene.guest;
}
afterEach(async () => {
  await scene.end();
});

/** Writes a frame with metadata to the guest. */
function write(frame: Uint8Array, flags = 0): number {
  const { memory } = scene.machine.xen;
  const region = memory.allocate(frame.length);
  memory.bytes.set(frame, region.offset);
  const batch = new FrameBatch(memory.bytes, 1);
  batch.add(region.offset, frame.length, flags);
  const accepted = scene.device.writeBatch(batch);
  region.free();
  return accepted;
}

/** Writes frames as one batch; returns what became of each. */
function writeAll(frames: readonly Uint8Array[], flags: number): number[] {
  const { memory } = scene.machine.xen;
  const region = memory.allocate(frames.reduce((sum, { length }) => sum + length, 0));
  const batch = new FrameBatch(memory.bytes, frames.length);
  let place = region.offset;
  for (const frame of frames) {
    memory.bytes.set(frame, place);
    batch.add(place, frame.length, flags);
    place += frame.length;
  }
  const outcomes = new Uint8Array(frames.length);
  const accepted = scene.device.writeBatch(batch, outcomes);
  expect(outcomes.filter((outcome) => outcome === WriteOutcome.accepted)).toHaveLength(accepted);
  region.free();
  return [...outcomes];
}

/** Posts `count` buffers on a queue; returns a function that reads back what lies in one. */
function post(count: number, queue = guest.queue) {
  const pages = Array.from({ length: count }, () => guest.page());
  queue.post(pages.map(({ ref }) => ref));
  return (id: number, length: number) =>
    (pages[id]?.page.bytes ?? new Uint8Array()).slice(0, length);
}

const BIG = blankTcpFrame({ payload: randomBytes(20_000) });
const GSO = CHECKSUM_BLANK | DATA_VALIDATED | (1 << GSO_TYPE_SHIFT) | (1448 << GSO_SIZE_SHIFT);

describe('offloads towards the guest', () => {
  test('a frame to be segmented goes whole, with its extra, to a guest that takes it', async () => {
    await open();
    const read = post(8);
    expect(write(BIG, GSO)).toBe(1);
    const answers = await guest.queue.received(6);
    expect(answers).toHaveLength(6);
    const [head, gso, ...rest] = answers;
    expect(head).toMatchObject({ id: 0, status: 4096 });
    expect((head?.flags ?? 0) & 15).toBe(
      RX_CSUM_BLANK | RX_DATA_VALIDATED | MORE_DATA | EXTRA_INFO,
    );
    // The extra lies in the place of the second response: type 1, then size and type.
    expect(gso).toEqual({ id: 1, offset: 1448, flags: 1, status: 0 });
    expect(rest.map(({ flags }) => flags)).toEqual([MORE_DATA, MORE_DATA, MORE_DATA, 0]);
    const bytes = [0, 2, 3, 4, 5].flatMap((id, index) => [
      ...read(id, index === 4 ? BIG.length - 4 * 4096 : 4096),
    ]);
    expect(Buffer.compare(Uint8Array.from(bytes), BIG)).toBe(0);
  });

  test.each(['feature-gso-tcpv4', 'feature-sg'])(
    'it is cut for a guest without %s',
    async (key) => {
      await open({ handshake: { nodes: { [key]: undefined } } });
      const read = post(32);
      expect(write(BIG, GSO)).toBe(1);
      const answers = await guest.queue.received(14);
      const frames = answers.map(({ id, status }) => read(id, status));
      expect(frames.every(hasRightTcpChecksum)).toBe(true);
      expect(answers.every(({ flags }) => flags === RX_DATA_VALIDATED)).toBe(true);
      expect(Buffer.concat(frames.map((frame) => frame.subarray(54)))).toEqual(
        Buffer.from(BIG.subarray(54)),
      );
    },
  );

  test.each([
    [4, 'feature-no-csum-offload', '1', true],
    [4, 'feature-no-csum-offload', undefined, false],
    [6, 'feature-ipv6-csum-offload', undefined, true],
    [6, 'feature-ipv6-csum-offload', '1', false],
  ] as const)('a blank checksum of IPv%i with %s = %s: filled in: %s', async (...row) => {
    const [version, key, value, isCompleted] = row;
    await open({ handshake: { nodes: { [key]: value } } });
    const read = post(1);
    const frame = blankTcpFrame({ version, payload: randomBytes(333) });
    expect(hasRightTcpChecksum(frame)).toBe(false);
    write(frame, CHECKSUM_BLANK | DATA_VALIDATED);
    const [answer] = await guest.queue.received(1);
    const got = read(0, answer?.status ?? 0);
    expect(hasRightTcpChecksum(got)).toBe(isCompleted);
    expect((answer?.flags ?? 0) & RX_CSUM_BLANK).toBe(isCompleted ? 0 : RX_CSUM_BLANK);
    expect((answer?.flags ?? 0) & RX_DATA_VALIDATED).toBe(RX_DATA_VALIDATED);
  });
});

describe('offloads from the guest', () => {
  test('checksum and segmentation are metadata of the frame', async () => {
    await open();
    const pieces = [BIG.subarray(0, 4096), BIG.subarray(4096, 8192)];
    const tail = [BIG.subarray(8192, 12_288), BIG.subarray(12_288, 16_384), BIG.subarray(16_384)];
    const pages = [...pieces, ...tail].map((piece) => guest.page(piece));
    const flags = CSUM_BLANK | TX_DATA_VALIDATED | MORE_DATA | EXTRA_INFO;
    guest.queue.send([
      txRequest({ gref: pages[0]?.ref ?? 0, size: BIG.length, flags, id: 1 }),
      gsoExtra(1448, 1),
      ...pages.slice(1).map(({ ref }, index) =>
        txRequest({
          gref: ref,
          size: index === 3 ? BIG.length - 4 * 4096 : 4096,
          flags: index === 3 ? 0 : MORE_DATA,
          id: 2 + index,
        }),
      ),
    ]);
    const answers = await guest.queue.answers(6);
    expect(answers.map(({ status }) => status)).toEqual([OKAY, NULL, OKAY, OKAY, OKAY, OKAY]);
    const [taken] = scene.taken;
    expect(Buffer.compare(taken?.bytes ?? new Uint8Array(), BIG)).toBe(0);
    expect((taken?.flags ?? 0) >>> 2).toBe(GSO >>> 2);
  });

  test('a blank checksum without a place for it is dropped and counted', async () => {
    await open();
    const { ref } = guest.page(randomBytes(60));
    guest.queue.send([txRequest({ gref: ref, size: 60, flags: CSUM_BLANK, id: 9 })]);
    expect(await guest.queue.answers(1)).toMatchObject([{ id: 9, status: DROPPED }]);
    expect(scene.dropped('tx', 'CHECKSUM_OFFSET_INVALID')).toBe(1);
    expect(scene.taken).toEqual([]);
  });

  /** Sends 40 frames with blank checksums, of which some have no place for one. */
  async function sendBlank(isBad: (id: number) => boolean) {
    const runs: number[] = [];
    scene.device.listenBatch(({ count, isRun }) => runs.push(isRun ? count : 0));
    const frames = Array.from({ length: 40 }, (_, id) =>
      isBad(id) ? randomBytes(60) : blankTcpFrame({ payload: randomBytes(10 + id) }),
    );
    guest.queue.send(
      frames.map((frame, id) => {
        const { ref } = guest.page(frame);
        return txRequest({ gref: ref, size: frame.length, flags: CSUM_BLANK, id });
      }),
    );
    const answers = await guest.queue.answers(40);
    expect(answers).toEqual(
      frames.map((_, id) => ({ id, status: isBad(id) ? DROPPED : OKAY, rest: [0, 0] })),
    );
    const good = frames.filter((_, id) => !isBad(id));
    expect(scene.taken.map(({ bytes }) => Buffer.from(bytes))).toEqual(
      good.map((frame) => Buffer.from(frame)),
    );
    const flags = CHECKSUM_BLANK | DATA_VALIDATED | DIRECTION_FROM_GUEST;
    expect(new Set(scene.taken.map((taken) => taken.flags))).toEqual(new Set([flags]));
    return runs;
  }

  test('many frames with blank checksums come as one run', async () => {
    await open();
    expect(await sendBlank(() => false)).toEqual([40]);
  });

  test('of many frames with blank checksums, those without a place for one are dropped', async () => {
    await open();
    expect(await sendBlank((id) => id === 7 || id === 39)).toEqual([0]);
    expect(scene.dropped('tx', 'CHECKSUM_OFFSET_INVALID')).toBe(2);
  });
});

describe('several queues', () => {
  test('a flow keeps its queue, and many flows use them all', async () => {
    await open({ handshake: { queues: 4, split: true } });
    for (const queue of guest.queues) post(200, queue);
    const used = new Set<number>();
    for (let port = 1; port <= 64; port += 1) {
      const frame = blankTcpFrame({ payload: randomBytes(10), sourcePort: port });
      const before = guest.queues.map(({ rx }) => rx.answered);
      for (let copy = 0; copy < 3; copy += 1) write(frame);
      await until('the frames are in', () => {
        const now = guest.queues.reduce((sum, { rx }) => sum + rx.answered, 0);
        return now === before.reduce((sum, count) => sum + count, 0) + 3;
      });
      const grown = guest.queues.flatMap(({ rx }, index) =>
        rx.answered > (before[index] ?? 0) ? [index] : [],
      );
      expect(grown).toHaveLength(1);
      used.add(grown[0] ?? -1);
    }
    expect(used.size).toBe(4);
    const counted = scene.device.metrics.queues.map(({ rx }) => rx.packets);
    expect(counted.reduce((sum, count) => sum + count, 0)).toBe(192);
    expect(counted.every((count) => count > 0)).toBe(true);
  });

  test('many flows at once: each queue has its share in order, and one does not wait for another', async () => {
    await open({ handshake: { queues: 4, split: true } });
    const frames = Array.from({ length: 160 }, (_, index) =>
      blankTcpFrame({ payload: randomBytes(20), sourcePort: 1 + (index % 64) }),
    );
    // Queue 3 has no buffers for now, and queue 2 has a bad one.
    const [first, second, third, fourth] = guest.queues as [Queue, Queue, Queue, Queue];
    const reads = [post(200, first), post(200, second)];
    const pages = Array.from({ length: 200 }, () => guest.page());
    third.post(pages.map(({ ref }, id) => (id === 3 ? 0xffff : ref)));
    reads.push((id, length) => (pages[id]?.page.bytes ?? new Uint8Array()).slice(0, length));
    expect(writeAll(frames, CHECKSUM_BLANK | DATA_VALIDATED)).toEqual(frames.map(() => 1));
    const answered = () => [first, second, third].reduce((sum, { rx }) => sum + rx.answered, 0);
    await until('those with buffers are in', () => answered() > 0);
    const withBuffers = answered();
    expect(fourth.rx.answered).toBe(0);
    reads.push(post(200, fourth));
    await until('all are in', () => answered() + fourth.rx.answered === frames.length);
    expect(answered()).toBe(withBuffers);
    const ofFlows = new Map<number, number>();
    let bad = 0;
    for (const [number, queue] of guest.queues.entries()) {
      let last = -1;
      for (const { flags, id, status } of queue.takeRx()) {
        if (status < 0) {
          expect([number, id]).toEqual([2, 3]);
          bad += 1;
          continue;
        }
        expect(flags).toBe(RX_CSUM_BLANK | RX_DATA_VALIDATED);
        const bytes = Buffer.from(reads[number]?.(id, status) ?? []);
        const index = frames.findIndex((frame) => bytes.equals(frame));
        expect(index).toBeGreaterThan(last);
        last = index;
        expect(ofFlows.get(index % 64) ?? number).toBe(number);
        ofFlows.set(index % 64, number);
      }
    }
    expect(bad).toBe(1);
    expect(ofFlows.size).toBe(64);
    expect(new Set(ofFlows.values()).size).toBe(4);
  });

  test('frames come in from every queue, each counted where it came', async () => {
    await open({ handshake: { queues: 3 } });
    for (const [index, queue] of guest.queues.entries()) {
      const { ref } = guest.page(Uint8Array.from({ length: 60 }, () => index));
      queue.send([txRequest({ gref: ref, size: 60, id: index })]);
      await queue.answers(1);
    }
    expect(scene.taken.map(({ bytes }) => bytes[0])).toEqual([0, 1, 2]);
    expect(scene.device.metrics.queues.map(({ tx }) => tx.packets)).toEqual([1, 1, 1]);
  });

  test('the control ring steers by Toeplitz hash, and the guest is told the hash', async () => {
    await open({ handshake: { queues: 2, control: true } });
    const key = guest.page(
      Buffer.from(
        '6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa',
        'hex',
      ),
    );
    const mapping = guest.page(Uint8Array.of(1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0));
    const answers = await guest.ask([
      controlRequest(1, 7, [1]),
      controlRequest(2, 2, [3]),
      controlRequest(3, 3, [key.ref, 40]),
      controlRequest(4, 5, [4]),
      controlRequest(5, 6, [mapping.ref, 4, 0]),
    ]);
    expect(answers.map(({ status }) => status)).toEqual([0, 0, 0, 0, 0]);
    for (const queue of guest.queues) post(16, queue);
    // A vector of Microsoft's verification suite for receive side scaling.
    const frame = blankTcpFrame({ payload: randomBytes(10), sourcePort: 2794 });
    frame.set([66, 9, 149, 187, 161, 142, 100, 80], 26);
    frame.set([1766 >> 8, 1766 & 255], 36);
    write(frame);
    await until('the frame is in', () => (guest.queues[1]?.rx.answered ?? 0) === 2);
    const [data, hash] = guest.queues[1]?.takeRx() ?? [];
    expect(data?.flags).toBe(EXTRA_INFO);
    // type 4; hash type 1 is TCP over IPv4, algorithm 1 Toeplitz.
    expect([hash?.id, hash?.offset]).toEqual([4, 0x0101]);
    expect(((hash?.flags ?? 0) | ((hash?.status ?? 0) << 16)) >>> 0).toBe(0x51ccc178);
  });
});

describe('multicast control', () => {
  const group = [1, 0, 0x5e, 1, 2, 3];
  const multicast = () => blankTcpFrame({ payload: randomBytes(10), destination: group });
  const amend = async (type: number, address: readonly number[]) => {
    guest.queue.send([txRequest({ flags: EXTRA_INFO, id: 5 }), extra(type, 0, address)]);
    return (await guest.queue.answers(2)).map(({ status }) => status);
  };
  /** Tries until the filter says what it shall, for XenStore tells of changes in its own time. */
  const settle = async (frame: Uint8Array, wanted: boolean) => {
    for (let attempt = 0; attempt < 50 && (await passes(frame)) !== wanted; attempt += 1) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect(await passes(frame)).toBe(wanted);
  };
  const passes = async (frame: Uint8Array) => {
    const before = guest.queue.rx.answered;
    write(frame);
    write(blankTcpFrame({ payload: randomBytes(1) }));
    await until('a frame is in', () => guest.queue.rx.answered > before);
    return guest.queue.rx.answered - before === 2;
  };

  test('asked for at connect: only what was added passes', async () => {
    await open({ handshake: { nodes: { 'request-multicast-control': '1' } } });
    post(64);
    expect(await passes(multicast())).toBe(false);
    expect(await amend(EXTRA_MCAST_ADD, group)).toEqual([OKAY, NULL]);
    expect(await passes(multicast())).toBe(true);
    expect(await passes(Uint8Array.from({ length: 60 }, () => 255))).toBe(true);
    expect(await amend(EXTRA_MCAST_DEL, group)).toEqual([OKAY, NULL]);
    expect(await passes(multicast())).toBe(false);
    expect(scene.dropped('rx', 'MULTICAST_FILTERED')).toBe(2);
    expect(scene.taken).toEqual([]);
  });

  test('asked for later: the filter is live, and remembers what was added before', async () => {
    await open();
    post(250);
    const other = [1, 0, 0x5e, 9, 9, 9];
    expect(await amend(EXTRA_MCAST_ADD, group)).toEqual([OKAY, NULL]);
    const frame = blankTcpFrame({ payload: randomBytes(10), destination: other });
    expect(await passes(frame)).toBe(true);
    await guest.write({ 'request-multicast-control': '1' });
    await settle(frame, false);
    expect(await passes(multicast())).toBe(true);
    await guest.write({ 'request-multicast-control': '0' });
    await settle(frame, true);
  });
});

describe('a guest without buffers', () => {
  test('one that promises to tell gets what waited when it posts', async () => {
    await open({ handshake: { split: true } });
    for (let index = 0; index < 5; index += 1) write(new Uint8Array(60).fill(index));
    const read = post(8);
    const answers = await guest.queue.received(5);
    expect(answers.map(({ id }) => read(id, 1)[0])).toEqual([0, 1, 2, 3, 4]);
  });

  test('one that does not promise loses what waited longer than 30 ms, and gets the rest', async () => {
    await open({ handshake: { nodes: { 'feature-rx-notify': undefined } } });
    write(new Uint8Array(60).fill(1));
    await until('it has expired', () => scene.dropped('rx', 'RX_EXPIRED') === 1);
    write(new Uint8Array(60).fill(2));
    const page = guest.page();
    // No event: the backend looks by itself.
    guest.queue.rx.push([[7, page.ref]]);
    await guest.queue.received(1);
    expect(page.page.bytes[0]).toBe(2);
  });
});

describe('what the toolstack may change at any time', () => {
  beforeEach(async () => {
    await open();
  });
  const set = async (name: string, value: string) => {
    await scene.machine.xen.store.write(`${scene.backend}/${name}`, value);
  };

  test('the rate: what is over it waits on the ring, and no longer than it must', async () => {
    const { ref } = guest.page(randomBytes(1500));
    const send = (count: number) =>
      guest.queue.send(
        Array.from({ length: count }, (_, id) => txRequest({ gref: ref, size: 1500, id })),
      );
    await set('rate', '50000,50000');
    await until('it applies', () => scene.device.configuration.rate !== undefined);
    const begun = performance.now();
    for (let sent = 0; sent < 200; sent += 100) {
      send(100);
      await guest.queue.answers(100);
    }
    // 300,000 bytes at 1 MB/s, less the burst of 128 KiB, is 169 ms.
    const elapsed = performance.now() - begun;
    expect(elapsed).toBeGreaterThan(160);
    send(200);
    await until('the limit holds', () => scene.device.connection?.queues[0]?.throttled === true);
    await scene.machine.xen.store.rm(`${scene.backend}/rate`);
    await guest.queue.answers(200);
    expect(scene.device.configuration.rate).toBeUndefined();
  });

  test('the carrier: a link that is down passes nothing, either way', async () => {
    await scene.device.change({ linkDown: true });
    await until('it is down', () => !scene.device.configuration.carrier);
    const { ref } = guest.page(randomBytes(60));
    guest.queue.send([txRequest({ gref: ref, size: 60 })]);
    expect(await guest.queue.answers(1)).toMatchObject([{ status: OKAY }]);
    expect(write(new Uint8Array(60))).toBe(0);
    expect(scene.dropped('tx', 'CARRIER_DOWN')).toBe(1);
    expect(scene.dropped('rx', 'CARRIER_DOWN')).toBe(1);
    await scene.device.change({ linkDown: false });
    await until('it is up', () => scene.device.configuration.carrier);
    await scene.expectAlive();
  });

  test('nonsense: what was in force stays, and the error node and watchers are told', async () => {
    const reasons: string[] = [];
    scene.machine.netback.onVif((_event, device) => {
      const { reason } = device.status;
      if (device === scene.device && reasons.at(-1) !== reason) reasons.push(reason);
    });
    await set('rate', '1000000,50000');
    await until('it applies', () => scene.device.configuration.rate !== undefined);
    await set('rate', 'fast');
    await until('it is told', () => scene.device.status.reason === 'RATE_INVALID');
    const { store } = scene.machine.xen;
    expect(await store.read(`${scene.backend}/error`)).toContain('rate must be');
    expect(scene.device.status.phase).toBe('connected');
    expect(scene.device.configuration.rate?.bytesPerInterval).toBe(1_000_000);
    await scene.expectAlive();
    await set('rate', '2000000,50000');
    await until('it is well again', () => scene.device.status.reason === 'CONNECTED');
    expect(await store.readIfExists(`${scene.backend}/error`)).toBeUndefined();
    expect(reasons).toEqual(['CONNECTED', 'RATE_INVALID', 'CONNECTED']);
  });
});

test('a vif that the toolstack has not set up right is not offered, until it is', async () => {
  await open({ handshake: false });
  const { store } = scene.machine.xen;
  await guest.setState('6');
  await until('closed', () => scene.device.status.backendState === 6);
  await store.write(`${scene.backend}/mtu`, '12');
  await guest.setState('1');
  await until('refused', () => scene.device.status.reason === 'MTU_INVALID');
  expect(scene.device.status.phase).toBe('failed');
  expect(await store.read(`${scene.backend}/error`)).toContain('mtu must be 68 to 65535');
  await store.write(`${scene.backend}/mtu`, '9000');
  await until('offered', () => scene.device.status.backendState === 2);
  await scene.connect();
  await scene.expectAlive();
  expect(scene.device.mtu).toBe(9000);
});

test('a listener that throws costs neither the guest nor who else listens', async () => {
  await open();
  scene.device.listenBatch(() => {
    throw new Error('a listener of ours is broken');
  });
  const end = scene.device.observeBatch(() => {
    throw new Error('an observer of ours is broken');
  });
  let heard = 0;
  scene.device.listenBatch((batch) => {
    heard += batch.count;
  });
  await scene.expectAlive();
  expect(heard).toBe(1);
  expect(scene.device.status.phase).toBe('connected');
  end();
});

import { randomBytes } from 'node:crypto';
import { pino } from 'pino';
import { afterEach, describe, expect, test } from 'vitest';
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  FrameBatch,
  GSO_SIZE_SHIFT,
  GSO_TYPE_SHIFT,
} from '../../../../src/device/frame-batch.js';
import { WriteOutcome } from '../../../../src/device/network.js';
import { until } from '../../../support/machine.js';
import { blankTcpFrame, hasRightTcpChecksum } from '../../../support/tcp-frames.js';
import { EVERYTHING } from './raw-backend.js';
import { Stage } from './stage.js';

const TX_CSUM_BLANK = 1;
const TX_DATA_VALIDATED = 2;
const TX_MORE_DATA = 4;
const TX_EXTRA_INFO = 8;
const RX_DATA_VALIDATED = 1;
const RX_CSUM_BLANK = 2;
const RX_MORE_DATA = 4;
const RX_EXTRA_INFO = 8;
const EXTRA_GSO = 1;
const EXTRA_HASH = 4;
const EXTRA_MORE = 1 << 8;
const TCPV4 = 1;
const TCPV6 = 2;

let stage: Stage;
afterEach(async () => {
  await stage.end();
});

function gsoFlags(type: number, size: number): number {
  return CHECKSUM_BLANK | DATA_VALIDATED | (type << GSO_TYPE_SHIFT) | (size << GSO_SIZE_SHIFT);
}

/** The TCP payload of a frame without options or VLAN tag. */
function payloadOf(frame: Uint8Array): Buffer {
  return Buffer.from(frame.subarray(frame[12] === 0x86 ? 74 : 54));
}

describe('sending', () => {
  test('a frame of 65,535 bytes: the first slot has the size of all, the others their own', async () => {
    stage = await Stage.connected();
    const frame = randomBytes(65_535);
    await stage.device.write(frame);
    const { frame: seen, requests } = stage.serve();
    expect(Buffer.compare(seen, frame)).toBe(0);
    expect(requests.map(({ size }) => size)).toEqual([65_535, ...Array(14).fill(4096), 4095]);
    expect(requests.map(({ flags }) => flags)).toEqual([...Array(15).fill(TX_MORE_DATA), 0]);
    expect(new Set(requests.map(({ id }) => id)).size).toBe(16);
  });

  test('a backend without feature-sg gets no frame longer than a page', async () => {
    stage = await Stage.connected({}, { 'feature-rx-copy': '1' });
    await expect(stage.device.write(new Uint8Array(4097))).rejects.toMatchObject({
      code: 'FRAME_TOO_LONG',
    });
    await stage.device.write(new Uint8Array(4096));
    expect(stage.serve().frame.length).toBe(4096);
    expect(stage.backend.take(stage.queue)).toBeUndefined();
    expect(stage.device.metrics.tx.drops.get('tx-ring TOO_LONG')?.packets).toBe(1);
  });

  test('a page holds nothing behind its frame, however long the one before was', async () => {
    stage = await Stage.connected();
    for (const length of [4096, 60, 1514, 14, 300]) {
      // As many as there are pages, so that each is used again.
      for (let index = 0; index < 256; index += 1) {
        await stage.device.write(new Uint8Array(length).fill(0xab));
        const [request] = stage.serve().requests;
        const page = stage.backend.page(request?.gref ?? 0);
        expect(page.subarray(0, length).every((byte) => byte === 0xab)).toBe(true);
        expect(page.subarray(length).every((byte) => byte === 0)).toBe(true);
      }
    }
  });

  test('the pages to send from are granted to be read only', async () => {
    stage = await Stage.connected();
    await stage.device.write(new Uint8Array(60));
    const [request] = stage.serve().requests;
    const { gref } = request ?? { gref: 0 };
    expect(() => stage.backend.xen.grants.map(stage.guest.domid, gref, 'write')).toThrow();
    stage.backend.xen.grants.map(stage.guest.domid, gref, 'read').unmap();
  });

  test('nothing is sent before the backend is connected, and what waited goes then', async () => {
    stage = await Stage.open();
    const writes = [1, 2, 3].map((value) => stage.device.write(new Uint8Array(60).fill(value)));
    await stage.backend.write({ ...EVERYTHING, state: '2' });
    await stage.backend.untilFrontend(4);
    await stage.backend.mapRings();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(stage.backend.take(stage.queue)).toBeUndefined();
    expect(stage.device.connected).toBe(false);
    expect(stage.writeBatch([new Uint8Array(60)]).outcomes).toEqual([WriteOutcome.notConnected]);
    await stage.backend.state(4);
    await Promise.all(writes);
    expect([1, 2, 3].map(() => stage.serve().frame[0])).toEqual([1, 2, 3]);
  });

  test('writers wait for room and get it in their order', async () => {
    stage = await Stage.connected();
    const order: number[] = [];
    const writes = Array.from({ length: 300 }, async (_, index) => {
      await stage.device.write(new Uint8Array(20).fill(index));
      order.push(index);
    });
    await until('the ring is full', () => order.length === 256);
    expect(stage.device.pendingWrites).toBe(44);
    const seen = Array.from({ length: 256 }, () => stage.serve().frame[0]);
    await Promise.all(writes);
    for (let index = 256; index < 300; index += 1) seen.push(stage.serve().frame[0]);
    expect(seen).toEqual(Array.from({ length: 300 }, (_, index) => index & 0xff));
    expect(order).toEqual(Array.from({ length: 300 }, (_, index) => index));
    expect(stage.device.metrics.tx.drops.size).toBe(0);
  });

  test('room that somebody else’s write found is not missed by a writer that waits', async () => {
    stage = await Stage.connected();
    stage.writeBatch(Array.from({ length: 256 }, () => new Uint8Array(20)));
    const waiting = stage.device.write(new Uint8Array(20).fill(7));
    for (let index = 0; index < 10; index += 1) stage.serve();
    // The answers are taken here, before the event about them arrives.
    expect(stage.writeBatch([new Uint8Array(20)]).accepted).toBe(1);
    await waiting;
  });

  test('a batch that finds no room on the ring waits behind it, in order, within bounds', async () => {
    stage = await Stage.connected();
    // 256 are on the ring, 1024 wait, and two are too many.
    const frames = Array.from({ length: 1282 }, (_, index) =>
      Uint8Array.from({ length: 60 }, (_byte, at) => (at === 0 ? index >> 8 : index & 0xff)),
    );
    const { accepted, outcomes } = stage.writeBatch(frames);
    expect(accepted).toBe(1280);
    expect(outcomes.slice(1279)).toEqual([1, WriteOutcome.queueFull, WriteOutcome.queueFull]);
    expect(stage.device.metrics.tx.drops.get('tx-queue TX_QUEUE_FULL')?.packets).toBe(2);
    const single = stage.device.write(new Uint8Array(60).fill(0xee));
    const seen: Uint8Array[] = [];
    while (seen.length < 1281) {
      await until('a frame is on the ring', () => {
        const packet = stage.backend.take(stage.queue);
        if (packet === undefined) return false;
        seen.push(packet.frame);
        stage.backend.answer(stage.queue, packet, 0);
        return true;
      });
    }
    await single;
    for (const [index, frame] of seen.entries()) {
      const expected = index === 1280 ? new Uint8Array(60).fill(0xee) : frames[index];
      expect(Buffer.compare(frame, expected ?? frame)).toBe(0);
    }
  });

  test('too many writers are refused rather than remembered without end', async () => {
    stage = await Stage.open();
    const results = await Promise.race([
      Promise.allSettled(
        Array.from({ length: 8200 }, () => stage.device.write(new Uint8Array(14))),
      ),
      new Promise<undefined>((resolve) => setTimeout(() => resolve(undefined), 300)),
    ]);
    expect(results).toBeUndefined();
    expect(stage.device.pendingWrites).toBe(8192);
    await expect(stage.device.write(new Uint8Array(14))).rejects.toMatchObject({
      code: 'WRITES_PENDING',
    });
    await stage.device.disconnect();
    expect(stage.device.pendingWrites).toBe(0);
  });

  test('what the backend answers with an error is counted by frame', async () => {
    stage = await Stage.connected();
    for (const status of [-1, -2, 0]) {
      await stage.device.write(new Uint8Array(5000));
      stage.serve(stage.queue, status);
    }
    const drops = () => stage.device.metrics.tx.drops;
    await until('both are counted', () => drops().size === 2);
    expect(drops().get('tx-ring BACKEND_ERROR')?.packets).toBe(1);
    expect(drops().get('tx-ring BACKEND_DROPPED')?.packets).toBe(1);
  });
});

describe('sending with offloads', () => {
  for (const [version, type] of [
    [4, TCPV4],
    [6, TCPV6],
  ] as const) {
    test(`a TCPv${version} frame to be segmented goes whole, an extra behind its first slot`, async () => {
      stage = await Stage.connected();
      const frame = blankTcpFrame({ version, payload: randomBytes(20_000) });
      expect(stage.writeBatch([frame], gsoFlags(type, 1448)).accepted).toBe(1);
      const { frame: seen, requests, extras } = stage.serve();
      expect(Buffer.compare(seen, frame)).toBe(0);
      expect(requests[0]?.flags).toBe(
        TX_CSUM_BLANK | TX_DATA_VALIDATED | TX_MORE_DATA | TX_EXTRA_INFO,
      );
      expect(extras).toEqual([[EXTRA_GSO | (1448 << 16), type]]);
    });

    test(`it is cut for a backend without feature-gso-tcpv${version}`, async () => {
      const offer = { ...EVERYTHING, [`feature-gso-tcpv${version}`]: '0' };
      stage = await Stage.connected({}, offer);
      const payload = randomBytes(20_000);
      const frame = blankTcpFrame({ version, payload });
      expect(stage.writeBatch([frame], gsoFlags(type, 1448)).accepted).toBe(1);
      const segments = Array.from({ length: 14 }, () => stage.serve());
      expect(stage.backend.take(stage.queue)).toBeUndefined();
      for (const { frame: segment, extras, requests } of segments) {
        expect(hasRightTcpChecksum(segment)).toBe(true);
        expect(extras).toEqual([]);
        expect(requests[0]?.flags).toBe(TX_DATA_VALIDATED);
      }
      const sent = Buffer.concat(segments.map(({ frame: segment }) => payloadOf(segment)));
      expect(Buffer.compare(sent, payload)).toBe(0);
      expect(stage.device.metrics.tx.packets).toBe(14);
    });
  }

  test('it is cut into parts of a page for a backend without feature-sg', async () => {
    stage = await Stage.connected({}, { 'feature-rx-copy': '1' });
    const payload = randomBytes(30_000);
    const frame = blankTcpFrame({ payload });
    expect(stage.writeBatch([frame], gsoFlags(TCPV4, 9000)).accepted).toBe(1);
    const parts: Buffer[] = [];
    for (let packet = stage.backend.take(stage.queue); packet !== undefined; ) {
      expect(packet.requests.length).toBe(1);
      expect(hasRightTcpChecksum(packet.frame)).toBe(true);
      parts.push(payloadOf(packet.frame));
      packet = stage.backend.take(stage.queue);
    }
    expect(Buffer.compare(Buffer.concat(parts), payload)).toBe(0);
  });

  test('extras take room on the ring as well', async () => {
    stage = await Stage.connected();
    const frames = Array.from({ length: 130 }, () => blankTcpFrame({ payload: randomBytes(200) }));
    expect(stage.writeBatch(frames, gsoFlags(TCPV4, 100)).accepted).toBe(130);
    const seen = Array.from({ length: 128 }, () => stage.serve().frame);
    expect(stage.backend.take(stage.queue)).toBeUndefined();
    await until('the others are on the ring', () => {
      const packet = stage.backend.take(stage.queue);
      if (packet !== undefined) seen.push(packet.frame);
      return seen.length === 130;
    });
    for (const [index, frame] of seen.entries()) {
      expect(Buffer.compare(frame, frames[index] ?? frame)).toBe(0);
    }
  });

  test('the frames of a batch stay as they are, whatever is done to what is sent', async () => {
    stage = await Stage.connected({ checksumIpv4: false, gsoTcpv4: false });
    const { memory } = stage.xen;
    const region = memory.allocate(4096);
    for (const flags of [CHECKSUM_BLANK, gsoFlags(TCPV4, 100)]) {
      const frame = blankTcpFrame({ payload: randomBytes(300) });
      memory.bytes.set(frame, region.offset);
      const batch = new FrameBatch(memory.bytes, 1);
      batch.add(region.offset, frame.length, flags);
      expect(stage.device.writeBatch(batch)).toBe(1);
      const end = region.offset + frame.length;
      expect(Buffer.compare(frame, memory.bytes.subarray(region.offset, end))).toBe(0);
      expect(batch.flag(0)).toBe(flags);
    }
    region.free();
  });

  test('segments go all or not at all', async () => {
    stage = await Stage.connected({}, { ...EVERYTHING, 'feature-gso-tcpv4': '0' });
    stage.writeBatch(Array.from({ length: 250 }, () => new Uint8Array(60)));
    const frame = blankTcpFrame({ payload: randomBytes(20_000) });
    expect(stage.writeBatch([frame], gsoFlags(TCPV4, 1448)).accepted).toBe(1);
    for (let index = 0; index < 250; index += 1) stage.serve();
    expect(stage.backend.take(stage.queue)).toBeUndefined();
    let segments = 0;
    await until('all of them are on the ring', () => {
      while (stage.backend.take(stage.queue) !== undefined) segments += 1;
      return segments === 14;
    });
  });

  test('what cannot be cut is refused, and no backend sees a segment size of 0', async () => {
    stage = await Stage.connected();
    const good = blankTcpFrame({ payload: randomBytes(20_000) });
    expect(stage.writeBatch([good], gsoFlags(TCPV4, 0)).accepted).toBe(0);
    expect(stage.writeBatch([randomBytes(20_000)], gsoFlags(3, 1448)).accepted).toBe(0);
    expect(stage.backend.take(stage.queue)).toBeUndefined();
    const drops = stage.device.metrics.tx.drops;
    expect(drops.get('tx-ring SEGMENTATION_FAILED')?.packets).toBe(2);
  });

  test('blank checksums stay blank where the backend fills them in, and are filled in elsewhere', async () => {
    for (const [version, offer, isBlank] of [
      [4, {}, true],
      [6, {}, true],
      [4, { 'feature-ipv6-csum-offload': '0' }, true],
      [6, { 'feature-ipv6-csum-offload': '0' }, false],
      [4, { 'feature-no-csum-offload': '1' }, false],
    ] as const) {
      stage = await Stage.connected({}, { ...EVERYTHING, ...offer });
      const frame = blankTcpFrame({ version, payload: randomBytes(999) });
      const before = Buffer.from(frame);
      expect(stage.writeBatch([frame], CHECKSUM_BLANK).accepted).toBe(1);
      const { frame: seen, requests } = stage.serve();
      expect(hasRightTcpChecksum(seen)).toBe(!isBlank);
      expect(requests[0]?.flags).toBe(TX_DATA_VALIDATED | (isBlank ? TX_CSUM_BLANK : 0));
      expect(Buffer.compare(seen, before) === 0).toBe(isBlank);
      await stage.end();
    }
    stage = await Stage.connected({ checksumIpv4: false });
    stage.writeBatch([blankTcpFrame({ payload: randomBytes(99) })], CHECKSUM_BLANK);
    expect(hasRightTcpChecksum(stage.serve().frame)).toBe(true);
  });

  test('a blank checksum that nobody could fill in is not sent to a backend that would not', async () => {
    stage = await Stage.connected({ checksumIpv4: false });
    const arp = new Uint8Array(60);
    expect(stage.writeBatch([arp], CHECKSUM_BLANK).accepted).toBe(0);
    expect(stage.backend.take(stage.queue)).toBeUndefined();
    expect(stage.device.metrics.tx.drops.get('tx-ring CHECKSUM_INCOMPLETE')?.packets).toBe(1);
  });
});

describe('receiving', () => {
  test('the offset is honoured, and a frame of several slots is one frame', async () => {
    stage = await Stage.connected();
    const received = stage.collect();
    const frame = randomBytes(10_000);
    stage.backend.fill(stage.queue, frame.subarray(0, 60), 0, 2000);
    stage.backend.fill(stage.queue, frame.subarray(0, 4000), RX_MORE_DATA, 96);
    stage.backend.fill(stage.queue, frame.subarray(4000, 4000), RX_MORE_DATA, 50);
    stage.backend.fill(stage.queue, frame.subarray(4000, 8096), RX_MORE_DATA);
    stage.backend.fill(stage.queue, frame.subarray(8096), 0, 1);
    stage.backend.pushRx(stage.queue);
    await until('both are in', () => received.length === 2);
    expect(received.map(({ frame: { length } }) => length)).toEqual([60, 10_000]);
    expect(Buffer.compare(received[0]?.frame ?? frame, frame.subarray(0, 60))).toBe(0);
    expect(Buffer.compare(received[1]?.frame ?? new Uint8Array(), frame)).toBe(0);
    expect(stage.device.stats).toMatchObject({ rxPackets: 2n, rxBytes: 10_060n });
  });

  test('a frame of 18 slots and 65,535 bytes is the most there is', async () => {
    stage = await Stage.connected();
    const received = stage.collect();
    for (const [slots, bytes] of [
      [18, 3640],
      [19, 100],
      [17, 4000],
      [1, 60],
    ] as const) {
      for (let slot = 1; slot <= slots; slot += 1) {
        const length = slots === 18 && slot === 18 ? 65_535 - 17 * bytes : bytes;
        const flags = slot < slots ? RX_MORE_DATA : 0;
        stage.backend.fill(stage.queue, new Uint8Array(length), flags);
      }
    }
    stage.backend.pushRx(stage.queue);
    await until('the good ones are in', () => received.length === 2);
    expect(received.map(({ frame }) => frame.length)).toEqual([65_535, 60]);
    const { drops } = stage.device.metrics.rx;
    expect([...drops.keys()].sort()).toEqual(['rx-ring TOO_LONG', 'rx-ring TOO_MANY_SLOTS']);
    expect(stage.device.connected).toBe(true);
  });

  test('checksum and segmentation metadata arrive with the frame; a hash does no harm', async () => {
    stage = await Stage.connected();
    const received = stage.collect();
    const { backend, queue } = stage;
    const frame = blankTcpFrame({ payload: randomBytes(7000) });
    backend.fill(queue, frame.subarray(0, 60), RX_DATA_VALIDATED);
    backend.fill(queue, frame.subarray(0, 60), RX_CSUM_BLANK | RX_DATA_VALIDATED);
    const first = RX_CSUM_BLANK | RX_DATA_VALIDATED | RX_EXTRA_INFO | RX_MORE_DATA;
    backend.fill(queue, frame.subarray(0, 4000), first);
    backend.extraRx(queue, EXTRA_HASH | EXTRA_MORE, 0xdeadbeef);
    backend.extraRx(queue, EXTRA_GSO | (1448 << 16), TCPV4);
    backend.fill(queue, frame.subarray(4000));
    backend.fill(queue, frame.subarray(0, 60));
    backend.pushRx(queue);
    await until('all are in', () => received.length === 4);
    expect(received.map(({ flags }) => flags)).toEqual([
      DATA_VALIDATED,
      CHECKSUM_BLANK | DATA_VALIDATED,
      gsoFlags(TCPV4, 1448),
      0,
    ]);
    expect(Buffer.compare(received[2]?.frame ?? frame, frame)).toBe(0);
  });

  test('a packet with a bad extra is dropped, and the next is good', async () => {
    stage = await Stage.connected({ gsoTcpv6: false });
    const received = stage.collect();
    const { backend, queue } = stage;
    for (const [head, tail] of [
      [EXTRA_GSO, TCPV4],
      [EXTRA_GSO | (1448 << 16), 0],
      [EXTRA_GSO | (1448 << 16), TCPV6],
      [2, 0],
    ] as const) {
      backend.fill(queue, new Uint8Array(60), RX_EXTRA_INFO);
      backend.extraRx(queue, head, tail);
    }
    backend.fill(queue, new Uint8Array(61));
    backend.pushRx(queue);
    await until('the good one is in', () => received.length === 1);
    expect(received[0]?.frame.length).toBe(61);
    const { drops } = stage.device.metrics.rx;
    expect(drops.get('rx-ring GSO_INVALID')?.packets).toBe(3);
    expect(drops.get('rx-ring EXTRA_UNEXPECTED')?.packets).toBe(1);
  });

  test('who listens for plain frames gets whole checksums and segments', async () => {
    stage = await Stage.connected();
    const received: Uint8Array[] = [];
    void stage.device.listen((frame) => received.push(frame));
    const payload = randomBytes(3000);
    const frame = blankTcpFrame({ payload });
    const small = blankTcpFrame({ payload: payload.subarray(0, 6) });
    const blank = RX_CSUM_BLANK | RX_DATA_VALIDATED;
    stage.backend.fill(stage.queue, small, blank);
    stage.backend.fill(stage.queue, frame, blank | RX_EXTRA_INFO);
    stage.backend.extraRx(stage.queue, EXTRA_GSO | (1000 << 16), TCPV4);
    stage.backend.pushRx(stage.queue);
    await until('all are in', () => received.length === 4);
    expect(received.every(hasRightTcpChecksum)).toBe(true);
    const cut = Buffer.concat(received.slice(1).map(payloadOf));
    expect(Buffer.compare(cut, payload)).toBe(0);
  });

  test('frames before the first listener wait for it, in order, up to a bound', async () => {
    stage = await Stage.connected();
    const { backend, queue } = stage;
    const receive = (count: number, first: number) => {
      for (let index = 0; index < count; index += 1) {
        backend.fill(queue, new Uint8Array(20).fill(first + index));
      }
      backend.pushRx(queue);
    };
    receive(200, 0);
    await until('they are in', () => stage.device.metrics.rx.packets === 200);
    receive(100, 200);
    await until('they are in', () => stage.device.metrics.rx.packets === 300);
    const received = stage.collect();
    receive(1, 99);
    await until('all are heard', () => received.length === 257);
    const expected = [...Array.from({ length: 256 }, (_, index) => index & 0xff), 99];
    expect(received.map(({ frame }) => frame[19])).toEqual(expected);
    expect(stage.device.metrics.rx.drops.get('rx-queue NO_LISTENER')?.packets).toBe(44);
  });

  test('a listener that throws stops nothing: it is logged, counted, and others hear all', async () => {
    const lines: string[] = [];
    const logger = pino({ level: 'error' }, { write: (line: string) => void lines.push(line) });
    stage = await Stage.connected({}, undefined, logger);
    let heard = 0;
    stage.device.listenBatch(() => {
      throw new Error('a listener at fault');
    });
    const another = stage.device.listen(() => {
      heard += 1;
      throw new Error('another');
    });
    const slowOne = stage.device.listen(async () => {
      await Promise.reject(new Error('and a slow one'));
    });
    const told = Promise.all([
      expect(another).rejects.toThrow('another'),
      expect(slowOne).rejects.toThrow('and a slow one'),
    ]);
    let others = 0;
    void stage.device.listen(() => {
      others += 1;
    });
    for (let index = 0; index < 3; index += 1) {
      stage.backend.fill(stage.queue, new Uint8Array(60));
    }
    stage.backend.pushRx(stage.queue);
    await until('the others hear all', () => others === 3);
    await told;
    // Who is told hears no more. A listener of batches cannot be told, and was given one batch.
    expect(heard).toBe(1);
    expect(stage.device.listenerFaults).toBe(1);
    expect(lines.length).toBe(1);
    expect(stage.device.connected).toBe(true);
    await stage.device.write(new Uint8Array(60));
  });
});

describe('indices', () => {
  test('they wrap at 2^32 in both directions, and ids stay unique', async () => {
    stage = await Stage.connected({ ringStart: 0xffffff00 });
    const received = stage.collect();
    for (let index = 0; index < 600; index += 1) {
      const frame = new Uint8Array(20).fill(index);
      await stage.device.write(frame);
      expect(stage.serve().frame[19]).toBe(index & 0xff);
      stage.backend.fill(stage.queue, frame);
      stage.backend.pushRx(stage.queue);
      await until('it is in', () => received.length === index + 1);
      expect(received[index]?.frame[19]).toBe(index & 0xff);
    }
  });
});

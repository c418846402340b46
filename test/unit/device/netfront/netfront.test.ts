import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  CHECKSUM_BLANK,
  DATA_VALIDATED,
  FrameBatch,
  GSO_SIZE_SHIFT,
  GSO_TYPE_SHIFT,
  METADATA_MASK,
} from '../../../../src/device/frame-batch.js';
import type { NetbackDevice } from '../../../../src/device/netback/device.js';
import { Netfront } from '../../../../src/device/netfront/index.js';
import type { NetfrontOptions } from '../../../../src/device/netfront/options.js';
import {
  CTRL_STATUS_BUFFER_OVERFLOW,
  CTRL_STATUS_INVALID_PARAMETER,
  CTRL_STATUS_NOT_SUPPORTED,
  HASH_ALGORITHM_TOEPLITZ,
} from '../../../../src/ring/netif-ctrl.js';
import { HASH_TYPE_IPV4_TCP, HASH_TYPES } from '../../../../src/wire/toeplitz.js';
import { type GuestUnderTest, Machine, silent, until } from '../../../support/machine.js';
import { seededRandom } from '../../../support/random.js';
import { blankTcpFrame } from '../../../support/tcp-frames.js';

let machine: Machine;
beforeEach(async () => {
  machine = await Machine.start();
});
afterEach(async () => {
  await machine.end();
});

/** A guest as `Machine.addGuest` makes it, with options for its netfront. */
async function addGuest(options: NetfrontOptions): Promise<GuestUnderTest> {
  const domain = await machine.hypervisor.createDomain();
  const xen = await domain.open({ localMemoryBytes: 4 * 1024 * 1024 });
  const netfront = new Netfront(xen, silent, () => undefined, options);
  await netfront.start();
  await machine.plug(domain.domid);
  await until('the guest connects', () => netfront.get(0)?.connected === true);
  const device = netfront.get(0);
  if (device === undefined) throw new Error('The guest has no interface.');
  const guest = { domain, xen, netfront, device };
  machine.guests.push(guest);
  return guest;
}

function backendOf({ domain }: GuestUnderTest): NetbackDevice {
  const device = machine.netback.get(domain.domid, 0);
  if (device === undefined) throw new Error('There is no such vif.');
  return device;
}

/** Frames of flow `port` and their number, in the payload. */
function numbered(port: number, index: number): Uint8Array {
  const payload = new Uint8Array(8);
  new DataView(payload.buffer).setUint32(0, index);
  return blankTcpFrame({ payload, sourcePort: port });
}

function writeWithFlags(guest: GuestUnderTest, frame: Uint8Array, flags: number): number {
  const { memory } = guest.xen;
  const region = memory.allocate(frame.length);
  memory.bytes.set(frame, region.offset);
  const batch = new FrameBatch(memory.bytes, 1);
  batch.add(region.offset, frame.length, flags);
  const accepted = guest.device.writeBatch(batch);
  region.free();
  return accepted;
}

function collect(guest: GuestUnderTest): { frame: Buffer; flags: number }[] {
  const received: { frame: Buffer; flags: number }[] = [];
  guest.device.listenBatch((batch) => {
    for (let index = 0; index < batch.count; index += 1) {
      const start = batch.offset(index);
      const frame = Buffer.from(batch.bytes.slice(start, start + batch.length(index)));
      received.push({ frame, flags: batch.flag(index) & METADATA_MASK });
    }
  });
  return received;
}

describe('several queues', () => {
  test('a flow keeps its order and its queue, in both directions, and all queues are used', async () => {
    const guest = await addGuest({ queuesMax: 4, ringStart: 0xffffff80 });
    const device = backendOf(guest);
    expect(guest.device.features?.queues).toBe(4);
    const random = seededRandom(7);
    const next = new Map<number, number>();
    const seen = new Map<number, number>();
    let received = 0;
    const check = (frame: Uint8Array) => {
      const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
      const port = view.getUint16(34);
      expect(view.getUint32(54)).toBe(seen.get(port) ?? 0);
      seen.set(port, (seen.get(port) ?? 0) + 1);
      received += 1;
    };
    void device.listen(check);
    for (let count = 0; count < 4000; count += 1) {
      const port = 1000 + random.below(40);
      await guest.device.write(numbered(port, next.get(port) ?? 0));
      next.set(port, (next.get(port) ?? 0) + 1);
    }
    await until('all arrive', () => received === 4000);
    const { queues } = guest.device.metrics;
    expect(queues.length).toBe(4);
    expect(queues.every(({ tx }) => tx.packets > 200)).toBe(true);
    expect(queues.map(({ tx }) => tx.packets)).toEqual(
      device.metrics.queues.map(({ tx }) => tx.packets),
    );

    seen.clear();
    received = 0;
    void guest.device.listen(check);
    for (let count = 0; count < 400; count += 1) {
      await device.write(numbered(2000 + (count % 40), Math.floor(count / 40)));
    }
    await until('all arrive', () => received === 400);
    expect(queues.every(({ rx }) => rx.packets > 0)).toBe(true);
  });

  test('fifty reconnects in turn with different numbers of queues leave nothing behind', async () => {
    const guest = await addGuest({ queuesMax: 3 });
    const device = backendOf(guest);
    const memory = machine.hypervisor.memory.allocatedBytes;
    let received = 0;
    device.listenBatch((batch) => {
      received += batch.count;
    });
    for (let round = 0; round < 50; round += 1) {
      await guest.device.reconnect();
      await guest.device.write(new Uint8Array(60));
      await until('the frame is in', () => received === round + 1);
    }
    expect(device.status.connects).toBe(51);
    expect(machine.hypervisor.memory.allocatedBytes).toBe(memory);
  });
});

describe('offloads from guest to guest', () => {
  for (const [version, type] of [
    [4, 1],
    [6, 2],
  ] as const) {
    test(`a TCPv${version} frame to be segmented arrives whole, with its metadata`, async () => {
      machine.joinToHub();
      const [from, to] = [await addGuest({}), await addGuest({})];
      const received = collect(to);
      const frame = blankTcpFrame({ version, payload: randomBytes(40_000) });
      const flags =
        CHECKSUM_BLANK | DATA_VALIDATED | (type << GSO_TYPE_SHIFT) | (1448 << GSO_SIZE_SHIFT);
      expect(writeWithFlags(from, frame, flags)).toBe(1);
      await until('it is in', () => received.length === 1);
      expect(received[0]?.flags).toBe(flags);
      expect(Buffer.compare(received[0]?.frame ?? Buffer.alloc(0), frame)).toBe(0);
    });

    test(`and as TCPv${version} segments at a guest that takes neither`, async () => {
      machine.joinToHub();
      const from = await addGuest({});
      const to = await addGuest({
        scatterGather: false,
        checksumIpv4: false,
        checksumIpv6: false,
      });
      const received = collect(to);
      const payload = randomBytes(20_000);
      const frame = blankTcpFrame({ version, payload });
      const flags = CHECKSUM_BLANK | (type << GSO_TYPE_SHIFT) | (1448 << GSO_SIZE_SHIFT);
      writeWithFlags(from, frame, flags);
      await until('all are in', () => received.length === 14);
      const start = version === 4 ? 54 : 74;
      const sent = Buffer.concat(received.map(({ frame: each }) => each.subarray(start)));
      expect(Buffer.compare(sent, payload)).toBe(0);
      expect(received.every((each) => (each.flags & CHECKSUM_BLANK) === 0)).toBe(true);
    });
  }
});

describe('multicast control', () => {
  test('only wanted multicast frames come, also after a reconnect; the list has an end', async () => {
    const guest = await addGuest({ multicastControl: true });
    const device = backendOf(guest);
    expect(device.features?.multicastControl).toBe(true);
    const received = collect(guest);
    const frameTo = (last: number) =>
      Uint8Array.from([1, 0, 0x5e, 0, 0, last, 2, 0, 0, 0, 0, 1, 8, 0, ...Array(46).fill(last)]);
    const hear = async (...expected: number[]) => {
      received.length = 0;
      for (const last of [1, 2, 3]) await device.write(frameTo(last));
      await device.write(new Uint8Array(60));
      await until('the last is in', () => received.some(({ frame }) => frame[0] === 0));
      expect(received.map(({ frame }) => frame[5])).toEqual([...expected, 0]);
    };
    await hear();
    expect(await guest.device.setMulticast('01:00:5E:00:00:02', true)).toBe(true);
    await hear(2);
    expect(await guest.device.setMulticast('01:00:5e:00:00:03', true)).toBe(true);
    await hear(2, 3);
    await guest.device.reconnect();
    await until('connected', () => guest.device.connected);
    // Answers come in order, so that this one says that the whole list was told again.
    expect(await guest.device.setMulticast('01:00:5e:00:00:03', true)).toBe(true);
    await hear(2, 3);
    expect(await guest.device.setMulticast('01:00:5e:00:00:02', false)).toBe(true);
    await hear(3);
    await expect(guest.device.setMulticast('00:16:3e:00:00:02', true)).rejects.toMatchObject({
      code: 'MAC_INVALID',
    });
    const results: boolean[] = [];
    for (let last = 10; last < 80; last += 1) {
      const address = `01:00:5e:00:01:${last.toString(16).padStart(2, '0')}`;
      results.push(await guest.device.setMulticast(address, true));
    }
    expect(results.filter((isTaken) => isTaken).length).toBe(63);
    expect(guest.device.metrics.tx.drops.size).toBe(0);
  });
});

describe('the control ring', () => {
  test('sets hash, key and mapping; the backend follows, and answers what is wrong', async () => {
    const guest = await addGuest({ queuesMax: 2, controlRing: true });
    const device = backendOf(guest);
    const { control } = guest.device;
    if (control === undefined) throw new Error('There is no control ring.');
    const okay = { status: 0, data: 0 };
    expect(await control.setAlgorithm(9)).toMatchObject({ status: CTRL_STATUS_INVALID_PARAMETER });
    expect(await control.setAlgorithm(HASH_ALGORITHM_TOEPLITZ)).toEqual(okay);
    expect(await control.getFlags()).toEqual({ status: 0, data: HASH_TYPES });
    expect(await control.setFlags(HASH_TYPE_IPV4_TCP)).toEqual(okay);
    expect(await control.setKey(new Uint8Array(41))).toMatchObject({
      status: CTRL_STATUS_BUFFER_OVERFLOW,
    });
    expect(await control.setKey(randomBytes(40))).toEqual(okay);
    expect((await control.getMappingSize()).data).toBeGreaterThanOrEqual(128);
    expect(await control.request(77)).toMatchObject({ status: CTRL_STATUS_NOT_SUPPORTED });

    for (const queue of [1, 0]) {
      expect(await control.setMappingSize(16)).toEqual(okay);
      expect(await control.setMapping(new Uint32Array(16).fill(queue))).toEqual(okay);
      const { queues } = guest.device.metrics;
      const before = queues.map(({ rx }) => rx.packets);
      for (let port = 1000; port < 1020; port += 1) await device.write(numbered(port, 0));
      const gained = () => queues.map(({ rx }, index) => rx.packets - (before[index] ?? 0));
      await until('all are in', () => (gained()[queue] ?? 0) === 20);
      expect(gained()[1 - queue]).toBe(0);
    }
    expect(await control.setMapping(new Uint32Array([2]))).toMatchObject({
      status: CTRL_STATUS_INVALID_PARAMETER,
    });
    expect(guest.device.metrics.rx.drops.size).toBe(0);

    const late = Promise.all([control.getFlags(), guest.device.reconnect()]);
    await late.catch(() => undefined);
    await until('connected', () => guest.device.connected && guest.device.control !== control);
    await expect(control.getFlags()).rejects.toMatchObject({ code: 'DISCONNECTED' });
  });
});

test('the link that the toolstack takes down is seen by the guest', async () => {
  const guest = await addGuest({});
  const path = `${backendOf(guest).paths.backend}/carrier`;
  await machine.xen.store.write(path, '0');
  await until('down', () => !guest.device.carrier);
  await machine.xen.store.write(path, '1');
  await until('up', () => guest.device.carrier);
});

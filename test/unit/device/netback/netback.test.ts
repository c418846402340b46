import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { NetbackDevice } from '../../../../src/device/netback/device.js';
import { Netback } from '../../../../src/device/netback/index.js';
import { XenbusState } from '../../../../src/xen/xenbus.js';
import { HostileGuest } from '../../../hostile/guest.js';
import {
  controlRequest,
  EXTRA_INFO,
  EXTRA_MCAST_ADD,
  extra,
  txRequest,
} from '../../../hostile/slots.js';
import { Hub } from '../../../support/hub.js';
import { Machine, silent, until } from '../../../support/machine.js';

let machine: Machine;

beforeEach(async () => {
  machine = await Machine.start();
});
afterEach(async () => {
  await machine.end();
});

function backendOf(domid: number): NetbackDevice {
  const device = machine.netback.get(domid, 0);
  if (device === undefined) throw new Error(`No vif of domain ${domid}.`);
  return device;
}

describe('netback with our netfront as its peer', () => {
  test('connects, and says so', async () => {
    const guest = await machine.addGuest();
    const device = backendOf(guest.domain.domid);
    await until('connected', () => device.status.phase === 'connected');
    expect(device.status).toMatchObject({
      reason: 'CONNECTED',
      backendState: XenbusState.connected,
      frontendState: XenbusState.connected,
      connects: 1,
    });
    expect(device.features).toMatchObject({ scatterGather: true, splitEventChannels: true });
    expect(device.uid).toMatch(/^[0-9a-f-]{36}$/);
  });

  test('carries frames of every length both ways, byte for byte and in order', async () => {
    const guest = await machine.addGuest();
    const device = backendOf(guest.domain.domid);
    const lengths = [14, 15, 60, 64, 1514, 4095, 4096, 4097, 8192, 9014, 40_000, 65_535];
    const sent = lengths.map((length) => randomBytes(length));
    for (const [from, to] of [
      [guest.device, device],
      [device, guest.device],
    ] as const) {
      const received: Uint8Array[] = [];
      void to.listen((frame) => received.push(frame));
      for (const frame of sent) await from.write(frame);
      await until('every frame arrives', () => received.length === sent.length);
      for (const [index, frame] of sent.entries()) {
        expect(Buffer.compare(frame, received[index] as Uint8Array)).toBe(0);
      }
    }
    const bytes = lengths.reduce((sum, length) => sum + length, 0);
    expect(device.stats).toEqual({
      rxPackets: BigInt(lengths.length),
      rxBytes: BigInt(bytes),
      txPackets: BigInt(lengths.length),
      txBytes: BigInt(bytes),
    });
    expect(guest.device.stats).toEqual(device.stats);
  });

  test('answers every request: 5,000 frames through a ring of 256', async () => {
    const guest = await machine.addGuest();
    const device = backendOf(guest.domain.domid);
    let sum = 0;
    void device.listen((frame) => {
      sum += (frame[14] as number) * 256 + (frame[15] as number);
    });
    let expected = 0;
    for (let index = 0; index < 5000; index += 1) {
      const frame = new Uint8Array(16 + (index % 1400));
      frame[14] = index >> 8;
      frame[15] = index & 0xff;
      expected += index;
      await guest.device.write(frame);
    }
    await until('all are in', () => device.metrics.tx.packets === 5000);
    expect(sum).toBe(expected);
  });

  test('queues for a guest that posts no buffers, and drops and counts beyond the bound', async () => {
    const guest = await machine.addGuest();
    const device = backendOf(guest.domain.domid);
    // The guest's process is stopped: its end of the event channel is heard by nobody.
    let received = 0;
    guest.device.listenBatch((batch) => {
      received += batch.count;
    });
    const frame = randomBytes(4000);
    const writes: Promise<void>[] = [];
    for (let index = 0; index < 1000; index += 1) writes.push(device.write(frame));
    await Promise.all(writes);
    const dropped = device.metrics.rx.drops.get('rx-queue RX_QUEUE_FULL')?.packets ?? 0;
    expect(dropped).toBeGreaterThan(0);
    await until('all others arrive', () => received === 1000 - dropped);
    expect(device.metrics.rx.packets).toBe(1000 - dropped);
    expect(dropped).toBe(1000 - 256 - Math.floor((512 * 1024) / 4000));
  });

  test('a hub joins two guests, and a third hears them as well', async () => {
    const [first, second, third] = [
      await machine.addGuest(),
      await machine.addGuest(),
      await machine.addGuest(),
    ];
    const hub = new Hub();
    const unplug = machine.netback.list().map((device) => hub.plug(device));
    const heard = [first, second, third].map((guest) => {
      const frames: string[] = [];
      void guest.device.listen((frame) => frames.push(Buffer.from(frame).toString('latin1')));
      return frames;
    });
    await first.device.write(Buffer.from('a frame of the first guest'));
    await until('both others hear it', () => heard[1]?.length === 1 && heard[2]?.length === 1);
    expect(heard).toEqual([[], ['a frame of the first guest'], ['a frame of the first guest']]);
    for (const pull of unplug) pull();
    expect(hub.ports).toBe(0);
  });

  test('an observer sees both directions, the listener only what the guest sent', async () => {
    const guest = await machine.addGuest();
    const device = backendOf(guest.domain.domid);
    const observed: number[] = [];
    let listened = 0;
    const end = device.observeBatch((batch) => {
      for (let index = 0; index < batch.count; index += 1) observed.push(batch.flag(index) & 3);
    });
    device.listenBatch((batch) => {
      listened += batch.count;
    });
    await guest.device.write(new Uint8Array(60));
    await until('the frame is in', () => listened === 1);
    await device.write(new Uint8Array(60));
    await until('the frame is out', () => observed.length === 2);
    expect(observed).toEqual([1, 2]);
    expect(listened).toBe(1);
    end();
  });
});

describe('lifecycles', () => {
  test('the guest closes and connects again, five times', async () => {
    const guest = await machine.addGuest();
    const device = backendOf(guest.domain.domid);
    let received = 0;
    device.listenBatch((batch) => {
      received += batch.count;
    });
    for (let round = 1; round <= 5; round += 1) {
      await until(
        'connected',
        () => device.status.connects === round && guest.netfront.get(0)?.connected === true,
      );
      await guest.netfront.get(0)?.write(new Uint8Array(60));
      await until('the frame is in', () => received === round);
      await guest.netfront.stop();
      await until('closed', () => device.status.backendState === XenbusState.closed);
      expect(device.status.reason).toBe('FRONTEND_CLOSED');
      await guest.xen.store.write(`/local/domain/${guest.domain.domid}/device/vif/0/state`, '1');
      await guest.netfront.start();
    }
  });

  test('a backend that stops and one that starts: the guest stays connected, frames flow on', async () => {
    const guest = await machine.addGuest();
    const before = backendOf(guest.domain.domid);
    const states: string[] = [];
    const watch = await guest.xen.store.watch('/local/domain/0/backend/vif', (path) => {
      if (path.endsWith('/state')) states.push(path);
    });
    states.length = 0;
    const { uid } = before;
    await machine.restartBackend();
    const after = backendOf(guest.domain.domid);
    await until('adopted', () => after.status.phase === 'connected');
    expect(after.uid).toBe(uid);
    const received: Uint8Array[] = [];
    void after.listen((frame) => received.push(frame));
    for (let index = 0; index < 600; index += 1)
      await guest.device.write(new Uint8Array(60).fill(index));
    await until('frames flow', () => received.length === 600);
    let back = 0;
    guest.device.listenBatch((batch) => {
      back += batch.count;
    });
    for (let index = 0; index < 600; index += 1) await after.write(new Uint8Array(60));
    await until('frames flow back', () => back === 600);
    expect(states).toEqual([]);
    expect(guest.device.connected).toBe(true);
    await watch.unwatch();
  });

  test('no frame between two guests is lost over restarts', async () => {
    machine.joinToHub();
    const guests = [await machine.addGuest(), await machine.addGuest(), await machine.addGuest()];
    const heard = guests.map(({ device }) => {
      const sequence: number[] = [];
      void device.listen((frame) =>
        sequence.push((frame[14] as number) * 256 + (frame[15] as number)),
      );
      return sequence;
    });
    let sent = 0;
    const sendFrom = async (count: number) => {
      for (let index = 0; index < count; index += 1) {
        const frame = new Uint8Array(60);
        frame[14] = sent >> 8;
        frame[15] = sent & 0xff;
        await (guests[sent % 3] as (typeof guests)[number]).device.write(frame);
        sent += 1;
      }
    };
    for (let round = 0; round < 10; round += 1) {
      await sendFrom(30);
      const restarted = machine.restartBackend();
      await sendFrom(30);
      await restarted;
      await until('all is heard', () =>
        heard.every((sequence) => sequence.length === (sent / 3) * 2),
      );
    }
    for (const sequence of heard) expect(new Set(sequence).size).toBe(400);
  });

  test('an orderly end waits for the buffers of a guest that has none, but not for long', async () => {
    const domain = await machine.hypervisor.createDomain();
    const guest = new HostileGuest(domain, await domain.open({ localMemoryBytes: 65536 }));
    await machine.plug(domain.domid);
    const waits = () => machine.netback.get(domain.domid, 0)?.status.backendState;
    await until('the backend waits', () => waits() === XenbusState.initWait);
    await guest.shake({ split: true });
    const device = backendOf(domain.domid);
    await until('connected', () => device.status.phase === 'connected');
    for (let index = 0; index < 3; index += 1) await device.write(new Uint8Array(60).fill(index));
    const ended = machine.netback.stop({ closeDevices: false, closeTimeoutMs: 0 });
    const pages = [guest.page(), guest.page()];
    guest.queue.post(pages.map(({ ref }) => ref));
    await guest.queue.received(2);
    expect(pages.map(({ page }) => page.bytes[0])).toEqual([0, 1]);
    await ended;
    const drops = [...device.metrics.rx.drops.values()];
    expect(drops).toEqual([{ stage: 'rx-queue', cause: 'DISCONNECTED', packets: 1 }]);
    machine.netback = new Netback(machine.xen, silent);
    await machine.netback.start();
    await guest.end();
  });

  test('what a guest asked for through its rings holds for the next backend, and for no other guest', async () => {
    const domain = await machine.hypervisor.createDomain();
    const guest = new HostileGuest(domain, await domain.open({ localMemoryBytes: 65536 }));
    await machine.plug(domain.domid);
    const backend = `/local/domain/0/backend/vif/${domain.domid}/0`;
    const isIn = (state: number) => () => backendOf(domain.domid).status.backendState === state;
    const shake = async () => {
      await until('the backend waits', isIn(XenbusState.initWait));
      const nodes = { 'request-multicast-control': '1' };
      await guest.shake({ queues: 2, control: true, nodes });
      await until('connected', isIn(XenbusState.connected));
    };
    await until('it is there', () => machine.netback.get(domain.domid, 0) !== undefined);
    await shake();
    const mapping = guest.page(Uint8Array.of(1, 0, 0, 0, 1, 0, 0, 0));
    const requests = [
      controlRequest(1, 7, [1]),
      controlRequest(2, 2, [3]),
      controlRequest(3, 5, [2]),
      controlRequest(4, 6, [mapping.ref, 2, 0]),
    ];
    expect((await guest.ask(requests)).map(({ status }) => status)).toEqual([0, 0, 0, 0]);
    const add = extra(EXTRA_MCAST_ADD, 0, [1, 0, 0x5e, 1, 2, 3]);
    guest.queue.send([txRequest({ flags: EXTRA_INFO, id: 5 }), add]);
    await guest.queue.answers(2);

    const wishes = () => {
      const { connection } = backendOf(domain.domid);
      return { hash: connection?.hashWish, multicast: connection?.multicastWish };
    };
    const asked = wishes();
    expect(asked.hash).toEqual({ algorithm: 1, types: 3, key: '', mapping: [1, 1] });
    expect(asked.multicast).toEqual([0x0100_5e01_0203]);
    await machine.restartBackend();
    expect(wishes()).toEqual(asked);
    // Whoever is killed from here on leaves no list that the guest may have added to since.
    const kept = JSON.parse(await machine.xen.store.read(`${backend}/xenvif/wishes`));
    expect(kept).toEqual({ ring: expect.any(Number), hash: asked.hash });

    await guest.setState('6');
    await until('it closes', isIn(XenbusState.closed));
    guest.forget();
    await guest.setState('1');
    await shake();
    expect(wishes()).toEqual({ hash: undefined, multicast: [] });
    expect(await machine.xen.store.readIfExists(`${backend}/xenvif/wishes`)).toBeUndefined();
    await guest.end();
  });

  test('a killed backend loses nothing that it had acknowledged', async () => {
    const guest = await machine.addGuest();
    const seen = new Set<number>();
    const listen = (device: NetbackDevice) =>
      void device.listen((frame) => seen.add((frame[14] as number) * 256 + (frame[15] as number)));
    listen(backendOf(guest.domain.domid));
    for (let round = 0; round < 4; round += 1) {
      for (let index = 0; index < 100; index += 1) {
        const frame = new Uint8Array(60);
        frame[14] = round;
        frame[15] = index;
        await guest.device.write(frame);
      }
      await (machine.xen as Awaited<ReturnType<typeof machine.hypervisor.dom0.open>>).kill();
      machine.xen = await machine.hypervisor.dom0.open();
      machine.netback = new Netback(machine.xen, silent);
      machine.netback.onVif((_event, device) => {
        if (device.status.connects === 1 && device.status.phase === 'connected') listen(device);
      });
      await machine.netback.start();
      await until(
        'adopted',
        () => machine.netback.get(guest.domain.domid, 0)?.status.phase === 'connected',
      );
    }
    await until('every frame was seen', () => seen.size === 400);
  });

  test('the domain is destroyed under traffic: everything is given back', async () => {
    const guest = await machine.addGuest();
    const other = await machine.addGuest();
    const device = backendOf(guest.domain.domid);
    const write = guest.device.write(new Uint8Array(60));
    await machine.hypervisor.destroyDomain(guest.domain.domid);
    await write.catch(() => undefined);
    await until('given up', () => device.status.backendState === XenbusState.closed);
    expect(device.status.reason).toBe('FRONTEND_GONE');
    machine.guests.splice(machine.guests.indexOf(guest), 1);
    let received = 0;
    backendOf(other.domain.domid).listenBatch((batch) => {
      received += batch.count;
    });
    await other.device.write(new Uint8Array(60));
    await until('the other guest goes on', () => received === 1);
  });

  test('the toolstack removes a vif: it is gone, and the next with its name is another', async () => {
    const guest = await machine.addGuest();
    const { domid } = guest.domain;
    const { uid } = backendOf(domid);
    const { removeVif, requestUnplug } = await import(
      '../../../../src/device/netback/toolstack.js'
    );
    await requestUnplug(machine.xen.store, 0, domid, 0);
    await until('closed', () => backendOf(domid).status.backendState === XenbusState.closed);
    await removeVif(machine.xen.store, 0, domid, 0);
    await until('gone', () => machine.netback.get(domid, 0) === undefined);
    await until('gone for the guest', () => guest.netfront.get(0) === undefined);
    await machine.plug(domid);
    await until('back', () => machine.netback.get(domid, 0)?.status.phase === 'connected');
    expect(backendOf(domid).uid).not.toBe(uid);
  });
});

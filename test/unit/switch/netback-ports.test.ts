/** Guests' vifs as ports: rings, grants and event channels of an emulated Xen on both sides. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Switch } from '../../../src/switch/switch.js';
import { type GuestUnderTest, Machine, until } from '../../support/machine.js';
import { BROADCAST, frame, mac } from './switch-scene.js';

describe('vifs at a switch', () => {
  let machine: Machine;
  let device: Switch;
  let received: Buffer[][];

  beforeEach(async () => {
    machine = await Machine.start();
    device = new Switch(machine.xen.memory);
    received = [];
    for (let number = 0; number < 3; number += 1) {
      const guest = await machine.addGuest();
      const vif = machine.netback.get(guest.domain.domid, 0);
      if (vif === undefined) throw new Error('The guest has no vif.');
      device.plug(vif.name, vif, { mac: mac(number), lockMac: true, accessVlan: 5 });
      const frames: Buffer[] = [];
      received.push(frames);
      guest.device.listenBatch((batch) => {
        for (let index = 0; index < batch.count; index += 1) {
          const start = batch.offset(index);
          frames.push(Buffer.from(batch.bytes.subarray(start, start + batch.length(index))));
        }
      });
    }
  });

  afterEach(async () => {
    device.close();
    await machine.end();
  });

  test('get what is for them, and nobody is taken for somebody else', async () => {
    const [a, b] = machine.guests as [GuestUnderTest, GuestUnderTest];
    await a.device.write(frame(mac(1), mac(0)));
    await a.device.write(frame(mac(1), mac(2)));
    await b.device.write(frame(BROADCAST, mac(1)));
    await until('the frames arrive', () => received.every((frames) => frames.length === 1));
    expect(received).toEqual([
      [frame(BROADCAST, mac(1))],
      [frame(mac(1), mac(0))],
      [frame(BROADCAST, mac(1))],
    ]);
    const [first] = device.ports;
    expect(first?.metrics.tx.drops.get('switch MAC_SPOOFED')?.packets).toBe(1);
  });

  test('that are not connected refuse frames, which costs the others none', async () => {
    const [a, b] = machine.guests as [GuestUnderTest, GuestUnderTest];
    await b.netfront.stop();
    const [, second] = device.ports;
    await a.device.write(frame(BROADCAST, mac(0)));
    await until('the frame arrives', () => received[2]?.length === 1);
    expect(second?.metrics.rx.drops.get('switch EGRESS_REFUSED')?.packets).toBe(1);
  });
});

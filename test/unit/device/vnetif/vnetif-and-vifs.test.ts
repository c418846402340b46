/** A Vnetif as a port like any other: hosts in this process among guests on Xen. */
import { expect, test } from 'vitest';
import { Host } from '../../../../src/demo/host.js';
import { BasicBackend, Vnetif } from '../../../../src/device/vnetif/index.js';
import { Hub } from '../../../support/hub.js';
import { Machine, until } from '../../../support/machine.js';

test.each([true, false])(
  'a hub joins a guest and a Vnetif, async readers: %s',
  async (asyncReaders) => {
    const machine = await Machine.start();
    const guest = await machine.addGuest();
    const taken = machine.xen.memory.allocatedBytes;
    // The memory of the backend's domain, for a vif's frames are copied out of no other.
    const backend = new BasicBackend({ asyncReaders, memory: machine.xen.memory });
    const port = await Vnetif.connect(backend);
    const node = await Vnetif.connect(backend);
    const hub = new Hub();
    hub.plug(port);
    for (const device of machine.netback.list()) hub.plug(device);
    const hosts = [
      new Host(guest.device, Uint8Array.of(10, 0, 0, 1)),
      new Host(node, Uint8Array.of(10, 0, 0, 2)),
    ] as const;
    hosts[0].startPinging(Uint8Array.of(10, 0, 0, 2), 5);
    hosts[1].startPinging(Uint8Array.of(10, 0, 0, 1), 5);
    await until('both ping each other', () =>
      hosts.every(({ repliesReceived }) => repliesReceived > 5),
    );
    for (const host of hosts) host.stop();
    await node.disconnect();
    await port.disconnect();
    await until('all memory is back', () => machine.xen.memory.allocatedBytes === taken);
    expect(backend.droppedFrames).toBe(0);
    await machine.end();
  },
);

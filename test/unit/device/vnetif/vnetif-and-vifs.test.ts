/** A Vnetif as a port like any other: hosts in this process among guests on Xen. */
import { Stack } from '@xenvif/client/stack';
import { expect, test } from 'vitest';
import { BasicBackend, Vnetif } from '../../../../src/device/vnetif/index.js';
import { NetworkLink } from '../../../../src/stack/network-link.js';
import { Hub } from '../../../support/hub.js';
import { Machine, until } from '../../../support/machine.js';

const SEND_BYTES = 128 * 1024;

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
    const links = [
      new NetworkLink(guest.device, { memory: guest.xen.memory, sendBytes: SEND_BYTES }),
      new NetworkLink(node, { memory: machine.xen.memory, sendBytes: SEND_BYTES }),
    ];
    const hosts = links.map((link, index) =>
      Stack.connect(link, { cidr: `10.0.0.${index + 1}/24` }),
    );
    const ping = async (host: Stack | undefined, target: string) => {
      for await (const { outcome } of host?.ping(target, { count: 6, intervalMs: 5 }) ?? []) {
        expect(outcome).toBe('reply');
      }
    };
    await Promise.all([ping(hosts[0], '10.0.0.2'), ping(hosts[1], '10.0.0.1')]);
    for (const host of hosts) await host.disconnect();
    await port.disconnect();
    await until('all memory is back', () => machine.xen.memory.allocatedBytes === taken);
    expect(backend.droppedFrames).toBe(0);
    await machine.end();
  },
);

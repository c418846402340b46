/** The contract of NICs, for every implementation that needs no machine but this process. */
import { PassThrough } from 'node:stream';
import { describe, expect, test } from 'vitest';
import type { Network } from '../../../src/device/network.js';
import { BasicBackend, Vnetif } from '../../../src/device/vnetif/index.js';
import { FaultInjector } from '../../../src/device/wrap/fault-injector.js';
import { PcapWriter } from '../../../src/device/wrap/pcap-writer.js';
import { Tracer } from '../../../src/device/wrap/tracer.js';
import type { LocalMemory } from '../../../src/xen/local-memory.js';
import { type FarEnd, type NetworkUnderTest, networkContract } from '../../contract/network.js';
import { Machine, silent, until } from '../../support/machine.js';

const JUMBO_MTU = 9000;
/** The longest frame that netif can carry. */
const NETIF_BYTES_MAX = 65_535;

function farEnd(network: Network): FarEnd {
  return {
    send: (frame) => network.write(frame),
    hear: (onFrame) => {
      void network.listen(onFrame);
    },
  };
}

/** A guest of ours whose vif our backend serves, and both its ends. */
async function openVif() {
  const machine = await Machine.start();
  const { device: netfront, domain, xen } = await machine.addGuest();
  const netback = machine.netback.get(domain.domid, 0);
  if (netback === undefined) throw new Error('The guest has no backend.');
  await until('the backend is connected', () => netback.status.phase === 'connected');
  return { machine, netback, netfront, guestXen: xen };
}

describe('netback', () => {
  networkContract(test, async () => {
    const { machine, netback, netfront } = await openVif();
    return {
      nic: netback,
      far: farEnd(netfront),
      memory: machine.xen.memory,
      frameBytesMax: NETIF_BYTES_MAX,
      close: () => machine.end(),
    };
  });
});

describe('netfront', () => {
  networkContract(test, async () => {
    const { machine, netback, netfront, guestXen } = await openVif();
    return {
      nic: netfront,
      far: farEnd(netback),
      memory: guestXen.memory,
      frameBytesMax: NETIF_BYTES_MAX,
      close: () => machine.end(),
    };
  });
});

/** Two nodes of a hub, the first of which `wrap` may put something around. */
async function openVnetif(
  asyncReaders: boolean,
  wrap: (vnetif: Vnetif, memory: LocalMemory) => Network = (vnetif) => vnetif,
): Promise<NetworkUnderTest> {
  const backend = new BasicBackend({ asyncReaders });
  const options = { sizeLimit: JUMBO_MTU };
  const vnetif = await Vnetif.connect(backend, options);
  const other = await Vnetif.connect(backend, options);
  const nic = wrap(vnetif, backend.memory);
  const close = async () => {
    await nic.disconnect();
    await other.disconnect();
    expect(backend.memory.allocatedBytes).toBe(0);
  };
  const frameBytesMax = JUMBO_MTU + 14;
  return { nic, far: farEnd(other), memory: backend.memory, frameBytesMax, close };
}

describe('vnetif, its writes waiting for readers', () => {
  networkContract(test, () => openVnetif(false));
});

describe('vnetif, its readers in turns of their own', () => {
  networkContract(test, () => openVnetif(true));
});

describe('a tracer', () => {
  networkContract(test, () =>
    openVnetif(true, (vnetif) => new Tracer(vnetif, silent, { name: 'test' })),
  );
});

describe('a writer of captures', () => {
  networkContract(test, () =>
    openVnetif(false, (vnetif) => {
      const file = new PassThrough().resume();
      return new PcapWriter(vnetif, file, { name: 'test' });
    }),
  );
});

describe('a fault injector without faults', () => {
  networkContract(test, async () => {
    const backend = new BasicBackend();
    const injector = new FaultInjector(await Vnetif.connect(backend), {
      memory: backend.memory,
      seed: 1,
    });
    const other = await Vnetif.connect(backend);
    const close = async () => {
      await injector.disconnect();
      await other.disconnect();
      expect(backend.memory.allocatedBytes).toBe(0);
    };
    const { memory } = backend;
    return { nic: injector, far: farEnd(other), memory, frameBytesMax: NETIF_BYTES_MAX, close };
  });
});

import { describe, test } from 'vitest';
import { Hypervisor } from '../../../../src/xen/emulated/hypervisor.js';
import { xenContract } from '../../../contract/xen.js';

describe('emulated Xen between two domains', () => {
  xenContract(test, async () => {
    const hypervisor = new Hypervisor();
    const guest = await hypervisor.createDomain();
    const a = await guest.open();
    const b = await hypervisor.dom0.open();
    const close = async () => {
      hypervisor.assertNoLeaks();
      await a.close();
      await b.close();
      await hypervisor.shutdown();
    };
    return { a, b, close };
  });
});

describe('emulated Xen inside one domain', () => {
  xenContract(test, async () => {
    const hypervisor = new Hypervisor();
    const xen = await hypervisor.dom0.open();
    const close = async () => {
      await xen.close();
      await hypervisor.shutdown();
    };
    return { a: xen, b: xen, close };
  });
});

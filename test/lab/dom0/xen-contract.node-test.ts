/**
 * Real Xen against the contracts that emulated Xen passes. Runs in dom0, which grants to itself and
 * binds its own ports: two openings of the devices are as good as two domains for what is asked.
 */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { describe, test } from 'node:test';
import { openNativeXen } from '../../../src/xen/native/index.js';
import { storeContract } from '../../contract/store.js';
import { xenContract } from '../../contract/xen.js';

const define = (name: string, run: () => Promise<void>) => void test(name, run);

describe('native Xen, dom0 with itself', () => {
  xenContract(define, async () => {
    const a = await openNativeXen();
    const b = await openNativeXen();
    const close = async () => {
      await b.close();
      await a.close();
    };
    return { a, b, close };
  });
});

describe('the real xenstored', () => {
  const base = '/tool/xenvif-contract';
  storeContract(define, async () => {
    const xen = await openNativeXen();
    await xen.store.mkdir(base);
    return {
      store: xen.store,
      domid: xen.domid,
      base,
      close: async () => {
        // One of the tests closes the store itself: then there is nothing to clean up with.
        await xen.store.rm(base).catch(() => {});
        await xen.close();
      },
    };
  });
});

test('native Xen gives every descriptor back', async () => {
  const descriptors = () => readdirSync('/proc/self/fd').length;
  await (await openNativeXen()).close();
  const before = descriptors();
  for (let round = 0; round < 20; round++) {
    const xen = await openNativeXen();
    const shared = xen.grants.share(xen.domid, 1, 'write');
    const mapping = xen.grants.map(xen.domid, shared.refs[0] as number, 'write');
    const channel = xen.events.allocate(xen.domid, () => {});
    channel.close();
    mapping.unmap();
    shared.unshare();
    await xen.close();
  }
  assert.equal(descriptors(), before);
});

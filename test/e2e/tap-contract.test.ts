/**
 * The contract of NICs for a TAP. Its far end is another TAP; both are ports of a bridge of the
 * kernel's, in a namespace of its own, so that every frame goes through the kernel.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { TapDevice } from '../../src/device/tap/index.js';
import { LocalMemory } from '../../src/xen/local-memory.js';
import { networkContract } from '../contract/network.js';
import {
  NetworkNamespace,
  removeNamespaces,
  requireNamespaces,
} from '../support/network-namespaces.js';

/** The largest MTU of a TAP: its frames have 65535 bytes. */
const MTU = 65_521;
const memory = new LocalMemory(new ArrayBuffer(4 * 1024 * 1024), 0n);

beforeAll(requireNamespaces);
afterAll(removeNamespaces);

let opened = 0;

/** Two TAPs that a bridge joins, which says nothing by itself. */
async function openPair(mtu: number) {
  const namespace = await NetworkNamespace.create();
  // Without IPv6 the kernel looks for no routers and joins no groups on its own.
  await namespace.run('sh', '-c', 'echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6');
  await namespace.run('ip', 'link', 'add', 'bridge', 'type', 'bridge', 'mcast_snooping', '0');
  opened += 1;
  const taps: TapDevice[] = [];
  for (const side of ['a', 'b']) {
    const name = `xc${process.pid.toString(36)}${opened}${side}`;
    const tap = TapDevice.open({ memory, name, mtu, offloads: false, up: false });
    taps.push(tap);
    await namespace.adopt(name);
    await namespace.run('ip', 'link', 'set', name, 'master', 'bridge');
  }
  await namespace.run('ip', 'link', 'set', 'bridge', 'mtu', String(mtu), 'up');
  const [nic, other] = taps as [TapDevice, TapDevice];
  const close = async () => {
    for (const tap of taps) await tap.disconnect();
    await namespace.remove();
    expect(memory.allocatedBytes).toBe(0);
  };
  return { nic, other, close };
}

describe('a TAP', () => {
  networkContract(test, async () => {
    const { nic, other, close } = await openPair(MTU);
    return {
      nic,
      far: {
        send: (frame) => other.write(frame),
        hear: (onFrame) => {
          void other.listen(onFrame);
        },
      },
      memory,
      frameBytesMax: MTU + 14,
      close,
    };
  });
});

/**
 * VLANs of our switch beside Linux's own: the same frames come out of our switch's ports as of a
 * bridge's that filters VLANs, and VLAN interfaces of the kernel talk through a trunk of ours to an
 * access port. Runs in dom0, as many machines' kernels have neither.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { TapDevice } from '../../../src/device/tap/index.js';
import type { PortPolicy } from '../../../src/switch/port-policy.js';
import { Switch } from '../../../src/switch/switch.js';
import { LocalMemory } from '../../../src/xen/local-memory.js';
import {
  Comparison,
  compareTrace,
  numbered,
  receivers,
  STEPS,
  WITH_VLANS,
} from '../../support/bridge-comparison.js';
import { BROADCAST, mac } from '../../support/ethernet-frames.js';
import { NetworkNamespace, removeNamespaces } from '../../support/network-namespaces.js';
import type { SeededRandom } from '../../support/random.js';
import { serveTransfers, transfer } from '../../support/transfers.js';

const memory = new LocalMemory(new ArrayBuffer(32 * 1024 * 1024), 0n);

after(async () => {
  await removeNamespaces();
  assert.equal(memory.allocatedBytes, 0);
});

describe('ports with VLANs', () => {
  let comparison: Comparison | undefined;
  before(async () => {
    comparison = await Comparison.create(memory, WITH_VLANS);
  });
  after(() => comparison?.end());

  for (const seed of [5, 6, 7, 8]) {
    // Frames with two tags differ on purpose: the switch lets no second tag out as the first.
    test(`trace ${seed} comes out the same`, async () => {
      const tags = [[], [], [5], [6], [9], [7], [0], [0xe000], [0x6005]];
      const any = (random: SeededRandom, station: number) => {
        const chosen = tags[random.below(tags.length)] ?? [];
        return chosen.some((tag) => isOfAccessPort(station, tag)) ? [] : chosen;
      };
      const delivered = await compareTrace(theComparison(), WITH_VLANS.length - 1, seed, any);
      assert.ok(delivered > STEPS);
      console.log(`trace ${seed}: ${delivered} frames delivered, the same by both`);
    });
  }

  // A station at an access port knows of no VLANs: who tags there means to get somewhere else.
  test('a tag at an access port differs: the bridge takes that of its VLAN, the switch none', async () => {
    const frame = numbered(BROADCAST, mac(0x321), [5]);
    const received = await theComparison().send(0, [frame], () => false);
    assert.deepEqual(receivers(received.bridge), [2, 3, 4, 5, 6]);
    assert.deepEqual(receivers(received.ours), []);
  });

  function theComparison(): Comparison {
    if (comparison === undefined) throw new Error('There is no comparison.');
    return comparison;
  }
});

/** Whether a tag names the VLAN of the access port at which the station is. */
function isOfAccessPort(station: number, tag: number): boolean {
  const { accessVlan = 0, trunkVlans = [] } = WITH_VLANS[station]?.policy ?? {};
  return trunkVlans.length === 0 && (tag & 0xfff) === accessVlan;
}

describe('VLAN interfaces of the kernel', () => {
  const device = new Switch(memory);
  const taps: TapDevice[] = [];
  after(async () => {
    device.close();
    for (const tap of taps) await tap.disconnect();
  });

  async function station(name: string, policy: PortPolicy): Promise<NetworkNamespace> {
    const space = await NetworkNamespace.create();
    const tap = TapDevice.open({ memory, name });
    taps.push(tap);
    device.plug(name, tap, policy);
    await space.adopt(name);
    return space;
  }

  test('at a trunk talk to an access port', async () => {
    const left = await station('xaccess', { accessVlan: 5 });
    const right = await station('xtrunk', { trunkVlans: [5, 6] });
    await left.run('ip', 'address', 'add', '10.92.0.1/24', 'dev', 'xaccess');
    const vlan = ['link', 'add', 'link', 'xtrunk', 'name', 'vlan5', 'type', 'vlan', 'id', '5'];
    await right.run('ip', ...vlan);
    await right.run('ip', 'address', 'add', '10.92.0.2/24', 'dev', 'vlan5');
    await right.run('ip', 'link', 'set', 'vlan5', 'up');
    const options = ['-c', '1', '-W', '10', '-M', 'do', '-s', '1472'];
    assert.match(await left.run('ping', ...options, '10.92.0.2'), /1 received/);
    await serveTransfers(right);
    const { received, sent } = await transfer(left, '10.92.0.2', 1024 * 1024);
    assert.equal(received, sent);
  });
});

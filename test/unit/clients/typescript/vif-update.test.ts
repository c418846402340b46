import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { XenvifClient } from '../../../../clients/typescript/src/index.js';
import { aVif, FakeDaemon } from '../fake-daemon.js';

let daemon: FakeDaemon;
let client: XenvifClient;

beforeEach(async () => {
  daemon = new FakeDaemon();
  await daemon.start();
  client = new XenvifClient({ address: daemon.address });
});

afterEach(() => {
  client.close();
  daemon.dispose();
});

describe('an update of a vif', () => {
  it('names the fields that were given, and no others', async () => {
    await client.vifs.update('1.0', { linkDown: true, mtu: undefined });
    const { vif, updateMask } = daemon.updates[0] ?? {};
    expect(updateMask).toEqual(['spec.link_down']);
    expect(vif).toMatchObject({ name: 'vifs/1.0', etag: '', spec: { linkDown: true } });
  });

  it('says everything in the units of the contract', async () => {
    const vif = await client.vifs.update('1.0', {
      labels: { role: 'web' },
      rate: { bytesPerInterval: 5_000n, intervalMs: 20 },
      switch: 'blue',
      portPolicy: { lockMac: true, rate: { bytesPerInterval: 7n, intervalMs: 1.5 } },
      linkDown: false,
      mtu: 9_000,
    });
    const request = daemon.updates[0];
    expect(new Set(request?.updateMask)).toEqual(
      new Set([
        'labels',
        'spec.rate',
        'spec.switch',
        'spec.port_policy',
        'spec.link_down',
        'spec.mtu',
      ]),
    );
    expect(request?.vif).toMatchObject({
      labels: { role: 'web' },
      spec: {
        rate: { bytesPerInterval: 5_000n, interval: { seconds: 0n, nanos: 20_000_000 } },
        switch: 'switches/blue',
        portPolicy: {
          lockMac: true,
          isolated: false,
          allowedAddresses: [],
          rate: { bytesPerInterval: 7n, interval: { nanos: 1_500_000 } },
        },
        mtu: 9_000,
      },
    });
    expect(vif.spec).toMatchObject({
      mtu: 9_000,
      switch: 'switches/blue',
      rate: { bytesPerInterval: 5_000n, intervalMs: 20 },
      portPolicy: { lockMac: true, rate: { bytesPerInterval: 7n, intervalMs: 1.5 } },
    });
  });

  it('clears what is null', async () => {
    const changes = { rate: null, portPolicy: null, labels: null, switch: null, mtu: null };
    await client.vifs.update('1.0', changes);
    const { vif, updateMask } = daemon.updates[0] ?? {};
    expect(updateMask).toHaveLength(5);
    expect(vif?.labels).toEqual({});
    expect(vif?.spec).toMatchObject({ switch: '', mtu: 0 });
    expect(vif?.spec?.rate).toBeUndefined();
    expect(vif?.spec?.portPolicy).toBeUndefined();
  });

  it('is made only if nothing changed since, where the caller gives an etag', async () => {
    const update = client.vifs.update('1.0', { mtu: 1_400 }, { etag: 'stale' });
    await expect(update).rejects.toMatchObject({ code: 'ETAG_MISMATCH', grpcStatus: 'ABORTED' });
    await client.vifs.update('1.0', { mtu: 1_400 }, { etag: 'e1' });
    expect(daemon.updates[1]?.vif?.etag).toBe('e1');
  });
});

describe('a vif', () => {
  it('shows what is wanted of its link, and its policy with plain units', async () => {
    const plain = await client.vifs.get('1.0');
    expect(plain.spec).toMatchObject({ linkDown: false });
    expect(plain.spec.portPolicy).toBeUndefined();
    const vif = aVif('vifs/1.0');
    const rate = { bytesPerInterval: 9n, interval: undefined };
    const portPolicy = {
      lockMac: false,
      allowedAddresses: ['10.0.0.1'],
      accessVlan: 0,
      trunkVlans: [10, 20],
      isolated: true,
      nativeVlan: 30,
      broadcastPerSecond: 100,
      unknownUnicastPerSecond: 50,
      rate,
    };
    if (vif.spec) daemon.vifs = [{ ...vif, spec: { ...vif.spec, linkDown: true, portPolicy } }];
    expect((await client.vifs.get('1.0')).spec).toMatchObject({
      linkDown: true,
      portPolicy: { ...portPolicy, rate: { bytesPerInterval: 9n, intervalMs: 50 } },
    });
  });
});

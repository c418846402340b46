import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  parsePortName,
  portName,
  switchName,
  XenvifClient,
} from '../../../../clients/typescript/src/index.js';
import { FakeDaemon } from '../fake-daemon.js';

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

async function gather<T>(items: AsyncIterable<T>): Promise<T[]> {
  const gathered: T[] = [];
  for await (const item of items) gathered.push(item);
  return gathered;
}

describe('the names of switches and ports', () => {
  it('may be written short', () => {
    expect([switchName('default'), switchName('switches/a-1')]).toEqual([
      'switches/default',
      'switches/a-1',
    ]);
    expect(portName('default/tap0')).toBe('switches/default/ports/tap0');
    expect(parsePortName('switches/default/ports/vif-1.0')).toEqual({
      switch: 'switches/default',
      portId: 'vif-1.0',
    });
  });

  it.each(['', 'a/b', 'switches/', 'sixteencharacters', 'ä'])('are not %j', (name) => {
    expect(() => switchName(name)).toThrow(
      expect.objectContaining({ code: 'SWITCH_NAME_INVALID' }),
    );
  });

  it.each(['', 'tap0', 'a/b/c', 'switches/a/b', 'a/'])('of ports are not %j', (name) => {
    expect(() => portName(name)).toThrow(expect.objectContaining({ code: 'PORT_NAME_INVALID' }));
  });
});

describe('switches', () => {
  it('are shown with what zero stands for in the contract', async () => {
    expect(await client.switches.get('default')).toEqual({
      name: 'switches/default',
      id: 'default',
      uid: 'uid-default',
      etag: 'e1',
      labels: { role: 'test' },
      spec: { ageingSeconds: 300, entriesPerPort: 1024, hub: false },
      status: { ports: ['vif-1.0', 'tap0'], forwardingEntries: 2 },
    });
    await expect(client.switches.get('none')).rejects.toMatchObject({ code: 'SWITCH_NOT_FOUND' });
  });

  it('are created with an id that makes it safe to try again', async () => {
    daemon.createFailures = 1;
    const made = await client.switches.create('blue', { ageingSeconds: 60, hub: true });
    expect(made.name).toBe('switches/blue');
    expect(daemon.switchCreates).toHaveLength(2);
    expect(new Set(daemon.switchCreates.map(({ requestId }) => requestId)).size).toBe(1);
    expect(daemon.switchCreates[0]).toMatchObject({
      switchId: 'blue',
      spec: { ageingSeconds: 60, entriesPerPort: 0, hub: true },
    });
  });

  it('are listed over all pages, and deleted', async () => {
    const names = (await gather(client.switches.list({ pageSize: 2 }))).map(({ id }) => id);
    expect(names).toEqual(['alpha', 'beta', 'default']);
    await client.switches.delete('blue', { etag: 'e1', allowMissing: true });
    expect(daemon.switchDeletes).toEqual([
      { name: 'switches/blue', etag: 'e1', allowMissing: true },
    ]);
  });

  it('tell what they have learnt, page by page', async () => {
    daemon.entries = Array.from({ length: 5 }, (_, index) => ({
      mac: `00:16:3e:00:00:0${index}`,
      vlan: index,
      port: 'tap0',
      lastSeen: new Date(1_700_000_000_000),
    }));
    const entries = await gather(client.switches.forwardingEntries('default', { pageSize: 2 }));
    expect(entries).toEqual(daemon.entries);
    expect(daemon.entryLists.map(({ pageToken }) => pageToken)).toEqual(['', '2', '4']);
    for await (const _entry of client.switches.forwardingEntries('default', { pageSize: 2 })) break;
    expect(daemon.entryLists).toHaveLength(4);
  });
});

describe('ports', () => {
  it('are shown with words and counters', async () => {
    const [port] = await client.switches.ports('default');
    expect(port).toEqual({
      name: 'switches/default/ports/tap0',
      id: 'tap0',
      switch: 'switches/default',
      kind: 'tap',
      device: 'tap0',
      mac: '00:16:3e:00:00:aa',
      mtu: 1400,
      connected: true,
      received: { packets: 5n, bytes: 500n, drops: [] },
      sent: { packets: 0n, bytes: 0n, drops: [] },
    });
  });

  it('are made of TAPs, of mirrors and of uplinks', async () => {
    const policy = { accessVlan: 10 };
    await client.switches.createTap('default', { interface: 'x0', owner: 0, policy });
    const mirror = { sources: ['vif-1.0'], vlans: [10] };
    const heard = await client.switches.createTap('default', { portId: 'm', mirror });
    const uplink = await client.switches.createUplink('switches/default', 3);
    expect(heard.mirror).toEqual({ ...mirror, destinations: [] });
    expect(uplink.kind).toBe('netfront');
    expect(daemon.portCreates.map(({ device }) => device)).toEqual([
      { $case: 'tap', value: { interface: 'x0', mtu: 0, persist: false, owner: 0 } },
      { $case: 'tap', value: { interface: '', mtu: 0, persist: false, owner: undefined } },
      { $case: 'netfront', value: { handle: 3 } },
    ]);
    expect(daemon.portCreates[0]).toMatchObject({
      switch: 'switches/default',
      policy: { accessVlan: 10, lockMac: false },
    });
    expect(daemon.portCreates[0]?.mirror).toBeUndefined();
  });

  it('get another policy, and are pulled out', async () => {
    const rate = { bytesPerInterval: 9n, intervalMs: 10 };
    const port = await client.switches.updatePort('default/tap0', { isolated: true, rate });
    expect(port.policy).toMatchObject({ isolated: true, rate });
    expect(daemon.portUpdates[0]?.name).toBe('switches/default/ports/tap0');
    await client.switches.deletePort('default/tap0', { allowMissing: true });
    const name = 'switches/default/ports/tap0';
    expect(daemon.portDeletes).toEqual([{ name, allowMissing: true }]);
  });
});

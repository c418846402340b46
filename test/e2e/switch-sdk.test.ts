/** Switches, their ports, changes of vifs and NICs on switches, by the SDK against a real daemon. */
import { once } from 'node:events';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  type AttachOptions,
  type ForwardingEntry,
  type Nic,
  XenvifClient,
} from '../../clients/typescript/src/index.js';
import { type DaemonUnderTest, startDaemon } from '../support/daemon.js';

let daemon: DaemonUnderTest;
let client: XenvifClient;
const nics: Nic[] = [];

beforeAll(async () => {
  daemon = await startDaemon();
  client = await XenvifClient.connect({ address: daemon.address });
  await connected(client, ['vifs/1.0', 'vifs/2.0']);
});

afterEach(async () => {
  for (const nic of nics.splice(0)) await nic.disconnect();
});

afterAll(async () => {
  client?.close();
  await daemon?.stop();
});

/** Waits until each of `names` is connected. */
async function connected(where: XenvifClient, names: readonly string[]): Promise<void> {
  const missing = new Set(names);
  for await (const event of where.vifs.watch()) {
    if (event.type === 'updated' && event.vif.status.phase === 'connected') {
      missing.delete(event.vif.name);
    }
    if (missing.size === 0) return;
  }
}

/** A NIC on the switch `id`, which goes with the test. */
async function attach(id: string, options: AttachOptions = {}, where = client): Promise<Nic> {
  const nic = await where.attach(`switches/${id}`, options);
  nics.push(nic);
  return nic;
}

const BROADCAST = 'ff:ff:ff:ff:ff:ff';

/** A frame of 60 bytes with an EtherType for experiments (IEEE 802), marked with `number`. */
function frame(destination: string, source: string, number: number): Buffer {
  const bytes = Buffer.alloc(60);
  bytes.write(destination.replaceAll(':', ''), 0, 'hex');
  bytes.write(source.replaceAll(':', ''), 6, 'hex');
  bytes.writeUInt16BE(0x88b5, 12);
  bytes.writeUInt16BE(number, 14);
  return bytes;
}

/** Keeps the numbers of the frames that `nic` receives from now on. */
function numbersHeard(nic: Nic): number[] {
  const numbers: number[] = [];
  void nic.listen((bytes) => {
    const heard = Buffer.from(bytes);
    if (heard.readUInt16BE(12) === 0x88b5) numbers.push(heard.readUInt16BE(14));
  });
  return numbers;
}

async function gather<T>(items: AsyncIterable<T>): Promise<T[]> {
  const gathered: T[] = [];
  for await (const item of items) gathered.push(item);
  return gathered;
}

describe('switches', () => {
  it('are made, listed, shown and removed', async () => {
    const made = await client.switches.create('sdk-a', {
      ageingSeconds: 60,
      labels: { of: 'sdk' },
    });
    expect(made).toMatchObject({
      name: 'switches/sdk-a',
      labels: { of: 'sdk' },
      spec: { ageingSeconds: 60, entriesPerPort: 1024, hub: false },
      status: { ports: [] },
    });
    await expect(client.switches.create('sdk-a')).rejects.toMatchObject({ code: 'SWITCH_EXISTS' });
    const all = (await gather(client.switches.list({ pageSize: 1 }))).map(({ id }) => id);
    expect(all).toEqual(['default', 'sdk-a']);
    const labelled = await gather(client.switches.list({ labels: { of: 'sdk' } }));
    expect(labelled.map(({ uid }) => uid)).toEqual([made.uid]);
    await expect(client.switches.delete('sdk-a', { etag: 'stale' })).rejects.toMatchObject({
      code: 'ETAG_MISMATCH',
    });
    await client.switches.delete('sdk-a', { etag: made.etag });
    await client.switches.delete('sdk-a', { allowMissing: true });
    await expect(client.switches.get('sdk-a')).rejects.toMatchObject({ code: 'SWITCH_NOT_FOUND' });
  });

  it('stay where they are needed', async () => {
    await expect(client.switches.delete('default')).rejects.toMatchObject({
      grpcStatus: 'FAILED_PRECONDITION',
    });
    await client.switches.create('sdk-b');
    const nic = await attach('sdk-b');
    await expect(client.switches.delete('sdk-b')).rejects.toMatchObject({ code: 'SWITCH_IN_USE' });
    await nic.disconnect();
    await expect.poll(async () => (await client.switches.ports('sdk-b')).length).toBe(0);
    await client.switches.delete('sdk-b');
  });

  it('have the vifs as ports, which go with their vifs', async () => {
    const ports = await client.switches.ports('default');
    expect(ports.find(({ id }) => id === 'vif-1.0')).toMatchObject({
      name: 'switches/default/ports/vif-1.0',
      kind: 'vif',
      device: 'vifs/1.0',
      mtu: 1500,
    });
    await expect(client.switches.deletePort('default/vif-1.0')).rejects.toMatchObject({
      code: 'PORT_NOT_OURS',
    });
    await expect(client.switches.deletePort('default/none')).rejects.toMatchObject({
      code: 'PORT_NOT_FOUND',
    });
    await client.switches.deletePort('default/none', { allowMissing: true });
  });
});

describe('NICs on a switch', () => {
  it('talk with each other, and the switch learns where they are', async () => {
    await client.switches.create('sdk-c');
    const [a, b, c] = [
      await attach('sdk-c', { portId: 'a', mac: '02:00:00:00:0c:0a' }),
      await attach('sdk-c', { portId: 'b' }),
      // A port whose address is locked is known from the start; this one would have to say something.
      await attach('sdk-c', { portId: 'c', anyMac: true }),
    ];
    expect(a).toMatchObject({ mac: '02:00:00:00:0c:0a', mtu: 1500, phase: 'connected' });
    expect(b.mac).toMatch(/^00:16:3e:/);
    expect(b.port).toMatchObject({ id: 'b', kind: 'client', switch: 'switches/sdk-c' });
    const [byA, byB, byC] = [numbersHeard(a), numbersHeard(b), numbersHeard(c)];
    await a.write(frame(BROADCAST, a.mac, 1));
    await expect.poll(() => [byB, byC]).toEqual([[1], [1]]);
    await b.write(frame(a.mac, b.mac, 2));
    await expect.poll(() => byA).toEqual([2]);
    await a.write(frame(b.mac, a.mac, 3));
    await expect.poll(() => byB).toEqual([1, 3]);
    // Where the switch knows the way, nobody else hears.
    expect(byC).toEqual([1]);
    const entries: ForwardingEntry[] = await gather(
      client.switches.forwardingEntries('sdk-c', { pageSize: 1 }),
    );
    expect(new Map(entries.map(({ mac, port }) => [mac, port]))).toEqual(
      new Map([
        [a.mac, 'a'],
        [b.mac, 'b'],
      ]),
    );
    expect(Math.abs((entries[0]?.lastSeen?.getTime() ?? 0) - Date.now())).toBeLessThan(60_000);
    const port = (await client.switches.ports('sdk-c')).find(({ id }) => id === 'a');
    expect(port).toMatchObject({ received: { packets: 2n, bytes: 120n }, sent: { packets: 1n } });
  });

  it('send from their own address alone, unless they were told otherwise', async () => {
    const [honest, bridge, other] = [
      await attach('sdk-c', { portId: 'honest' }),
      await attach('sdk-c', { portId: 'bridge', anyMac: true }),
      await attach('sdk-c', { portId: 'other' }),
    ];
    const heard = numbersHeard(other);
    await honest.write(frame(BROADCAST, '02:00:00:00:00:77', 1));
    await bridge.write(frame(BROADCAST, '02:00:00:00:00:78', 2));
    await honest.write(frame(BROADCAST, honest.mac, 3));
    await expect.poll(() => [...heard].sort()).toEqual([2, 3]);
    const port = (await client.switches.ports('sdk-c')).find(({ id }) => id === 'honest');
    expect(port?.policy).toMatchObject({ lockMac: true });
    expect(port?.received.drops).toMatchObject([{ cause: 'MAC_SPOOFED', packets: 1n }]);
  });

  it('keep to their VLAN', async () => {
    const red = { policy: { accessVlan: 10 } };
    const [a, b, c] = [
      await attach('sdk-c', red),
      await attach('sdk-c', red),
      await attach('sdk-c', { policy: { accessVlan: 20 } }),
    ];
    const [byB, byC] = [numbersHeard(b), numbersHeard(c)];
    await a.write(frame(BROADCAST, a.mac, 7));
    await expect.poll(() => byB).toEqual([7]);
    expect(byC).toEqual([]);
  });

  it('tell what became of frames', async () => {
    const nic = await attach('sdk-c', { reportResults: true });
    expect(await nic.inject([frame(BROADCAST, nic.mac, 1), frame(BROADCAST, nic.mac, 2)])).toEqual([
      'accepted',
      'accepted',
    ]);
  });

  it('cannot have a port that somebody else has, or be where there is no switch', async () => {
    await attach('sdk-c', { portId: 'mine' });
    const error = { code: 'PORT_EXISTS', grpcStatus: 'ALREADY_EXISTS' };
    await expect(attach('sdk-c', { portId: 'mine' })).rejects.toMatchObject(error);
    await expect(attach('none')).rejects.toMatchObject({ code: 'SWITCH_NOT_FOUND' });
    await expect(attach('sdk-c', { mac: 'nonsense' })).rejects.toMatchObject({
      code: 'MAC_INVALID',
    });
    await expect(attach('sdk-c', { portId: 'a b' })).rejects.toMatchObject({
      code: 'PORT_ID_INVALID',
    });
  });

  it('are asked by a guest, and answer', async () => {
    const nic = await attach('default');
    const [ask] = await Promise.all([
      new Promise<Buffer>((resolve) => {
        void nic.listen((bytes) => {
          const heard = Buffer.from(bytes);
          if (heard.readUInt16BE(12) === 0x0806 && heard.readUInt16BE(20) === 2) resolve(heard);
        });
      }),
      nic.write(
        Buffer.concat([
          Buffer.from(`ffffffffffff${nic.mac.replaceAll(':', '')}0806`, 'hex'),
          Buffer.from(`0001080006040001${nic.mac.replaceAll(':', '')}0a000063`, 'hex'),
          Buffer.from('0000000000000a000001', 'hex'),
        ]),
      ),
    ]);
    expect(ask.subarray(22, 28).toString('hex')).toBe('00163e000001');
  });
});

describe('an update of a vif', () => {
  it('moves it to another switch while frames flow, and back', async () => {
    await client.switches.create('sdk-d');
    const nic = await attach('sdk-d');
    const before = await client.vifs.get('1.0');
    const moved = await client.vifs.update('1.0', { switch: 'sdk-d' }, { etag: before.etag });
    expect(moved.spec.switch).toBe('switches/sdk-d');
    await expect
      .poll(async () => (await client.switches.ports('sdk-d')).map(({ id }) => id).sort())
      .toEqual([nic.port?.id ?? '', 'vif-1.0'].sort());
    // Guest 1 goes on looking for guest 2, which is not there.
    await new Promise<void>((resolve) => {
      const stop = new AbortController();
      const hear = (bytes: Uint8Array) => {
        if (Buffer.from(bytes).toString('hex', 6, 12) === '00163e000001') stop.abort();
      };
      void nic.listen(hear, { signal: stop.signal }).then(resolve, resolve);
    });
    await client.vifs.update('1.0', { switch: null });
    await expect
      .poll(async () => (await client.switches.ports('default')).map(({ id }) => id))
      .toContain('vif-1.0');
  });

  it('sets and clears labels, rate and policy, and refuses what is stale or nonsense', async () => {
    const rate = { bytesPerInterval: 50_000n, intervalMs: 20 };
    const portPolicy = { isolated: true, broadcastPerSecond: 1_000, rate };
    const labels = { role: 'web' };
    const vif = await client.vifs.update('2.0', { labels, rate, portPolicy });
    expect(vif).toMatchObject({ labels, spec: { rate, portPolicy } });
    expect((await client.vifs.get('2.0')).spec).toEqual(vif.spec);
    await expect(
      client.vifs.update('2.0', { rate: null }, { etag: 'stale' }),
    ).rejects.toMatchObject({ code: 'ETAG_MISMATCH' });
    await expect(
      client.vifs.update('2.0', { portPolicy: { accessVlan: 5_000 } }),
    ).rejects.toMatchObject({ grpcStatus: 'INVALID_ARGUMENT' });
    await expect(client.vifs.update('2.0', {})).rejects.toMatchObject({
      code: 'UPDATE_MASK_MISSING',
    });
    const cleared = await client.vifs.update('2.0', { labels: null, rate: null, portPolicy: null });
    expect(cleared.labels).toEqual({});
    expect(cleared.spec.rate).toBeUndefined();
    expect(cleared.spec.portPolicy).toBeUndefined();
  });

  it('takes the link down, and up again', async () => {
    const down = await client.vifs.update('2.0', { linkDown: true });
    expect(down).toMatchObject({ spec: { linkDown: true } });
    await expect.poll(async () => (await client.vifs.get('2.0')).status.linkUp).toBe(false);
    await client.vifs.update('2.0', { linkDown: null });
    await expect.poll(async () => (await client.vifs.get('2.0')).status.linkUp).toBe(true);
  });
});

describe('a daemon that is started anew', () => {
  it.each([
    ['after a crash', 'SIGKILL'],
    ['as it should be', 'SIGTERM'],
  ] as const)('%s, finds its clients at their ports again', async (_how, signal) => {
    const first = await startDaemon();
    const { directory } = first;
    const survivor = await XenvifClient.connect({ address: first.address });
    const changes: string[] = [];
    const options = {
      graceMs: 30_000,
      onStatus: (phase: string, reason: string) => changes.push(`${phase} ${reason}`),
    };
    const a = await attach('default', { ...options, portId: 'a' }, survivor);
    const b = await attach('default', { ...options, portId: 'b' }, survivor);
    const places = [a, b].map(({ name, mac }) => ({ name, mac }));
    const heard = numbersHeard(b);
    await a.write(frame(b.mac, a.mac, 1));
    await expect.poll(() => heard).toEqual([1]);
    const gone = once(first.child, 'exit');
    first.child.kill(signal);
    await expect.poll(() => changes.length, { timeout: 10_000 }).toBe(2);
    await gone;
    // It waits for the daemon.
    const written = a.write(frame(BROADCAST, a.mac, 2));
    const second = await startDaemon({ directory });
    await expect.poll(() => changes.length, { timeout: 10_000 }).toBe(4);
    expect(changes.slice(2)).toEqual(['connected REATTACHED', 'connected REATTACHED']);
    expect([a, b].map(({ name, mac }) => ({ name, mac }))).toEqual(places);
    await written;
    await a.write(frame(b.mac, a.mac, 3));
    await expect.poll(() => heard).toContain(3);
    for (const nic of nics.splice(0)) await nic.disconnect();
    survivor.close();
    await second.stop();
    await first.stop();
  });
});

/** The SDK against a real daemon with its emulated Xen, whose two guests ping each other. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type Frame,
  type FrameBatchView,
  type Nic,
  type Vif,
  XenvifClient,
} from '../../clients/typescript/src/index.js';
import { type DaemonUnderTest, startDaemon } from '../support/daemon.js';

let daemon: DaemonUnderTest;
let client: XenvifClient;

beforeAll(async () => {
  daemon = await startDaemon();
  client = await XenvifClient.connect({ address: daemon.address });
  await connected(client, ['vifs/1.0', 'vifs/2.0']);
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

async function list(): Promise<Vif[]> {
  const vifs: Vif[] = [];
  for await (const vif of client.vifs.list({ pageSize: 1 })) vifs.push(vif);
  return vifs;
}

const OUR_MAC = Buffer.from('020000000099', 'hex');
const GUEST_MAC = Buffer.from('00163e000001', 'hex');
const ASK_GUEST = Buffer.from(
  'ffffffffffff0200000000990806' + '00010800060400010200000000990a0000630000000000000a000001',
  'hex',
);

/** A frame from us to guest 1, of `length` bytes and with `number` in it. */
function numbered(number: number, length: number): Buffer {
  const frame = Buffer.alloc(length);
  GUEST_MAC.copy(frame, 0);
  OUR_MAC.copy(frame, 6);
  // An EtherType for experiments (IEEE 802), which the guest does not answer.
  frame.writeUInt16BE(0x88b5, 12);
  frame.writeUInt32BE(number, 14);
  return frame;
}

describe('the client', () => {
  it('reaches the daemon by its socket and by TCP', async () => {
    expect(await client.health()).toBe('serving');
    const overTcp = await XenvifClient.connect({ address: daemon.tcp });
    const [here, there] = [await client.host.get(), await overTcp.host.get()];
    expect(there.bootId).toBe(here.bootId);
    expect(here).toMatchObject({ xenKind: 'emulated', storeConnected: true, vifs: 2 });
    overTcp.close();
  });

  it('lists domains and vifs', async () => {
    expect((await list()).map(({ name }) => name)).toEqual(['vifs/1.0', 'vifs/2.0']);
    const domids: number[] = [];
    for await (const { domid } of client.host.domains({ pageSize: 1 })) domids.push(domid);
    expect(domids).toEqual([0, 1, 2]);
  });

  it('creates, watches and deletes a vif', async () => {
    const seen: string[] = [];
    const watch = client.vifs.watch({ domid: 1, labels: { test: 'sdk' } });
    const watching = (async () => {
      for await (const event of watch) {
        seen.push(event.type);
        if (event.type === 'deleted') return;
      }
    })();
    await expect.poll(() => seen).toContain('synced');
    const mac = '00:16:3e:aa:bb:cc';
    const options = { handle: 5, mac, labels: { test: 'sdk' }, requestId: 'once' };
    const vif = await client.vifs.create(1, options);
    expect(vif).toMatchObject({
      name: 'vifs/1.5',
      spec: { mac },
      status: { phase: 'connected', frontendState: 'connected' },
    });
    expect((await client.vifs.create(1, options)).uid).toBe(vif.uid);
    await expect(client.vifs.create(1, { handle: 5 })).rejects.toMatchObject({
      code: 'HANDLE_BUSY',
      grpcStatus: 'ALREADY_EXISTS',
    });
    await expect(client.vifs.delete('1.5', { etag: 'stale' })).rejects.toMatchObject({
      code: 'ETAG_MISMATCH',
    });
    await client.vifs.delete('1.5');
    await watching;
    expect(seen[0]).toBe('synced');
    expect(seen.at(-1)).toBe('deleted');
    await expect(client.vifs.get('1.5')).rejects.toMatchObject({ code: 'VIF_NOT_FOUND' });
  });

  it('gets typed errors with the fields at fault', async () => {
    await expect(client.vifs.create(1, { mac: 'nonsense' })).rejects.toMatchObject({
      code: 'MAC_INVALID',
      grpcStatus: 'INVALID_ARGUMENT',
      fieldViolations: [{ field: expect.stringContaining('mac') }],
    });
    await expect(client.vifs.create(77)).rejects.toMatchObject({ code: 'DOMAIN_NOT_FOUND' });
    const nothing = client.observe('9.0')[Symbol.asyncIterator]().next();
    await expect(nothing).rejects.toMatchObject({ code: 'VIF_NOT_FOUND' });
  });

  it('reads, streams and resets statistics', async () => {
    const rounds: bigint[] = [];
    for await (const event of client.stats.stream({ names: ['2.0'], intervalMs: 600 })) {
      if (event.type === 'stats') rounds.push(event.stats.tx.packets);
      if (rounds.length === 4) break;
    }
    expect(rounds.at(-1)).toBeGreaterThan(rounds[0] ?? 0n);
    const before = await client.stats.reset('2.0');
    expect(before.tx.packets).toBeGreaterThanOrEqual(rounds.at(-1) ?? 0n);
    const [after] = await client.stats.get(['2.0']);
    expect(after?.tx.packets).toBeLessThan(before.tx.packets);
  });
});

describe('an observation', () => {
  it('sees the guests ping each other, on both vifs and both ways', async () => {
    const frames: Frame[] = [];
    for await (const frame of client.observe(['1.0', '2.0'], { maxFrames: 12 })) frames.push(frame);
    expect(frames).toHaveLength(12);
    expect(frames.map(({ sequence }) => sequence)).toEqual(
      frames.map((_, index) => BigInt(index + 1)),
    );
    const ways = new Set(frames.map(({ vif, direction }) => `${vif} ${direction}`));
    expect(ways.size).toBe(4);
    for (const [index, { data, timestampNs, originalLength }] of frames.entries()) {
      expect(data.length).toBe(originalLength);
      expect(timestampNs).toBeGreaterThanOrEqual(frames[index - 1]?.timestampNs ?? 0n);
      expect(Math.abs(Number(timestampNs / 1_000_000n) - Date.now())).toBeLessThan(60_000);
    }
  });

  it('keeps what a snaplen leaves, and one direction', async () => {
    const options = { maxFrames: 2, snaplen: 20, direction: 'to-guest' } as const;
    for await (const frame of client.observe('1.0', options)) {
      expect(frame.direction).toBe('to-guest');
      expect(frame.originalLength).toBeGreaterThan(20);
      expect(frame.data.length).toBe(20);
    }
  });
});

describe('a NIC', () => {
  it('talks with the guest', async () => {
    const nic = await client.attach('vifs/1.0');
    expect(nic).toMatchObject({ mac: '00:16:3e:00:00:01', mtu: 1500 });
    await nic.write(ASK_GUEST);
    for await (const { data } of nic) {
      const frame = Buffer.from(data);
      if (!frame.subarray(0, 6).equals(OUR_MAC) || frame.readUInt16BE(12) !== 0x0806) continue;
      expect(frame.subarray(22, 28)).toEqual(GUEST_MAC);
      break;
    }
    expect(nic.stats.txPackets).toBe(1n);
    await nic.disconnect();
  });

  it('is one a vif', async () => {
    const nic = await client.attach('1.0');
    await expect(client.attach('1.0')).rejects.toMatchObject({ code: 'VIF_ATTACHED' });
    await nic.disconnect();
    const again = await client.attach('1.0');
    await again.disconnect();
  });

  it('sends thousands of frames, each accounted for', async () => {
    const nic = await client.attach('1.0', { reportResults: true });
    void nic.listen(() => {});
    const observed: number[] = [];
    const observation = client.observe('1.0', { direction: 'to-guest' });
    await observation.opened;
    const observing = (async () => {
      for await (const { data } of observation) {
        const frame = Buffer.from(data);
        if (frame.readUInt16BE(12) === 0x88b5) observed.push(frame.readUInt32BE(14));
      }
    })();
    const outcomes = await injectAll(nic, 5_000);
    expect(outcomes).toHaveLength(5_000);
    const accepted = outcomes.flatMap((outcome, index) => (outcome === 'accepted' ? [index] : []));
    expect(accepted.length).toBeGreaterThan(0);
    await expect.poll(() => observed.length, { timeout: 10_000 }).toBe(accepted.length);
    // What the guest got is what was accepted, in order.
    expect(observed).toEqual(accepted);
    observation.close();
    await observing;
    await nic.disconnect();
  });
});

async function injectAll(nic: Nic, count: number): Promise<string[]> {
  const outcomes: string[] = [];
  for (let first = 0; first < count; first += 250) {
    const frames = Array.from({ length: 250 }, (_, index) => numbered(first + index, 200));
    outcomes.push(...(await nic.inject(frames)));
  }
  return outcomes;
}

describe('a slow reader', () => {
  it('loses frames that are counted: what came and what is lost has no gap', async () => {
    const nic = await client.attach('1.0', { reportResults: true });
    void nic.listen(() => {});
    const observation = client.observeBatches('1.0', {
      queueBytes: 65_536,
      creditBytes: 1024 * 1024,
      direction: 'to-guest',
    });
    await observation.opened;
    // Some 4 MB, of which the credit lets one through and the queue holds 64 KiB.
    for (let first = 0; first < 3_000; first += 100) {
      await nic.inject(Array.from({ length: 100 }, (_, index) => numbered(first + index, 1_400)));
    }
    await nic.disconnect();
    let next = 1n;
    let lost = 0n;
    const expectNext = (first: bigint, count: bigint): void => {
      expect(first).toBe(next);
      next += count;
    };
    for await (const event of observation.events()) {
      if (event.type === 'batch') expectNext(event.batch.firstSequence, count(event.batch));
      if (event.type !== 'lost') continue;
      lost += event.lost.count;
      expectNext(event.lost.firstSequence, event.lost.count);
      break;
    }
    expect(lost).toBeGreaterThan(0n);
    expect(observation.lost.frames).toBe(lost);
  });
});

function count(batch: FrameBatchView): bigint {
  return BigInt(batch.count);
}

describe('a daemon that dies', () => {
  it('is found again by observations and watches, and is missed by NICs', async () => {
    const first = await startDaemon();
    const { directory } = first;
    const survivor = await XenvifClient.connect({ address: first.address });
    await connected(survivor, ['vifs/1.0', 'vifs/2.0']);
    const nic = await survivor.attach('1.0');
    const observation = survivor.observe('2.0');
    const watch = survivor.vifs.watch();
    const seen: string[] = [];
    const observing = (async () => {
      for await (const event of observation.events()) {
        seen.push(event.type === 'reconnected' ? `reconnected ${event.sameBoot}` : event.type);
        if (seen.includes('reconnected false') && event.type === 'batch') return;
      }
    })();
    const changes: string[] = [];
    const watching = (async () => {
      for await (const { type } of watch) {
        changes.push(type);
        if (changes.includes('restarted') && type === 'synced') return;
      }
    })();
    await expect.poll(() => seen).toContain('batch');
    await expect.poll(() => changes).toContain('synced');
    first.child.kill('SIGKILL');
    expect(await nic.closed).toMatchObject({ code: 'CONNECTION_LOST' });
    await first.child.exitCode;
    const second = await startDaemon({ directory });
    await Promise.all([observing, watching]);
    expect(observation.lost.reconnects).toBeGreaterThan(0);
    survivor.close();
    await second.stop();
    await first.stop();
  });
});

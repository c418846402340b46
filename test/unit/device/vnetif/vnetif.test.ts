/** What mirage-vnetif promises: its README, its interface, its changelog and its examples. */
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import { Stack } from '@xenvif/client/stack';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FrameBatch } from '../../../../src/device/frame-batch.js';
import { WriteOutcome } from '../../../../src/device/network.js';
import {
  BasicBackend,
  Vnetif,
  type VnetifBackend,
  type VnetifDirection,
} from '../../../../src/device/vnetif/index.js';
import { NetworkLink } from '../../../../src/stack/network-link.js';
import { LocalMemory } from '../../../../src/xen/local-memory.js';
import { dropsOf } from '../../../support/drops.js';
import { until } from '../../../support/machine.js';

const MODES = [
  ['readers that are waited for', false],
  ['readers that come later', true],
] as const;

/** A frame whose payload begins with a number. */
function numbered(number: number, length = 60): Uint8Array {
  const frame = new Uint8Array(length);
  new DataView(frame.buffer).setUint32(14, number);
  return frame;
}

function numberOf(frame: Uint8Array): number {
  return new DataView(frame.buffer, frame.byteOffset).getUint32(14);
}

/** Collects the numbers of the frames that a NIC receives. */
function hear(vnetif: Vnetif): number[] {
  const numbers: number[] = [];
  void vnetif.listen((frame) => numbers.push(numberOf(frame)));
  return numbers;
}

/** A promise that somebody else resolves. */
function gate() {
  let open: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open };
}

describe.each(MODES)('a hub with %s', (_, asyncReaders) => {
  let backend: BasicBackend;
  let nodes: Vnetif[];

  beforeEach(() => {
    backend = new BasicBackend({ asyncReaders });
    nodes = [];
  });
  afterEach(async () => {
    for (const node of nodes) await node.disconnect();
    // A write that is under way keeps its frame until it has yielded.
    await until('all memory is back', () => backend.memory.allocatedBytes === 0);
  });

  async function connect(
    ...parameters: Parameters<typeof Vnetif.connect> extends [unknown, ...infer Rest] ? Rest : never
  ) {
    const vnetif = await Vnetif.connect(backend, ...parameters);
    nodes.push(vnetif);
    return vnetif;
  }

  test('gives what one node writes to all others, and not to the writer', async () => {
    const [a, b, c] = [await connect(), await connect(), await connect()];
    const heard = [a, b, c].map(hear);
    await a.write(numbered(1));
    await c.write(numbered(2));
    await until('all have heard', () => heard[1]?.length === 2);
    expect(heard).toEqual([[2], [1, 2], [1]]);
  });

  test('gives each node a copy that is its own, batches included', async () => {
    const [a, b, c] = [await connect(), await connect(), await connect()];
    b.listenBatch((batch) => batch.bytes.fill(0xff, batch.offset(0), batch.offset(0) + 60));
    const heard = hear(c);
    const frame = numbered(7);
    await a.write(frame);
    await until('the last has heard', () => heard.length === 1);
    expect(heard).toEqual([7]);
    expect(frame).toEqual(numbered(7));
  });

  test('serves 300 nodes, each with an address of its own', async () => {
    const many = await Promise.all(Array.from({ length: 300 }, () => connect()));
    const macs = new Set(many.map(({ mac }) => mac));
    expect(macs.size).toBe(300);
    for (const mac of macs) expect(mac).toMatch(/^02(:[0-9a-f]{2}){5}$/);
    const heard = many.map(hear);
    await many[299]?.write(numbered(5));
    await until(
      'everybody has heard',
      () => heard.filter(({ length }) => length > 0).length === 299,
    );
    expect(heard[299]).toEqual([]);
  });

  test('carries a long transfer to itself, whole and in order', async () => {
    const [a, b] = [await connect(), await connect()];
    const heard = hear(b);
    for (let number = 0; number < 2000; number += 1) await a.write(numbered(number, 1514));
    await until('all have arrived', () => heard.length === 2000);
    expect(heard.every((number, index) => number === index)).toBe(true);
    expect(a.stats).toMatchObject({ txPackets: 2000n, txBytes: 2000n * 1514n, rxPackets: 0n });
    expect(b.stats).toMatchObject({ rxPackets: 2000n, rxBytes: 2000n * 1514n, txPackets: 0n });
  });

  test('lets two hosts in one process ping each other', async () => {
    const hosts: Stack[] = [];
    const { memory } = backend;
    for (const cidr of ['10.0.0.1/24', '10.0.0.2/24']) {
      hosts.push(
        Stack.connect(new NetworkLink(await connect(), { memory, sendBytes: 65_536 }), { cidr }),
      );
    }
    const outcomes: string[] = [];
    for await (const { outcome } of hosts[0]?.ping('10.0.0.2', { count: 5, intervalMs: 5 }) ?? []) {
      outcomes.push(outcome);
    }
    expect(outcomes).toEqual(Array(5).fill('reply'));
    for (const host of hosts) await host.disconnect();
  });

  test('has nothing for a node that does not listen yet, or listens no more', async () => {
    const [a, b, c] = [await connect(), await connect(), await connect()];
    const witness = hear(c);
    await a.write(numbered(1));
    await until('it is through', () => witness.length === 1);
    const heard = hear(b);
    await a.write(numbered(2));
    await until('it is through', () => witness.length === 2);
    await b.disconnect();
    await a.write(numbered(3));
    await until('it is through', () => witness.length === 3);
    expect(heard).toEqual([2]);
  });

  test('tells when somebody listens: a client may wait for its server', async () => {
    const server = gate();
    const answers = gate();
    const client = await connect();
    void client.listen((frame) => numberOf(frame) === 2 && answers.open());
    const talk = server.opened.then(() => client.write(numbered(1)));
    const vnetif = await connect({ onListening: server.open });
    void vnetif.listen((frame) => vnetif.write(numbered(numberOf(frame) + 1)));
    await talk;
    await answers.opened;
  });

  test('shows a monitor the frames of both directions, as copies', async () => {
    const seen: [number, VnetifDirection][] = [];
    const monitor = (frame: Uint8Array, direction: VnetifDirection) => {
      seen.push([numberOf(frame), direction]);
      frame.fill(0);
    };
    const [a, b] = [await connect({ monitor }), await connect()];
    const [here, there] = [hear(a), hear(b)];
    await a.write(numbered(1));
    await a.write({ size: 60 }, (buffer) => {
      buffer.set(numbered(2));
      return 60;
    });
    await b.write(numbered(3));
    await until('all have arrived', () => here.length === 1 && there.length === 2);
    expect(seen).toEqual([
      [1, 'sent'],
      [2, 'sent'],
      [3, 'received'],
    ]);
    expect([here, there]).toEqual([[3], [1, 2]]);
  });

  test('holds senders to the size limit, which is the MTU and the header', async () => {
    const [a, b] = [await connect({ sizeLimit: 1000 }), await connect()];
    const heard = hear(b);
    expect([a.mtu, b.mtu]).toEqual([1000, 1500]);
    await expect(a.write(numbered(1, 1015))).rejects.toMatchObject({ code: 'FRAME_TOO_LONG' });
    await expect(a.write({ size: 1015 }, () => 1015)).rejects.toMatchObject({
      code: 'FRAME_TOO_LONG',
    });
    await a.write({ size: 1015 }, (buffer) => {
      buffer.set(numbered(2));
      return 1014;
    });
    await a.write(numbered(3, 1014));
    await until('both have arrived', () => heard.length === 2);
    expect(heard).toEqual([2, 3]);
    expect(a.stats.txPackets).toBe(2n);
  });

  test('refuses what is too long or too short within a batch, and sends the rest', async () => {
    const [a, b] = [await connect({ sizeLimit: 1000 }), await connect()];
    const heard = hear(b);
    const region = backend.memory.allocate(8192);
    const batch = new FrameBatch(backend.memory.bytes, 4);
    for (const [index, length] of [60, 1015, 13, 1014].entries()) {
      const offset = region.offset + index * 2000;
      backend.memory.bytes.set(numbered(index, Math.max(60, length)), offset);
      batch.add(offset, length, 0);
    }
    const outcomes = new Uint8Array(4);
    expect(a.writeBatch(batch, outcomes)).toBe(2);
    const { accepted, tooLong } = WriteOutcome;
    expect([...outcomes]).toEqual([accepted, tooLong, tooLong, accepted]);
    await until('both have arrived', () => heard.length === 2);
    expect(heard).toEqual([0, 3]);
    expect(a.stats).toMatchObject({ txPackets: 2n, txBytes: 1074n });
    expect(dropsOf(a)).toEqual({ 'tx-queue LENGTH_INVALID': 2 });
    region.free();
  });

  test('waits at disconnect for what was sent before and for listeners, when told to', async () => {
    const [a, b] = [await connect(), await connect({ flushOnDisconnect: true })];
    const read = gate();
    const begun: number[] = [];
    let done = 0;
    let isOver = false;
    const listening = b.listen(async (frame) => {
      begun.push(numberOf(frame));
      await read.opened;
      done += 1;
    });
    const writes = [a.write(numbered(1)), a.write(numbered(2))];
    const disconnected = b.disconnect().then(() => {
      isOver = true;
    });
    writes.push(a.write(numbered(3)));
    await sleep(30);
    expect(begun).toEqual([1, 2]);
    expect(isOver).toBe(false);
    read.open();
    await Promise.all([disconnected, listening, ...writes]);
    expect(done).toBe(2);
  });

  test('waits for nobody at disconnect when not told to', async () => {
    const [a, b] = [await connect(), await connect()];
    const read = gate();
    const begun = gate();
    const listening = b.listen(async () => {
      begun.open();
      await read.opened;
    });
    const write = a.write(numbered(1));
    await begun.opened;
    await b.disconnect();
    await listening;
    read.open();
    await write;
  });

  test('takes no write of a node that is gone', async () => {
    const [a, b] = [await connect(), await connect()];
    hear(b);
    await a.disconnect();
    await expect(a.write(numbered(1))).rejects.toMatchObject({ code: 'DISCONNECTED' });
    const node = backend.register();
    await backend.unregister(node);
    await backend.unregister(node);
    await backend.unregisterAndFlush(node);
    expect(() => backend.mac(node)).toThrow(expect.objectContaining({ code: 'DISCONNECTED' }));
    expect(backend.register()).toBeGreaterThan(node);
    await backend.unregister(node + 1);
  });

  test('keeps what one reader throws from the others and from the writer', async () => {
    const faults: unknown[] = [];
    const onFault = (error: unknown) => faults.push(error);
    const hub = new BasicBackend({ asyncReaders, onFault });
    const [a, b, c] = await Promise.all([1, 2, 3].map(() => Vnetif.connect(hub)));
    const fault = new Error('unreadable');
    b?.listenBatch(() => {
      throw fault;
    });
    const [same, other] = [hear(b as Vnetif), hear(c as Vnetif)];
    await a?.write(numbered(1));
    await until('the last has heard', () => other.length === 1);
    expect([same, other]).toEqual([[1], [1]]);
    expect(faults).toEqual([fault]);
    for (const vnetif of [a, b, c]) await vnetif?.disconnect();
    expect(hub.memory.allocatedBytes).toBe(0);
  });

  test('takes batches out of another memory', async () => {
    const [a, b] = [await connect(), await connect()];
    const heard = hear(b);
    const foreign = new LocalMemory(new ArrayBuffer(65_536), 0n);
    const batch = new FrameBatch(foreign.bytes, 2);
    foreign.bytes.set(numbered(1), 0);
    foreign.bytes.set(numbered(2), 1000);
    batch.add(0, 60, 0);
    batch.add(1000, 60, 0);
    expect(a.writeBatch(batch)).toBe(2);
    await until('both have arrived', () => heard.length === 2);
    expect(heard).toEqual([1, 2]);
  });

  test('calls a listener that threw no more, not even for the rest of a batch', async () => {
    const [a, b] = [await connect(), await connect()];
    let calls = 0;
    const listening = b.listen(() => {
      calls += 1;
      throw new Error('not for me');
    });
    const told = expect(listening).rejects.toThrow('not for me');
    const witness = hear(b);
    const batch = new FrameBatch(new Uint8Array(60), 3);
    for (let index = 0; index < 3; index += 1) batch.add(0, 60, 0);
    a.writeBatch(batch);
    await until('the other hears all', () => witness.length === 3);
    await told;
    expect(calls).toBe(1);
  });

  test('yields after each write', async () => {
    let turns = 0;
    const yieldTurn = async () => {
      turns += 1;
      await setImmediate();
    };
    const hub = new BasicBackend({ asyncReaders, yieldTurn });
    const [a, b] = [await Vnetif.connect(hub), await Vnetif.connect(hub)];
    const heard = hear(b);
    await a.write(numbered(1));
    expect(turns).toBeGreaterThanOrEqual(1);
    await until('it has arrived', () => heard.length === 1);
    await Promise.all([a.disconnect(), b.disconnect()]);
  });
});

describe('readers that are waited for', () => {
  test('have come to their end when the write does, one after the other', async () => {
    const backend = new BasicBackend();
    const [a, b, c] = await Promise.all([1, 2, 3].map(() => Vnetif.connect(backend)));
    const story: string[] = [];
    for (const [name, vnetif] of [
      ['b', b],
      ['c', c],
    ] as const) {
      void vnetif?.listen(async () => {
        story.push(`${name} begins`);
        await sleep(5);
        story.push(`${name} ends`);
      });
    }
    await a?.write(numbered(1));
    story.push('written');
    expect(story).toEqual(['b begins', 'b ends', 'c begins', 'c ends', 'written']);
    for (const vnetif of [a, b, c]) await vnetif?.disconnect();
  });

  test('may reply, and reply to replies, up to a depth', async () => {
    const backend = new BasicBackend();
    const [a, b] = [await Vnetif.connect(backend), await Vnetif.connect(backend)];
    let longest = 0;
    for (const vnetif of [a, b]) {
      void vnetif.listen(async (frame) => {
        longest = Math.max(longest, numberOf(frame));
        await vnetif.write(numbered(numberOf(frame) + 1));
      });
    }
    await a.write(numbered(1));
    expect(longest).toBe(16);
    expect(backend.droppedFrames).toBe(1);
    await Promise.all([a.disconnect(), b.disconnect()]);
    expect(backend.memory.allocatedBytes).toBe(0);
  });
});

describe('readers that come later', () => {
  let backend: BasicBackend;
  let a: Vnetif;
  let b: Vnetif;

  beforeEach(async () => {
    backend = new BasicBackend({ asyncReaders: true });
    a = await Vnetif.connect(backend);
    b = await Vnetif.connect(backend);
  });
  afterEach(async () => {
    await Promise.all([a.disconnect(), b.disconnect()]);
    expect(backend.memory.allocatedBytes).toBe(0);
  });

  test('are never called by the write itself', async () => {
    const heard = hear(b);
    const write = a.write(numbered(1));
    expect(heard).toEqual([]);
    await write;
    await until('it has arrived', () => heard.length === 1);
  });

  test('hear nothing that was written before they began', async () => {
    const third = await Vnetif.connect(backend);
    const witness = hear(third);
    const write = a.write(numbered(1));
    const heard = hear(b);
    await write;
    await a.write(numbered(2));
    await until('both are through', () => witness.length === 2);
    expect(heard).toEqual([2]);
    await third.disconnect();
  });

  test('keep no writer waiting, however long they take', async () => {
    const read = gate();
    let begun = 0;
    void b.listen(async () => {
      begun += 1;
      await read.opened;
    });
    for (let number = 0; number < 10; number += 1) await a.write(numbered(number));
    await until('all have begun', () => begun === 10);
    read.open();
  });

  test('reply to replies for ever without a write in a write', async () => {
    for (const vnetif of [a, b]) {
      void vnetif.listen((frame) =>
        numberOf(frame) < 500 ? vnetif.write(numbered(numberOf(frame) + 1)) : undefined,
      );
    }
    await a.write(numbered(1));
    await until('500 replies', () => a.stats.txPackets + b.stats.txPackets === 500n);
    expect(backend.droppedFrames).toBe(0);
  });

  test('are sent no more than there is room for, and a write waits for room', async () => {
    const heard = hear(b);
    const batch = new FrameBatch(new Uint8Array(1000), 2000);
    for (let index = 0; index < 2000; index += 1) batch.add(0, 1000, 0);
    const outcomes = new Uint8Array(2000);
    const accepted = a.writeBatch(batch, outcomes);
    expect(accepted).toBe(Math.floor((512 * 1024) / 1000));
    expect(outcomes[accepted - 1]).toBe(WriteOutcome.accepted);
    expect(outcomes[accepted]).toBe(WriteOutcome.queueFull);
    expect(dropsOf(a)).toEqual({ 'tx-queue TX_QUEUE_FULL': 2000 - accepted });
    const order: number[] = [];
    const writes = [1, 2, 3].map(async (number) => {
      await a.write(numbered(number, 1000));
      order.push(number);
    });
    // A batch does not overtake writes that wait.
    const late = new FrameBatch(new Uint8Array(60), 1);
    late.add(0, 60, 0);
    expect(a.writeBatch(late)).toBe(0);
    expect(order).toEqual([]);
    await Promise.all(writes);
    await until('all have arrived', () => heard.length === accepted + 3);
    expect(heard.slice(-3)).toEqual([1, 2, 3]);
    expect(order).toEqual([1, 2, 3]);
  });

  test('lose what they cannot keep up with, and only that', async () => {
    const read = gate();
    let begun = 0;
    void b.listen(async () => {
      begun += 1;
      await read.opened;
    });
    for (let number = 0; number < 1200; number += 1) await a.write(numbered(number));
    await until('all were handed on', () => 'rx-queue LISTENER_BUSY' in dropsOf(b));
    await setImmediate();
    expect(begun).toBeLessThan(1024 + 256);
    read.open();
    await setImmediate();
    const before = begun;
    await a.write(numbered(1));
    await until('it is heard again', () => begun === before + 1);
  });

  test('a write that waits for room ends with its NIC', async () => {
    hear(b);
    const batch = new FrameBatch(new Uint8Array(1000), 1000);
    for (let index = 0; index < 1000; index += 1) batch.add(0, 1000, 0);
    a.writeBatch(batch);
    const write = a.write(numbered(1, 1000));
    const refused = expect(write).rejects.toMatchObject({ code: 'DISCONNECTED' });
    await a.disconnect();
    await refused;
  });
});

describe('a backend of another kind', () => {
  test('may refuse a node, and then there is no NIC', async () => {
    const full: VnetifBackend = new (class extends BasicBackend {
      override register(): number {
        throw new Error('There is no room for another node.');
      }
    })();
    await expect(Vnetif.connect(full)).rejects.toThrow('no room');
  });
});

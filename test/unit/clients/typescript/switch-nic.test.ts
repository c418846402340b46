/** A NIC on a switch, above all what it does when the connection breaks. */
import { status } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  InjectionOutcome,
  type OpenFrames,
  type StreamFramesRequest,
} from '../../../../clients/typescript/src/gen/xenvif/v1/frame_service.js';
import {
  type AttachOptions,
  type Nic,
  XenvifClient,
} from '../../../../clients/typescript/src/index.js';
import { seededRandom } from '../../../support/random.js';
import {
  FakeDaemon,
  type FramesCall,
  failure,
  framesMessage,
  opened,
  openedPort,
} from '../fake-daemon.js';

let daemon: FakeDaemon;
let client: XenvifClient;
let call: FramesCall | undefined;
let opens: OpenFrames[] = [];
let received: Buffer[] = [];
let changes: string[] = [];

beforeEach(async () => {
  daemon = new FakeDaemon();
  opens = [];
  received = [];
  changes = [];
  daemon.onFrames = (stream) => serve(stream);
  await daemon.start();
  client = new XenvifClient({ address: daemon.address });
});

afterEach(() => {
  client.close();
  daemon.dispose();
});

/** Grants what is asked, keeps what is sent, and tells that it was accepted. */
function serve(stream: FramesCall, withResults = true): void {
  call = stream;
  stream.on('error', () => {});
  stream.on('data', ({ message }: StreamFramesRequest) => {
    if (message?.$case === 'open') {
      opens.push(message.value);
      stream.write(
        message.value.switch === '' ? opened(message.value.vifs) : openedPort(message.value),
      );
    }
    if (message?.$case !== 'frames') return;
    const { firstSequence, frames } = message.value;
    received.push(...frames);
    if (firstSequence === 0n || !withResults) return;
    const outcomes = frames.map(() => InjectionOutcome.ACCEPTED);
    stream.write({ message: { $case: 'results', value: { firstSequence, outcomes } } });
  });
  stream.on('end', () => stream.end());
}

function attach(options: AttachOptions = {}): Promise<Nic> {
  return client.attach('switches/default', {
    onStatus: (phase, reason) => changes.push(`${phase} ${reason}`),
    ...options,
  });
}

const frame = (fill: number, length = 60): Buffer => Buffer.alloc(length, fill);

describe('a NIC on a switch', () => {
  it('is a port, and has the address and the MTU of the port', async () => {
    const policy = { allowedAddresses: ['10.0.0.9'] };
    const nic = await attach({ portId: 'me', policy, anyMac: true, graceMs: 1_500 });
    expect(nic).toMatchObject({
      name: 'switches/default/ports/me',
      mac: '00:16:3e:00:00:aa',
      mtu: 1400,
      phase: 'connected',
      vif: undefined,
      port: { id: 'me', kind: 'client', switch: 'switches/default' },
    });
    expect(opens[0]).toMatchObject({
      switch: 'switches/default',
      vifs: [],
      port: { portId: 'me', mac: '', anyMac: true, policy, grace: { nanos: 500_000_000 } },
    });
    call?.write(framesMessage([frame(1)], 1n));
    for await (const { data, vif } of nic) {
      expect([data[0], vif]).toEqual([1, 'switches/default/ports/me']);
      break;
    }
    await nic.disconnect();
    expect(changes).toEqual([]);
  });

  it('is refused by its name before it is asked for', async () => {
    const error = { code: 'SWITCH_NAME_INVALID' };
    await expect(client.attach('switches/a/b')).rejects.toMatchObject(error);
    expect(opens).toEqual([]);
  });

  it('comes back as the same port when the connection breaks', async () => {
    const nic = await attach();
    const got: number[] = [];
    const reading = (async () => {
      for await (const { data } of nic) {
        got.push(data[0] ?? 0);
        if (got.length === 2) return;
      }
    })();
    call?.write(framesMessage([frame(1)], 1n));
    await expect.poll(() => got).toEqual([1]);
    daemon.stop();
    await expect.poll(() => changes).toEqual(['disconnected CONNECTION_LOST']);
    expect(nic.phase).toBe('disconnected');
    await daemon.start();
    await expect.poll(() => changes.at(-1)).toBe('connected REATTACHED');
    expect(opens[1]?.port).toMatchObject({ portId: 'client-7', mac: '00:16:3e:00:00:aa' });
    call?.write(framesMessage([frame(2)], 1n));
    await reading;
    expect(got).toEqual([1, 2]);
    expect(nic).toMatchObject({ phase: 'connected', lost: { reconnects: 1 } });
    await nic.write(frame(3));
    await nic.disconnect();
    expect(received).toEqual([frame(3)]);
  });

  it('lets writes wait while it is away, and sends them in order when it is back', async () => {
    const nic = await attach();
    daemon.stop();
    await expect.poll(() => nic.phase).toBe('disconnected');
    const writes: Promise<void>[] = [];
    for (let index = 0; index < 200; index += 1) {
      writes.push(nic.write(frame(index, 1_500)));
      // Each in a turn of its own, which would be a message of its own on a live connection.
      await new Promise(setImmediate);
    }
    expect(received).toEqual([]);
    await daemon.start();
    await Promise.all(writes);
    await nic.disconnect();
    expect(received.map(([first]) => first)).toEqual(writes.map((_, index) => index));
    expect(nic.stats).toMatchObject({ txPackets: 200n, txBytes: 300_000n });
  });

  it('keeps no more than its queue while it is away', async () => {
    const nic = await attach({ sendQueueBytes: 1_000 });
    daemon.stop();
    await expect.poll(() => nic.phase).toBe('disconnected');
    const waiting = nic.write(frame(1, 900));
    await expect(nic.write(frame(2, 900))).rejects.toMatchObject({ code: 'SEND_QUEUE_FULL' });
    await daemon.start();
    await waiting;
    await nic.disconnect();
  });

  it('is gone when it is not back in time, and so is what waited', async () => {
    const nic = await attach({ graceMs: 300 });
    const loop = (async () => {
      for await (const _frame of nic);
    })();
    daemon.stop();
    await expect.poll(() => nic.phase).toBe('disconnected');
    const write = nic.write(frame(1));
    await expect(write).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
    await expect(loop).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
    expect(await nic.closed).toMatchObject({ code: 'CONNECTION_LOST' });
  });

  it('does not come back where it was told not to, and asks for no grace then', async () => {
    const nic = await attach({ reconnect: false });
    expect(opens[0]?.port?.grace).toEqual({ seconds: 0n, nanos: 0 });
    daemon.stop();
    expect(await nic.closed).toMatchObject({ code: 'CONNECTION_LOST' });
    expect(changes).toEqual([]);
  });

  it('does not fight for its port with who took it', async () => {
    const nic = await attach();
    call?.emit('error', failure(status.ABORTED, 'PORT_REPLACED', 'Another stream is this port.'));
    expect(await nic.closed).toMatchObject({ code: 'PORT_REPLACED' });
    expect(opens).toHaveLength(1);
  });

  it('tries again where its place is still taken, and says what was in the way in the end', async () => {
    const nic = await attach({ graceMs: 1_500 });
    daemon.stop();
    let refusals = 0;
    daemon.onFrames = (stream) => {
      stream.once('data', () => {
        refusals += 1;
        stream.emit('error', failure(status.ALREADY_EXISTS, 'PORT_EXISTS', 'Taken.'));
      });
    };
    await daemon.start();
    expect(await nic.closed).toMatchObject({ code: 'PORT_EXISTS' });
    const reading = nic[Symbol.asyncIterator]().next();
    await expect(reading).rejects.toMatchObject({ code: 'PORT_EXISTS' });
    expect(refusals).toBeGreaterThan(1);
  });

  it('can be disconnected while it is away, at once', async () => {
    const nic = await attach({ graceMs: 60_000 });
    daemon.stop();
    await expect.poll(() => nic.phase).toBe('disconnected');
    const write = nic.write(frame(1));
    await nic.disconnect();
    await expect(write).rejects.toMatchObject({ code: 'DISCONNECTED' });
    expect(await nic.closed).toBeUndefined();
    for await (const _frame of nic) throw new Error('a frame out of nowhere');
  });

  it('ends with its client, and with its signal, also while it is away', async () => {
    const stopping = new AbortController();
    const [first, second] = await Promise.all([
      attach({ graceMs: 60_000, signal: stopping.signal }),
      attach({ graceMs: 60_000 }),
    ]);
    daemon.stop();
    await expect.poll(() => [first.phase, second.phase]).toEqual(['disconnected', 'disconnected']);
    stopping.abort();
    expect(await first.closed).toMatchObject({ code: 'CANCELLED' });
    client.close();
    expect(await second.closed).toMatchObject({ code: 'CANCELLED' });
  });

  it('says of injected frames that it cannot know where the connection broke before the results', async () => {
    daemon.onFrames = (stream) => serve(stream, false);
    const nic = await attach({ reportResults: true });
    const outcomes = nic.inject([frame(1)]);
    outcomes.catch(() => {});
    await expect.poll(() => received.length).toBe(1);
    daemon.stop();
    await expect(outcomes).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
    // What was not sent yet is sent later, and its outcome told.
    const later = nic.inject([frame(2), frame(3)]);
    daemon.onFrames = (stream) => serve(stream);
    await daemon.start();
    expect(await later).toEqual(['accepted', 'accepted']);
    expect(received).toEqual([frame(1), frame(2), frame(3)]);
    await nic.disconnect();
  });

  it('comes back again and again', async () => {
    const nic = await attach();
    for (let round = 1; round <= 3; round += 1) {
      daemon.stop();
      await expect.poll(() => changes.length).toBe(round * 2 - 1);
      await daemon.start();
      await expect.poll(() => changes.length).toBe(round * 2);
    }
    await nic.write(frame(9));
    await nic.disconnect();
    expect(received).toEqual([frame(9)]);
  });
});

describe('a connection that breaks again and again', () => {
  it('costs frames at most: every write ends, and what arrives is in order', async () => {
    const random = seededRandom(20);
    const nic = await attach({ graceMs: 20_000 });
    const writes: Promise<void>[] = [];
    for (let round = 0; round < 4; round += 1) {
      for (let turn = 0; turn < 100; turn += 1) {
        const number = writes.length;
        const bytes = frame(0, 60 + random.below(1_400));
        bytes.writeUInt32BE(number, 14);
        writes.push(nic.write(bytes));
        if (random.below(10) < 3) await new Promise(setImmediate);
        if (turn === 40) daemon.stop();
        if (turn === 80) await daemon.start();
      }
      await expect.poll(() => changes.length).toBe((round + 1) * 2);
    }
    await Promise.all(writes);
    await nic.disconnect();
    const numbers = [...new Set(received.map((bytes) => bytes.readUInt32BE(14)))];
    expect(numbers).toEqual([...numbers].sort((a, b) => a - b));
    // What was written while there was no connection is not lost.
    expect(numbers.length).toBeGreaterThan(writes.length / 2);
    expect(numbers.at(-1)).toBe(writes.length - 1);
    expect(nic.stats.txPackets).toBe(BigInt(writes.length));
  });

  it('does not leave a NIC behind whose program failed in a callback', async () => {
    const nic = await attach({
      onStatus: () => {
        throw new Error('a fault of the program');
      },
    });
    daemon.stop();
    expect(await nic.closed).toMatchObject({
      code: 'CANCELLED',
      cause: new Error('a fault of the program'),
    });
    await expect(nic.write(frame(1))).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});

describe('a NIC on a vif', () => {
  it('comes back where it was told to', async () => {
    const nic = await client.attach('1.0', { reconnect: true });
    daemon.stop();
    await expect.poll(() => nic.phase).toBe('disconnected');
    await daemon.start();
    await expect.poll(() => nic.phase).toBe('connected');
    expect(opens.map(({ vifs }) => vifs)).toEqual([['vifs/1.0'], ['vifs/1.0']]);
    await nic.disconnect();
  });
});

describe('outcomes', () => {
  it('are of the injected frames alone, whoever else writes into their message', async () => {
    const stream = new Promise<FramesCall>((resolve) => {
      daemon.onFrames = (opening) => {
        serve(opening, false);
        opening.on('data', ({ message }: StreamFramesRequest) => {
          if (message?.$case !== 'frames' || message.value.firstSequence === 0n) return;
          const { firstSequence, frames } = message.value;
          const outcomes = frames.map(([first]) =>
            first === 0xee ? InjectionOutcome.QUEUE_FULL : InjectionOutcome.ACCEPTED,
          );
          opening.write({ message: { $case: 'results', value: { firstSequence, outcomes } } });
        });
        resolve(opening);
      };
    });
    const nic = await attach({ reportResults: true });
    await stream;
    const [, outcomes] = await Promise.all([
      nic.write(frame(0xee)),
      nic.inject([frame(1), frame(2)]),
    ]);
    expect(outcomes).toEqual(['accepted', 'accepted']);
    await nic.disconnect();
  });
});

import { status } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  type FrameBatch,
  InjectionOutcome,
  type StreamFramesRequest,
} from '../../../../clients/typescript/src/gen/xenvif/v1/frame_service.js';
import { VifPhase } from '../../../../clients/typescript/src/gen/xenvif/v1/vif.js';
import { XenvifClient } from '../../../../clients/typescript/src/index.js';
import { FakeDaemon, type FramesCall, failure, framesMessage, opened } from '../fake-daemon.js';

let daemon: FakeDaemon;
let client: XenvifClient;
let call: FramesCall | undefined;
let received: FrameBatch[] = [];

beforeEach(async () => {
  daemon = new FakeDaemon();
  received = [];
  daemon.onFrames = (stream) => {
    call = stream;
    stream.on('data', ({ message }: StreamFramesRequest) => {
      if (message?.$case === 'open') stream.write(opened(message.value.vifs));
      if (message?.$case !== 'frames') return;
      received.push(message.value);
      const { firstSequence, frames } = message.value;
      if (firstSequence === 0n) return;
      const outcomes = frames.map((frame) =>
        frame[0] === 0xee ? InjectionOutcome.QUEUE_FULL : InjectionOutcome.ACCEPTED,
      );
      stream.write({ message: { $case: 'results', value: { firstSequence, outcomes } } });
    });
    stream.on('end', () => stream.end());
  };
  await daemon.start();
  client = new XenvifClient({ address: daemon.address });
});

afterEach(() => {
  client.close();
  daemon.dispose();
});

const frame = (fill: number, length = 60): Buffer => Buffer.alloc(length, fill);
const all = (): Buffer[] => received.flatMap(({ frames }) => frames);

describe('a NIC', () => {
  it('knows its vif', async () => {
    const nic = await client.attach('1.0');
    expect(nic).toMatchObject({ mac: '00:16:3e:00:00:01', mtu: 1500, phase: 'connected' });
    expect(nic.vif?.name).toBe('vifs/1.0');
    await nic.disconnect();
  });

  it('cannot be had where the daemon refuses', async () => {
    daemon.onFrames = (stream) => {
      stream.once('data', () => {
        stream.emit('error', failure(status.ALREADY_EXISTS, 'VIF_ATTACHED', 'Taken.'));
      });
    };
    await expect(client.attach('1.0')).rejects.toMatchObject({ code: 'VIF_ATTACHED' });
  });

  it('sends the frames of one turn in one message, in order', async () => {
    const nic = await client.attach('1.0');
    const parts = [frame(3, 6), frame(3, 8), frame(3, 46)];
    await Promise.all([nic.write(frame(1)), nic.write(frame(2)), nic.writev(parts)]);
    await nic.write(frame(4));
    await nic.disconnect();
    expect(received.map(({ frames }) => frames.length)).toEqual([3, 1]);
    expect(all()).toEqual([frame(1), frame(2), frame(3), frame(4)]);
    expect(nic.stats).toMatchObject({ txPackets: 4n, txBytes: 240n });
  });

  it('copies a frame when it is written', async () => {
    const nic = await client.attach('1.0');
    const bytes = frame(1);
    const written = nic.write(bytes);
    bytes.fill(9);
    await written;
    await nic.disconnect();
    expect(all()).toEqual([frame(1)]);
  });

  it('refuses frames of a wrong length, and a batch with one of them as a whole', async () => {
    const nic = await client.attach('1.0');
    await expect(nic.write(frame(1, 13))).rejects.toMatchObject({ code: 'FRAME_TOO_SHORT' });
    await expect(nic.writev([frame(1, 6)])).rejects.toMatchObject({ code: 'FRAME_TOO_SHORT' });
    await expect(nic.writeBatch([frame(1), frame(1, 65_536)])).rejects.toMatchObject({
      code: 'FRAME_TOO_LONG',
    });
    await nic.disconnect();
    expect(received).toEqual([]);
  });

  it('sends large batches in messages of at most 64 KiB and one frame', async () => {
    const nic = await client.attach('1.0');
    const frames = Array.from({ length: 3_000 }, (_, index) => frame(index & 0xff, 1514));
    await nic.writeBatch(frames);
    await nic.disconnect();
    expect(all()).toHaveLength(3_000);
    expect(Buffer.concat(all()).equals(Buffer.concat(frames))).toBe(true);
    const sizes = received.map((batch) => batch.frames.length * 1514);
    expect(Math.max(...sizes)).toBeLessThan(64 * 1024 + 1514);
  });

  it('does not let those who do not wait fill the memory', async () => {
    const nic = await client.attach('1.0', { sendQueueBytes: 10_000 });
    const writes = Array.from({ length: 20 }, () => nic.write(frame(1, 1000)));
    const results = await Promise.allSettled(writes);
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(10);
    const refused = results.find((result) => result.status === 'rejected');
    expect(refused?.reason).toMatchObject({ code: 'SEND_QUEUE_FULL' });
    await nic.disconnect();
  });

  it('tells what became of injected frames', async () => {
    const nic = await client.attach('1.0', { reportResults: true });
    await nic.write(frame(1));
    const frames = Array.from({ length: 200 }, (_, index) => frame(index === 150 ? 0xee : 1, 1000));
    const outcomes = await nic.inject(frames);
    expect(outcomes).toHaveLength(200);
    expect(
      outcomes.map((outcome, index) => [outcome, index]).filter(([o]) => o !== 'accepted'),
    ).toEqual([['queue-full', 150]]);
    expect(await nic.inject([])).toEqual([]);
    await nic.disconnect();
  });

  it('does not inject without having asked for results', async () => {
    const nic = await client.attach('1.0');
    await expect(nic.inject([frame(1)])).rejects.toMatchObject({ code: 'RESULTS_NOT_REPORTED' });
    await nic.disconnect();
  });

  it('yields what the guest sends, and counts it', async () => {
    const nic = await client.attach('1.0');
    call?.write(framesMessage([frame(1), frame(2)], 1n));
    const got: number[] = [];
    for await (const { data, vif } of nic) {
      expect(vif).toBe('vifs/1.0');
      got.push(data[0] ?? 0);
      if (got.length === 2) break;
    }
    expect(got).toEqual([1, 2]);
    expect(nic.stats).toMatchObject({ rxPackets: 2n, rxBytes: 120n });
    nic.resetStats();
    expect(nic.stats.rxPackets).toBe(0n);
    // Leaving the loop is not leaving the network.
    await nic.write(frame(7));
    await nic.disconnect();
    expect(all()).toEqual([frame(7)]);
  });

  it('calls listeners, until they have heard enough', async () => {
    const nic = await client.attach('1.0');
    const heard: number[] = [];
    const enough = new AbortController();
    const { signal } = enough;
    const listening = nic.listen((bytes) => heard.push(bytes[0] ?? 0), { signal });
    call?.write(framesMessage([frame(1), frame(2)], 1n));
    await expect.poll(() => heard).toEqual([1, 2]);
    enough.abort();
    await listening;
    call?.write(framesMessage([frame(3)], 3n));
    for await (const { data } of nic) {
      expect(data[0]).toBe(3);
      break;
    }
    expect(heard).toEqual([1, 2]);
    await nic.disconnect();
  });

  it('first tells listeners what came before them, in order and once', async () => {
    const nic = await client.attach('1.0');
    call?.write(framesMessage([frame(1), frame(2)], 1n));
    call?.write(framesMessage([frame(3)], 3n));
    await expect.poll(() => call?.writableLength).toBe(0);
    await new Promise((resolve) => setTimeout(resolve, 50));
    const heard: number[] = [];
    const batches: number[] = [];
    void nic.listen((bytes) => heard.push(bytes[0] ?? 0));
    const end = nic.listenBatch((batch) => batches.push(batch.count));
    call?.write(framesMessage([frame(4)], 4n));
    await expect.poll(() => heard).toEqual([1, 2, 3, 4]);
    expect(batches).toEqual([2, 1, 1]);
    expect(nic.stats.rxPackets).toBe(4n);
    end();
    await nic.disconnect();
  });

  it('gives no credit for frames that an async listener is not done with', async () => {
    const nic = await client.attach('1.0', { creditBytes: 1024 * 1024 });
    let finish = (): void => {};
    const finished = new Promise<void>((resolve) => {
      finish = resolve;
    });
    let heard = 0;
    void nic.listen(async () => {
      heard += 1;
      await finished;
    });
    let credit = 0n;
    call?.on('data', ({ message }: StreamFramesRequest) => {
      if (message?.$case === 'credit') credit += message.value.bytes;
    });
    const batch = Array.from({ length: 64 }, () => frame(1, 1024));
    for (let index = 0; index < 8; index += 1) call?.write(framesMessage(batch, 1n));
    await expect.poll(() => heard).toBe(512);
    expect(credit).toBe(0n);
    finish();
    await expect.poll(() => credit).toBe(512n * 1024n);
    await nic.disconnect();
  });

  it('gives credit for what listeners heard', async () => {
    const nic = await client.attach('1.0', { creditBytes: 1024 * 1024 });
    void nic.listen(() => {});
    let credit = 0n;
    call?.on('data', ({ message }: StreamFramesRequest) => {
      if (message?.$case === 'credit') credit += message.value.bytes;
    });
    const batch = Array.from({ length: 64 }, () => frame(1, 1024));
    for (let index = 0; index < 8; index += 1) call?.write(framesMessage(batch, 1n));
    await expect.poll(() => credit).toBe(512n * 1024n);
    await nic.disconnect();
  });

  it('tells changes of the vif', async () => {
    const phases: string[] = [];
    const nic = await client.attach('1.0', {
      onStatus: (phase, reason) => phases.push(`${phase} ${reason}`),
    });
    const value = { vifIndex: 0, phase: VifPhase.DISCONNECTED, reason: 'FRONTEND_CLOSED' };
    call?.write({ message: { $case: 'status', value } });
    await expect.poll(() => phases).toEqual(['disconnected FRONTEND_CLOSED']);
    expect(nic.phase).toBe('disconnected');
    await nic.disconnect();
  });

  it('does not come back after the connection was lost: it says so', async () => {
    const nic = await client.attach('1.0');
    const loop = (async () => {
      for await (const _frame of nic);
    })();
    daemon.stop();
    await expect(loop).rejects.toMatchObject({ grpcStatus: 'UNAVAILABLE' });
    expect(await nic.closed).toMatchObject({ grpcStatus: 'UNAVAILABLE' });
    await expect(nic.write(frame(1))).rejects.toMatchObject({ grpcStatus: 'UNAVAILABLE' });
    await nic.disconnect();
  });

  it('is of no use once disconnected, and may be disconnected twice', async () => {
    const nic = await client.attach('1.0');
    await Promise.all([nic.disconnect(), nic.disconnect()]);
    expect(await nic.closed).toBeUndefined();
    await expect(nic.write(frame(1))).rejects.toMatchObject({ code: 'DISCONNECTED' });
    for await (const _frame of nic) throw new Error('a frame out of nowhere');
  });

  it('does not crash a program that writes without waiting', async () => {
    const nic = await client.attach('1.0');
    daemon.stop();
    await nic.closed;
    nic.write(frame(1)).catch(() => {});
  });
});

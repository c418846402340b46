import { status } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  LossCause,
  LossStage,
  type StreamFramesRequest,
  type StreamFramesResponse,
} from '../../../../clients/typescript/src/gen/xenvif/v1/frame_service.js';
import { type Frame, XenvifClient } from '../../../../clients/typescript/src/index.js';
import { FakeDaemon, type FramesCall, failure, framesMessage, opened } from '../fake-daemon.js';

const MIB = 1024 * 1024;
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

/** Answers the open message and then lets `then` write. */
function afterOpen(
  then: (call: FramesCall, open: StreamFramesRequest) => void,
): (call: FramesCall) => void {
  return (call) => {
    call.once('data', (request: StreamFramesRequest) => {
      if (request.message?.$case !== 'open') throw new Error('the first message does not open');
      call.write(opened(request.message.value.vifs));
      then(call, request);
    });
  };
}

function lostMessage(first: bigint, last: bigint, cause: LossCause): StreamFramesResponse {
  const value = {
    cause,
    stage: LossStage.SUBSCRIBER_QUEUE,
    count: last - first + 1n,
    firstSequence: first,
    lastSequence: last,
  };
  return { message: { $case: 'lost', value } };
}

const frames = (count: number, length = 60): Buffer[] =>
  Array.from({ length: count }, (_, index) => Buffer.alloc(length, index));

describe('an observation', () => {
  it('opens with what was asked for', async () => {
    let request: StreamFramesRequest | undefined;
    daemon.onFrames = afterOpen((call, open) => {
      request = open;
      call.end();
    });
    const observation = client.observe(['1.0', 'vifs/2.0'], {
      direction: 'to-guest',
      filter: 'arp',
      snaplen: 64,
      sampleOneIn: 3,
      queueBytes: 65536,
      maxFrames: 9,
      batchBytes: 1000,
      batchFrames: 10,
      lingerUs: 50,
      overflow: 'drop-newest',
      creditBytes: 2 * MIB,
    });
    expect((await observation.opened).vifs.map(({ name }) => name)).toEqual([
      'vifs/1.0',
      'vifs/2.0',
    ]);
    expect(request?.message?.value).toEqual({
      mode: 1,
      vifs: ['vifs/1.0', 'vifs/2.0'],
      switch: '',
      selection: { direction: 2, filter: 'arp', snaplen: 64, sampleOneIn: 3 },
      limits: { queueBytes: 65536n, frames: 9n },
      batching: { bytes: 1000, frames: 10, lingerUs: 50 },
      overflowPolicy: 2,
      initialCreditBytes: BigInt(2 * MIB),
      reportResults: false,
    });
    observation.close();
  });

  it('yields frames with what is known of them', async () => {
    daemon.onFrames = afterOpen((call) => {
      call.write(framesMessage(frames(2), 1n));
      call.write(framesMessage(frames(1), 3n));
      call.end();
    });
    const got: Frame[] = [];
    for await (const frame of client.observe('1.0')) got.push(frame);
    expect(got.map(({ sequence }) => sequence)).toEqual([1n, 2n, 3n]);
    expect(got[1]).toEqual({
      data: Buffer.alloc(60, 1),
      timestampNs: 1_700_000_000_000_001_000n,
      direction: 'from-guest',
      vif: 'vifs/1.0',
      originalLength: 60,
      sequence: 2n,
      checksum: 'unverified',
    });
  });

  it('yields batches', async () => {
    daemon.onFrames = afterOpen((call) => {
      call.write(framesMessage(frames(5), 1n));
      call.end();
    });
    const counts: number[] = [];
    for await (const batch of client.observeBatches('1.0')) counts.push(batch.count);
    expect(counts).toEqual([5]);
  });

  it('tells losses in their place and keeps their totals', async () => {
    daemon.onFrames = afterOpen((call) => {
      call.write(framesMessage(frames(1), 1n));
      call.write(lostMessage(2n, 11n, LossCause.SLOW_READER));
      call.write(lostMessage(12n, 12n, LossCause.NO_CREDIT));
      call.write(framesMessage(frames(1), 13n));
      call.end();
    });
    const seen: string[] = [];
    const observation = client.observe('1.0', {
      onLost: ({ cause, count }) => seen.push(`lost ${count} ${cause}`),
    });
    for await (const frame of observation) seen.push(`frame ${frame.sequence}`);
    expect(seen).toEqual(['frame 1', 'lost 10 slow-reader', 'lost 1 no-credit', 'frame 13']);
    expect(observation.lost).toMatchObject({ frames: 11n, slowReader: 10n, noCredit: 1n });
  });

  it('gives credit only for what was consumed, so that a slow reader holds up the daemon', async () => {
    const credits: bigint[] = [];
    daemon.onFrames = afterOpen((call) => {
      call.on('data', (request: StreamFramesRequest) => {
        if (request.message?.$case === 'credit') credits.push(request.message.value.bytes);
      });
      for (let batch = 0; batch < 16; batch += 1) {
        call.write(framesMessage(frames(64, 1024), BigInt(1 + batch * 64)));
      }
    });
    const observation = client.observeBatches('1.0', { creditBytes: MIB });
    const batches = observation[Symbol.asyncIterator]();
    await observation.opened;
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(credits).toEqual([]);
    for (let batch = 0; batch < 16; batch += 1) await batches.next();
    await expect.poll(() => credits.reduce((sum, credit) => sum + credit, 0n)).toBe(768n * 1024n);
    // What is being looked at, and less than a quarter of the credit, has not been given back.
    expect(credits).toEqual([256n * 1024n, 256n * 1024n, 256n * 1024n]);
    observation.close();
  });

  it('refuses a credit that could stall', () => {
    expect(() => client.observe('1.0', { creditBytes: 1000 })).toThrow(
      expect.objectContaining({ code: 'CREDIT_TOO_SMALL' }),
    );
  });

  it('fails with the reason that the daemon gives, in the loop and as opened', async () => {
    daemon.onFrames = (call) => {
      call.once('data', () => {
        call.emit('error', failure(status.NOT_FOUND, 'VIF_NOT_FOUND', 'There is no vif.'));
      });
    };
    const observation = client.observe('9.0');
    await expect(observation.opened).rejects.toMatchObject({ code: 'VIF_NOT_FOUND' });
    await expect(observation[Symbol.asyncIterator]().next()).rejects.toMatchObject({
      code: 'VIF_NOT_FOUND',
    });
  });

  it('refuses a stream that does not begin with what was granted', async () => {
    daemon.onFrames = (call) => call.write(framesMessage(frames(1), 1n));
    const next = client.observe('1.0')[Symbol.asyncIterator]().next();
    await expect(next).rejects.toMatchObject({ code: 'RESPONSE_MALFORMED' });
  });

  it('comes back after the connection was lost, and says that there is a gap', async () => {
    let calls = 0;
    daemon.onFrames = afterOpen((call) => {
      calls += 1;
      call.write(framesMessage(frames(2), 1n));
      if (calls > 1) call.end();
    });
    const observation = client.observe('1.0');
    const seen: string[] = [];
    for await (const event of observation.events()) {
      seen.push(event.type);
      if (seen.length === 1) {
        daemon.stop();
        await daemon.start();
      }
      if (event.type === 'reconnected') expect(event.sameBoot).toBe(true);
    }
    expect(seen).toEqual(['batch', 'disconnected', 'reconnected', 'batch']);
    expect(observation.lost.reconnects).toBe(1);
  });

  it('asks after a reconnect for the rest of the frames, and for the selection as it is', async () => {
    const opens: unknown[] = [];
    daemon.onFrames = afterOpen((call, { message }) => {
      if (message?.$case === 'open') {
        opens.push([message.value.limits?.frames, message.value.selection?.snaplen]);
      }
      call.write(framesMessage(frames(2), 1n));
      if (opens.length === 2) call.end();
    });
    const observation = client.observeBatches('1.0', { maxFrames: 10, snaplen: 100 });
    let batches = 0;
    for await (const _batch of observation) {
      batches += 1;
      if (batches > 1) continue;
      observation.select({ snaplen: 50 });
      daemon.stop();
      await daemon.start();
    }
    expect(opens).toEqual([
      [10n, 100],
      [8n, 50],
    ]);
  });

  it('does not come back where it is not to', async () => {
    daemon.onFrames = afterOpen((call) => call.write(framesMessage(frames(1), 1n)));
    const observation = client.observe('1.0', { reconnect: false });
    const iterate = async (): Promise<void> => {
      for await (const _frame of observation) daemon.stop();
    };
    await expect(iterate()).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
  });

  it('ends by stop behind what has been received, and by close at once', async () => {
    daemon.onFrames = afterOpen((call) => {
      for (let batch = 0; batch < 3; batch += 1) call.write(framesMessage(frames(1), 1n));
    });
    const stopped = client.observe('1.0');
    let count = 0;
    for await (const _frame of stopped) {
      count += 1;
      if (count > 1) continue;
      // All three are here long before, also where the machine is busy.
      await new Promise((resolve) => setTimeout(resolve, 1000));
      stopped.stop();
    }
    expect(count).toBe(3);
    const closed = client.observe('1.0');
    for await (const _frame of closed) {
      count += 1;
      // While the loop waits for more.
      if (count === 6) setImmediate(() => closed.close());
    }
    expect(count).toBe(6);
  });

  it('ends by its signal with an error, and the call with the loop', async () => {
    let ended: () => void = () => {};
    const end = new Promise<void>((resolve) => {
      ended = resolve;
    });
    daemon.onFrames = afterOpen((call) => {
      call.on('cancelled', ended);
      call.write(framesMessage(frames(1), 1n));
    });
    const controller = new AbortController();
    const iterate = async (): Promise<void> => {
      for await (const _frame of client.observe('1.0', { signal: controller.signal })) {
        controller.abort();
      }
    };
    await expect(iterate()).rejects.toMatchObject({ code: 'CANCELLED' });
    await end;
    for await (const _frame of client.observe('1.0')) break;
  });
});

import { status } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { WatchVifsResponse } from '../../../../clients/typescript/src/gen/xenvif/v1/vif_service.js';
import { type WatchEvent, XenvifClient } from '../../../../clients/typescript/src/index.js';
import { aVif, FakeDaemon, failure, type WatchCall } from '../fake-daemon.js';

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

function updated(name: string, resumeToken: string): WatchVifsResponse {
  return { event: { $case: 'updated', value: aVif(name) }, resumeToken };
}

const synced = (resumeToken: string): WatchVifsResponse => ({
  event: { $case: 'synced', value: {} },
  resumeToken,
});

function lost(call: WatchCall): void {
  call.emit('error', { code: status.UNAVAILABLE, details: 'gone' });
}

/** Gathers the types of events until `count` have come. */
async function typesOf(watch: AsyncIterable<WatchEvent>, count: number): Promise<string[]> {
  const types: string[] = [];
  for await (const event of watch) {
    types.push(event.type);
    if (types.length === count) break;
  }
  return types;
}

describe('a watch', () => {
  it('yields the state, the marker and changes', async () => {
    daemon.onWatch = (call) => {
      expect(call.request).toMatchObject({ domid: 1, labels: { a: 'b' }, resumeToken: '' });
      call.write(updated('vifs/1.0', 't1'));
      call.write(synced('t2'));
      call.write({ event: { $case: 'deleted', value: aVif('vifs/1.0') }, resumeToken: 't3' });
    };
    const types = await typesOf(client.vifs.watch({ domid: 1, labels: { a: 'b' } }), 3);
    expect(types).toEqual(['updated', 'synced', 'deleted']);
  });

  it('goes on behind the last event after the connection was lost', async () => {
    const tokens: string[] = [];
    daemon.onWatch = (call) => {
      tokens.push(call.request.resumeToken);
      if (tokens.length === 1) {
        call.write(updated('vifs/1.0', 't1'));
        call.write(synced('t2'));
        setTimeout(() => lost(call), 20);
      } else call.write(updated('vifs/1.0', 't3'));
    };
    const types = await typesOf(client.vifs.watch(), 4);
    expect(types).toEqual(['updated', 'synced', 'resumed', 'updated']);
    expect(tokens).toEqual(['', 't2']);
  });

  it('survives a daemon that is started anew, and starts over when its token means nothing', async () => {
    const tokens: string[] = [];
    daemon.onWatch = (call) => {
      tokens.push(call.request.resumeToken);
      if (call.request.resumeToken !== '') {
        call.emit('error', failure(status.OUT_OF_RANGE, 'RESUME_TOKEN_EXPIRED', 'Too old.'));
        return;
      }
      call.write(updated('vifs/1.0', `t${tokens.length}`));
      call.write(synced(`s${tokens.length}`));
    };
    const events: string[] = [];
    for await (const event of client.vifs.watch()) {
      events.push(event.type);
      if (events.length === 2) {
        daemon.stop();
        await daemon.start();
      }
      if (events.length === 5) break;
    }
    expect(events).toEqual(['updated', 'synced', 'restarted', 'updated', 'synced']);
    expect(tokens).toEqual(['', 's1', '']);
  });

  it("leaves a stale token of the caller's to the caller", async () => {
    daemon.onWatch = (call) => {
      call.emit('error', failure(status.OUT_OF_RANGE, 'RESUME_TOKEN_EXPIRED', 'Too old.'));
    };
    await expect(typesOf(client.vifs.watch({ resumeToken: 'old' }), 1)).rejects.toMatchObject({
      code: 'RESUME_TOKEN_EXPIRED',
    });
  });

  it('does not wait for a daemon that was never there', async () => {
    const nowhere = new XenvifClient({ address: '/nowhere/xenvifd.sock' });
    await expect(typesOf(nowhere.vifs.watch(), 1)).rejects.toMatchObject({
      code: 'DAEMON_UNREACHABLE',
    });
    nowhere.close();
  });

  it('does not reconnect where it is not to', async () => {
    daemon.onWatch = (call) => {
      call.write(synced('t1'));
      setTimeout(() => lost(call), 20);
    };
    await expect(typesOf(client.vifs.watch({ reconnect: false }), 2)).rejects.toMatchObject({
      code: 'CONNECTION_LOST',
    });
  });

  it('ends quietly by close, also while it waits, and with an error by its signal', async () => {
    daemon.onWatch = (call) => call.write(synced('t1'));
    const watch = client.vifs.watch();
    const types: string[] = [];
    for await (const { type } of watch) {
      types.push(type);
      setImmediate(() => watch.close());
    }
    expect(types).toEqual(['synced']);
    const signal = AbortSignal.timeout(50);
    await expect(typesOf(client.vifs.watch({ signal }), 9)).rejects.toMatchObject({
      code: 'CANCELLED',
    });
  });

  it('gives up on a daemon that does not begin to answer', async () => {
    daemon.onWatch = () => {};
    await expect(typesOf(client.vifs.watch({ timeoutMs: 50 }), 1)).rejects.toMatchObject({
      code: 'DEADLINE_EXCEEDED',
    });
  });
});

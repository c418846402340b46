/** What a daemon finds when it starts: after another, after the machine itself, and beside another. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { XenvifClient, type XenvifClientError } from '@xenvif/client';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config.js';
import { Daemon } from '../../src/daemon.js';
import { DemoGuests } from '../../src/demo/guests.js';
import { Hypervisor } from '../../src/xen/emulated/index.js';
import type { Xen } from '../../src/xen/xen.js';
import { silent } from '../support/machine.js';

const MIB = 1024 * 1024;

let directory: string;
let stateFile: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'xenvif-restart-'));
  stateFile = join(directory, 'state', 'switches.json');
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

/** A daemon on a machine of its own: what is in XenStore is as new as the machine. */
class Run {
  readonly client: XenvifClient;
  readonly #xen: Xen;
  readonly #daemon: Daemon;

  private constructor(xen: Xen, daemon: Daemon) {
    this.#xen = xen;
    this.#daemon = daemon;
    this.client = new XenvifClient({ address: daemon.addresses[0] as string });
  }

  static async on(hypervisor: Hypervisor, file = stateFile): Promise<Run> {
    const xen = await hypervisor.dom0.open({ localMemoryBytes: 16 * MIB });
    const config = loadConfig({ tcp: '127.0.0.1:0' });
    const countersFile = join(directory, 'counters.json');
    const options = { xen, config, logger: silent, socket: undefined, stateFile: file };
    return new Run(xen, await Daemon.start({ ...options, countersFile }));
  }

  /** The frames that vif 1.0 has sent, and since when they are counted. */
  async sent() {
    const [stats] = await this.client.stats.get(['1.0']);
    return { packets: Number(stats?.tx.packets), since: stats?.since };
  }

  async ids(): Promise<string[]> {
    const ids: string[] = [];
    for await (const { id } of this.client.switches.list()) ids.push(id);
    return ids;
  }

  async stop(): Promise<void> {
    this.client.close();
    await this.#daemon.stop();
    await this.#xen.close();
  }
}

/** Runs `body` with a daemon on a machine that is switched off afterwards. */
async function onNewMachine<T>(body: (run: Run) => Promise<T>, file = stateFile): Promise<T> {
  const hypervisor = new Hypervisor();
  const run = await Run.on(hypervisor, file);
  try {
    return await body(run);
  } finally {
    await run.stop();
    await hypervisor.shutdown();
  }
}

describe('switches are kept over a start of the machine', () => {
  test('as they were asked for, until they are removed', async () => {
    const made = await onNewMachine(async ({ client }) => {
      await client.switches.create('gone');
      await client.switches.delete('gone');
      return await client.switches.create('lan', { ageingSeconds: 60, labels: { a: 'b' } });
    });
    expect(JSON.parse(readFileSync(stateFile, 'utf8'))).toMatchObject({ version: 1 });
    await onNewMachine(async (run) => {
      expect(await run.ids()).toEqual(['default', 'lan']);
      const { labels, spec, uid } = await run.client.switches.get('lan');
      expect({ labels, spec, uid }).toEqual({
        labels: made.labels,
        spec: made.spec,
        uid: made.uid,
      });
      await run.client.switches.delete('lan');
    });
    expect(await onNewMachine((run) => run.ids())).toEqual(['default']);
  });

  test('and what XenStore has goes before the file', async () => {
    const hypervisor = new Hypervisor();
    const first = await Run.on(hypervisor);
    const { uid } = await first.client.switches.create('lan', { hub: true });
    await first.stop();
    const content = JSON.parse(readFileSync(stateFile, 'utf8'));
    content.switches.lan.record.uid = 'of another time';
    content.switches.old = content.switches.lan;
    writeFileSync(stateFile, JSON.stringify(content));
    const second = await Run.on(hypervisor);
    expect((await second.client.switches.get('lan')).uid).toBe(uid);
    expect(await second.ids()).toEqual(['default', 'lan', 'old']);
    const { switches } = JSON.parse(readFileSync(stateFile, 'utf8'));
    expect(switches.lan.record.uid).toBe(uid);
    await second.stop();
    await hypervisor.shutdown();
  });

  test('also those that a daemon without a file has made', async () => {
    const hypervisor = new Hypervisor();
    const first = await Run.on(hypervisor, join(directory, 'other.json'));
    await first.client.switches.create('lan');
    await first.stop();
    await (await Run.on(hypervisor)).stop();
    await hypervisor.shutdown();
    expect(await onNewMachine((run) => run.ids())).toEqual(['default', 'lan']);
  });

  test('a file that is none of ours is put aside, and the daemon starts', async () => {
    await onNewMachine(({ client }) => client.switches.create('lan'));
    writeFileSync(stateFile, '{"version": 2}');
    expect(await onNewMachine((run) => run.ids())).toEqual(['default']);
    expect(existsSync(`${stateFile}.invalid`)).toBe(true);
    expect(existsSync(stateFile)).toBe(false);
  });

  test('a switch that cannot be kept is not made', async () => {
    const inTheWay = join(directory, 'file');
    writeFileSync(inTheWay, '');
    await onNewMachine(
      async (run) => {
        const error = await run.client.switches
          .create('lan')
          .catch((failure: XenvifClientError) => failure);
        expect(error).toMatchObject({ code: 'STATE_FILE_UNWRITABLE', grpcStatus: 'UNAVAILABLE' });
        expect(await run.ids()).toEqual(['default']);
      },
      join(inTheWay, 'switches.json'),
    );
  });
});

describe('counters go on over a restart', () => {
  let hypervisor: Hypervisor;
  let guests: DemoGuests;
  let toolstack: Xen;
  let run: Run;

  beforeEach(async () => {
    hypervisor = new Hypervisor();
    run = await Run.on(hypervisor);
    guests = new DemoGuests(hypervisor, silent);
    toolstack = await hypervisor.dom0.open({ localMemoryBytes: MIB });
    await guests.start(toolstack.store, 2);
    await counts();
  });
  afterEach(async () => {
    await guests.stop();
    await toolstack.close();
    await run.stop();
    await hypervisor.shutdown();
  });

  /** Waits until the guests' pings are counted. */
  async function counts(): Promise<number> {
    for (;;) {
      const { packets } = await run.sent();
      if (packets >= 2) return packets;
      await sleep(20);
    }
  }

  const counters = (): string => join(directory, 'counters.json');

  /** Waits until what was counted by now is in the file: the first change may have begun before. */
  async function areKept(): Promise<void> {
    for (let change = 0; change < 2; change += 1) {
      const { mtimeMs } = statSync(counters());
      await expect.poll(() => statSync(counters()).mtimeMs).toBeGreaterThan(mtimeMs);
    }
  }

  /** The next daemon finds the file as it is now, and not as an orderly end would leave it. */
  async function replacedAfterKill(): Promise<void> {
    const file = counters();
    const atDeath = readFileSync(file);
    await run.stop();
    writeFileSync(file, atDeath);
    run = await Run.on(hypervisor);
  }

  test('as they were, or one second older where the daemon was killed', async () => {
    const { bootId } = await run.client.host.get();
    const { packets, since } = await run.sent();
    await run.stop();
    run = await Run.on(hypervisor);
    expect((await run.client.host.get()).bootId).not.toBe(bootId);
    const next = await run.sent();
    expect(next.packets).toBeGreaterThanOrEqual(packets);
    expect(next.since).toEqual(since);
    await areKept();
    await replacedAfterKill();
    expect((await run.sent()).packets).toBeGreaterThanOrEqual(next.packets);
  });

  /** The frames that guest 1 has sent into the switch. */
  async function atPort(): Promise<number> {
    const ports = await run.client.switches.ports('default');
    return Number(ports.find(({ device }) => device === 'vifs/1.0')?.received.packets);
  }

  test('and those of switch ports, for as long as the same vif is behind a port', async () => {
    const before = await atPort();
    expect(before).toBeGreaterThan(0);
    await run.stop();
    run = await Run.on(hypervisor);
    const next = await atPort();
    expect(next).toBeGreaterThanOrEqual(before);
    await areKept();
    await replacedAfterKill();
    expect(await atPort()).toBeGreaterThanOrEqual(next);
    await run.stop();
    const file = join(directory, 'counters.json');
    const content = JSON.parse(readFileSync(file, 'utf8'));
    const key = Object.keys(content.ports).find((name) => name.startsWith('default/vif-1.0 '));
    const kept = content.ports[key ?? ''];
    kept.tx.packets += MIB;
    content.ports = { 'default/vif-1.0 another': kept };
    writeFileSync(file, JSON.stringify(content));
    run = await Run.on(hypervisor);
    expect(await atPort()).toBeLessThan(MIB);
  });

  test('of vifs also where the daemon before kept none of ports', async () => {
    const { packets, since } = await run.sent();
    await run.stop();
    const file = join(directory, 'counters.json');
    const { ports: _, ...rest } = JSON.parse(readFileSync(file, 'utf8'));
    writeFileSync(file, JSON.stringify(rest));
    run = await Run.on(hypervisor);
    const next = await run.sent();
    expect(next.packets).toBeGreaterThanOrEqual(packets);
    expect(next.since).toEqual(since);
  });

  test('from zero after a reset', async () => {
    const before = await run.sent();
    await run.client.stats.reset('1.0');
    const { since } = await run.sent();
    const kept = `"sinceMs":${since?.getTime()}`;
    await expect.poll(() => readFileSync(counters(), 'utf8')).toContain(kept);
    await replacedAfterKill();
    expect((await run.sent()).since).toEqual(since);
    expect(since?.getTime()).toBeGreaterThan(before.since?.getTime() ?? 0);
  });

  test('a file that is none of ours counts for nothing', async () => {
    const { packets } = await run.sent();
    await run.stop();
    writeFileSync(join(directory, 'counters.json'), '{"version": 1, "vifs": {"a": 1}}');
    run = await Run.on(hypervisor);
    expect((await run.sent()).packets).toBeLessThan(packets);
  });
});

describe('one daemon a domain', () => {
  const module = fileURLToPath(new URL('../../dist/service/machine-lock.js', import.meta.url));
  const script = [
    `import { lockMachine } from ${JSON.stringify(module)};`,
    'const unlock = await lockMachine().catch((error) => {',
    '  console.log(error.code);',
    '  process.exit(1);',
    '});',
    "console.log('locked');",
    'setInterval(() => unlock, 1000);',
  ].join('\n');

  async function start(): Promise<{ child: ChildProcess; said: string }> {
    const child = spawn(process.execPath, ['--input-type=module', '-e', script]);
    const said = await new Promise<string>((resolve) => {
      child.stdout.once('data', (text) => resolve(String(text).trim()));
    });
    return { child, said };
  }

  test('a second one is refused, and the next one is not after a kill', async () => {
    const first = await start();
    expect(first.said).toBe('locked');
    expect((await start()).said).toBe('ALREADY_RUNNING');
    const ended = new Promise((resolve) => first.child.on('close', resolve));
    first.child.kill('SIGKILL');
    await ended;
    const next = await start();
    expect(next.said).toBe('locked');
    next.child.kill('SIGKILL');
  });
});

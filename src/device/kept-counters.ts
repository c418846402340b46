/**
 * The counters of vifs and of switches' ports in a file, so that they go on where a daemon ended. It is written every second, at
 * a reset and at the end; what a daemon that is killed has counted since is lost. It is replaced as a whole
 * by a rename, without an fsync: it is for the next daemon, not for the next start of the machine, after
 * which there is none of these vifs any more.
 *
 *     { "version": 1, "vifs": { "<uid>": { "sinceMs": 0, "unconnected": {...}, "queues": [{...}] } },
 *       "ports": { "<switch>/<port>": { "tx": {...}, "rx": {...}, "learnt": 0, ... } } }
 *
 * The port of a vif has the vif's uid behind its name, for domids and with them such names come again.
 */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Logger } from 'pino';
import { z } from 'zod';
import { LogLimit } from './log-limit.js';
import type { DeviceMetrics, KeptMetrics, KeptPort } from './metrics.js';

const VERSION = 1;
const INTERVAL_MS = 1000;

const count = z.int().min(0);
const frames = z.strictObject({
  packets: count,
  bytes: count,
  drops: z.array(
    z.strictObject({
      stage: z.enum(['tx-ring', 'tx-queue', 'switch', 'rx-queue', 'rx-ring']),
      cause: z.string(),
      packets: count,
    }),
  ),
});
const queue = z.strictObject({ tx: frames, rx: frames, eventsReceived: count, eventsSent: count });
const fileSchema = z.strictObject({
  version: z.literal(VERSION),
  vifs: z.record(
    z.string(),
    z.strictObject({ sinceMs: count, unconnected: queue, queues: z.array(queue) }),
  ),
  // Daemons before this one kept none.
  ports: z
    .record(
      z.string(),
      z.strictObject({ tx: frames, rx: frames, learnt: count, moved: count, notLearnt: count }),
    )
    .default({}),
});

/** A vif, as far as its counters are concerned. */
export interface CountingVif {
  readonly uid: string;
  readonly metrics: DeviceMetrics;
}

/** A port of a switch, likewise. */
export interface CountingPort {
  readonly key: string;
  readonly metrics: { keep(): KeptPort; addKept(kept: KeptPort): void };
}

export class KeptCounters {
  readonly #path: string;
  readonly #logger: Logger;
  readonly #log = new LogLimit();
  #kept = new Map<string, KeptMetrics>();
  #keptPorts = new Map<string, KeptPort>();
  #vifs: () => readonly CountingVif[] = () => [];
  #ports: () => readonly CountingPort[] = () => [];
  #written = '';
  /** One write at a time. */
  #last: Promise<void> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;

  constructor(path: string, logger: Logger) {
    this.#path = path;
    this.#logger = logger;
  }

  /** Reads what was kept. A file that is not as we write it counts for nothing. */
  async load(): Promise<void> {
    try {
      const result = fileSchema.safeParse(JSON.parse(await readFile(this.#path, 'utf8')));
      if (!result.success) {
        this.#logger.warn({ file: this.#path }, 'the kept counters are not as we write them');
        return;
      }
      this.#kept = new Map(Object.entries(result.data.vifs));
      this.#keptPorts = new Map(Object.entries(result.data.ports));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
      this.#logger.warn({ file: this.#path, error }, 'cannot read the kept counters');
    }
  }

  /** Has a vif that is taken up go on from what was kept of it. */
  restore({ uid, metrics }: CountingVif): void {
    const kept = this.#kept.get(uid);
    if (kept === undefined) return;
    this.#kept.delete(uid);
    metrics.addKept(kept);
  }

  /** Has a port that is plugged in go on from what was kept of it. */
  restorePort({ key, metrics }: CountingPort): void {
    const kept = this.#keptPorts.get(key);
    if (kept === undefined) return;
    this.#keptPorts.delete(key);
    metrics.addKept(kept);
  }

  /** Says which ports are to be kept with the vifs. */
  keepPorts(ports: () => readonly CountingPort[]): void {
    this.#ports = ports;
  }

  /** Begins to keep what these vifs, and the ports, count. */
  start(vifs: () => readonly CountingVif[]): void {
    this.#vifs = vifs;
    this.#timer = setInterval(() => this.write(), INTERVAL_MS);
    this.#timer.unref();
  }

  /** Has the counters written as they are now. */
  write(): void {
    const vifs = Object.fromEntries(this.#vifs().map(({ uid, metrics }) => [uid, metrics.keep()]));
    const ports = Object.fromEntries(
      this.#ports().map(({ key, metrics }) => [key, metrics.keep()]),
    );
    const text = `${JSON.stringify({ version: VERSION, vifs, ports })}\n`;
    if (text === this.#written) return;
    this.#written = text;
    this.#last = this.#last.then(() => this.#replace(text));
  }

  /** Writes them for the last time. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.write();
    await this.#last;
  }

  async #replace(text: string): Promise<void> {
    const next = `${this.#path}.new`;
    try {
      await mkdir(dirname(this.#path), { recursive: true, mode: 0o755 });
      await writeFile(next, text, { mode: 0o600 });
      await rename(next, this.#path);
    } catch (error) {
      // Tried again when they have changed; counters are not worth more.
      this.#log.line((suppressed) =>
        this.#logger.warn({ file: this.#path, suppressed, error }, 'cannot keep the counters'),
      );
    }
  }
}

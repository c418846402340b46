/**
 * The second place where switches and their ports are kept: a file, for XenStore forgets everything when
 * the machine is started anew. It is replaced as a whole, by a rename behind an fsync, so that whenever
 * the machine stops there is the old one or the new one. What is in XenStore goes before what is in it.
 *
 *     { "version": 1, "switches": { "<id>": { "record": {...}, "ports": { "<port>": {...} } } } }
 */
import { mkdir, open, readFile, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Logger } from 'pino';
import { z } from 'zod';
import { UnavailableError } from '../errors.js';
import { portSchema, switchSchema } from './switch-records.js';

const VERSION = 1;

const fileSchema = z.strictObject({
  version: z.literal(VERSION),
  switches: z.record(
    z.string(),
    z.strictObject({
      /** Absent for a switch that nobody made, such as the default one. */
      record: switchSchema.optional(),
      ports: z.record(z.string(), portSchema),
    }),
  ),
});

export type KeptSwitches = z.output<typeof fileSchema>['switches'];

export class SwitchFile {
  readonly #path: string;
  readonly #logger: Logger;
  #switches: KeptSwitches = {};
  /** Changes are carried out one after the other. */
  #last: Promise<void> = Promise.resolve();

  constructor(path: string, logger: Logger) {
    this.#path = path;
    this.#logger = logger;
  }

  /** What was kept. A file that is not as we write it is put aside and told of, and is as good as none. */
  async load(): Promise<KeptSwitches> {
    let text: string;
    try {
      text = await readFile(this.#path, 'utf8');
    } catch (error) {
      const isAbsent = (error as NodeJS.ErrnoException).code === 'ENOENT';
      if (!isAbsent) this.#logger.error({ file: this.#path, error }, 'cannot read the kept state');
      return {};
    }
    const result = fileSchema.safeParse(parseJson(text));
    if (result.success) {
      this.#switches = result.data.switches;
    } else {
      const aside = `${this.#path}.invalid`;
      this.#logger.error({ file: this.#path, aside }, 'the kept state is not as we write it');
      await rename(this.#path, aside).catch(() => undefined);
    }
    return this.#switches;
  }

  /**
   * Has `change` made to what is kept and, once that is on the disk, runs `then`; where that fails the
   * change is taken back.
   * @throws UnavailableError STATE_FILE_UNWRITABLE; whatever `then` throws.
   */
  async keep(change: (switches: KeptSwitches) => void, then: () => Promise<void>): Promise<void> {
    const run = this.#last.then(async () => {
      const old = this.#switches;
      const changed = structuredClone(old);
      change(changed);
      await this.#replace(changed);
      try {
        await then();
      } catch (error) {
        await this.#replace(old);
        throw error;
      }
    });
    this.#last = run.catch(() => undefined);
    await run;
  }

  async #replace(switches: KeptSwitches): Promise<void> {
    const next = `${this.#path}.new`;
    try {
      await mkdir(dirname(this.#path), { recursive: true, mode: 0o755 });
      const file = await open(next, 'w', 0o600);
      try {
        await file.writeFile(`${JSON.stringify({ version: VERSION, switches }, undefined, 2)}\n`);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(next, this.#path);
      await syncDirectory(dirname(this.#path));
    } catch (cause) {
      const text = `Cannot write ${this.#path}, where switches are kept.`;
      throw new UnavailableError('STATE_FILE_UNWRITABLE', text, {}, { cause });
    }
    this.#switches = switches;
  }
}

/** The rename itself is on the disk only with its directory. */
async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

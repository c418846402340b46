/**
 * Switches and their ports as they are kept in XenStore, in our own domain's `data` directory: they
 * live as long as the vifs that they join, and a daemon that starts finds both. Names that XenStore
 * does not take are written in base64url.
 */
import { isDeepStrictEqual } from 'node:util';
import type { Logger } from 'pino';
import type { z } from 'zod';
import type { Store } from '../xen/xen.js';
import type { KeptSwitches, SwitchFile } from './switch-file.js';
import { type PortRecord, portSchema, type SwitchRecord, switchSchema } from './switch-records.js';

export class SwitchStore {
  readonly #store: Store;
  readonly #logger: Logger;
  readonly #root: string;
  readonly #file: SwitchFile | undefined;

  /** With a `file`, what is kept outlives XenStore as well. */
  constructor(store: Store, domid: number, logger: Logger, file: SwitchFile | undefined) {
    this.#file = file;
    this.#store = store;
    this.#logger = logger;
    this.#root = `/local/domain/${domid}/data/xenvif/switches`;
  }

  async readSwitches(): Promise<Map<string, SwitchRecord>> {
    return await this.#readAll(this.#root, 'record', switchSchema);
  }

  async readPorts(id: string): Promise<Map<string, PortRecord>> {
    return await this.#readAll(`${this.#pathOf(id)}/ports`, undefined, portSchema);
  }

  /**
   * Brings back into XenStore what only the file still has: all of it after the machine was started
   * anew. What both have is as XenStore has it.
   */
  async restore(): Promise<void> {
    if (this.#file === undefined) return;
    const kept = await this.#file.load();
    for (const [id, { record, ports }] of Object.entries(kept)) {
      if (await this.#isPresent(id)) continue;
      this.#logger.info({ switch: id, ports: Object.keys(ports) }, 'restoring a switch');
      if (record !== undefined) await this.#write(`${this.#pathOf(id)}/record`, record);
      for (const [port, content] of Object.entries(ports)) {
        await this.#write(`${this.#pathOf(id)}/ports/${encode(port)}`, content);
      }
    }
    await this.#keepWhatIsThere(this.#file, kept);
  }

  /** A switch with a record or a port is XenStore's to tell of. */
  async #isPresent(id: string): Promise<boolean> {
    const record = await this.#store.readIfExists(`${this.#pathOf(id)}/record`);
    return record !== undefined || (await this.readPorts(id)).size > 0;
  }

  /** Has the file say what XenStore says: an earlier daemon may have kept none, or died in between. */
  async #keepWhatIsThere(file: SwitchFile, kept: KeptSwitches): Promise<void> {
    const present: KeptSwitches = {};
    const records = await this.readSwitches();
    for (const id of new Set([...Object.keys(kept), ...records.keys()])) {
      const ports = Object.fromEntries(await this.readPorts(id));
      const record = records.get(id);
      present[id] = record === undefined ? { ports } : { record, ports };
    }
    if (isDeepStrictEqual(present, kept)) return;
    try {
      await file.keep(
        (switches) => {
          for (const id of Object.keys(switches)) delete switches[id];
          Object.assign(switches, present);
        },
        async () => undefined,
      );
    } catch (error) {
      // Guests wait: what cannot be kept is told, and again by the next call that wants it kept.
      this.#logger.error({ error }, 'cannot keep the switches');
    }
  }

  async writeSwitch(id: string, record: SwitchRecord): Promise<void> {
    await this.#keep(
      (kept) => {
        kept[id] = { ...keptOf(kept, id), record };
      },
      () => this.#write(`${this.#pathOf(id)}/record`, record),
    );
  }

  async removeSwitch(id: string): Promise<void> {
    await this.#keep(
      (kept) => {
        delete kept[id];
      },
      () => this.#store.rm(this.#pathOf(id)),
    );
  }

  async writePort(id: string, port: string, record: PortRecord): Promise<void> {
    await this.#keep(
      (kept) => {
        const old = keptOf(kept, id);
        kept[id] = { ...old, ports: { ...old.ports, [port]: record } };
      },
      () => this.#write(`${this.#pathOf(id)}/ports/${encode(port)}`, record),
    );
  }

  async removePort(id: string, port: string): Promise<void> {
    await this.#keep(
      (kept) => {
        delete kept[id]?.ports[port];
      },
      () => this.#store.rm(`${this.#pathOf(id)}/ports/${encode(port)}`),
    );
  }

  async #keep(change: (kept: KeptSwitches) => void, then: () => Promise<void>): Promise<void> {
    await (this.#file === undefined ? then() : this.#file.keep(change, then));
  }

  async #write(path: string, content: SwitchRecord | PortRecord): Promise<void> {
    await this.#store.write(path, JSON.stringify(content));
  }

  #pathOf(id: string): string {
    return `${this.#root}/${encode(id)}`;
  }

  /** Every child of `path` that holds what we wrote; what does not is told and left alone. */
  async #readAll<Record>(
    path: string,
    leaf: string | undefined,
    schema: z.ZodType<Record>,
  ): Promise<Map<string, Record>> {
    const names = await this.#store.directory(path).catch((): string[] => []);
    const records = new Map<string, Record>();
    for (const name of names) {
      const node = leaf === undefined ? `${path}/${name}` : `${path}/${name}/${leaf}`;
      const result = schema.safeParse(parseJson(await this.#store.readIfExists(node)));
      if (result.success) records.set(decode(name), result.data);
      else this.#logger.warn({ node }, 'a switch in XenStore is not as we write it');
    }
    return records;
  }
}

function keptOf(kept: KeptSwitches, id: string): KeptSwitches[string] {
  return kept[id] ?? { ports: {} };
}

function parseJson(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? '');
  } catch {
    return undefined;
  }
}

function encode(name: string): string {
  return Buffer.from(name).toString('base64url');
}

function decode(name: string): string {
  return Buffer.from(name, 'base64url').toString();
}

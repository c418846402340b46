/**
 * Switches and their ports as they are kept in XenStore, in our own domain's `data` directory: they
 * live as long as the vifs that they join, and a daemon that starts finds both. Names that XenStore
 * does not take are written in base64url.
 */
import type { Logger } from 'pino';
import { z } from 'zod';
import type { Store } from '../xen/xen.js';

const switchSchema = z.strictObject({
  uid: z.string(),
  labels: z.record(z.string(), z.string()),
  spec: z.strictObject({
    ageingSeconds: z.int().positive(),
    entriesPerPort: z.int().positive(),
    hub: z.boolean(),
  }),
});

const portSchema = z.strictObject({
  device: z.discriminatedUnion('kind', [
    z.strictObject({
      kind: z.literal('tap'),
      interface: z.string(),
      mtu: z.int(),
      persist: z.boolean(),
      owner: z.int().optional(),
    }),
    z.strictObject({ kind: z.literal('netfront'), handle: z.int() }),
  ]),
  policy: z.string(),
  mirror: z
    .strictObject({
      sources: z.array(z.string()),
      destinations: z.array(z.string()),
      vlans: z.array(z.int()),
    })
    .optional(),
});

/** What is wanted of a switch. */
export type SwitchRecord = z.output<typeof switchSchema>;
/** What was plugged in at a port, and how. */
export type PortRecord = z.output<typeof portSchema>;
export type PortDevice = PortRecord['device'];
export type MirrorRecord = NonNullable<PortRecord['mirror']>;

export class SwitchStore {
  readonly #store: Store;
  readonly #logger: Logger;
  readonly #root: string;

  constructor(store: Store, domid: number, logger: Logger) {
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

  async writeSwitch(id: string, record: SwitchRecord): Promise<void> {
    await this.#store.write(`${this.#pathOf(id)}/record`, JSON.stringify(record));
  }

  async removeSwitch(id: string): Promise<void> {
    await this.#store.rm(this.#pathOf(id));
  }

  async writePort(id: string, port: string, record: PortRecord): Promise<void> {
    await this.#store.write(`${this.#pathOf(id)}/ports/${encode(port)}`, JSON.stringify(record));
  }

  async removePort(id: string, port: string): Promise<void> {
    await this.#store.rm(`${this.#pathOf(id)}/ports/${encode(port)}`);
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

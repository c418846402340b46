/** Two programs on one emulated machine, with a vchan between them or about to have one. */
import { randomBytes } from 'node:crypto';
import { connectVchan, VchanServer, type VchanStream } from '../../../../src/device/vchan/index.js';
import type { VchanServerOptions } from '../../../../src/device/vchan/server.js';
import type { EmulatedXen } from '../../../../src/xen/emulated/emulated-xen.js';
import { type Domain, Hypervisor } from '../../../../src/xen/emulated/index.js';

export type RingSizes = Pick<VchanServerOptions, 'readRingBytes' | 'writeRingBytes'>;

export class VchanMachine {
  readonly hypervisor: Hypervisor;
  readonly serverDomain: Domain;
  readonly clientDomain: Domain;
  readonly serverXen: EmulatedXen;
  readonly clientXen: EmulatedXen;
  /** Domain 0, which sees all of XenStore. */
  readonly toolstack: EmulatedXen;

  private constructor(
    hypervisor: Hypervisor,
    domains: readonly [Domain, Domain],
    xens: readonly [EmulatedXen, EmulatedXen, EmulatedXen],
  ) {
    this.hypervisor = hypervisor;
    [this.serverDomain, this.clientDomain] = domains;
    [this.serverXen, this.clientXen, this.toolstack] = xens;
  }

  /** Each end in a guest of its own, or in domain 0. */
  static async start(
    places: { server?: 'guest' | 'dom0'; client?: 'guest' | 'dom0' } = {},
  ): Promise<VchanMachine> {
    const hypervisor = new Hypervisor();
    const place = (kind = 'guest') =>
      kind === 'guest' ? hypervisor.createDomain() : hypervisor.dom0;
    const server = await place(places.server);
    const client = await place(places.client);
    const localMemoryBytes = 65536;
    const xens = [
      await server.open({ localMemoryBytes }),
      await client.open({ localMemoryBytes }),
      await hypervisor.dom0.open({ localMemoryBytes }),
    ] as const;
    return new VchanMachine(hypervisor, [server, client], xens);
  }

  listen(options: RingSizes & { port?: string; path?: string } = {}): Promise<VchanServer> {
    const { path, port = path === undefined ? 'test' : undefined, ...sizes } = options;
    return VchanServer.listen(this.serverXen, {
      domid: this.clientDomain.domid,
      port,
      path,
      ...sizes,
    });
  }

  connect(options: { port?: string; path?: string; wait?: boolean; signal?: AbortSignal } = {}) {
    const { path, port = path === undefined ? 'test' : undefined, ...rest } = options;
    return connectVchan(this.clientXen, {
      domid: this.serverDomain.domid,
      port,
      path,
      ...rest,
    });
  }

  /** A vchan, both ends of it. */
  async join(sizes: RingSizes = {}): Promise<{ server: VchanStream; client: VchanStream }> {
    const listening = await this.listen(sizes);
    const [server, client] = await Promise.all([listening.accept(), this.connect()]);
    await listening.close();
    return { server, client };
  }

  /** Nodes that are there below the server's data directory. */
  async nodes(): Promise<string[]> {
    const base = `/local/domain/${this.serverDomain.domid}/data`;
    const names: string[] = [];
    const walk = async (path: string): Promise<void> => {
      const children = await this.toolstack.store.directory(path).catch(() => []);
      for (const child of children) {
        names.push(`${path}/${child}`.slice(base.length + 1));
        await walk(`${path}/${child}`);
      }
    };
    await walk(base);
    return names;
  }

  /** Everything is given back: grants, ports, watches, and what stood in XenStore. */
  async end(): Promise<void> {
    this.hypervisor.assertNoLeaks();
    const left = await this.nodes();
    if (left.length > 0) throw new Error(`Left in XenStore: ${left.join(', ')}.`);
    await this.toolstack.close();
    await this.serverXen.close();
    await this.clientXen.close();
    await this.hypervisor.shutdown();
  }
}

/** Everything that comes until the end. */
export async function readAll(stream: VchanStream): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Writes pieces and waits for each as `pipe` does. */
export async function writeAll(stream: VchanStream, bytes: Buffer, piece: number): Promise<void> {
  for (let at = 0; at < bytes.length; at += piece) {
    const chunk = bytes.subarray(at, at + piece);
    if (stream.write(chunk)) continue;
    await new Promise((resolve) => stream.once('drain', resolve));
  }
}

export function noise(length: number): Buffer {
  return randomBytes(length);
}

/** Resolves when the stream is closed. */
export function closed(stream: VchanStream): Promise<void> {
  if (stream.closed) return Promise.resolve();
  return new Promise((resolve) => stream.once('close', resolve));
}

/**
 * A domain of the emulated machine. A domain number may come back, but never the domain: its grant
 * table, its ports and its pages belong to this object, so that nothing of an old domain works for
 * a new one with the same number.
 */
import { NotFoundError } from '../../errors.js';
import type { Store } from '../xen.js';
import type { DomainFacts } from './domain-builder.js';
import { EmulatedXen } from './emulated-xen.js';
import type { EventMachine } from './events.js';
import { GrantTable } from './grant-table.js';
import type { GrantMachine } from './grants.js';
import type { MachineMemory } from './machine-memory.js';
import { type EventDelivery, PortTable } from './port-table.js';
import { RawGuest } from './raw-guest.js';

/** What a domain may use up. */
export interface DomainLimits {
  /** The arena that each process gets for its local memory. */
  readonly localMemoryBytes: number;
  readonly grantsMax: number;
  readonly portsMax: number;
}

/** What a domain needs of the hypervisor. */
export interface DomainHost {
  readonly machine: GrantMachine & EventMachine & { readonly memory: MachineMemory };
  readonly delivery: EventDelivery;
  /** Opens a connection to XenStore on behalf of the domain. */
  readonly openStore: (domid: number) => Promise<Store>;
}

export class Domain implements DomainFacts {
  readonly domid: number;
  readonly name: string;
  readonly uuid: string;
  /** Counts the domains of the machine: tells two with the same number apart. */
  readonly generation: number;
  readonly grantTable: GrantTable;
  readonly portTable: PortTable;
  /** What a guest that obeys no protocol can do with its own memory. */
  readonly raw: RawGuest;
  readonly #host: DomainHost;
  readonly #limits: DomainLimits;
  readonly #processes = new Set<EmulatedXen>();
  #alive = true;

  constructor(host: DomainHost, facts: DomainFacts, generation: number, limits: DomainLimits) {
    this.domid = facts.domid;
    this.name = facts.name;
    this.uuid = facts.uuid;
    this.generation = generation;
    this.grantTable = new GrantTable(facts.domid, host.machine.memory, limits.grantsMax);
    this.portTable = new PortTable(facts.domid, host.delivery, limits.portsMax);
    this.raw = new RawGuest(host.machine.memory, this.grantTable);
    this.#host = host;
    this.#limits = limits;
  }

  get alive(): boolean {
    return this.#alive;
  }

  /**
   * Starts a process in the domain.
   * @throws NotFoundError when the domain was destroyed; GrantError when memory is short.
   */
  async open(options: { localMemoryBytes?: number } = {}): Promise<EmulatedXen> {
    this.#checkAlive();
    const store = await this.#host.openStore(this.domid);
    try {
      this.#checkAlive();
      const process = new EmulatedXen({
        machine: this.#host.machine,
        domid: this.domid,
        grantTable: this.grantTable,
        portTable: this.portTable,
        store,
        localMemoryBytes: options.localMemoryBytes ?? this.#limits.localMemoryBytes,
        onEnd: (ended) => this.#processes.delete(ended),
      });
      this.#processes.add(process);
      return process;
    } catch (error) {
      await store.close();
      throw error;
    }
  }

  /** What the processes of the domain hold, and what waits for a peer to let go. */
  leaks(): string[] {
    const held = [...this.#processes].flatMap((process) => process.leftovers());
    const waiting = this.grantTable
      .deferred()
      .map(
        ({ ref, domid }) =>
          `waits for domain ${domid} to unmap grant ${ref}, whose owner is done with it`,
      );
    return [...held, ...waiting].map((text) => `domain ${this.domid} (${this.name}) ${text}`);
  }

  /**
   * The hypervisor's part of a domain's death: every process is killed and its ports close, grants end.
   * Pages that others map stay readable to them until they unmap.
   */
  async die(): Promise<void> {
    this.#alive = false;
    const ended = [...this.#processes].map((process) => process.die());
    this.grantTable.clear();
    this.raw.destroy();
    await Promise.all(ended);
  }

  #checkAlive(): void {
    if (this.#alive) return;
    throw new NotFoundError('DOMAIN_NOT_FOUND', `Domain ${this.domid} was destroyed.`);
  }
}

/**
 * A whole Xen machine inside this process: domains, grant tables, event channels and a XenStore.
 * It is strict, for it stands in for a machine on which our mistakes kill: a misuse throws
 * `MisuseError`, and `assertNoLeaks` belongs after each test.
 *
 *     const hypervisor = new Hypervisor();
 *     const xen = await hypervisor.dom0.open();                      // what the daemon gets
 *     const guest = await hypervisor.createDomain({ name: 'guest' });
 *     const guestXen = await guest.open();                           // what a frontend gets
 */
import { randomUUID } from 'node:crypto';
import { AlreadyExistsError, MisuseError, NotFoundError } from '../../errors.js';
import { PAGE_SIZE, type Store, type Xen } from '../xen.js';
import { StoreClient, type StoreLogger } from '../xenstore/client.js';
import { Domain, type DomainHost, type DomainLimits } from './domain.js';
import { removeDomain, writeDomain, writeDomain0 } from './domain-builder.js';
import { type FaultRates, Faults } from './faults.js';
import { GRANTS_MAX_DEFAULT, type GrantTable } from './grant-table.js';
import { MachineMemory } from './machine-memory.js';
import { EventDelivery, PORTS_MAX_DEFAULT, type PortTable } from './port-table.js';
import { EmulatedStore, type EmulatedStoreOptions } from './store.js';

/** Domain 0 serves all the others; Xen gives it as many event channels as it asks for. */
const DOM0_PORTS_MAX = 131_071;
/** DOMID_FIRST_RESERVED: from here on numbers mean something else. */
const DOMID_END = 0x7ff0;

export interface HypervisorOptions {
  /** The memory of the machine in bytes; real memory is used only where it is touched. */
  readonly memoryBytes?: number;
  /** How the delivery of events is put off; setImmediate, unless a simulation says otherwise. */
  readonly schedule?: (deliver: () => void) => void;
  /** Quotas and limits of XenStore. */
  readonly store?: EmulatedStoreOptions;
  readonly logger?: StoreLogger;
}

export interface DomainOptions extends Partial<DomainLimits> {
  /** The next number that was never used, unless a test wants a number to come back. */
  readonly domid?: number;
  readonly name?: string;
}

const limitDefaults: DomainLimits = {
  localMemoryBytes: 16 * 1024 * 1024,
  grantsMax: GRANTS_MAX_DEFAULT,
  portsMax: PORTS_MAX_DEFAULT,
};

export class Hypervisor {
  readonly store: EmulatedStore;
  readonly memory: MachineMemory;
  readonly faults = new Faults();
  /** The domain that is there from the start, privileged, with the toolstack in it. */
  readonly dom0: Domain;
  readonly #logger: StoreLogger | undefined;
  readonly #delivery: EventDelivery;
  readonly #host: DomainHost;
  /** By number. An array, because a grant copy looks here. */
  readonly #domains: (Domain | undefined)[] = [];
  #nextDomid = 1;
  #generation = 0;
  #toolstack: Promise<Store> | undefined;

  constructor(options: HypervisorOptions = {}) {
    this.store = new EmulatedStore(options.store);
    this.memory = new MachineMemory(options.memoryBytes ?? 256 * 1024 * 1024);
    this.#logger = options.logger;
    this.#delivery = new EventDelivery(options.schedule);
    this.#host = {
      machine: this,
      delivery: this.#delivery,
      openStore: async (domid) => {
        await this.#startToolstack();
        return this.#openStore(domid);
      },
    };
    const limits = { ...limitDefaults, portsMax: DOM0_PORTS_MAX };
    this.dom0 = this.#addDomain({ domid: 0, name: 'Domain-0' }, limits);
  }

  grantTable(domid: number): GrantTable | undefined {
    return this.#domains[domid]?.grantTable;
  }

  portTable(domid: number): PortTable | undefined {
    return this.#domains[domid]?.portTable;
  }

  /** The domain that has this number now. */
  domain(domid: number): Domain | undefined {
    return this.#domains[domid];
  }

  /**
   * Starts a small program in a domain, as somebody in it would.
   * @throws NotFoundError DOMAIN_NOT_FOUND
   */
  async openDomain(domid: number): Promise<Xen> {
    const domain = this.#domains[domid];
    if (domain === undefined) {
      throw new NotFoundError('DOMAIN_NOT_FOUND', `There is no domain ${domid}.`);
    }
    return await domain.open({ localMemoryBytes: PAGE_SIZE });
  }

  /**
   * Builds a domain as xl does, XenStore included.
   * @throws AlreadyExistsError when the number is taken.
   */
  async createDomain(options: DomainOptions = {}): Promise<Domain> {
    const store = await this.#startToolstack();
    const domid = options.domid ?? this.#nextDomid;
    if (this.#domains[domid] !== undefined) {
      throw new AlreadyExistsError('DOMAIN_EXISTS', `Domain ${domid} exists already.`);
    }
    if (!Number.isInteger(domid) || domid < 0 || domid >= DOMID_END) {
      throw new MisuseError(`${domid} is no number of a domain.`);
    }
    this.#nextDomid = Math.max(this.#nextDomid, domid + 1);
    const name = options.name ?? `guest-${domid}`;
    const domain = this.#addDomain({ domid, name }, { ...limitDefaults, ...options });
    await writeDomain(store, domain);
    this.store.introduceDomain(domid);
    return domain;
  }

  /**
   * Destroys a domain at once: first it dies, then XenStore tells everybody (@releaseDomain), then
   * the toolstack removes its nodes. Backend directories are left to whoever made them.
   */
  async destroyDomain(domid: number): Promise<void> {
    const domain = this.#domains[domid];
    if (domain === undefined || domid === 0) {
      throw new NotFoundError('DOMAIN_NOT_FOUND', `There is no domain ${domid} to destroy.`);
    }
    const store = await this.#startToolstack();
    this.#domains[domid] = undefined;
    await domain.die();
    this.store.releaseDomain(domid);
    await removeDomain(store, domain);
  }

  /** Lets every Nth operation fail the way Xen would; `{}` ends it. */
  failEvery(rates: FaultRates): void {
    this.faults.set(rates);
  }

  /** Everything that processes of living domains hold, for people to read. */
  leaks(): string[] {
    return this.#domains.flatMap((domain) => domain?.leaks() ?? []);
  }

  /** @throws MisuseError that names everything held. */
  assertNoLeaks(): void {
    const leaks = this.leaks();
    if (leaks.length > 0) throw new MisuseError(`Not given back: ${leaks.join('; ')}.`);
  }

  /** Switches the machine off: every process is killed, XenStore closes. */
  async shutdown(): Promise<void> {
    await Promise.all(this.#domains.map((domain) => domain?.die()));
    this.#domains.length = 0;
    await (await this.#toolstack)?.close();
    await this.store.close();
  }

  #addDomain(facts: { domid: number; name: string }, limits: DomainLimits): Domain {
    this.#generation += 1;
    const uuid = facts.domid === 0 ? '00000000-0000-0000-0000-000000000000' : randomUUID();
    const domain = new Domain(this.#host, { ...facts, uuid }, this.#generation, limits);
    this.#domains[facts.domid] = domain;
    return domain;
  }

  /** The toolstack's own connection to XenStore; made, with domain 0's nodes, when first needed. */
  #startToolstack(): Promise<Store> {
    this.#toolstack ??= (async () => {
      const store = await this.#openStore(0);
      await writeDomain0(store);
      return store;
    })();
    return this.#toolstack;
  }

  #openStore(domid: number): Promise<Store> {
    const connect = async () => this.store.connect(domid);
    return StoreClient.open(
      this.#logger === undefined ? { connect } : { connect, logger: this.#logger },
    );
  }
}

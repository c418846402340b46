/**
 * Xen as one process of an emulated domain sees it. A domain may run several, one after another or
 * at once; what each holds is counted for itself, so that it can be closed in good order, where
 * nothing may be left, or killed, where the rest is taken from it as the kernel takes it.
 */
import { MisuseError } from '../../errors.js';
import { LocalMemory, type LocalRegion } from '../local-memory.js';
import type { Store, Xen } from '../xen.js';
import { EmulatedEvents, type EventMachine } from './events.js';
import type { GrantTable } from './grant-table.js';
import { EmulatedGrants, type GrantMachine, type ProcessState } from './grants.js';
import type { PortTable } from './port-table.js';
import { trackWatches } from './tracked-store.js';

/** What a process needs of the hypervisor and of its domain. */
export interface ProcessHost {
  readonly machine: GrantMachine & EventMachine;
  readonly domid: number;
  readonly grantTable: GrantTable;
  readonly portTable: PortTable;
  /** The process' own connection to XenStore. */
  readonly store: Store;
  readonly localMemoryBytes: number;
  /** Told once, when the process ended. */
  readonly onEnd: (process: EmulatedXen) => void;
}

export class EmulatedXen implements Xen {
  readonly kind = 'emulated';
  readonly domid: number;
  readonly memory: LocalMemory;
  readonly grants: EmulatedGrants;
  readonly events: EmulatedEvents;
  readonly store: Store;
  readonly #arena: LocalRegion;
  readonly #watches: () => string[];
  readonly #onEnd: (process: EmulatedXen) => void;
  #state: ProcessState = 'running';

  constructor(host: ProcessHost) {
    const { machine } = host;
    this.domid = host.domid;
    this.#arena = machine.memory.allocate(host.localMemoryBytes);
    const { offset, length } = this.#arena;
    this.memory = new LocalMemory(machine.memory.buffer, 0n, offset, length);
    this.grants = new EmulatedGrants(machine, host.grantTable, this.memory);
    this.events = new EmulatedEvents(machine, host.portTable);
    const { store, leftovers } = trackWatches(host.store);
    this.store = store;
    this.#watches = leftovers;
    this.#onEnd = host.onEnd;
  }

  /** What the process holds at this moment, each a sentence's end: "maps grant 8 of domain 5". */
  leftovers(): string[] {
    const bytes = this.memory.allocatedBytes;
    const memory = bytes === 0 ? [] : [`holds ${bytes} bytes of local memory`];
    return [
      ...this.grants.leftovers(),
      ...this.events.leftovers(),
      ...memory,
      ...(this.#state === 'running' ? this.#watches() : []),
    ];
  }

  /**
   * Ends the process in good order.
   * @throws MisuseError that names everything that was not given back before. It is taken back all
   *   the same, so that one test's leak does not spoil the next.
   */
  async close(): Promise<void> {
    if (this.#state === 'killed') return;
    if (this.#state === 'closed') throw new MisuseError('Xen was closed twice.');
    const left = this.leftovers();
    await this.#end('closed');
    if (left.length > 0) {
      throw new MisuseError(`Domain ${this.domid} closed Xen, but it ${left.join('; it ')}.`);
    }
  }

  /**
   * Ends the process at once, as SIGKILL does: mappings vanish, ports close and can be bound again
   * by whoever comes next, grants end as soon as nobody maps them, watches and transactions go.
   * Code of the process that still runs has no effect from now on. The promise only waits for the
   * connection to XenStore.
   */
  async kill(): Promise<void> {
    if (this.#state === 'running') await this.#end('killed');
  }

  /** As `kill`, but together with the domain: no kernel is left to tell peers of mapped pages. */
  async die(): Promise<void> {
    if (this.#state === 'running') await this.#end('killed', false);
  }

  async #end(state: 'closed' | 'killed', kernelLives = true): Promise<void> {
    this.#state = state;
    this.grants.end(state, kernelLives);
    this.events.end(state);
    this.#arena.free();
    this.#onEnd(this);
    await this.store.close();
  }
}

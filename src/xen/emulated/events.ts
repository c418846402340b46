/**
 * Event channels as one process of an emulated domain uses them: what /dev/xen/evtchn gives on
 * Linux. Strict: use after close and a double close throw `MisuseError`.
 */
import { EventChannelError, MisuseError } from '../../errors.js';
import type { EventChannel, Events } from '../xen.js';
import type { Faults } from './faults.js';
import type { ProcessState } from './grants.js';
import type { Port, PortTable } from './port-table.js';

/** What events need of the hypervisor. */
export interface EventMachine {
  readonly faults: Faults;
  /** The ports of a domain that lives. */
  portTable(domid: number): PortTable | undefined;
}

export class EmulatedEvents implements Events {
  readonly #machine: EventMachine;
  readonly #own: PortTable;
  readonly #channels = new Set<EmulatedEventChannel>();
  #state: ProcessState = 'running';

  constructor(machine: EventMachine, own: PortTable) {
    this.#machine = machine;
    this.#own = own;
  }

  bind(domid: number, remotePort: number, onEvent: () => void): EventChannel {
    this.#checkRunning('bind');
    if (this.#machine.faults.strikes('bind')) {
      throw new EventChannelError(`Binding port ${remotePort} failed by injection.`);
    }
    const remote = this.#machine.portTable(domid);
    return this.#keep(this.#own.bind(remote, remotePort, onEvent));
  }

  allocate(domid: number, onEvent: () => void): EventChannel {
    this.#checkRunning('allocate');
    if (this.#machine.faults.strikes('allocate')) {
      throw new EventChannelError(`Allocating a port for domain ${domid} failed by injection.`);
    }
    return this.#keep(this.#own.allocate(domid, onEvent));
  }

  /** What was not given back, for people to read. */
  leftovers(): string[] {
    return [...this.#channels].map((channel) => `holds ${channel.description}`);
  }

  /** Closes everything the way the kernel does when a process is gone. */
  end(state: 'closed' | 'killed'): void {
    this.#state = state;
    for (const channel of [...this.#channels]) channel.end(state);
  }

  #keep(port: Port): EventChannel {
    const channel = new EmulatedEventChannel(this.#own, port, this.#channels);
    this.#channels.add(channel);
    return channel;
  }

  #checkRunning(operation: string): void {
    if (this.#state === 'closed') throw new MisuseError(`Events: ${operation} after close.`);
    if (this.#state === 'killed') throw new EventChannelError(`Events: ${operation} after death.`);
  }
}

class EmulatedEventChannel implements EventChannel {
  readonly port: number;
  readonly #table: PortTable;
  readonly #port: Port;
  readonly #siblings: Set<EmulatedEventChannel>;
  #state: ProcessState = 'running';

  constructor(table: PortTable, port: Port, siblings: Set<EmulatedEventChannel>) {
    this.port = port.number;
    this.#table = table;
    this.#port = port;
    this.#siblings = siblings;
  }

  get description(): string {
    return `event channel port ${this.port} to domain ${this.#port.remoteDomid}`;
  }

  notify(): void {
    if (this.#state !== 'running') this.#refuse('notified');
    else this.#table.notify(this.#port);
  }

  unmask(): void {
    if (this.#state !== 'running') this.#refuse('unmasked');
    else this.#table.unmask(this.#port);
  }

  close(): void {
    if (this.#state !== 'running') this.#refuse('closed');
    else this.end('closed');
  }

  end(state: 'closed' | 'killed'): void {
    this.#state = state;
    this.#siblings.delete(this);
    this.#table.close(this.#port);
  }

  /** After an orderly end a use is a bug; code of a killed process has no effect any more. */
  #refuse(operation: string): void {
    if (this.#state === 'killed') return;
    throw new MisuseError(`Event channel port ${this.port} was ${operation} after its close.`);
  }
}

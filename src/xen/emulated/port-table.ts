/**
 * Event channels as the emulated hypervisor keeps them: one table of ports a domain, and the
 * delivery of events to their handlers (event_channel.h; the rules are those of Xen's
 * common/event_channel.c).
 */
import { setImmediate } from 'node:timers';
import { EventChannelError } from '../../errors.js';

/** What a Linux guest gets from xl: max_event_channels=1023, and port 0 is never used. */
export const PORTS_MAX_DEFAULT = 1023;

/**
 * Rounds of delivery in one turn. On a real machine domains run side by side and answer each other
 * within microseconds; here they take turns, and one turn of the event loop for each answer would
 * cost more than the work.
 */
const ROUNDS_PER_TURN = 8;

/** One port: unbound, which a named domain may bind, or the end of a channel. */
export interface Port {
  readonly number: number;
  /** The domain whose port this is. */
  readonly domid: number;
  /** Who may bind the port while it is unbound, and who did. */
  readonly remoteDomid: number;
  /** The other end. Undefined while the port is unbound. */
  peer: Port | undefined;
  /** Runs when an event is delivered. Undefined once the port is closed. */
  handler: (() => void) | undefined;
  pending: boolean;
  masked: boolean;
}

/**
 * Carries events to handlers: later, never from inside `notify`, all that are due in one go, and
 * once for however many notifications came meanwhile. An event's way allocates nothing.
 */
export class EventDelivery {
  readonly #schedule: (deliver: () => void) => void;
  #due: Port[] = [];
  #delivering: Port[] = [];
  #scheduled = false;

  /**
   * `schedule` must run its argument once, soon, and not at once. The default, setImmediate, lets
   * sockets and timers have their turn between two rounds, however much the domains notify.
   */
  constructor(schedule: (deliver: () => void) => void = (deliver) => void setImmediate(deliver)) {
    this.#schedule = schedule;
  }

  /** Makes a port pending and, unless it is masked, delivers soon. */
  raise(port: Port): void {
    if (port.pending) return;
    port.pending = true;
    if (!port.masked) this.#enqueue(port);
  }

  /** Lets the next event in; one that came while the port was masked is delivered soon. */
  unmask(port: Port): void {
    if (!port.masked) return;
    port.masked = false;
    if (port.pending) this.#enqueue(port);
  }

  #enqueue(port: Port): void {
    this.#due.push(port);
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#schedule(this.#deliver);
  }

  readonly #deliver = (): void => {
    let rounds = 0;
    try {
      while (this.#due.length > 0 && rounds < ROUNDS_PER_TURN) {
        rounds += 1;
        this.#deliverRound();
      }
    } finally {
      this.#scheduled = this.#due.length > 0;
      if (this.#scheduled) this.#schedule(this.#deliver);
    }
  };

  #deliverRound(): void {
    const round = this.#due;
    this.#due = this.#delivering;
    this.#delivering = round;
    let next = 0;
    try {
      while (next < round.length) {
        const port = round[next] as Port;
        next += 1;
        port.pending = false;
        port.masked = true;
        port.handler?.();
      }
    } finally {
      // A handler that throws takes nobody else's event away.
      for (; next < round.length; next++) this.#enqueue(round[next] as Port);
      round.length = 0;
    }
  }
}

export class PortTable {
  readonly domid: number;
  readonly #portsMax: number;
  readonly #delivery: EventDelivery;
  readonly #ports: (Port | undefined)[] = [undefined];

  constructor(domid: number, delivery: EventDelivery, portsMax: number = PORTS_MAX_DEFAULT) {
    this.domid = domid;
    this.#delivery = delivery;
    this.#portsMax = portsMax;
  }

  /** EVTCHNOP_alloc_unbound. Xen does not ask whether the remote domain exists. */
  allocate(remoteDomid: number, handler: () => void): Port {
    return this.#add(remoteDomid, undefined, handler);
  }

  /**
   * EVTCHNOP_bind_interdomain. Our end is pending at once, so that nothing sent before is lost.
   * @throws EventChannelError ESRCH without the domain, EINVAL when the port is not unbound for us.
   */
  bind(remote: PortTable | undefined, remotePort: number, handler: () => void): Port {
    if (remote === undefined) {
      throw new EventChannelError('The domain of the remote port does not exist.', {
        errno: 'ESRCH',
      });
    }
    const peer = remote.#ports[remotePort];
    if (peer === undefined || peer.peer !== undefined || peer.remoteDomid !== this.domid) {
      throw new EventChannelError(
        `Port ${remotePort} of domain ${remote.domid} is not there for domain ${this.domid}.`,
        { errno: 'EINVAL' },
      );
    }
    const port = this.#add(remote.domid, peer, handler);
    peer.peer = port;
    this.#delivery.raise(port);
    return port;
  }

  /** EVTCHNOP_close: the peer's port becomes unbound, for our domain to bind again. */
  close(port: Port): void {
    port.handler = undefined;
    if (port.peer !== undefined) port.peer.peer = undefined;
    port.peer = undefined;
    this.#ports[port.number] = undefined;
  }

  /** EVTCHNOP_send. Xen drops what is sent to a peer that is gone. */
  notify(port: Port): void {
    if (port.peer !== undefined) this.#delivery.raise(port.peer);
  }

  unmask(port: Port): void {
    this.#delivery.unmask(port);
  }

  /** Xen gives the lowest free number. */
  #add(remoteDomid: number, peer: Port | undefined, handler: () => void): Port {
    let number = 1;
    while (this.#ports[number] !== undefined) number += 1;
    if (number > this.#portsMax) {
      throw new EventChannelError(`Domain ${this.domid} has no event channel left.`, {
        errno: 'ENOSPC',
      });
    }
    const port: Port = {
      number,
      domid: this.domid,
      remoteDomid,
      peer,
      handler,
      pending: false,
      masked: false,
    };
    this.#ports[number] = port;
    return port;
  }
}

/**
 * A learning switch (IEEE 802.1Q) in software: what comes in at a port goes out at the port where
 * its destination was seen, or at all of its VLAN where that is not known. Frames go from where
 * they lie; only a frame whose VLAN tag must change is copied.
 *
 * A port is a NIC of a stranger's. What it sends is checked against its policy, then learnt from,
 * then forwarded. What fails at one port is counted there and costs no other anything.
 */
import type { Network } from '../device/network.js';
import { AlreadyExistsError, FailedPreconditionError, ResourceExhaustedError } from '../errors.js';
import type { LocalMemory } from '../xen/local-memory.js';
import { Forwarder } from './forwarder.js';
import { ForwardingTable } from './forwarding-table.js';
import { TICK_MS } from './frame-sorter.js';
import { MIRRORS_MAX, type MirrorOptions, MirrorSession } from './mirror.js';
import { NO_STORM_LIMITS, type PortPolicy, PortRules, type StormLimits } from './port-policy.js';
import { type PortHost, SwitchPort } from './switch-port.js';

/** As Linux's bridge and most switches have it. */
export const AGEING_SECONDS_DEFAULT = 300;
/** Enough for a guest with a bridge of containers; a flood of addresses fills no more. */
export const ENTRIES_PER_PORT_DEFAULT = 1024;
/** What a port's number in the forwarding table can be; far more than a host has vifs. */
const PORTS_MAX = 4096;
const SWEEP_INTERVAL_MS = 1000;
/** The whole table is swept in so many intervals. */
const SWEEPS_PER_ROUND = 10;

export interface SwitchOptions {
  /** Seconds until an address that is not seen is forgotten. Default: 300. */
  readonly ageingSeconds?: number;
  /** Addresses that one port may have learnt. Default: 1024. */
  readonly entriesPerPort?: number;
  /** Send every frame to every port and learn nothing. Ports' policies hold all the same. */
  readonly hub?: boolean;
  /** For ports whose policy has none. Default: no limit. */
  readonly stormLimits?: StormLimits;
  /** Milliseconds of a clock that never goes back. Default: the process's. */
  readonly nowMs?: () => number;
  /** Told when a port's network throws, and not again until it has taken a batch. */
  readonly onPortFault?: (port: SwitchPort, error: unknown) => void;
}

/** An address that the switch knows. */
export interface ForwardingEntry {
  readonly mac: string;
  /** 0: no VLAN. */
  readonly vlan: number;
  readonly port: SwitchPort;
  /** When a frame from the address came last, in milliseconds since 1970. */
  readonly lastSeenMs: number;
  /** Tied to the port by its policy. */
  readonly locked: boolean;
}

/** A mirror session that runs. */
export interface Mirror {
  end(): void;
}

export class Switch {
  readonly isHub: boolean;
  readonly #options: SwitchOptions;
  readonly #entriesPerPort: number;
  readonly #nowMs: () => number;
  readonly #table: ForwardingTable;
  readonly #forwarder: Forwarder;
  readonly #byName = new Map<string, SwitchPort>();
  readonly #endListening = new Map<SwitchPort, () => void>();
  readonly #sweeper: NodeJS.Timeout;
  #isOpen = true;
  readonly #host: PortHost = {
    compile: (policy) => this.#compile(policy),
    ruled: (port, before) => this.#ruled(port, before),
    unplug: (port) => this.#unplug(port),
  };

  /** Every port's batches lie in `memory`. */
  constructor(memory: LocalMemory, options: SwitchOptions = {}) {
    const { ageingSeconds = AGEING_SECONDS_DEFAULT } = options;
    this.isHub = options.hub ?? false;
    this.#options = options;
    this.#entriesPerPort = options.entriesPerPort ?? ENTRIES_PER_PORT_DEFAULT;
    this.#nowMs = options.nowMs ?? (() => performance.now());
    this.#table = new ForwardingTable(this.#entriesPerPort, (ageingSeconds * 1000) / TICK_MS);
    this.#forwarder = new Forwarder(memory, this.#table, {
      isHub: this.isHub,
      nowMs: this.#nowMs,
      onPortFault: options.onPortFault,
    });
    this.#sweeper = setInterval(() => this.#sweep(), SWEEP_INTERVAL_MS);
    this.#sweeper.unref();
  }

  get ports(): readonly SwitchPort[] {
    return this.#forwarder.ports;
  }

  /** How many addresses are in the table; some may be too old by now. */
  get forwardingEntryCount(): number {
    return this.#table.size;
  }

  port(name: string): SwitchPort | undefined {
    return this.#byName.get(name);
  }

  /**
   * Plugs a NIC in: frames flow from now on.
   * @throws AlreadyExistsError PORT_EXISTS; ResourceExhaustedError TOO_MANY_PORTS;
   *   FailedPreconditionError SWITCH_CLOSED; InvalidArgumentError where the policy makes no sense.
   */
  plug(name: string, network: Network, policy: PortPolicy = {}): SwitchPort {
    if (!this.#isOpen) {
      throw new FailedPreconditionError('SWITCH_CLOSED', 'The switch is closed.');
    }
    if (this.#byName.has(name)) {
      throw new AlreadyExistsError('PORT_EXISTS', `The switch has a port ${name} already.`);
    }
    const index = this.#forwarder.freeIndex();
    if (index >= PORTS_MAX) {
      const text = `A switch has at most ${PORTS_MAX} ports.`;
      throw new ResourceExhaustedError('TOO_MANY_PORTS', text);
    }
    const port = new SwitchPort(this.#host, { name, index }, network, policy);
    this.#forwarder.add(port);
    this.#byName.set(name, port);
    this.#reserve();
    this.#lock(port);
    this.#aimMirrors();
    const end = network.listenBatch((batch) => this.#forwarder.receive(port, batch));
    this.#endListening.set(port, end);
    return port;
  }

  /** What the switch knows, by VLAN and address. */
  forwardingEntries(): ForwardingEntry[] {
    const tick = this.#tick();
    const now = Date.now();
    return this.#table
      .entries(tick)
      .sort((a, b) => a.vlan - b.vlan || a.high - b.high || a.low - b.low)
      .flatMap(({ high, locked, low, port: index, seenTick, vlan }) => {
        const port = this.#forwarder.at(index);
        const lastSeenMs = now - (tick - seenTick) * TICK_MS;
        return port === undefined
          ? []
          : [{ mac: macText(high, low), vlan, port, lastSeenMs, locked }];
      });
  }

  /** Forgets what was learnt at a port, in a VLAN, or both; or all of it. */
  flush(filter: { readonly port?: SwitchPort; readonly vlan?: number } = {}): void {
    this.#table.flush(filter.port?.index, filter.vlan);
  }

  /**
   * Begins to copy frames to a port, until `end` is called on the result or the port is pulled out.
   * @throws InvalidArgumentError VLAN_INVALID; ResourceExhaustedError TOO_MANY_MIRRORS;
   *   FailedPreconditionError PORT_UNPLUGGED.
   */
  mirror(options: MirrorOptions): Mirror {
    if (this.#forwarder.at(options.to.index) !== options.to) {
      const text = `${options.to.name} is no port of this switch.`;
      throw new FailedPreconditionError('PORT_UNPLUGGED', text);
    }
    const { mirrors } = this.#forwarder;
    const used = mirrors.reduce((bits, { bit }) => bits | bit, 0);
    let bit = 1;
    while ((used & bit) !== 0) bit <<= 1;
    if (bit >= 1 << MIRRORS_MAX) {
      const text = `A switch has at most ${MIRRORS_MAX} mirror sessions.`;
      throw new ResourceExhaustedError('TOO_MANY_MIRRORS', text);
    }
    const session = new MirrorSession(options, bit);
    this.#forwarder.mirrors = [...mirrors, session];
    this.#aimMirrors();
    this.#table.flush(options.to.index);
    this.#relock();
    return { end: () => this.#endMirrors((other) => other === session) };
  }

  /** Pulls all NICs out and gives everything back. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    clearInterval(this.#sweeper);
    for (const port of this.ports) port.unplug();
    this.#forwarder.close();
  }

  #tick(nowMs = this.#nowMs()): number {
    return Math.floor(nowMs / TICK_MS);
  }

  #sweep(): void {
    this.#table.sweep(Math.ceil(this.#table.slotCount / SWEEPS_PER_ROUND), this.#tick());
  }

  #compile(policy: PortPolicy): PortRules {
    const limits = this.#options.stormLimits ?? NO_STORM_LIMITS;
    return new PortRules(policy, limits, this.#nowMs());
  }

  #ruled(port: SwitchPort, before: PortRules): void {
    const { lockedHigh, lockedLow, vlans } = port.rules;
    const isMoved = !vlans.equals(before.vlans);
    if (isMoved) this.#table.flush(port.index);
    if (isMoved || lockedHigh !== before.lockedHigh || lockedLow !== before.lockedLow) {
      this.#relock();
    }
  }

  /** Ties the locked addresses to their ports anew; where two ports lock one, the first has it. */
  #relock(): void {
    this.#table.unlockAll();
    this.#reserve();
    for (const port of this.ports) this.#lock(port);
  }

  /** Has the table be large enough for what its ports may learn and for what they lock. */
  #reserve(): void {
    const locked = this.ports.reduce((sum, port) => sum + lockedVlans(port).length, 0);
    const { indices } = this.#forwarder;
    this.#table.reserve(indices * this.#entriesPerPort + locked, indices);
  }

  /** Ties a port's locked address to it, where no other port has it. */
  #lock(port: SwitchPort): void {
    if (this.isHub) return;
    const { lockedHigh, lockedLow } = port.rules;
    const tick = this.#tick();
    for (const vlan of lockedVlans(port)) {
      this.#table.lock(vlan, lockedHigh, lockedLow, port.index, tick);
    }
  }

  /**
   * Sets a port's locked address free, and ties it to the first of the others that lock it. A look at the
   * whole table for each of a thousand ports that go would take seconds.
   */
  #unlock({ index, rules }: SwitchPort): void {
    const { lockedHigh, lockedLow, vlans } = rules;
    if (lockedHigh < 0) return;
    for (const vlan of vlans.vlans) this.#table.unlock(vlan, lockedHigh, lockedLow, index);
    for (const other of this.ports) {
      const { rules: theirs } = other;
      if (theirs.lockedHigh === lockedHigh && theirs.lockedLow === lockedLow) this.#lock(other);
    }
  }

  #unplug(port: SwitchPort): void {
    if (!port.isLive) return;
    port.isLive = false;
    this.#endListening.get(port)?.();
    this.#endListening.delete(port);
    this.#byName.delete(port.name);
    this.#forwarder.remove(port);
    if (this.#table.held(port.index) > 0) this.#table.flush(port.index);
    this.#unlock(port);
    this.#endMirrors(({ to }) => to === port);
  }

  #endMirrors(ends: (session: MirrorSession) => boolean): void {
    const { mirrors } = this.#forwarder;
    const left = mirrors.filter((session) => !ends(session));
    if (left.length === mirrors.length) return;
    this.#forwarder.mirrors = left;
    this.#aimMirrors();
    this.#relock();
  }

  #aimMirrors(): void {
    for (const port of this.ports) {
      const bitsOf = (wants: (session: MirrorSession) => boolean) =>
        this.#forwarder.mirrors.filter(wants).reduce((bits, { bit }) => bits | bit, 0);
      port.ingressMirrors = bitsOf((session) => session.wantsFrom(port));
      port.egressMirrors = bitsOf((session) => session.wantsTo(port));
      port.mirrorsHere = bitsOf(({ to }) => to === port);
    }
  }
}

/** The VLANs in which a port ties its address to itself: a mirror locks nothing. */
function lockedVlans({ mirrorsHere, rules }: SwitchPort): readonly number[] {
  return rules.lockedHigh >= 0 && mirrorsHere === 0 ? rules.vlans.vlans : [];
}

function macText(high: number, low: number): string {
  const digits = high.toString(16).padStart(4, '0') + low.toString(16).padStart(8, '0');
  return digits.replace(/..(?!$)/g, '$&:');
}

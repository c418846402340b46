/** A switch with stations on NICs in memory, and frames written the short way. */
import { onTestFinished } from 'vitest';
import type { PortPolicy } from '../../../src/switch/port-policy.js';
import { Switch, type SwitchOptions } from '../../../src/switch/switch.js';
import type { SwitchPort } from '../../../src/switch/switch-port.js';
import { LocalMemory } from '../../../src/xen/local-memory.js';
import { MemoryNetwork } from '../../support/memory-network.js';

export { BROADCAST, type FramePlan, frame, mac } from '../../support/ethernet-frames.js';

export interface Station {
  readonly nic: MemoryNetwork;
  readonly port: SwitchPort;
}

export class SwitchScene {
  readonly memory = new LocalMemory(new ArrayBuffer(8 * 1024 * 1024), 0n);
  readonly switch: Switch;
  readonly stations: Station[] = [];
  nowMs = 1_000_000;

  constructor(options: SwitchOptions = {}) {
    this.switch = new Switch(this.memory, { nowMs: () => this.nowMs, ...options });
    onTestFinished(() => {
      this.switch.close();
      if (this.memory.allocatedBytes !== 0) throw new Error('Local memory was not given back.');
    });
  }

  station(policy: PortPolicy = {}): Station {
    const nic = new MemoryNetwork(this.memory);
    const port = this.switch.plug(`port-${this.stations.length}`, nic, policy);
    const station = { nic, port };
    this.stations.push(station);
    return station;
  }

  /** As many stations as there are policies, each with its own. */
  all(...policies: PortPolicy[]): Station[] {
    return policies.map((policy) => this.station(policy));
  }

  /** Who received frames since the last call, by number of station. */
  receivers(): number[] {
    return this.stations.flatMap(({ nic }, index) => (nic.take().length > 0 ? [index] : []));
  }
}

/** How often a port dropped frames of its station's, or frames to it, for a cause. */
export function drops(port: SwitchPort, cause: string, direction: 'tx' | 'rx' = 'tx'): number {
  return port.metrics[direction].drops.get(`switch ${cause}`)?.packets ?? 0;
}

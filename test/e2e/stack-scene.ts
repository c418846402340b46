/** A user-space host that talks to the kernel's stack: a TAP whose interface is in a namespace. */
import type { Writable } from 'node:stream';
import { Stack, type StackOptions } from '@xenvif/client/stack';
import type { Network } from '../../src/device/network.js';
import { TapDevice } from '../../src/device/tap/index.js';
import { FaultInjector, type Faults } from '../../src/device/wrap/fault-injector.js';
import { PcapWriter } from '../../src/device/wrap/pcap-writer.js';
import { NetworkLink } from '../../src/stack/network-link.js';
import { LocalMemory } from '../../src/xen/local-memory.js';
import { NetworkNamespace } from '../support/network-namespaces.js';

export const KERNEL_IP = '10.97.0.1';
export const STACK_IP = '10.97.0.2';
export const STACK_MAC = '02:97:00:00:00:02';

export interface SceneOptions {
  readonly mtu?: number;
  readonly offloads?: boolean;
  /** What becomes of frames, both ways. */
  readonly faults?: Faults;
  readonly seed?: number;
  /** Where a capture goes. */
  readonly capture?: Writable;
  /** Address and prefix of the stack; undefined: none yet. */
  readonly cidr?: string | undefined;
  readonly stack?: StackOptions;
}

let made = 0;

export class StackScene {
  readonly space: NetworkNamespace;
  readonly stack: Stack;
  readonly tap: TapDevice;
  readonly injector: FaultInjector | undefined;
  readonly #memory: LocalMemory;

  private constructor(
    space: NetworkNamespace,
    stack: Stack,
    tap: TapDevice,
    injector: FaultInjector | undefined,
    memory: LocalMemory,
  ) {
    this.space = space;
    this.stack = stack;
    this.tap = tap;
    this.injector = injector;
    this.#memory = memory;
  }

  static async create(options: SceneOptions = {}): Promise<StackScene> {
    const { mtu = 1500, offloads = true, faults, seed = 1, capture } = options;
    const memory = new LocalMemory(new ArrayBuffer(16 * 1024 * 1024), 0n);
    made += 1;
    const name = `xk${process.pid.toString(36)}${made}`;
    const tap = TapDevice.open({ memory, name, mtu, offloads });
    const space = await NetworkNamespace.create();
    await space.adopt(tap.name, `${KERNEL_IP}/24`);
    let network: Network = tap;
    let injector: FaultInjector | undefined;
    if (capture !== undefined) network = new PcapWriter(network, capture, { name: 'stack' });
    if (faults !== undefined) {
      injector = new FaultInjector(network, { memory, seed, sent: faults, received: faults });
      network = injector;
    }
    const link = new NetworkLink(network, { memory, mac: STACK_MAC, offloads });
    const cidr = 'cidr' in options ? options.cidr : `${STACK_IP}/24`;
    const stack = Stack.connect(link, { cidr, ...options.stack });
    return new StackScene(space, stack, tap, injector, memory);
  }

  /** Bytes of local memory that are taken: none after `end`. */
  get allocatedBytes(): number {
    return this.#memory.allocatedBytes;
  }

  async end(): Promise<void> {
    await this.stack.disconnect();
    await this.space.remove();
  }
}

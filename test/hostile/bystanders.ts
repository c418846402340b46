/**
 * Two guests that have nothing to do with what a test is about: they exchange numbered frames
 * through a hub all the while, and every one must arrive, whole and in order.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { NetfrontDevice } from '../../src/device/netfront/device.js';
import { Hub } from '../support/hub.js';
import { type Machine, until } from '../support/machine.js';

const FRAMES_A_ROUND = 4;
const LENGTH_MIN = 60;
const LENGTH_MAX = 1514;
/** The EtherType for local experiments (IEEE 802): what is not of a bystander's is not counted. */
const ETHERTYPE = 0x88b5;

/** Frame `sequence` from one side: its number, and a pattern that depends on every bit of it. */
function compose(side: number, sequence: number): Uint8Array {
  const length = LENGTH_MIN + ((sequence * 7919) % (LENGTH_MAX - LENGTH_MIN + 1));
  const frame = new Uint8Array(length);
  for (let index = 0; index < length; index += 1) frame[index] = sequence * 31 + index * 7 + side;
  const view = new DataView(frame.buffer);
  view.setUint16(12, ETHERTYPE);
  view.setUint8(14, side);
  view.setUint32(15, sequence);
  return frame;
}

class Talk {
  sent = 0;
  received = 0;
  readonly #side: number;
  readonly #from: NetfrontDevice;

  constructor(side: number, from: NetfrontDevice, to: NetfrontDevice) {
    this.#side = side;
    this.#from = from;
    void to.listen((frame) => this.#hear(frame));
  }

  async say(): Promise<void> {
    for (let index = 0; index < FRAMES_A_ROUND; index += 1) {
      this.sent += 1;
      await this.#from.write(compose(this.#side, this.sent - 1));
    }
  }

  #hear(frame: Uint8Array): void {
    const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
    if (view.getUint16(12) !== ETHERTYPE || view.getUint8(14) !== this.#side) return;
    const expected = compose(this.#side, this.received);
    if (Buffer.compare(frame, expected) !== 0) {
      throw new Error(`Frame ${this.received} of bystander ${this.#side} is lost or broken.`);
    }
    this.received += 1;
  }
}

export class Bystanders {
  readonly hub = new Hub();
  readonly #talks: Talk[];
  readonly #unplug: (() => void)[];
  #running: Promise<void> | undefined;
  #stopped = false;

  private constructor(talks: Talk[], plugs: (() => void)[], hub: Hub) {
    this.#talks = talks;
    this.#unplug = plugs;
    this.hub = hub;
  }

  static async join(machine: Machine): Promise<Bystanders> {
    const [first, second] = [await machine.addGuest(), await machine.addGuest()];
    const hub = new Hub();
    const plugs = [first, second].map(({ domain }) => {
      const device = machine.netback.get(domain.domid, 0);
      if (device === undefined) throw new Error('A bystander has no vif.');
      return hub.plug(device);
    });
    const talks = [
      new Talk(1, first.device, second.device),
      new Talk(2, second.device, first.device),
    ];
    return new Bystanders(talks, plugs, hub);
  }

  /** Frames that arrived, both ways. */
  get received(): number {
    return this.#talks.reduce((sum, talk) => sum + talk.received, 0);
  }

  begin(): void {
    this.#running = this.#talkOn();
  }

  /** Ends the talk. Fails unless each frame arrived and some were sent. */
  async finish(): Promise<void> {
    this.#stopped = true;
    await this.#running;
    await until('every frame of the bystanders arrives', () =>
      this.#talks.every((talk) => talk.received === talk.sent),
    );
    if (this.received === 0) throw new Error('The bystanders said nothing.');
    for (const unplug of this.#unplug) unplug();
  }

  async #talkOn(): Promise<void> {
    do {
      await Promise.all(this.#talks.map((talk) => talk.say()));
      await sleep(1);
    } while (!this.#stopped);
  }
}

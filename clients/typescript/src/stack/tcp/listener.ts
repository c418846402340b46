/**
 * A port that takes connections, and those of it that are not done shaking hands: no more than a
 * bound, beyond which the oldest gives way. A flood of SYNs then costs true callers, who are done
 * within a round trip, only where more come in that time than there is room for.
 */
import type { ControlBlock } from './control-block.js';

export interface ListenerOptions {
  /** Handshakes under way at a time. */
  readonly backlog: number;
  /** Called when a handshake is done; false refuses the connection. */
  readonly onConnection: (block: ControlBlock) => boolean;
}

export class Listener {
  readonly port: number;
  readonly #options: ListenerOptions;
  /** Oldest first. */
  readonly #halfOpen = new Set<ControlBlock>();

  constructor(port: number, options: ListenerOptions) {
    this.port = port;
    this.#options = options;
  }

  get halfOpenCount(): number {
    return this.#halfOpen.size;
  }

  /** Adds a handshake; answers the one that gives way for it. */
  add(block: ControlBlock): ControlBlock | undefined {
    let oldest: ControlBlock | undefined;
    if (this.#halfOpen.size >= this.#options.backlog) {
      oldest = this.#halfOpen.values().next().value;
      if (oldest !== undefined) this.#halfOpen.delete(oldest);
    }
    this.#halfOpen.add(block);
    return oldest;
  }

  remove(block: ControlBlock): void {
    this.#halfOpen.delete(block);
  }

  /** The handshake is done. False: nobody wants the connection. */
  accept(block: ControlBlock): boolean {
    this.#halfOpen.delete(block);
    return this.#options.onConnection(block);
  }

  *halfOpen(): Iterable<ControlBlock> {
    yield* [...this.#halfOpen];
  }
}

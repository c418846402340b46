/**
 * An event channel that loses patience: a peer that sends event after event without anything
 * behind them is heard less and less often, and at once again when there was something. Xen holds
 * the events back while the channel is masked, so a storm costs the peer and hardly us.
 */
import type { EventChannel } from '../xen/xen.js';

/** Events for nothing that are taken for bad luck: work may be done before its event comes. */
const TOLERATED = 16;
/** The longest that a channel stays masked, in milliseconds: what a real frame may have to wait. */
const DELAY_MAX_MS = 10;

export class PatientChannel {
  readonly #channel: EventChannel;
  #fruitless = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(channel: EventChannel) {
    this.#channel = channel;
  }

  get port(): number {
    return this.#channel.port;
  }

  notify(): void {
    this.#channel.notify();
  }

  /** Lets the next event in, now or a little later; `worked` says whether the last one was good. */
  unmask(worked: boolean): void {
    this.#fruitless = worked ? 0 : this.#fruitless + 1;
    if (this.#timer !== undefined) return;
    const excess = this.#fruitless - TOLERATED;
    if (excess <= 0) {
      this.#channel.unmask();
      return;
    }
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        this.#channel.unmask();
      },
      Math.min(excess, DELAY_MAX_MS),
    );
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#channel.close();
  }
}

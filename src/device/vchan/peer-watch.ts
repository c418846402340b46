/**
 * Tells once when the peer's domain is gone. A domain that is destroyed gives no notice of its pages
 * and sends no event; XenStore tells privileged domains with @releaseDomain, and all others have to
 * ask now and then. The C xenstored answers them; oxenstored does not, and a guest under it learns of
 * a peer's closing and of its death as a process, but not of the end of its domain.
 */
import { StoreError } from '../../errors.js';
import type { Store, StoreWatch, Xen } from '../../xen/xen.js';
import { RELEASE_DOMAIN } from '../../xen/xenstore/path.js';
import { CoalescedTask } from '../coalesced-task.js';

/** How often a domain that is told nothing asks, in milliseconds. */
const ASK_INTERVAL_MS = 1000;

export class PeerWatch {
  readonly #store: Store;
  readonly #domid: number;
  readonly #onGone: () => void;
  // An error says nothing about the peer: XenStore is away, and its return fires the watch again.
  readonly #look = new CoalescedTask(
    () => this.#check(),
    () => undefined,
  );
  #watch: Promise<StoreWatch> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;

  private constructor(xen: Xen, domid: number, onGone: () => void) {
    this.#store = xen.store;
    this.#domid = domid;
    this.#onGone = onGone;
    // Our own domain cannot go without us.
    if (domid === xen.domid) return;
    this.#watch = this.#store.watch(RELEASE_DOMAIN, () => this.#look.request());
    this.#watch.catch(() => undefined);
    if (xen.domid === 0) return;
    this.#timer = setInterval(() => this.#look.request(), ASK_INTERVAL_MS);
    this.#timer.unref();
  }

  /** Begins to watch; `onGone` runs at most once, and never after `stop`. */
  static start(xen: Xen, domid: number, onGone: () => void): PeerWatch {
    return new PeerWatch(xen, domid, onGone);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#timer);
    this.#look.stop();
    const watch = this.#watch;
    this.#watch = undefined;
    // The watch may never have come to be, and its end may be lost with xenstored itself.
    await watch?.then((made) => made.unwatch()).catch(() => undefined);
  }

  async #check(): Promise<void> {
    const lives = await domainLives(this.#store, this.#domid);
    if (lives === undefined) clearInterval(this.#timer);
    if (lives !== false || this.#stopped) return;
    this.#stopped = true;
    this.#onGone();
  }
}

/** Whether a domain lives; undefined where xenstored does not tell the likes of us. */
export async function domainLives(store: Store, domid: number): Promise<boolean | undefined> {
  try {
    return await store.isDomainIntroduced(domid);
  } catch (error) {
    if (error instanceof StoreError && error.errno === 'EACCES') return undefined;
    throw error;
  }
}

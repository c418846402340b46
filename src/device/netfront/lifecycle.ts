/**
 * The life of one frontend: which backend it has, which state it is in, and when it has rings.
 *
 * Every change of XenStore only says "look again"; one look at a time is taken, and which state
 * comes next is decided by xenbus.ts. A device that its backend closed waits for the next offer of
 * that backend. A backend that breaks the protocol is cut off: the device closes and stays closed,
 * whatever is offered, until `reopen`, `resume`, another backend in its place, or a toolstack that
 * sets it to Initialising.
 */
import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import { XenvifError } from '../../errors.js';
import type { Xen } from '../../xen/xen.js';
import {
  type FrontendWish,
  nextFrontendState,
  XenbusState,
  xenbusStateName,
} from '../../xen/xenbus.js';
import { CoalescedTask } from '../coalesced-task.js';
import type { DeviceMetrics } from '../metrics.js';
import type { BatchListener } from '../network.js';
import { NetfrontConnection } from './connection.js';
import {
  announce,
  type BackendLink,
  changeState,
  readBackend,
  readFeatures,
  readIdentity,
  readOwn,
} from './handshake.js';
import type { NetfrontSettings } from './options.js';
import { Quarantine } from './quarantine.js';
import { Watches } from './watches.js';

/** How long after a failure of ours, or of XenStore, the states are looked at again. */
const RETRY_MS = 1000;

/** What cut a backend off. */
export interface NetfrontFault {
  readonly code: string;
  readonly message: string;
}

export interface LifecycleHooks {
  readonly received: BatchListener;
  /** There may be room on a TX ring again. */
  readonly writable: () => void;
  /** The backend is connected too: what is sent from now on arrives. */
  readonly established: (connection: NetfrontConnection) => void;
  readonly disconnected: () => void;
  /** We live on another Xen now. */
  readonly moved: (xen: Xen) => void;
}

export class Lifecycle {
  readonly #handle: number;
  readonly #settings: NetfrontSettings;
  readonly #logger: Logger;
  readonly #metrics: DeviceMetrics;
  readonly #hooks: LifecycleHooks;
  readonly #quarantine = new Quarantine(() => this.look());
  readonly #watches = new Watches(() => this.look());
  readonly #looking = new CoalescedTask(
    () => this.#step(),
    (error) => this.#onStepFailed(error),
  );
  #xen: Xen;
  #base: string;
  #mac = '';
  #mtu = 1500;
  #carrier = true;
  #link: BackendLink | undefined;
  #wish: FrontendWish = 'reopen';
  #fault: NetfrontFault | undefined;
  #rings: NetfrontConnection | undefined;
  /** The backend is Connected too, and we are not on our way to anywhere else. */
  #usable = false;
  #retryTimer: NodeJS.Timeout | undefined;
  /** When a backend that does not let go is not waited for any longer. */
  #closingUntilMs: number | undefined;
  #skipClosing = false;
  /** Resumes that were asked for and not yet made. */
  #resumes: { readonly xen: Xen; readonly done: () => void }[] = [];
  #isEnding = false;
  #onClosed: () => void = () => undefined;

  constructor(
    xen: Xen,
    handle: number,
    settings: NetfrontSettings,
    logger: Logger,
    metrics: DeviceMetrics,
    hooks: LifecycleHooks,
  ) {
    this.#xen = xen;
    this.#handle = handle;
    this.#base = basePath(xen, handle);
    this.#settings = settings;
    this.#logger = logger;
    this.#metrics = metrics;
    this.#hooks = hooks;
  }

  get xen(): Xen {
    return this.#xen;
  }

  get mac(): string {
    return this.#mac;
  }

  get mtu(): number {
    return this.#mtu;
  }

  get carrier(): boolean {
    return this.#carrier;
  }

  get fault(): NetfrontFault | undefined {
    return this.#fault;
  }

  get quarantinedPages(): number {
    return this.#quarantine.pages;
  }

  /** The rings; undefined while there are none. The backend may not be connected to them yet. */
  get rings(): NetfrontConnection | undefined {
    return this.#rings;
  }

  /** The rings while both sides are connected to them; else undefined. */
  get connection(): NetfrontConnection | undefined {
    return this.#usable ? this.#rings : undefined;
  }

  /** Reads who we are and begins to follow the states. */
  async start(): Promise<void> {
    await this.#readIdentity();
    await this.#watches.watchOwn(this.#xen.store, this.#base);
  }

  /** Has the states looked at, now or as soon as the look under way is done. */
  look(): void {
    this.#looking.request();
  }

  /** Closes, and connects anew when the backend lets us. Returns when the first step is done. */
  async reopen(): Promise<void> {
    this.#fault = undefined;
    this.#wish = 'reopen';
    this.look();
    await this.#looking.settled();
  }

  /** Tears everything down and begins anew on `xen`. Returns when the old life is over. */
  async resume(xen: Xen): Promise<void> {
    const done = new Promise<void>((resolve) => {
      this.#resumes.push({ xen, done: resolve });
    });
    this.look();
    await done;
  }

  /** Closes for good, by way of Closing unless `skipClosing`; gives everything back. */
  async end(skipClosing: boolean): Promise<void> {
    this.#isEnding = true;
    this.#skipClosing = skipClosing;
    this.#wish = 'closed';
    this.#usable = false;
    const { closeTimeoutMs } = this.#settings;
    await new Promise<void>((resolve) => {
      // XenStore may be away: after twice the limit the rings go without its knowing.
      const timer = setTimeout(resolve, 2 * closeTimeoutMs);
      this.#onClosed = () => {
        clearTimeout(timer);
        resolve();
      };
      this.look();
    });
    this.#looking.stop();
    clearTimeout(this.#retryTimer);
    this.#disconnectRings();
    for (const { done } of this.#resumes.splice(0)) done();
    await this.#watches.close();
    await this.#quarantine.empty(closeTimeoutMs);
  }

  /** Ends the connection at once, for the backend broke the rules; the state follows. */
  cutOff(error: unknown): void {
    if (this.#rings === undefined) return;
    this.#disconnectRings();
    const isKnown = error instanceof XenvifError;
    const code = isKnown ? error.code : 'INTERNAL';
    const message = isKnown ? error.message : 'The device stopped for an internal error.';
    this.#fault = { code, message };
    this.#wish = 'closed';
    this.#logger.error(
      { vif: this.#handle, reason: code, error },
      'a frontend cut its backend off',
    );
    this.look();
  }

  async #step(): Promise<void> {
    await this.#makeResumes();
    const { state, isPresent, link } = await readOwn(this.#xen.store, this.#base);
    // Rubbish is not what we wrote: it means nothing while we have rings, and else they are gone.
    const isRubbish = isPresent && state === XenbusState.unknown;
    const own = isRubbish ? XenbusState.connected : state;
    if (link !== undefined) await this.#followLink(link);
    // Who sets us to Initialising or Closed, or removes our directory, has our rings forgotten.
    if (!isWithRings(own)) this.#disconnectRings();
    if (own === XenbusState.initialising) this.#beginAnew();
    const backend = await this.#readBackend();
    const view = { own, ...backend, wish: this.#wish, rings: this.#ringsState() };
    const isCut = this.#skipClosing && own !== XenbusState.unknown;
    const next = isCut ? XenbusState.closed : nextFrontendState(view);
    if (next === XenbusState.closing) this.#limitClosing();
    if (own === XenbusState.initialising && next === XenbusState.connected) {
      await this.#connectRings();
    } else if (next !== own) {
      await this.#changeState(state, next);
    } else if (own === XenbusState.connected && backend.backend === XenbusState.connected) {
      this.#establish();
    }
    const isOver = next === XenbusState.closed || own === XenbusState.unknown;
    if (isOver && this.#wish === 'closed') this.#onClosed();
  }

  async #changeState(from: XenbusState, next: XenbusState): Promise<void> {
    if (next !== XenbusState.closing) this.#disconnectRings();
    // Where we start anew, a backend that was given up counts as gone until we have.
    if (next === XenbusState.closed && this.#wish !== 'reopen') this.#closingUntilMs = undefined;
    await changeState(this.#xen.store, this.#base, from, next);
    this.#logger.debug({ vif: this.#handle, state: xenbusStateName(next) }, 'frontend state');
    this.look();
  }

  /** Until the backend lets go the rings stay, but nothing is sent, and not for ever. */
  #limitClosing(): void {
    this.#usable = false;
    this.#closingUntilMs ??= performance.now() + this.#settings.closeTimeoutMs;
    this.#lookIn(Math.max(0, this.#closingUntilMs - performance.now()) + 1);
  }

  /** We are Initialising, by our own doing or another's: what was before is over. */
  #beginAnew(): void {
    this.#closingUntilMs = undefined;
    if (this.#isEnding) return;
    this.#fault = undefined;
    this.#wish = 'open';
  }

  #ringsState(): 'none' | 'announced' | 'established' {
    if (this.#rings === undefined) return 'none';
    return this.#usable ? 'established' : 'announced';
  }

  /** What the backend's directory says; one that takes too long to let go counts as gone. */
  async #readBackend() {
    const { unknown } = XenbusState;
    if (this.#link === undefined) return { backend: unknown, online: true };
    const { state, online, carrier } = await readBackend(this.#xen.store, this.#link.backend);
    if (carrier !== this.#carrier) {
      this.#carrier = carrier;
      this.#logger.info({ vif: this.#handle, carrier }, 'the link of a frontend changed');
    }
    const isOverdue = performance.now() >= (this.#closingUntilMs ?? Number.POSITIVE_INFINITY);
    return { backend: isOverdue ? unknown : state, online };
  }

  async #connectRings(): Promise<void> {
    const link = this.#link;
    if (link === undefined) return;
    if (this.#quarantine.isFull) {
      this.#logger.warn({ vif: this.#handle }, 'a backend holds too many pages to connect to it');
      return;
    }
    const { store } = this.#xen;
    const settings = this.#settings;
    await this.#readIdentity();
    const features = await readFeatures(store, link.backend, settings);
    if (this.#isEnding) return;
    const rings = new NetfrontConnection(this.#xen, link, features, settings, this.#metrics, {
      received: this.#hooks.received,
      writable: this.#hooks.writable,
      fault: (error) => this.cutOff(error),
    });
    this.#rings = rings;
    let isAnnounced = false;
    try {
      isAnnounced = await announce(store, this.#base, rings.keys, features, settings);
    } finally {
      if (!isAnnounced) this.#disconnectRings();
    }
    this.look();
  }

  #establish(): void {
    if (this.#usable || this.#rings === undefined || this.#isEnding) return;
    this.#usable = true;
    this.#logger.debug({ vif: this.#handle, ...this.#rings.features }, 'frontend connected');
    this.#rings.kick();
    this.#hooks.established(this.#rings);
  }

  #disconnectRings(): void {
    this.#usable = false;
    const rings = this.#rings;
    if (rings === undefined) return;
    this.#rings = undefined;
    this.#hooks.disconnected();
    this.#quarantine.take(rings.close());
  }

  /** Where the backend is another one now, what we have was made for the old one. */
  async #followLink(link: BackendLink): Promise<void> {
    const old = this.#link;
    if (link.backend === old?.backend && link.backendDomid === old.backendDomid) return;
    this.#disconnectRings();
    if (old !== undefined && !this.#isEnding) {
      this.#fault = undefined;
      this.#wish = 'reopen';
      this.#logger.info({ vif: this.#handle, ...link }, 'a frontend has another backend');
    }
    await this.#watches.watchBackend(this.#xen.store, link.backend);
    this.#link = link;
  }

  /** Makes the resumes that were asked for; the last one says where we are now. */
  async #makeResumes(): Promise<void> {
    const resumes = this.#resumes.splice(0);
    const xen = resumes.at(-1)?.xen;
    if (xen === undefined) return;
    try {
      await this.#moveTo(xen);
    } catch (error) {
      this.#resumes.unshift(...resumes);
      throw error;
    }
    for (const { done } of resumes) done();
  }

  async #moveTo(xen: Xen): Promise<void> {
    this.#disconnectRings();
    await this.#watches.clear();
    this.#xen = xen;
    this.#base = basePath(xen, this.#handle);
    this.#link = undefined;
    this.#closingUntilMs = undefined;
    this.#hooks.moved(xen);
    if (!this.#isEnding) {
      this.#fault = undefined;
      this.#wish = 'reopen';
    }
    await this.#watches.watchOwn(xen.store, this.#base);
  }

  async #readIdentity(): Promise<void> {
    const { mac, mtu, faults } = await readIdentity(this.#xen.store, this.#base);
    this.#mtu = mtu;
    if (mac !== undefined) this.#mac = mac;
    else if (this.#mac === '') this.#mac = randomLocalMac();
    if (faults.length === 0) return;
    const facts = { vif: this.#handle, faults, mac: this.#mac, mtu };
    this.#logger.warn(facts, 'a frontend made do without what the toolstack should have written');
  }

  #onStepFailed(error: unknown): void {
    this.#logger.warn({ vif: this.#handle, error }, 'a frontend could not follow its backend');
    // Nobody can be told that we close, and a XenStore that is away may be away for long.
    if (this.#isEnding && !this.#xen.store.connected) this.#onClosed();
    this.#lookIn(RETRY_MS);
  }

  #lookIn(delayMs: number): void {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => this.look(), delayMs);
    this.#retryTimer.unref();
  }
}

/** Whether a frontend in this state may have rings. */
function isWithRings(state: XenbusState): boolean {
  const { initialised, connected, closing } = XenbusState;
  return state === initialised || state === connected || state === closing;
}

function basePath(xen: Xen, handle: number): string {
  return `/local/domain/${xen.domid}/device/vif/${handle}`;
}

/** An address that no manufacturer gave out: locally administered, not multicast. */
function randomLocalMac(): string {
  const bytes = randomBytes(6);
  bytes[0] = ((bytes[0] as number) & 0xfc) | 0x02;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/**
 * A vif's life in XenStore, seen from the backend: both states, what the toolstack wants, and what
 * is wrong. Every change of XenStore only says "look again"; one look at a time is taken, xenbus.ts
 * decides what to do, and the hooks do it to the rings.
 */
import { isDeepStrictEqual } from 'node:util';
import { ProtocolError, XenvifError } from '../../errors.js';
import type { StoreWatch } from '../../xen/xen.js';
import { nextBackendState, XenbusState, xenbusStateName } from '../../xen/xenbus.js';
import { CoalescedTask } from '../coalesced-task.js';
import { LogLimit } from '../log-limit.js';
import type { NetbackContext } from './context.js';
import { type GuestWishes, takeWishes } from './guest-wishes.js';
import {
  advertise,
  checkFrontendLink,
  type FrontendParameters,
  readConfiguration,
  readFrontend,
  readMulticastRequest,
  readStates,
  type VifConfiguration,
  type VifPaths,
  writeError,
  writeState,
} from './handshake.js';
import { describe, type VifFault, type VifStatus } from './vif-status.js';

/** How often XenStore is asked again after a refusal, and after how long at first: 12 s in all. */
const LOOK_RETRIES_MAX = 8;
const LOOK_RETRY_MS = 50;

export interface LifecycleHooks {
  /**
   * Connects to the rings. `adopted`: a daemon before us was connected to them already, and `wishes` is
   * what the guest asked it for.
   * @throws XenvifError; nothing is left behind then.
   */
  readonly connect: (
    parameters: FrontendParameters,
    adopted: boolean,
    wishes: GuestWishes | undefined,
  ) => void;
  /** Gives the rings up, if there are any. */
  readonly disconnect: () => void;
  readonly isConnected: () => boolean;
  /** What the toolstack wants is not what it was. */
  readonly configured: (configuration: VifConfiguration) => void;
  /** The guest wants multicast filtered, or no longer. */
  readonly filterMulticast: (enabled: boolean) => void;
  readonly changed: () => void;
  /** Our directory is gone. */
  readonly removed: () => void;
}

export class VifLifecycle {
  configuration: VifConfiguration = {
    mac: '',
    mtu: 1500,
    bridge: '',
    policy: '',
    rate: undefined,
    carrier: true,
  };
  status: VifStatus = {
    phase: 'connecting',
    reason: 'WAITING_FOR_FRONTEND',
    message: 'Waiting for the guest.',
    sinceMs: Date.now(),
    backendState: XenbusState.unknown,
    frontendState: XenbusState.unknown,
    connects: 0,
  };

  readonly #context: NetbackContext;
  readonly #name: string;
  readonly #paths: VifPaths;
  readonly #hooks: LifecycleHooks;
  readonly #looking = new CoalescedTask(
    async () => {
      this.#refusal = undefined;
      await this.#step();
      this.#failedLooks = 0;
    },
    (error) => this.#onLookFailed(error),
  );
  readonly #samplingMulticast = new CoalescedTask(
    async () => {
      const { store } = this.#context.xen;
      this.#hooks.filterMulticast(await readMulticastRequest(store, this.#paths.frontend));
    },
    (error) =>
      this.#context.logger.warn({ vif: this.#name, error }, 'could not follow multicast control'),
  );
  /** A guest decides how often these are due. */
  readonly #log = new LogLimit();
  #watch: StoreWatch | undefined;
  #multicastWatch: StoreWatch | undefined;
  #failedLooks = 0;
  #retry: NodeJS.Timeout | undefined;
  #stopped = false;
  /** Why the device was stopped; it stays so until the frontend starts anew. */
  #fault: VifFault | undefined;
  /** What is wrong with the toolstack's nodes. */
  #complaint: VifFault | undefined;
  /** XenStore has refused what we need more often than we ask. */
  #refusal: VifFault | undefined;

  constructor(context: NetbackContext, name: string, paths: VifPaths, hooks: LifecycleHooks) {
    this.#context = context;
    this.#name = name;
    this.#paths = paths;
    this.#hooks = hooks;
  }

  /** Reads what the toolstack wants and begins to follow both states. */
  async start(): Promise<void> {
    await this.#readConfiguration();
    const path = `${this.#paths.frontend}/state`;
    this.#watch = await this.#context.xen.store.watch(path, () => this.look());
    this.look();
  }

  /** Has the states looked at, now or as soon as the look under way is done. */
  look(): void {
    this.#looking.request();
  }

  /** Resolves when the look that is under way, if one is, is done. */
  async settled(): Promise<void> {
    await this.#looking.settled();
  }

  /** Stops following, and leaves the states in XenStore as they are. */
  async release(): Promise<void> {
    this.#stop();
    await this.#looking.settled();
    await this.#watch?.unwatch().catch(() => undefined);
  }

  /** Asks the guest to close by going through Closing, as an orderly end does. */
  async close(): Promise<void> {
    this.#disconnect();
    await writeState(this.#context.xen.store, this.#paths, XenbusState.closing);
    this.look();
  }

  /** Stops the device for a fault. Only a frontend that starts anew gets it back. */
  fail(error: unknown): void {
    this.#disconnect();
    const known = error instanceof XenvifError;
    this.#fault = {
      code: known ? error.code : 'INTERNAL',
      message: known ? error.message : 'The device stopped for an internal error.',
    };
    const reason = this.#fault.code;
    this.#log.line((suppressed) =>
      this.#context.logger.error({ vif: this.#name, reason, suppressed, error }, 'stopped a vif'),
    );
    void this.#reportFault(this.#fault);
  }

  #stop(): void {
    this.#stopped = true;
    clearTimeout(this.#retry);
    this.#looking.stop();
    this.#disconnect();
  }

  /**
   * XenStore refused, or is away. When it returns every watch fires, and that looks again; a refusal
   * of its own may pass, so it is asked some more times, at growing distances.
   */
  #onLookFailed(error: unknown): void {
    this.#log.line((suppressed) =>
      this.#context.logger.warn(
        { vif: this.#name, suppressed, error },
        'could not follow the state of a vif',
      ),
    );
    if (this.#stopped) return;
    if (this.#failedLooks >= LOOK_RETRIES_MAX) {
      const code = error instanceof XenvifError ? error.code : 'INTERNAL';
      this.#refusal = { code, message: 'XenStore refuses what the vif needs.' };
      this.#setStatus(this.status.backendState, this.status.frontendState, true);
      return;
    }
    const delayMs = LOOK_RETRY_MS * 2 ** this.#failedLooks;
    this.#failedLooks += 1;
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.look(), delayMs);
  }

  async #step(): Promise<void> {
    const { store } = this.#context.xen;
    const view = await readStates(store, this.#paths);
    if (this.#stopped) return;
    if (view === undefined) {
      await this.#remove();
      return;
    }
    const next = nextBackendState(view);
    if (view.own !== XenbusState.connected) this.#disconnect();
    const isConfigured = await this.#readConfiguration();
    if (next === XenbusState.connected && !this.#hooks.isConnected()) {
      if (!(await this.#connect(view.own === XenbusState.connected))) return;
    }
    if (next === XenbusState.initWait && view.own !== next) {
      this.#fault = undefined;
      if (isConfigured) await this.#offer();
    } else if (next !== view.own) {
      if (next === XenbusState.closing || next === XenbusState.closed) this.#disconnect();
      await writeState(store, this.#paths, next);
      this.look();
    } else if (next === XenbusState.closed && !view.online && this.#context.xen.domid !== 0) {
      // In a driver domain nobody else removes the directory, and libxl waits for it to vanish.
      await store.rm(this.#paths.backend);
      this.look();
    }
    this.#setStatus(isConfigured ? next : view.own, view.frontend, view.online);
  }

  /** Says what we can do, and waits for the frontend's answer. */
  async #offer(): Promise<void> {
    const { queuesMax, xen } = this.#context;
    await advertise(xen.store, this.#paths, queuesMax, this.configuration.carrier);
    this.look();
  }

  /**
   * Reads what the toolstack wrote, and has it apply at once where it can. Returns false when it
   * cannot be meant: what was in force stays so, and the device's error node says why.
   */
  async #readConfiguration(): Promise<boolean> {
    const { logger, xen } = this.#context;
    const old = this.configuration;
    try {
      this.configuration = await readConfiguration(xen.store, this.#paths);
      if (this.#complaint !== undefined) await writeError(xen.store, this.#paths, undefined);
      this.#complaint = undefined;
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      const { code, message } = error;
      if (this.#complaint?.code !== code) {
        this.#log.line((suppressed) =>
          logger.error({ vif: this.#name, reason: code, suppressed }, message),
        );
        await writeError(xen.store, this.#paths, `${code}: ${message}`);
      }
      this.#complaint = { code, message };
      return false;
    }
    if (isDeepStrictEqual(old, this.configuration)) return true;
    this.#hooks.configured(this.configuration);
    if (this.#watch !== undefined) this.#hooks.changed();
    return true;
  }

  /** Connects to the rings; on a fault of the frontend the device goes to Closing. */
  async #connect(adopted: boolean): Promise<boolean> {
    const { logger, queuesMax, xen } = this.#context;
    try {
      await checkFrontendLink(xen.store, this.#paths);
      const parameters = await xen.store.transaction((transaction) =>
        readFrontend(transaction, this.#paths.frontend, queuesMax),
      );
      const wishes = await takeWishes(xen.store, this.#paths, parameters, adopted);
      if (this.#stopped) return false;
      this.#hooks.connect(parameters, adopted, wishes);
      this.status = { ...this.status, connects: this.status.connects + 1 };
      this.#log.line((suppressed) =>
        logger.info({ vif: this.#name, adopted, suppressed, ...parameters }, 'connected'),
      );
      await this.#watchMulticast();
      return true;
    } catch (error) {
      if (!(error instanceof XenvifError) || error.code.startsWith('XENSTORE_')) throw error;
      this.fail(error);
      return false;
    }
  }

  /** Multicast filtering is the one wish of a frontend that may change while it is connected. */
  async #watchMulticast(): Promise<void> {
    const path = `${this.#paths.frontend}/request-multicast-control`;
    const watch = await this.#context.xen.store.watch(path, () =>
      this.#samplingMulticast.request(),
    );
    if (this.#hooks.isConnected()) this.#multicastWatch = watch;
    else await watch.unwatch();
  }

  #disconnect(): void {
    this.#hooks.disconnect();
    // A watch that xenstored has lost with its connection is gone, which is what we want.
    void this.#multicastWatch?.unwatch().catch(() => undefined);
    this.#multicastWatch = undefined;
  }

  async #reportFault({ code, message }: VifFault): Promise<void> {
    const { logger, xen } = this.#context;
    try {
      await writeError(xen.store, this.#paths, `${code}: ${message}`);
      await writeState(xen.store, this.#paths, XenbusState.closing);
    } catch (error) {
      logger.warn({ vif: this.#name, error }, 'could not report a stopped vif');
    }
    this.look();
  }

  async #remove(): Promise<void> {
    this.#stop();
    this.#setStatus(XenbusState.unknown, XenbusState.unknown, false);
    this.#hooks.removed();
    await this.#watch?.unwatch();
  }

  #setStatus(own: XenbusState, frontend: XenbusState, online: boolean): void {
    const fault = this.#fault ?? this.#refusal;
    const [phase, reason, message] = describe(own, frontend, online, fault, this.#complaint);
    const old = this.status;
    const changed =
      old.phase !== phase ||
      old.reason !== reason ||
      old.backendState !== own ||
      old.frontendState !== frontend;
    if (!changed) return;
    const sinceMs = old.phase === phase && old.reason === reason ? old.sinceMs : Date.now();
    this.status = {
      phase,
      reason,
      message,
      sinceMs,
      backendState: own,
      frontendState: frontend,
      connects: old.connects,
    };
    this.#context.logger.debug(
      {
        vif: this.#name,
        backend: xenbusStateName(own),
        frontend: xenbusStateName(frontend),
        reason,
      },
      'state',
    );
    this.#hooks.changed();
  }
}

/** Carries a plan out: step by step where steps need each other, several vifs at a time. */
import { type XenvifClient, XenvifClientError } from '@xenvif/client';
import type { PlacedVif, Plan, Step } from './plan.js';
import { type DeclaredPort, OWNER_LABEL } from './state.js';

/**
 * Vifs under way at once. Each is a transaction in XenStore, and those that meet are tried again: more
 * would get in each other's way.
 */
const VIFS_AT_ONCE = 8;
/** Somebody may change a vif between our look at it and its removal: so often we look again. */
const ATTEMPTS = 5;

export interface CarryOutOptions {
  readonly client: XenvifClient;
  readonly signal: AbortSignal;
  /** How long each guest may take to connect; 0: nobody waits for it. */
  readonly waitMs: number;
  readonly onDone: (done: number, total: number) => void;
}

export interface Failure {
  readonly step: Step;
  readonly error: unknown;
}

export interface Outcome {
  readonly done: number;
  readonly failures: readonly Failure[];
}

/**
 * Does the steps in order. What fails does not stop others of the same kind, but what comes behind
 * them. Ended by the signal: steps under way are cancelled, and the others not begun.
 */
export async function carryOut(plan: Plan, options: CarryOutOptions): Promise<Outcome> {
  const { signal, onDone } = options;
  const failures: Failure[] = [];
  const total = plan.steps.length;
  let done = 0;
  for (const group of groupsOf(plan.steps)) {
    const queue = [...group];
    const worker = async () => {
      for (let step = queue.shift(); step !== undefined; step = queue.shift()) {
        if (signal.aborted) return;
        try {
          await new StepRunner(plan.owner, options).run(step);
          done += 1;
          onDone(done, total);
        } catch (error) {
          failures.push({ step, error });
        }
      }
    };
    const workers = group[0]?.kind === 'vif' ? VIFS_AT_ONCE : 1;
    await Promise.all(Array.from({ length: workers }, worker));
    if (failures.length > 0 || signal.aborted) break;
  }
  return { done, failures };
}

/** Runs of steps of one kind and direction, which do not need each other. */
function groupsOf(steps: readonly Step[]): Step[][] {
  const groups: Step[][] = [];
  let last = '';
  for (const step of steps) {
    const key = `${step.kind} ${step.action === 'remove'}`;
    if (key !== last) groups.push([]);
    last = key;
    groups.at(-1)?.push(step);
  }
  return groups;
}

class StepRunner {
  readonly #owner: string;
  readonly #client: XenvifClient;
  readonly #signal: AbortSignal;
  readonly #waitMs: number;

  constructor(owner: string, { client, signal, waitMs }: CarryOutOptions) {
    this.#owner = owner;
    this.#client = client;
    this.#signal = signal;
    this.#waitMs = waitMs;
  }

  async run(step: Step): Promise<void> {
    switch (step.kind) {
      case 'switch':
        return await this.#runSwitch(step);
      case 'port':
        return await this.#runPort(step);
      case 'vif':
        return await this.#runVif(step);
    }
  }

  async #runSwitch(step: Step & { kind: 'switch' }): Promise<void> {
    const signal = this.#signal;
    if (step.action === 'remove') {
      const { etag } = await this.#client.switches.get(step.name, { signal });
      return await this.#client.switches.delete(step.name, { etag, allowMissing: true, signal });
    }
    const { ageingSeconds, entriesPerPort, hub, labels } = step.wanted;
    await this.#client.switches.create(step.name, {
      ageingSeconds,
      entriesPerPort,
      hub,
      labels: { ...labels, [OWNER_LABEL]: this.#owner },
      signal,
    });
  }

  async #runPort(step: Step & { kind: 'port' }): Promise<void> {
    const { switches } = this.#client;
    const signal = this.#signal;
    if (step.action === 'change') {
      await switches.updatePort(step.name, step.policy, { signal });
      return;
    }
    if (step.action !== 'create') {
      await switches.deletePort(step.name, { allowMissing: true, signal });
    }
    if (step.action !== 'remove') await this.#createPort(step.switchId, step.wanted);
  }

  async #createPort(switchId: string, { id, device, policy, mirror }: DeclaredPort): Promise<void> {
    const { switches } = this.#client;
    const options = { portId: id, policy, mirror, signal: this.#signal };
    if (device.kind === 'tap') await switches.createTap(switchId, { ...device, ...options });
    else await switches.createUplink(switchId, device.handle, options);
  }

  async #runVif(step: Step & { kind: 'vif' }): Promise<void> {
    const signal = this.#signal;
    if (step.action === 'change') {
      await this.#client.vifs.update(step.name, step.changes, { signal });
      return;
    }
    if (step.action !== 'create') await this.#removeVif(step.name, step.present.uid);
    if (step.action !== 'remove') await this.#createVif(step.wanted);
  }

  async #createVif(wanted: PlacedVif): Promise<void> {
    const { domid, handle, mac, mtu, rate, switchId, policy, linkDown, labels } = wanted;
    await this.#client.vifs.create(domid, {
      handle,
      mac,
      mtu,
      rate,
      switch: switchId,
      portPolicy: policy,
      linkDown,
      labels,
      waitMs: this.#waitMs,
      signal: this.#signal,
    });
  }

  /** Removes the very vif that was looked at: its name may be another's by now. */
  async #removeVif(name: string, uid: string): Promise<void> {
    const { vifs } = this.#client;
    const signal = this.#signal;
    for (let attempt = 1; ; attempt += 1) {
      try {
        const found = await vifs.get(name, { signal });
        if (found.uid !== uid) return;
        return await vifs.delete(name, { etag: found.etag, signal });
      } catch (error) {
        if (!(error instanceof XenvifClientError)) throw error;
        if (error.code === 'VIF_NOT_FOUND') return;
        if (error.code !== 'ETAG_MISMATCH' || attempt === ATTEMPTS) throw error;
      }
    }
  }
}

/** An orchestration tool in dom0 without any rights: dom0/orchestrator.mjs, run as nobody. */

import { join } from 'node:path';
import { labFolder } from './assets.js';
import type { Lab } from './lab.js';
import { QuestionClient } from './question-client.js';

/** Debian's nobody and nogroup. */
const NOBODY = 65_534;

/** A vif as the SDK shows it, as far as tests look; numbers that are bigint there are plain here. */
export interface ToolVif {
  readonly name: string;
  readonly uid: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly spec: {
    readonly mac: string;
    readonly mtu: number;
    readonly switch: string;
    readonly linkDown: boolean;
    readonly rate?: { readonly bytesPerInterval: number; readonly intervalMs: number };
  };
  readonly status: { readonly phase: string; readonly linkUp: boolean };
}

export class Orchestrator {
  readonly #questions: QuestionClient;

  constructor(lab: Lab) {
    const program = join(labFolder(), 'dom0', 'orchestrator.mjs');
    const user = `setpriv --reuid=${NOBODY} --regid=${NOBODY} --clear-groups`;
    this.#questions = new QuestionClient(lab, `exec ${user} node ${program}`);
  }

  /** Its user id. */
  async whoAmI(): Promise<number> {
    return Number(await this.#questions.ask('whoAmI'));
  }

  async create(domid: number, options: object): Promise<ToolVif> {
    return (await this.#questions.ask('create', domid, options)) as ToolVif;
  }

  async get(name: string): Promise<ToolVif> {
    return (await this.#questions.ask('get', name)) as ToolVif;
  }

  async update(name: string, changes: object): Promise<ToolVif> {
    return (await this.#questions.ask('update', name, changes)) as ToolVif;
  }

  async delete(name: string): Promise<void> {
    await this.#questions.ask('delete', name);
  }

  /** Resolves when its watch has told that the vif of this uid is gone. */
  async toldDeleted(uid: string, timeoutMs: number): Promise<ToolVif> {
    return (await this.#questions.ask('told', 'deleted', uid, timeoutMs)) as ToolVif;
  }

  close(): void {
    this.#questions.close();
  }
}

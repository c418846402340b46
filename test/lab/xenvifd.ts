/**
 * This checkout's xenvifd in the lab's dom0, and a program beside it that asks it things: node takes
 * seconds to start under emulation, so one client stays and answers many questions.
 */

import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { findCheckout, labFolder } from './assets.js';
import { sleep } from './deferred.js';
import type { Dom0Process } from './dom0-port.js';
import type { Lab } from './lab.js';
import { LabError, oneLine } from './lab-error.js';
import { QuestionClient } from './question-client.js';

/** Emulation is slow, and slower beside other work: only what never comes shall fail. */
const START_MS = 180_000;
const STOP_MS = 60_000;
const POLL_MS = 100;

/** A vif as `vif-answers.mjs` tells of it. */
export interface VifView {
  readonly name: string;
  readonly domid: number;
  readonly handle: number;
  readonly phase: string;
  readonly reason: string;
  readonly message: string;
  readonly backendState: string;
  readonly frontendState: string;
  readonly queues: number;
  readonly connects: number;
  readonly features: Readonly<Record<string, unknown>>;
}

/** A port as the SDK tells of it, as far as tests look. */
export interface PortView {
  readonly name: string;
  readonly id: string;
  readonly kind: string;
  readonly mac: string;
  readonly received: DirectionView;
  readonly sent: DirectionView;
}

export interface TapOptions {
  readonly interface: string;
  readonly mirror?: { readonly sources: readonly string[] };
}

export interface DirectionView {
  readonly packets: number;
  readonly bytes: number;
  readonly drops: readonly { readonly cause: string; readonly packets: number }[];
}

/** The counters of a vif; directions are the guest's. */
export interface StatsView {
  readonly name: string;
  readonly tx: DirectionView;
  readonly rx: DirectionView;
  readonly queues: readonly {
    readonly index: number;
    readonly tx: DirectionView;
    readonly rx: DirectionView;
    readonly eventsReceived: number;
    readonly eventsSent: number;
  }[];
}

/** What the daemon holds of the machine; flat over whatever comes and goes. */
export interface Holdings {
  /** Pages of guests that it has mapped. */
  readonly mappings: number;
  /** Event channels that it has bound. */
  readonly ports: number;
  readonly descriptors: number;
  readonly residentMiB: number;
}

export class Xenvifd {
  readonly #lab: Lab;
  readonly #questions: QuestionClient;
  #process: Dom0Process | undefined;
  #log = '';

  private constructor(lab: Lab, questions: QuestionClient) {
    this.#lab = lab;
    this.#questions = questions;
  }

  /** Starts the daemon in dom0 and resolves once it serves and the program beside it answers. */
  static async start(lab: Lab): Promise<Xenvifd> {
    const program = join(labFolder(), 'dom0', 'vif-answers.mjs');
    const daemon = new Xenvifd(lab, new QuestionClient(lab, `exec node ${program}`));
    await daemon.restart();
    return daemon;
  }

  /** Starts it again after `stop` or `kill`. */
  async restart(): Promise<void> {
    const program = join(findCheckout(), 'dist', 'main.js');
    if (!existsSync(program)) throw new LabError(`there is no ${program}: run npm run build first`);
    const child = this.#lab.spawn(
      `exec node --enable-source-maps ${program} --xen native --log-format json`,
    );
    for (let waited = 0; waited < START_MS; waited += POLL_MS) {
      if (child.stderr().includes('"msg":"ready"')) {
        this.#process = child;
        return;
      }
      if (!child.running) break;
      await sleep(POLL_MS);
    }
    throw new LabError(`xenvifd did not start: ${oneLine(child.stderr())}`);
  }

  /** Ends it by SIGTERM; a daemon that fails at its end is a LabError. */
  async stop(): Promise<void> {
    const child = this.#running();
    child.kill('SIGTERM');
    for (let waited = 0; child.running; waited += POLL_MS) {
      if (waited > STOP_MS) throw new LabError(`xenvifd did not end in ${STOP_MS} ms`);
      await sleep(POLL_MS);
    }
    this.#log += child.stderr();
    this.#process = undefined;
    const { code } = await child.wait();
    if (code !== 0) throw new LabError(`xenvifd ended with ${code}: ${oneLine(child.stderr())}`);
  }

  /** Ends it by SIGKILL, and resolves when it is gone. */
  async kill(): Promise<void> {
    const child = this.#running();
    child.kill('SIGKILL');
    await child.wait();
    this.#log += child.stderr();
    this.#process = undefined;
  }

  /** Stops its time, and lets it go on. */
  pause(): void {
    this.#running().kill('SIGSTOP');
  }

  resume(): void {
    this.#running().kill('SIGCONT');
  }

  /** All that it has logged, in its earlier lives too. */
  log(): string {
    return this.#log + (this.#process?.stderr() ?? '');
  }

  /** Whether it has been alive since its last start. */
  get running(): boolean {
    return this.#process?.running === true;
  }

  /** Keeps what it has logged so far. */
  saveLog(file: string): void {
    writeFileSync(file, this.log());
  }

  async vifs(): Promise<readonly VifView[]> {
    return (await this.#questions.ask('vifs')) as VifView[];
  }

  async stats(name: string): Promise<StatsView> {
    return (await this.#questions.ask('stats', name)) as StatsView;
  }

  /**
   * The vif once it is in one of `phases`; where `connectsMin` is given, after so many connects.
   * Rejects when that does not come in time, and says what the vif is instead.
   */
  async waitForVif(
    name: string,
    phases: readonly string[],
    options: { readonly connectsMin?: number; readonly timeoutMs?: number } = {},
  ): Promise<VifView> {
    const { connectsMin = 0, timeoutMs = 60_000 } = options;
    const answer = await this.#questions.ask('wait', name, phases, connectsMin, timeoutMs);
    return answer as VifView;
  }

  /** How many streams of frames clients have open. */
  async frameStreams(): Promise<number> {
    return Number(await this.#questions.ask('frameStreams'));
  }

  /** The ports of a switch. */
  async ports(name: string): Promise<readonly PortView[]> {
    return (await this.#questions.ask('ports', name)) as PortView[];
  }

  /** What a switch has learnt: the address, and the last part of the port's name. */
  async forwardingEntries(name: string): Promise<readonly { mac: string; port: string }[]> {
    return (await this.#questions.ask('entries', name)) as { mac: string; port: string }[];
  }

  async createSwitch(id: string, options: { readonly hub: boolean }): Promise<void> {
    await this.#questions.ask('createSwitch', id, options);
  }

  async deleteSwitch(name: string): Promise<void> {
    await this.#questions.ask('deleteSwitch', name);
  }

  /** Plugs a TAP of dom0's kernel into a switch. */
  async createTap(name: string, options: TapOptions): Promise<PortView> {
    return (await this.#questions.ask('createTap', name, options)) as PortView;
  }

  async deletePort(name: string): Promise<void> {
    await this.#questions.ask('deletePort', name);
  }

  /** Moves a vif to another switch, while it is in use. */
  async moveVif(name: string, to: string): Promise<void> {
    await this.#questions.ask('moveVif', name, to);
  }

  /** Counts mappings and descriptors of its process, and the ports that carry its name. */
  async holdings(): Promise<Holdings> {
    // The connection of the program beside it is one of its descriptors, and opened when needed.
    await this.vifs();
    const pid = await this.#running().pid();
    const counted = await this.#lab.check(
      [
        `grep -c /dev/xen/gntdev /proc/${pid}/maps || true`,
        // No other program of dom0 that is called node binds event channels.
        'grep -c evtchn:node /proc/interrupts || true',
        `ls /proc/${pid}/fd | wc -l`,
        `awk '/^VmRSS:/ { print $2 }' /proc/${pid}/status`,
      ].join('; '),
    );
    const [mappings = 0, ports = 0, descriptors = 0, residentKiB = 0] = counted
      .trim()
      .split('\n')
      .map(Number);
    if (!(residentKiB > 0))
      throw new LabError(`the holdings of xenvifd are no numbers: ${counted}`);
    return { mappings, ports, descriptors, residentMiB: Math.round(residentKiB / 1024) };
  }

  #running(): Dom0Process {
    if (this.#process === undefined) throw new LabError('xenvifd does not run');
    return this.#process;
  }
}

/** Our ends of vchans in dom0, held by one program: node takes seconds to start under emulation. */
import { execFileSync } from 'node:child_process';
import { basename, join } from 'node:path';
import { labFolder } from '../assets.js';
import type { Lab } from '../lab.js';
import { LabError } from '../lab-error.js';
import { QuestionClient } from '../question-client.js';

export interface VchanPlace {
  readonly domid: number;
  readonly path: string;
  /** A server's: at least so many bytes in each ring. */
  readonly ringBytes?: number;
}

export interface Exchanged {
  readonly bytes: number;
  /** sha256 of what came, and of what was sent. */
  readonly received: string;
  readonly sent: string;
  readonly seconds: number;
}

export class VchanEnds {
  readonly #questions: QuestionClient;

  private constructor(questions: QuestionClient) {
    this.#questions = questions;
  }

  static async start(lab: Lab): Promise<VchanEnds> {
    const script = join(labFolder(), 'build-dom0-tests.mjs');
    const files = execFileSync(process.execPath, [script], { encoding: 'utf8' }).trim().split('\n');
    const program = files.find((file) => basename(file) === 'vchan-ends.mjs');
    if (program === undefined) throw new LabError('vchan-ends.mjs was not built');
    await lab.refreshFiles();
    return new VchanEnds(new QuestionClient(lab, `exec node --enable-source-maps ${program}`));
  }

  /** Resolves when the peer can come. */
  async listen(name: string, place: VchanPlace): Promise<void> {
    await this.#questions.ask('listen', name, place);
  }

  async connect(name: string, place: VchanPlace): Promise<void> {
    await this.#questions.ask('connect', name, place);
  }

  /** Resolves when the peer is there. */
  async opened(name: string): Promise<void> {
    await this.#patiently('opened', name);
  }

  /** Sends and takes so many bytes of noise; then we leave, or wait for the peer to leave. */
  async exchange(
    name: string,
    wanted: { readonly seed: number; readonly bytes: number; readonly leaves: boolean },
  ): Promise<Exchanged> {
    return (await this.#patiently('exchange', name, wanted)) as Exchanged;
  }

  /** When the end of the stream was seen, by dom0's clock, in milliseconds. */
  async gone(name: string): Promise<number> {
    return Number(await this.#patiently('gone', name));
  }

  /** MB/s, from the first byte until the peer had the last. */
  async sendRate(name: string, seconds: number): Promise<number> {
    return Number(await this.#questions.ask('sendRate', name, seconds));
  }

  /** MB/s until the peer leaves. */
  async takeRate(name: string): Promise<number> {
    return Number(await this.#questions.ask('takeRate', name));
  }

  /** Opens and closes vchans to dom0 itself. */
  async opens(rounds: number, ringBytes: number): Promise<{ readonly seconds: number }> {
    return (await this.#questions.ask('opens', rounds, ringBytes)) as { seconds: number };
  }

  /** Serves so many clients, one after another, and gives each its word back. */
  async startEchoes(name: string, rounds: number, place: VchanPlace): Promise<void> {
    await this.#questions.ask('startEchoes', name, rounds, place);
  }

  async echoed(name: string): Promise<number> {
    return Number(await this.#patiently('echoed', name));
  }

  /** What the program holds of the kernel, and what stands in dom0's part of XenStore. */
  holdings(): Promise<unknown> {
    return this.#questions.ask('holdings');
  }

  async end(): Promise<void> {
    await this.#questions.end();
  }

  /** The program says null when it has no answer yet; a test's own limit ends the wait. */
  async #patiently(question: string, ...parameters: readonly unknown[]): Promise<unknown> {
    for (;;) {
      const value = await this.#questions.ask(question, ...parameters);
      if (value !== null) return value;
    }
  }
}

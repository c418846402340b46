/**
 * The host's end of a guest's console: the protocol that guest-init.sh describes.
 *
 * It reaches the guest by `xl console` in dom0, whose pipes carry the console both ways. That ends
 * with the domain, also when the domain is only rebooted or restored: then say hello before anything
 * else.
 */

import { type Deferred, deferred, withDeadline } from './deferred.js';
import type { Dom0Process, RunResult } from './dom0-port.js';
import { LabError } from './lab-error.js';

interface Answer {
  readonly done: Deferred<RunResult>;
  readonly stdout: string[];
  readonly stderr: string[];
}

/** The number that every hello has: an answer to any of them will do. */
const HELLO = 0;
const HELLO_MS = 2_000;
/** After so many without an answer the console is opened anew. */
const HELLOS_A_CONSOLE = 5;
/** A line that looks like an answer: its command, what it is, the rest. */
const ANSWER = /%(\d+) ([oex]) ([A-Za-z0-9+/= ]*)\r?$/;

export class GuestConsole {
  readonly #name: string;
  readonly #open: () => Dom0Process;
  readonly #answers = new Map<number, Answer>();
  #console: Dom0Process | undefined;
  #text = '';
  #next = 1;

  /** `open` starts `xl console` for the guest of this name. */
  constructor(name: string, open: () => Dom0Process) {
    this.#name = name;
    this.#open = open;
  }

  /** Runs a command in the guest; rejects after `timeoutMs` and then kills it there. */
  async run(command: string, timeoutMs: number): Promise<RunResult> {
    const id = this.#next++;
    const answer: Answer = { done: deferred(), stdout: [], stderr: [] };
    this.#answers.set(id, answer);
    this.#write(`@${id} ${Buffer.from(command).toString('base64')}\n`);
    try {
      return await withDeadline(answer.done.promise, timeoutMs, () => {
        this.#write(`-${id}\n`);
        const shown = command.length > 60 ? `${command.slice(0, 60)}...` : command;
        return new LabError(`${this.#name} did not finish "${shown}" in ${timeoutMs} ms`);
      });
    } finally {
      this.#answers.delete(id);
    }
  }

  /** Resolves once the guest answers; until its init runs, what it is sent is kept or lost. */
  async hello(timeoutMs: number): Promise<void> {
    const answer: Answer = { done: deferred(), stdout: [], stderr: [] };
    this.#answers.set(HELLO, answer);
    let said = 0;
    const say = (): void => {
      // The console of a domain that is gone may hang on, waiting for it to come back.
      said += 1;
      if (said % HELLOS_A_CONSOLE === 0) this.close();
      this.#write(`@${HELLO} \n`);
    };
    const repeat = setInterval(say, HELLO_MS);
    try {
      say();
      await withDeadline(
        answer.done.promise,
        timeoutMs,
        () => new LabError(`the guest ${this.#name} did not come up in ${timeoutMs} ms`),
      );
    } finally {
      clearInterval(repeat);
      this.#answers.delete(HELLO);
    }
  }

  /** Lets go of the console, so that a person may have it. */
  close(): void {
    this.#console?.kill('SIGKILL');
    this.#console = undefined;
  }

  #write(line: string): void {
    if (this.#console === undefined || !this.#console.running) {
      this.#text = '';
      const opened = this.#open();
      opened.on('stdout', (bytes) => this.#read(bytes.toString('latin1')));
      // It rejects when dom0 is gone, and then no answer comes any more.
      opened.wait().catch((fault: unknown) => this.#abandon(fault));
      this.#console = opened;
    }
    this.#console.write(line);
  }

  #read(text: string): void {
    const lines = (this.#text + text).split('\n');
    this.#text = lines.pop() ?? '';
    for (const line of lines) {
      const [, id, kind, rest] = ANSWER.exec(line) ?? [];
      const answer = this.#answers.get(Number(id));
      if (answer === undefined || rest === undefined) continue;
      if (kind === 'o') answer.stdout.push(rest);
      else if (kind === 'e') answer.stderr.push(rest);
      else this.#finish(answer, rest);
    }
  }

  #abandon(fault: unknown): void {
    for (const answer of this.#answers.values()) answer.done.reject(fault);
  }

  #finish(answer: Answer, rest: string): void {
    const [code, pieces] = rest.split(' ').map(Number);
    const got = answer.stdout.length + answer.stderr.length;
    if (code === undefined || pieces !== got) {
      const said = `${got} of ${pieces ?? '?'} pieces of an answer`;
      answer.done.reject(new LabError(`the console of ${this.#name} lost text: ${said} came`));
      return;
    }
    const decode = (parts: string[]): string => Buffer.from(parts.join(''), 'base64').toString();
    answer.done.resolve({ code, stdout: decode(answer.stdout), stderr: decode(answer.stderr) });
  }
}

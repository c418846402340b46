/** A program in dom0 that stays and answers questions, one JSON document a line both ways. */

import { type Deferred, deferred, withDeadline } from './deferred.js';
import type { Dom0Process, RunResult } from './dom0-port.js';
import type { Lab } from './lab.js';
import { LabError, oneLine } from './lab-error.js';

interface Answer {
  readonly id: number;
  readonly value?: unknown;
  readonly error?: string;
}

/** Above what any question waits for by itself. */
const ANSWER_MS = 240_000;

export class QuestionClient {
  readonly #process: Dom0Process;
  readonly #waiting = new Map<number, Deferred<unknown>>();
  #text = '';
  #next = 1;

  /** Starts `command`; questions may be asked at once, they wait for it. */
  constructor(lab: Lab, command: string) {
    this.#process = lab.spawn(command);
    this.#process.on('stdout', (bytes) => this.#read(bytes.toString()));
    this.#process.wait().then(
      ({ stderr }) => this.#abandon(new LabError(`the program ended: ${oneLine(stderr)}`)),
      (fault: unknown) => this.#abandon(fault),
    );
  }

  /** Resolves with the answer; rejects with the program's error, or when it ends. */
  async ask(question: string, ...parameters: readonly unknown[]): Promise<unknown> {
    const id = this.#next++;
    const answer = deferred<unknown>();
    this.#waiting.set(id, answer);
    this.#process.write(`${JSON.stringify({ id, question, parameters })}\n`);
    try {
      return await withDeadline(
        answer.promise,
        ANSWER_MS,
        () => new LabError(`no answer to "${question}" in ${ANSWER_MS} ms`),
      );
    } finally {
      this.#waiting.delete(id);
    }
  }

  /** Ends its input, which is how it is asked to end. */
  close(): void {
    this.#process.endInput();
  }

  /** As `close`, and resolves when it has ended. */
  end(): Promise<RunResult> {
    this.close();
    return this.#process.wait();
  }

  /** What it wrote to its standard error so far. */
  errors(): string {
    return this.#process.stderr();
  }

  #read(text: string): void {
    const lines = (this.#text + text).split('\n');
    this.#text = lines.pop() ?? '';
    for (const line of lines) {
      const { id, value, error } = JSON.parse(line) as Answer;
      if (error === undefined) this.#waiting.get(id)?.resolve(value);
      else this.#waiting.get(id)?.reject(new LabError(error));
    }
  }

  #abandon(fault: unknown): void {
    for (const answer of this.#waiting.values()) answer.reject(fault);
  }
}

/** How far long work is: a line that changes on a terminal, and now and then a line elsewhere. */
import type { Output } from '../output.js';

const TERMINAL_INTERVAL_MS = 100;
const LOG_INTERVAL_MS = 2000;

export class Progress {
  readonly #notes: Output;
  readonly #total: number;
  readonly #intervalMs: number;
  readonly #startMs = performance.now();
  #shownMs = performance.now();
  #shown: string | undefined;

  constructor(notes: Output, total: number) {
    this.#notes = notes;
    this.#total = total;
    this.#intervalMs = notes.isTerminal ? TERMINAL_INTERVAL_MS : LOG_INTERVAL_MS;
  }

  /** Tells that `done` are done, unless something was told just now. */
  show(done: number): void {
    const nowMs = performance.now();
    if (nowMs - this.#shownMs < this.#intervalMs) return;
    this.#shownMs = nowMs;
    this.#erase();
    const seconds = Math.round((nowMs - this.#startMs) / 1000);
    this.#shown = `${done} of ${this.#total}, ${seconds} s`;
    this.#notes.line(this.#shown);
  }

  /** Takes the last line back where lines can be. */
  end(): void {
    this.#erase();
    this.#shown = undefined;
  }

  #erase(): void {
    if (this.#shown !== undefined && this.#notes.isTerminal) this.#notes.erase(this.#shown);
  }
}

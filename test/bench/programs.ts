/** Runs the programs that are measured: each in a process of its own, a server with its client. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

/** How long a program may take for a line: a thousand handshakes on a busy machine, and more. */
const LINE_TIMEOUT_MS = 300_000;

/** A program that is running, whose output is read line by line. */
export class Program {
  readonly #child: ChildProcess;
  readonly #lines: string[] = [];
  readonly #name: string;
  #wake: (() => void) | undefined;
  #ended = false;
  readonly #onExit = () => this.stop();

  constructor(command: string, args: readonly string[], input?: ChildProcess) {
    this.#name = [command, ...args].join(' ');
    const stdin = input === undefined ? 'pipe' : (input.stdout ?? 'pipe');
    // What a program starts goes with it: a shell's loop would go on beside all that is measured next.
    this.#child = spawn(command, args, { stdio: [stdin, 'pipe', 'inherit'], detached: true });
    process.once('exit', this.#onExit);
    this.#child.on('close', () => {
      this.#ended = true;
      process.off('exit', this.#onExit);
      this.#wake?.();
    });
    this.#child.stdin?.on('error', () => undefined);
    if (this.#child.stdout === null) return;
    createInterface(this.#child.stdout).on('line', (line) => {
      this.#lines.push(line);
      this.#wake?.();
    });
  }

  /** The next line that the program prints. */
  async line(): Promise<string> {
    const timer = setTimeout(() => this.stop(), LINE_TIMEOUT_MS);
    try {
      while (this.#lines.length === 0 && !this.#ended) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    } finally {
      clearTimeout(timer);
    }
    const line = this.#lines.shift();
    if (line === undefined) throw new Error(`${this.#name} ended without an answer.`);
    return line;
  }

  /** Asks for a line by a line. */
  async ask(): Promise<Record<string, number>> {
    this.#child.stdin?.write('\n');
    return JSON.parse(await this.line());
  }

  stop(): void {
    const { pid } = this.#child;
    if (pid === undefined) return;
    try {
      process.kill(-pid, 'SIGKILL');
    } catch {
      // All of them have ended by themselves.
    }
  }
}

/**
 * For every program of Node's, ours and those beside it: as xenvifd and `xenvif` have it by
 * themselves; see clients/typescript/src/garbage.ts.
 */
const NODE_FLAGS = [
  '--incremental-marking-soft-trigger=400',
  '--incremental-marking-hard-trigger=400',
];

/** A program of Node's, by its file. */
export function node(file: string, ...args: string[]): Program {
  return new Program(process.execPath, [...NODE_FLAGS, file, ...args]);
}

/** The same, and nowhere but on one processor. */
export function nodeOn(processor: number, file: string, ...args: string[]): Program {
  return programOn(processor, process.execPath, ...NODE_FLAGS, file, ...args);
}

export function programOn(processor: number, command: string, ...args: string[]): Program {
  return new Program('taskset', ['-c', `${processor}`, command, ...args]);
}

/** Starts a server, hands what it prints first to a client, and answers what the client prints. */
export async function against(
  server: Program,
  client: (address: string) => Program,
): Promise<Record<string, number>> {
  let asking: Program | undefined;
  try {
    asking = client(await server.line());
    const answer: unknown = JSON.parse(await asking.line());
    if (typeof answer === 'number') return { rate: answer };
    return answer as Record<string, number>;
  } finally {
    asking?.stop();
    server.stop();
  }
}

export function pause(forMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, forMs));
}

/** The built `xenvif` command and the examples, as processes against a daemon of a test's own. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export const COMMAND = fileURLToPath(new URL('../../clients/cli/bin/xenvif.js', import.meta.url));
export const EXAMPLES = fileURLToPath(
  new URL('../../clients/typescript/examples/', import.meta.url),
);

/** A process that has ended. */
export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Waits for the end of a process, and gathers what it writes. `onText` sees stdout as it grows. */
export function ended(
  child: ChildProcessWithoutNullStreams,
  onText: (stdout: string) => void = () => {},
): Promise<Ended> {
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk) => {
    stdout += chunk;
    onText(stdout);
  });
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, stdout, stderr })));
}

/** The lines of a text, without the end of the last. */
export function linesOf(text: string): string[] {
  return text.trimEnd().split('\n');
}

/** Runs commands against the daemon at `address()`, which is asked for when one is run. */
export class CommandUnderTest {
  readonly #address: () => string;

  constructor(address: () => string) {
    this.#address = address;
  }

  /** Starts a program of ours. */
  start(file: string, args: readonly string[]): ChildProcessWithoutNullStreams {
    const env = { ...process.env, XENVIF_ADDRESS: this.#address() };
    return spawn(process.execPath, [file, ...args], { env });
  }

  /** Runs `xenvif` to its end. */
  run(...args: string[]): Promise<Ended> {
    return ended(this.start(COMMAND, args));
  }

  /** Runs `xenvif` until stdout has `text`, and then presses Ctrl-C. */
  untilSeen(text: string, ...args: string[]): Promise<Ended> {
    const child = this.start(COMMAND, args);
    let pressed = false;
    return ended(child, (stdout) => {
      if (pressed || !stdout.includes(text)) return;
      pressed = true;
      child.kill('SIGINT');
    });
  }
}

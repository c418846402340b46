/**
 * A real xenvifd, built, in a process and a directory of its own. Whatever a test does to it, no
 * other test can see.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const main = fileURLToPath(new URL('../../dist/main.js', import.meta.url));
/** When a daemon that does not start is given up. A busy machine may take a minute for a start's second. */
const START_TIMEOUT_MS = 120_000;

export interface DaemonUnderTest {
  readonly child: ChildProcess;
  /** A directory that is removed with the daemon. */
  readonly directory: string;
  /** The Unix socket, as a path. */
  readonly socket: string;
  /** What clients take: `unix:` and the path. */
  readonly address: string;
  /** `host:port` on loopback. */
  readonly tcp: string;
  /** Where the emulated XenStore listens. */
  readonly xenstoreSocket: string;
  /** Everything logged so far. */
  logs(): string;
  /** Sends a signal and waits for the exit code; null when a signal ended the process. */
  stop(signal?: NodeJS.Signals): Promise<number | null>;
}

export interface DaemonOptions {
  readonly args?: readonly string[];
  /** Where to put sockets; a new directory unless a second daemon shall share one. */
  readonly directory?: string;
}

/** Runs the built daemon with `args` to its end: for what must fail at start. */
export async function runDaemon(args: readonly string[]) {
  const child = spawn(process.execPath, [main, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk) => {
    stdout += chunk;
  });
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve));
  return { code, stdout, stderr };
}

/** Starts a daemon on emulated Xen and resolves when it is ready. */
export async function startDaemon(options: DaemonOptions = {}): Promise<DaemonUnderTest> {
  if (!existsSync(main)) throw new Error(`${main} is missing: run npm run build first.`);
  const directory = options.directory ?? mkdtempSync(join(tmpdir(), 'xenvif-test-'));
  const socket = join(directory, 'xenvifd.sock');
  const xenstoreSocket = join(directory, 'xenstored.sock');
  const fixed = ['--xen', 'emulated', '--socket', socket, '--tcp', '127.0.0.1:0'];
  const args = [...fixed, '--log-format', 'json', ...(options.args ?? [])];
  const child = spawn(process.execPath, [main, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  let logs = '';
  const exit = new Promise<number | null>((resolve) => child.on('close', resolve));
  const removeDirectory = () => {
    if (options.directory === undefined) rmSync(directory, { recursive: true, force: true });
  };
  const tcp = await new Promise<string>((resolve, reject) => {
    const fail = (why: string) => reject(new Error(`xenvifd ${why}:\n${logs}`));
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      fail('did not start in time');
    }, START_TIMEOUT_MS);
    child.on('close', (code) => {
      clearTimeout(timer);
      fail(`ended with ${code}`);
    });
    child.stderr.on('data', (chunk) => {
      logs += chunk;
      const ready = /"addresses":(\[[^\]]*\]),"msg":"ready"/.exec(logs);
      if (ready === null) return;
      clearTimeout(timer);
      const addresses: string[] = JSON.parse(ready[1] ?? '[]');
      resolve(addresses.find((address) => !address.startsWith('unix:')) ?? '');
    });
  });
  return {
    child,
    directory,
    socket,
    address: `unix:${socket}`,
    tcp,
    xenstoreSocket,
    logs: () => logs,
    stop: async (signal = 'SIGTERM') => {
      if (child.exitCode === null && child.signalCode === null) child.kill(signal);
      const code = await exit;
      removeDirectory();
      return code;
    },
  };
}

/**
 * Network namespaces of Linux for tests that talk to the kernel's own network stack: each is a
 * machine of its own as far as interfaces, addresses and connections go. Every name is unique, and
 * a namespace goes with everything that was started or made in it.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);
const COMMAND_TIMEOUT_MS = 20_000;

/** Fails, in words that say what to do, where a test cannot have namespaces. */
export function requireNamespaces(): void {
  if (process.getuid?.() !== 0) {
    throw new Error('These tests need root: they make network namespaces and interfaces.');
  }
  if (!existsSync('/dev/net/tun')) {
    throw new Error('These tests need /dev/net/tun: load its module with "modprobe tun".');
  }
}

let made = 0;
const live = new Set<NetworkNamespace>();

/** Removes what a test that failed half-way left behind: for the end of a file. */
export async function removeNamespaces(): Promise<void> {
  for (const namespace of live) await namespace.remove();
}

export class NetworkNamespace {
  readonly name: string;
  readonly #children: ChildProcess[] = [];

  private constructor(name: string) {
    this.name = name;
  }

  static async create(): Promise<NetworkNamespace> {
    made += 1;
    const namespace = new NetworkNamespace(`xenvif-test-${process.pid}-${made}`);
    await run('ip', ['netns', 'add', namespace.name]);
    live.add(namespace);
    await namespace.run('ip', 'link', 'set', 'lo', 'up');
    return namespace;
  }

  /** Takes an interface of this process's namespace over, gives it addresses and sets it up. */
  async adopt(name: string, ...addresses: string[]): Promise<void> {
    await run('ip', ['link', 'set', name, 'netns', this.name]);
    for (const address of addresses) {
      // Without detecting duplicates an IPv6 address can be used at once.
      const flags = address.includes(':') ? ['nodad'] : [];
      await this.run('ip', 'address', 'add', address, 'dev', name, ...flags);
    }
    await this.run('ip', 'link', 'set', name, 'up');
  }

  /** Runs a command to its end and returns what it printed; fails unless it ends with 0. */
  run(command: string, ...args: string[]): Promise<string> {
    return this.runFor(COMMAND_TIMEOUT_MS, command, ...args);
  }

  /** As `run`, for a command that may take longer. */
  async runFor(timeout: number, command: string, ...args: string[]): Promise<string> {
    const inside = ['netns', 'exec', this.name, command, ...args];
    const { stdout } = await run('ip', inside, { timeout });
    return stdout;
  }

  /** Starts a program that runs until `remove`, and resolves when it has printed a line. */
  async start(command: string, ...args: string[]): Promise<ChildProcess> {
    const inside = ['netns', 'exec', this.name, command, ...args];
    const child = spawn('ip', inside, { stdio: ['ignore', 'pipe', 'inherit'] });
    this.#children.push(child);
    await new Promise((resolve, reject) => {
      child.stdout?.once('data', resolve);
      child.once('exit', (code) => reject(new Error(`${command} ended with ${code}.`)));
      child.once('error', reject);
    });
    return child;
  }

  /**
   * A counter of /proc/net/snmp, such as `Tcp` `InCsumErrors`, which the
   * kernel keeps for each namespace.
   */
  async counter(protocol: string, name: string): Promise<number> {
    const text = await this.run('cat', '/proc/net/snmp');
    const [names, values] = text.split('\n').filter((line) => line.startsWith(`${protocol}:`));
    const index = names?.split(' ').indexOf(name) ?? -1;
    const value = index > 0 ? values?.split(' ')[index] : undefined;
    if (value === undefined) throw new Error(`There is no counter ${protocol} ${name}.`);
    return Number(value);
  }

  /** Ends the programs started and takes the namespace away, and with it its interfaces. */
  async remove(): Promise<void> {
    if (!live.delete(this)) return;
    for (const child of this.#children) child.kill('SIGKILL');
    await run('ip', ['netns', 'delete', this.name]);
  }
}

/** Whether this process's namespace has an interface of that name. */
export async function interfaceExists(name: string): Promise<boolean> {
  const text = await readFile('/proc/net/dev', 'utf8');
  return text.split('\n').some((line) => line.trim().startsWith(`${name}:`));
}

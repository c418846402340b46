/** Network namespaces of Linux, each a machine of its own to the kernel, with programs in them. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { Program } from './programs.js';

/** What a machine lacks to have them; undefined when it lacks nothing. */
export function missingForSpaces(): string | undefined {
  if (process.getuid?.() !== 0) return 'root';
  if (!existsSync('/dev/net/tun')) return '/dev/net/tun (modprobe tun)';
  try {
    const name = `xenvif-bench-${process.pid}`;
    execFileSync('ip', ['netns', 'add', name], { stdio: 'ignore' });
    execFileSync('ip', ['netns', 'delete', name], { stdio: 'ignore' });
    return undefined;
  } catch {
    return 'ip netns';
  }
}

export class Space {
  readonly name: string;
  readonly #programs: Program[] = [];

  constructor(name: string) {
    this.name = `xenvif-bench-${process.pid}-${name}`;
    ip('netns', 'add', this.name);
  }

  /** Takes an interface over and sets it up with an address. */
  adopt(device: string, cidr: string): void {
    ip('link', 'set', device, 'netns', this.name);
    ip('-n', this.name, 'address', 'add', cidr, 'dev', device);
    ip('-n', this.name, 'link', 'set', device, 'up');
  }

  /** Starts a program of ours, and resolves when it has said that it is ready. */
  async start(file: string, ...args: string[]): Promise<Program> {
    const inside = ['netns', 'exec', this.name, process.execPath, file, ...args];
    const program = new Program('ip', inside);
    this.#programs.push(program);
    await program.line();
    return program;
  }

  /** Ends its programs and takes it away, with the interfaces that it has. */
  remove(): void {
    for (const program of this.#programs) program.stop();
    ip('netns', 'delete', this.name);
  }
}

export function ip(...args: string[]): void {
  execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'inherit'] });
}

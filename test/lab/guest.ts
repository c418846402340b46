/** A guest of the lab: a PV domain with one vif and a busybox, or none of its own backend's doing. */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Assets } from './assets.js';
import { deadlines } from './deadlines.js';
import { sleep } from './deferred.js';
import type { Dom0Process, RunResult } from './dom0-port.js';
import { GuestConsole } from './guest-console.js';
import { buildGuestInitrd, type GuestFiles } from './images.js';
import { LabError, oneLine } from './lab-error.js';

export interface GuestOptions extends GuestFiles {
  readonly name: string;
  /** Default 256. */
  readonly memoryMiB?: number;
  /** Default 1. */
  readonly vcpus?: number;
  /** What its eth0 gets, with the prefix's length: 10.0.0.2/24. Without it eth0 is only up. */
  readonly address?: string;
  /** Without it there is no vif at all. */
  readonly mac?: string;
  /** More of the vif, as xl takes it: bridge=xenbr0,rate=10Mb/s. */
  readonly vif?: string;
  /**
   * The vif's hotplug script, in dom0. By default one that says "connected" and, with the kernel's
   * netback, joins the vif's bridge.
   */
  readonly script?: string;
  /** More of the guest kernel's command line. */
  readonly cmdline?: string;
  /** More lines of the domain's configuration, as xl takes it. */
  readonly config?: readonly string[];
  /** false: resolve once xl create is through, without waiting for the guest's init. */
  readonly waitReady?: boolean;
}

/** What a guest needs of its lab. */
export interface GuestHost {
  readonly assets: Assets;
  /** The shared folder: here, and as dom0 sees it. */
  readonly share: string;
  readonly dom0Share: string;
  readonly logDir: string;
  run(command: string, options?: { readonly timeoutMs?: number }): Promise<RunResult>;
  spawn(command: string): Dom0Process;
}

/** Where dom0 has the initrds of guests, in memory: a guest that reboots is built from its own again. */
const INITRDS = '/run/guests';

/** How often dom0 is asked whether a domain is gone. */
const POLL_MS = 200;

export class Guest {
  readonly name: string;
  readonly #host: GuestHost;
  readonly #console: GuestConsole;

  private constructor(host: GuestHost, name: string) {
    this.#host = host;
    this.name = name;
    this.#console = new GuestConsole(name, () =>
      // What xl console runs; but that, with a pipe for its input, would not read it.
      host.spawn(`exec /usr/lib/xen-4.*/bin/xenconsole --interactive $(xl domid ${quoted(name)})`),
    );
  }

  /** Starts it with xl create, which waits for the vif's backend to come to InitWait (10 s). */
  static async create(host: GuestHost, options: GuestOptions): Promise<Guest> {
    const { name } = options;
    if (!/^[A-Za-z0-9_.-]+$/.test(name)) throw new LabError(`"${name}" is no name for a guest`);
    writeFileSync(join(host.share, `${name}.cpio`), buildGuestInitrd(host.assets, options));
    writeFileSync(join(host.share, `${name}.cfg`), configuration(host, options));
    const made = `${host.dom0Share}/${name}`;
    const created = await host.run(
      // xl maps the initrd, which over the shared folder would be read page by page.
      `mkdir -p ${INITRDS} && cp ${quoted(`${made}.cpio`)} ${INITRDS} && xl create ${quoted(`${made}.cfg`)}`,
      { timeoutMs: deadlines.guestCreateMs },
    );
    if (created.code !== 0) {
      const why = oneLine(created.stderr.replaceAll(/^Parsing config.*$/gm, ''));
      throw new LabError(`xl create did not make the guest ${name}: ${why}`);
    }
    const guest = new Guest(host, name);
    if (options.waitReady !== false) await guest.ready();
    return guest;
  }

  /** Resolves when the guest's init takes commands. */
  async ready(): Promise<void> {
    try {
      await this.#console.hello(deadlines.guestReadyMs);
    } catch (fault) {
      const log = join(this.#host.logDir, `guest-${this.name}.log`);
      throw new LabError(`${oneLine(fault)}; see ${log}`);
    }
  }

  /** Runs a shell command in the guest; many at once are fine. */
  run(command: string, options: { readonly timeoutMs?: number } = {}): Promise<RunResult> {
    return this.#console.run(command, options.timeoutMs ?? deadlines.guestRunMs);
  }

  /** Like run, but a non-zero exit code is a LabError with what the command had to say. */
  async check(command: string, options: { readonly timeoutMs?: number } = {}): Promise<string> {
    const { code, stdout, stderr } = await this.run(command, options);
    if (code !== 0) {
      const said = oneLine(`${stdout} ${stderr}`);
      throw new LabError(`"${command}" in ${this.name} ended with ${code}: ${said}`);
    }
    return stdout;
  }

  /** Resolves when its eth0 is up and has its address, which comes after its init answers. */
  async connected(timeoutMs: number = deadlines.guestReadyMs): Promise<void> {
    const shown = 'ip address show dev eth0 2>/dev/null';
    const isUp = `${shown} | grep -q LOWER_UP && ${shown} | grep -q 'inet '`;
    await this.check(`until ${isUp}; do sleep 0.2; done`, { timeoutMs });
  }

  /** Its domain id now; a reboot or a restore gives it another. */
  async domid(): Promise<number> {
    const { code, stdout } = await this.#host.run(`xl domid ${quoted(this.name)}`);
    if (code !== 0) throw new LabError(`there is no guest ${this.name}`);
    return Number(stdout);
  }

  /** Lets go of the console, so that `xl console` is a person's alone. */
  releaseConsole(): void {
    this.#console.close();
  }

  /** Ends it at once, and waits until nothing of it is left. */
  async destroy(): Promise<void> {
    const { code, stderr } = await this.#host.run(`xl destroy ${quoted(this.name)}`);
    if (code !== 0) throw new LabError(`xl destroy ${this.name} failed: ${oneLine(stderr)}`);
    await this.gone();
  }

  /** Asks it to power off, and waits until nothing of it is left. */
  async shutdown(): Promise<void> {
    const { code, stderr } = await this.#host.run(`xl shutdown ${quoted(this.name)}`);
    if (code !== 0) throw new LabError(`xl shutdown ${this.name} failed: ${oneLine(stderr)}`);
    await this.gone();
  }

  /** Resolves when Xen has no domain of this name, not even a dying one. */
  async gone(timeoutMs: number = deadlines.guestGoneMs): Promise<void> {
    const end = Date.now() + timeoutMs;
    for (;;) {
      const { stdout } = await this.#host.run('xl list');
      const line = stdout.split('\n').find((row) => row.split(/\s+/)[0] === this.name);
      // A domain that is being destroyed, but still has pages mapped elsewhere, is named (null).
      const dying = stdout.split('\n').some((row) => row.startsWith('(null)'));
      if (line === undefined && !dying) break;
      if (Date.now() > end) {
        throw new LabError(
          `${this.name} is still there after ${timeoutMs} ms: ${line ?? '(null)'}`,
        );
      }
      await sleep(POLL_MS);
    }
    this.#console.close();
  }
}

function configuration(host: GuestHost, options: GuestOptions): string {
  const { name, memoryMiB = 256, vcpus = 1, mac, vif, address, cmdline = '' } = options;
  const script = options.script ?? `${host.dom0Share}/vif-connected.sh`;
  const ip = address === undefined ? '' : ` ip=${address}`;
  const lines = [
    'type = "pv"',
    `name = "${name}"`,
    `kernel = "${host.assets.kernel}"`,
    `ramdisk = "${INITRDS}/${name}.cpio"`,
    `extra = "console=hvc0 panic=-1 mitigations=off lab.name=${name}${ip} ${cmdline}"`,
    `memory = ${memoryMiB}`,
    `vcpus = ${vcpus}`,
    'on_crash = "destroy"',
  ];
  if (mac !== undefined) {
    const spec = [`mac=${mac}`, `script=${script}`, ...(vif === undefined ? [] : [vif])].join(',');
    lines.push(`vif = ["${spec}"]`);
  }
  return `${[...lines, ...(options.config ?? [])].join('\n')}\n`;
}

/** A word for the shell, as it is. */
export function quoted(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}

/**
 * The lab: real Xen, with Debian's kernel as dom0 and guests, under QEMU's software emulation.
 *
 * Needs no hypervisor and no /dev/kvm; the packages are packages.sh's. dom0 has this machine's files
 * at the same paths, so node, xl and this checkout are there as they are; what dom0 writes to them
 * stays in its memory and goes with it.
 */

import { basename } from 'node:path';
import { type Assets, findAssets, resolveModules } from './assets.js';
import { deadlines } from './deadlines.js';
import { sleep, withDeadline } from './deferred.js';
import { Dom0Port, type Dom0Process, type RunResult } from './dom0-port.js';
import { Guest, type GuestOptions, quoted } from './guest.js';
import { buildDom0Initrd, fillDom0Folder } from './images.js';
import { LabError, oneLine } from './lab-error.js';
import { Machine } from './machine.js';

export interface LabOptions {
  /** Where console logs go: dom0.log, guest-NAME.log, qemu.log, xenstored.log. */
  readonly logDir: string;
  /** Of the whole emulated machine; dom0 gets half. Default 4096. */
  readonly memoryMiB?: number;
  readonly onProgress?: (message: string) => void;
  /** Another first program for dom0, for the tests of the lab itself. */
  readonly dom0Initrd?: Buffer;
}

export interface RunOptions {
  /** The command is killed, and the call rejects, after so long. Default deadlines.runMs. */
  readonly timeoutMs?: number;
  readonly env?: Readonly<Record<string, string>>;
  /** Its standard input; without it that is empty. */
  readonly input?: Uint8Array | string;
}

/** What dom0's inits say on the console as they come to each step, and what it is to a person. */
const STEPS = [
  { step: 'kernel', means: "booting Xen and dom0's kernel", limitMs: deadlines.kernelMs },
  { step: 'files', means: "mounting this machine's files in dom0", limitMs: deadlines.filesMs },
  { step: 'xenstored', means: 'starting xenstored', limitMs: deadlines.xenstoredMs },
  { step: 'xenconsoled', means: 'starting xenconsoled', limitMs: deadlines.xenconsoledMs },
  { step: 'agent', means: "starting the lab's agent in dom0", limitMs: deadlines.agentMs },
] as const;

const CONSOLE_POLL_MS = 100;
const DOM0_SHARE = '/run/xenvif-lab';

export class Lab {
  readonly assets: Assets;
  readonly logDir: string;
  /** A folder of the host that dom0 sees at `dom0Share`, as it is at any moment. */
  readonly share: string;
  readonly dom0Share = DOM0_SHARE;
  readonly #machine: Machine;
  readonly #port: Dom0Port;

  private constructor(assets: Assets, logDir: string, machine: Machine, port: Dom0Port) {
    this.assets = assets;
    this.logDir = logDir;
    this.share = machine.share;
    this.#machine = machine;
    this.#port = port;
  }

  /** Resolves when dom0 is a working control domain; rejects with a LabError of one line. */
  static async boot(options: LabOptions): Promise<Lab> {
    const assets = findAssets();
    const machine = new Machine({
      assets,
      logDir: options.logDir,
      memoryMiB: options.memoryMiB ?? 4096,
      dom0Initrd: options.dom0Initrd ?? buildDom0Initrd(assets),
    });
    const port = new Dom0Port();
    try {
      fillDom0Folder(machine.share);
      await machine.start(
        (socket) => port.connect(socket),
        () =>
          port.abandon(new LabError(`dom0 is gone (${machine.ending}); see ${machine.consoleLog}`)),
      );
      await followBoot(machine, port, options.onProgress ?? (() => undefined));
    } catch (fault) {
      machine.kill();
      throw fault instanceof LabError ? fault : new LabError(`cannot boot: ${oneLine(fault)}`);
    }
    return new Lab(assets, options.logDir, machine, port);
  }

  /** Whether dom0 is up, as far as is known: until it was shut down, or died. */
  get running(): boolean {
    return this.#machine.ending === undefined;
  }

  /** Runs a shell command (bash) in dom0 to its end. */
  async run(command: string, options: RunOptions = {}): Promise<RunResult> {
    return await this.#finish(command, options, this.spawn(command, options));
  }

  /** Starts a shell command in dom0 and leaves it running. */
  spawn(command: string, options: Pick<RunOptions, 'env'> = {}): Dom0Process {
    return this.#port.start({ command, env: options.env ?? {} });
  }

  async #finish(command: string, options: RunOptions, process: Dom0Process): Promise<RunResult> {
    if (options.input !== undefined) process.write(options.input);
    process.endInput();
    const timeoutMs = options.timeoutMs ?? deadlines.runMs;
    return await withDeadline(process.wait(), timeoutMs, () => {
      process.kill('SIGKILL');
      const shown = command.length > 60 ? `${command.slice(0, 60)}...` : command;
      return new LabError(`dom0 did not finish "${shown}" in ${timeoutMs} ms`);
    });
  }

  /** Reads a file of dom0, byte for byte. */
  async readFile(path: string): Promise<Buffer> {
    const command = `cat -- ${quoted(path)}`;
    const process = this.spawn(command);
    const { code, stderr } = await this.#finish(command, {}, process);
    if (code !== 0) throw new LabError(`dom0 cannot read ${path}: ${oneLine(stderr)}`);
    return process.stdoutBytes();
  }

  /** Writes a file of dom0, byte for byte; an existing one keeps its mode. */
  async writeFile(path: string, data: Uint8Array | string): Promise<void> {
    const { code, stderr } = await this.run(`cat > ${quoted(path)}`, { input: data });
    if (code !== 0) throw new LabError(`dom0 cannot write ${path}: ${oneLine(stderr)}`);
  }

  /** Makes dom0 see files of this machine as they are now: it keeps what it has once read. */
  async refreshFiles(): Promise<void> {
    await this.check('echo 3 > /proc/sys/vm/drop_caches');
  }

  /** Loads kernel modules, with what they depend on, into dom0's kernel. */
  async loadModules(names: readonly string[]): Promise<void> {
    for (const file of resolveModules(this.assets, names)) {
      const name = basename(file, '.ko').replaceAll('-', '_');
      await this.check(`[ -e /sys/module/${name} ] || busybox insmod ${quoted(file)}`);
    }
  }

  /**
   * Makes the kernel's own netback the backend of vifs, as a peer or a yardstick, and gives dom0 a
   * bridge for them; a guest joins it with vif: 'bridge=xenbr0'. Do not run xenvifd beside it.
   */
  async loadKernelNetback(
    options: { readonly bridge?: string; readonly address?: string } = {},
  ): Promise<void> {
    const { bridge = 'xenbr0', address } = options;
    await this.loadModules(['bridge', 'xen-netback']);
    await this.check(
      `ip link add ${quoted(bridge)} type bridge && ip link set ${quoted(bridge)} up`,
    );
    if (address !== undefined) {
      await this.check(`ip address add ${quoted(address)} dev ${quoted(bridge)}`);
    }
  }

  /** Takes the kernel's netback away again, so that vifs are xenvifd's. */
  async unloadKernelNetback(options: { readonly bridge?: string } = {}): Promise<void> {
    await this.check(
      `ip link del ${quoted(options.bridge ?? 'xenbr0')}; busybox rmmod xen_netback`,
    );
  }

  createGuest(options: GuestOptions): Promise<Guest> {
    return Guest.create(this, options);
  }

  /** Like run, but a non-zero exit code is a LabError with what the command had to say. */
  async check(command: string, options: RunOptions = {}): Promise<string> {
    const { code, stdout, stderr } = await this.run(command, options);
    if (code !== 0)
      throw new LabError(`"${command}" in dom0 ended with ${code}: ${oneLine(stderr)}`);
    return stdout;
  }

  /** Powers off. Nothing is left of the machine but its logs. */
  async shutdown(): Promise<void> {
    this.spawn('sync; busybox poweroff -f');
    const end = Date.now() + deadlines.powerOffMs;
    while (this.#machine.ending === undefined && Date.now() < end) await sleep(CONSOLE_POLL_MS);
    this.#machine.kill();
  }
}

/** Follows dom0 through its steps, each with its own limit, until its agent answers. */
async function followBoot(
  machine: Machine,
  port: Dom0Port,
  onProgress: (message: string) => void,
): Promise<void> {
  let isReady = false;
  const ready = port.ready().then(() => {
    isReady = true;
  });
  let at = 0;
  let stepStart = Date.now();
  onProgress(STEPS[0].means);
  while (!isReady) {
    const lines = machine.readConsole();
    const failed = lines.find((line) => line.startsWith('lab: failed: '));
    const step = STEPS[at] ?? STEPS[0];
    if (failed !== undefined) throw failure(machine, step.means, failed.slice(13));
    while (
      at + 1 < STEPS.length &&
      lines.some((line) => line.endsWith(`step ${STEPS[at + 1]?.step}`))
    ) {
      at += 1;
      stepStart = Date.now();
      onProgress(STEPS[at]?.means ?? '');
    }
    if (machine.ending !== undefined)
      throw failure(machine, step.means, endedBecause(machine, lines));
    if (Date.now() - stepStart > step.limitMs) {
      throw failure(machine, step.means, `it took longer than ${step.limitMs} ms`);
    }
    await Promise.race([ready.catch(() => undefined), sleep(CONSOLE_POLL_MS)]);
  }
}

function endedBecause(machine: Machine, lines: readonly string[]): string {
  const panic = lines.find((line) => /panic/i.test(line));
  const reason =
    panic?.replace(/^\(XEN\)|^\[.*?\]/, '').trim() || machine.lastComplaint() || machine.ending;
  return `the machine ended (${reason})`;
}

function failure(machine: Machine, step: string, why: string): LabError {
  return new LabError(`the lab failed while ${step}: ${why}; see ${machine.consoleLog}`);
}

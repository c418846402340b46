/** The emulated machine: one QEMU process, its folders and its console log. */

import { type ChildProcess, spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Assets } from './assets.js';

const DOM0_CORES = 2;
/**
 * dom0, a PV domain, dies at its first exception where the first three are offered. With the others,
 * QEMU 7.2's emulation of XSAVE loses registers when Xen switches between domains: programs of dom0
 * die of corrupted memory as soon as a guest runs. Without them emulation is faster too.
 */
const CPU_WITHOUT = [
  ...['smap', 'smep', 'pku'],
  ...['xsave', 'xsaveopt', 'xgetbv1', 'avx', 'avx2', 'f16c', 'fma', 'vaes'],
];
/** Then comes the process id of the machine's owner. */
const FOLDER_PREFIX = 'xenvif-lab-';

export interface MachineOptions {
  readonly assets: Assets;
  /** Console logs are written here. */
  readonly logDir: string;
  /** Of the whole machine: the hypervisor, dom0 and all guests. */
  readonly memoryMiB: number;
  readonly dom0Initrd: Buffer;
}

export class Machine {
  /** dom0 sees this folder as /run/xenvif-lab; it goes away with the machine. */
  readonly folder: string;
  /** The serial line of Xen and dom0. */
  readonly consoleLog: string;
  readonly #options: MachineOptions;
  readonly #server: Server;
  #qemu: ChildProcess | undefined;
  #socket: Socket | undefined;
  #ending: string | undefined;

  constructor(options: MachineOptions) {
    this.#options = options;
    mkdirSync(options.logDir, { recursive: true });
    removeLeftovers();
    this.folder = mkdtempSync(join(tmpdir(), `${FOLDER_PREFIX}${process.pid}-`));
    mkdirSync(join(this.folder, 'share'));
    this.consoleLog = join(options.logDir, 'dom0.log');
    this.#server = createServer();
    process.on('exit', this.kill);
  }

  get share(): string {
    return join(this.folder, 'share');
  }

  /** How QEMU ended, once it has. */
  get ending(): string | undefined {
    return this.#ending;
  }

  /** Starts QEMU; `onPort` gets the other end of dom0's virtio serial port. */
  async start(onPort: (socket: Socket) => void, onEnd: () => void): Promise<void> {
    const portPath = join(this.folder, 'port');
    const initrd = join(this.folder, 'dom0.cpio');
    writeFileSync(initrd, this.#options.dom0Initrd);
    writeFileSync(this.consoleLog, '');
    this.#server.once('connection', (socket) => {
      this.#socket = socket;
      onPort(socket);
    });
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(portPath, resolve);
    });
    const errors = openSync(join(this.#options.logDir, 'qemu.log'), 'w');
    // Were this process killed, its exit handler would not run: the kernel then ends QEMU.
    this.#qemu = spawn(
      'setpriv',
      ['--pdeathsig', 'KILL', 'qemu-system-x86_64', ...this.#arguments(initrd, portPath)],
      { stdio: ['ignore', errors, errors] },
    );
    closeSync(errors);
    this.#qemu.once('error', (fault) => this.#end(`QEMU did not start: ${fault.message}`, onEnd));
    this.#qemu.once('exit', (code, signal) => {
      this.#end(signal === null ? `QEMU ended with ${code}` : `QEMU was ended by ${signal}`, onEnd);
    });
  }

  #end(how: string, onEnd: () => void): void {
    // QEMU exits with 0 when it is asked to end, and only says in its log who asked.
    const complaint = this.lastComplaint();
    this.#ending = complaint === undefined || complaint === '' ? how : `${how}: ${complaint}`;
    onEnd();
  }

  #arguments(initrd: string, portPath: string): string[] {
    const { assets, logDir, memoryMiB } = this.#options;
    const dom0MiB = Math.floor(memoryMiB / 2);
    const share = (tag: string, path: string, rest: string): string[] => [
      '-virtfs',
      `local,path=${escaped(path)},mount_tag=${tag},security_model=none,multidevs=remap${rest}`,
    ];
    return [
      ...['-nodefaults', '-display', 'none', '-monitor', 'none', '-nic', 'none', '-no-reboot'],
      ...['-accel', 'tcg,thread=multi,tb-size=1024', '-smp', String(DOM0_CORES)],
      ...['-cpu', ['max', ...CPU_WITHOUT].join(',-'), '-m', String(memoryMiB)],
      ...['-serial', `file:${escaped(this.consoleLog)}`],
      ...['-kernel', assets.xen, '-append', this.#xenCommandLine(dom0MiB)],
      '-initrd',
      `${escaped(assets.kernel)} console=hvc0 panic=-1 mitigations=off,${escaped(initrd)}`,
      ...share('host', '/', ',readonly=on'),
      ...share('lab', this.share, ''),
      ...share('logs', logDir, ''),
      ...['-device', 'virtio-serial-pci', '-chardev', `socket,id=lab,path=${escaped(portPath)}`],
      ...['-device', 'virtserialport,chardev=lab,name=xenvif.lab'],
    ];
  }

  #xenCommandLine(dom0MiB: number): string {
    return [
      `dom0_mem=${dom0MiB}M,max:${dom0MiB}M dom0_max_vcpus=${DOM0_CORES}`,
      'console=com1 com1=115200,8n1 loglvl=warning no-real-mode xpti=0 spec-ctrl=no',
    ].join(' ');
  }

  /** The lines of the serial console so far. */
  readConsole(): string[] {
    if (!existsSync(this.consoleLog)) return [];
    return readFileSync(this.consoleLog, 'utf8').split(/\r?\n/);
  }

  /** What QEMU itself had to say, its last line: a reason when it did not start. */
  lastComplaint(): string | undefined {
    const log = join(this.#options.logDir, 'qemu.log');
    if (!existsSync(log)) return undefined;
    return readFileSync(log, 'utf8').trim().split('\n').at(-1);
  }

  /** Ends QEMU at once and removes the folder. Safe at any time, as often as one likes. */
  readonly kill = (): void => {
    process.off('exit', this.kill);
    this.#qemu?.kill('SIGKILL');
    this.#socket?.destroy();
    this.#server.close();
    rmSync(this.folder, { recursive: true, force: true });
  };
}

/** Removes the folders of owners that were killed before they could do so themselves. */
function removeLeftovers(): void {
  for (const name of readdirSync(tmpdir())) {
    const owner = new RegExp(`^${FOLDER_PREFIX}(\\d+)-`).exec(name)?.[1];
    if (owner === undefined || existsSync(`/proc/${owner}`)) continue;
    rmSync(join(tmpdir(), name), { recursive: true, force: true });
  }
}

/** QEMU's options take a comma for the next field; two are one. */
function escaped(path: string): string {
  return path.replaceAll(',', ',,');
}

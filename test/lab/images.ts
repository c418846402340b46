/** Makes the two initrds, dom0's and a guest's, and the folder of files that dom0 runs from. */

import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { type Assets, findCheckout, labFolder, resolveModules } from './assets.js';
import { type CpioEntry, writeCpio } from './cpio.js';
import { LabError, oneLine } from './lab-error.js';

/** What dom0 needs before it can reach the host's files, and what Xen's tools need after. */
const DOM0_MODULES = [
  'virtio_pci',
  'virtio_console',
  '9pnet_virtio',
  '9p',
  'overlay',
  'xen-evtchn',
  'xen-gntdev',
  'xen-gntalloc',
  'xen-privcmd',
  'xenfs',
  'tun',
];

const GUEST_MODULES = ['xen-netfront'];

/** What a guest gets on top of busybox and its network driver. */
export interface GuestFiles {
  /** Path in the guest to path on this machine; each is executable there. */
  readonly files?: Readonly<Record<string, string>>;
  /** Programs of this machine, with the libraries they need, at the paths they have here. */
  readonly programs?: readonly string[];
  /** Kernel modules to load beside xen-netfront, after it. */
  readonly modules?: readonly string[];
}

export function buildDom0Initrd(assets: Assets): Buffer {
  return writeCpio(initrdEntries(assets, 'dom0-init.sh', DOM0_MODULES));
}

export function buildGuestInitrd(assets: Assets, wanted: GuestFiles): Buffer {
  const entries = initrdEntries(assets, 'guest-init.sh', [
    ...GUEST_MODULES,
    ...(wanted.modules ?? []),
  ]);
  // The kernel calls these two when the toolstack asks the guest to go down.
  for (const name of ['poweroff', 'reboot']) {
    const script = `#!/bin/busybox sh\nexec /bin/busybox ${name} -f\n`;
    entries.push({ path: `sbin/${name}`, data: Buffer.from(script), executable: true });
  }
  const files = new Map(Object.entries(wanted.files ?? {}));
  for (const program of wanted.programs ?? []) {
    for (const file of withLibraries(program)) files.set(file, file);
  }
  for (const [path, source] of files) {
    entries.push({ path, data: readFileSync(source), executable: true });
  }
  return writeCpio(entries);
}

function initrdEntries(assets: Assets, init: string, modules: readonly string[]): CpioEntry[] {
  const files = resolveModules(assets, modules);
  const order = files.map((file) => `${basename(file)}\n`).join('');
  return [
    { path: 'init', data: readFileSync(join(labFolder(), init)), executable: true },
    { path: 'bin/busybox', data: readFileSync(assets.busybox), executable: true },
    { path: 'dev', directory: true },
    { path: 'proc', directory: true },
    { path: 'sys', directory: true },
    { path: 'modules/order', data: Buffer.from(order) },
    ...files.map((file) => ({ path: `modules/${basename(file)}`, data: readFileSync(file) })),
  ];
}

/** A program and, as ldd names them, the loader and libraries it needs. */
export function withLibraries(program: string): string[] {
  let listed: string;
  try {
    listed = execFileSync('ldd', [program], { encoding: 'utf8', stdio: 'pipe' });
  } catch (fault) {
    throw new LabError(`cannot tell the libraries of ${program}: ${oneLine(fault)}`);
  }
  return [program, ...[...listed.matchAll(/(\/\S+) \(0x/g)].map((match) => match[1] ?? '')];
}

/** Fills the folder that dom0 sees as /run/xenvif-lab: its services, the agent, the vif script. */
export function fillDom0Folder(folder: string): void {
  for (const script of ['dom0-services.sh', 'vif-connected.sh']) {
    copyFileSync(join(labFolder(), script), join(folder, script));
    chmodSync(join(folder, script), 0o755);
  }
  const agent = join(folder, 'agent');
  mkdirSync(agent);
  writeFileSync(join(agent, 'package.json'), '{ "type": "module" }\n');
  compileAgent(agent);
}

/** dom0's Node.js takes no TypeScript; types were checked with the rest, so none are here. */
function compileAgent(folder: string): void {
  const checkout = findCheckout();
  const compiler = join(checkout, 'node_modules', 'typescript', 'bin', 'tsc');
  const options = '--ignoreConfig --noCheck --module nodenext --target es2023';
  try {
    execFileSync(
      process.execPath,
      [compiler, ...options.split(' '), '--outDir', folder, join(labFolder(), 'dom0-agent.ts')],
      { stdio: 'pipe', cwd: checkout },
    );
  } catch (fault) {
    throw new LabError(`cannot compile dom0's agent (npm ci was run?): ${oneLine(fault)}`);
  }
}

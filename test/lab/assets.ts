/** Finds what packages.sh left: the hypervisor, the kernel and its modules. */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { LabError } from './lab-error.js';

export interface Assets {
  /** The hypervisor as the plain ELF that QEMU's multiboot loader takes. */
  readonly xen: string;
  /** The kernel of dom0 and of the guests, an uncompressed ELF. */
  readonly kernel: string;
  /** A static busybox: the whole user space of the initrds. */
  readonly busybox: string;
  /** Module name (with dashes) to file. */
  readonly modules: ReadonlyMap<string, string>;
}

/** The root of this checkout, found upwards so that it holds for compiled code in dist too. */
export function findCheckout(): string {
  let folder = import.meta.dirname;
  while (!existsSync(join(folder, 'test', 'lab', 'packages.sh'))) {
    if (dirname(folder) === folder) throw new LabError('the lab does not lie in its checkout');
    folder = dirname(folder);
  }
  return folder;
}

/** The folder of the lab's own sources, where its shell scripts are. */
export function labFolder(): string {
  return join(findCheckout(), 'test', 'lab');
}

export function findAssets(): Assets {
  const cacheHome = process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache');
  const cache = process.env['XENVIF_LAB_CACHE'] ?? join(cacheHome, 'xenvif-lab');
  const current = join(cache, 'current');
  const busybox = '/bin/busybox';
  if (!existsSync(join(current, 'complete')) || !existsSync(busybox)) {
    throw new LabError('the lab lacks its packages: run test/lab/packages.sh as root first');
  }
  return {
    xen: join(current, 'xen.elf'),
    kernel: join(current, 'vmlinux'),
    busybox,
    modules: listModules(join(current, 'modules')),
  };
}

function listModules(folder: string): Map<string, string> {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' });
  const modules = files.filter((file) => file.endsWith('.ko'));
  return new Map(modules.map((file) => [dashed(basename(file, '.ko')), join(folder, file)]));
}

/**
 * Returns the files of the named modules and of all they depend on, in the order to insert them.
 *
 * A module says itself what it depends on, in its .modinfo section as `depends=a,b`, so neither
 * depmod nor modprobe is needed. Modules built into the kernel are in nobody's list.
 */
export function resolveModules(assets: Assets, names: readonly string[]): string[] {
  const files = new Set<string>();
  const visit = (name: string): void => {
    const file = assets.modules.get(dashed(name));
    if (file === undefined) throw new LabError(`the cached kernel has no module ${name}`);
    if (files.has(file)) return;
    for (const dependency of dependenciesOf(file)) visit(dependency);
    files.add(file);
  };
  for (const name of names) visit(name);
  return [...files];
}

function dependenciesOf(file: string): string[] {
  const found = /\0depends=([^\0]*)\0/.exec(readFileSync(file).toString('latin1'));
  return (found?.[1] ?? '').split(',').filter((name) => name !== '');
}

/** A module's name may spell dashes as underscores; its file may do either. */
function dashed(name: string): string {
  return name.replaceAll('_', '-');
}

/** What a machine without this checkout needs to run its xenvifd: node, the daemon, and what they load. */

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { findCheckout } from './assets.js';
import type { GuestFiles } from './images.js';

/** Where the daemon lies in the guest. */
const ROOT = '/usr/lib/xenvif';
const LIBRARIES = ['libxengnttab.so.1', 'libxenevtchn.so.1'];
const LIBRARY_FOLDER = '/usr/lib/x86_64-linux-gnu';
/** Of a package, what is only for people or compilers is left out. */
const NEEDED = /\.(js|cjs|mjs|json|node|proto|binpb)$/;

interface Manifest {
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

/** The command that starts it in such a guest. */
export const DAEMON_COMMAND = `/usr/bin/node ${ROOT}/dist/main.js`;

export function daemonFiles(): GuestFiles {
  const checkout = findCheckout();
  const files: Record<string, string> = {};
  const add = (folder: string): void => {
    for (const entry of readdirSync(join(checkout, folder), { withFileTypes: true })) {
      const path = join(folder, entry.name);
      // A package of its own, and not of this one, is added by who depends on it.
      if (entry.isDirectory() && entry.name !== 'node_modules') add(path);
      else if (entry.isFile() && NEEDED.test(path)) files[join(ROOT, path)] = join(checkout, path);
    }
  };
  add('dist');
  add('proto');
  files[join(ROOT, 'package.json')] = join(checkout, 'package.json');
  for (const name of packages(checkout)) add(join('node_modules', name));
  return {
    files,
    programs: ['/usr/bin/node', ...LIBRARIES.map((name) => join(LIBRARY_FOLDER, name))],
    modules: ['xen-evtchn', 'xen-gntdev', 'xen-gntalloc', 'xenfs'],
  };
}

/** The packages that the daemon depends on, and those that they do; npm lays them all side by side. */
function packages(checkout: string): Set<string> {
  const found = new Set<string>();
  const visit = (folder: string): void => {
    const text = readFileSync(join(checkout, folder, 'package.json'), 'utf8');
    const { dependencies, optionalDependencies } = JSON.parse(text) as Manifest;
    const installed = new Set(Object.keys({ ...dependencies, ...optionalDependencies }));
    for (const name of installed) {
      if (found.has(name) || !isInstalled(checkout, name)) continue;
      found.add(name);
      visit(join('node_modules', name));
    }
  };
  visit('');
  return found;
}

/** A package for another platform than this one is not. */
function isInstalled(checkout: string, name: string): boolean {
  try {
    return readdirSync(join(checkout, 'node_modules', name)).length > 0;
  } catch {
    return false;
  }
}

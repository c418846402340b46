/**
 * xencat in a guest: the built program as one file, with node, its addon and Xen's libraries, all at the
 * paths that they have on this machine. That is 100 MiB, with which a guest would take long to start, so
 * it comes by a vchan between two programs of libxenvchan.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, readdirSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { rolldown } from 'rolldown';
import { findCheckout } from '../assets.js';
import { withLibraries } from '../images.js';

const LIBRARY_FOLDER = '/usr/lib/x86_64-linux-gnu';
const LIBRARIES = ['libxengnttab.so.1', 'libxenevtchn.so.1', 'libxentoollog.so.1'];
/** What node loads of a package; the rest is sources and documents. */
const LOADED = /\.(?:c?js|node)$|^package\.json$/;

export interface GuestXencat {
  /** How to run it on the guest's own Xen. */
  readonly command: string;
  /** A tar file of everything, to be unpacked at the guest's root. */
  readonly archive: string;
  readonly archiveBytes: number;
}

export async function packXencat(): Promise<GuestXencat> {
  const packages = join(findCheckout(), 'node_modules');
  const cache = join(packages, '.cache/xenvif');
  const program = join(cache, 'guest-xencat/dist/xencat.js');
  const about = join(cache, 'guest-xencat/package.json');
  const bundle = await rolldown({
    input: join(findCheckout(), 'dist/xencat.js'),
    platform: 'node',
    // The addon cannot be bundled, and there is no daemon for the client to go to.
    external: ['koffi', '@xenvif/client'],
  });
  await bundle.write({ file: program, format: 'esm', codeSplitting: false });
  await bundle.close();
  // Where the program looks for its version, and node for the kind of its files.
  copyFileSync(join(findCheckout(), 'package.json'), about);
  const node = realpathSync(process.execPath);
  const native = join(packages, '@koromix/koffi-linux-x64/linux_x64/koffi.node');
  const libraries = LIBRARIES.map((name) => join(LIBRARY_FOLDER, name));
  const files = [
    ...[program, about, join(packages, 'koffi/package.json'), join(packages, 'koffi/index.js')],
    ...[...loadedFiles(join(packages, 'koffi/src')), ...loadedFiles(join(native, '../..'))],
    ...[node, native, ...libraries].flatMap(withLibraries),
  ];
  const archive = join(cache, 'guest-xencat.tar');
  const names = `${[...new Set(files)].join('\n')}\n`;
  execFileSync('tar', ['-chPf', archive, '-T', '-'], { input: names });
  const command = `${node} ${program} --xen native`;
  return { command, archive, archiveBytes: statSync(archive).size };
}

function loadedFiles(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && LOADED.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((file) => !file.includes('/musl'));
}

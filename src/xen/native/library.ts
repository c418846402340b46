/**
 * Loads Xen's libraries and says in plain words what is missing where that fails. Beside the modules
 * of this folder only src/device/tap uses koffi.
 */
import { existsSync, readFileSync } from 'node:fs';
import { getSystemErrorName } from 'node:util';
import koffi, { type LibraryHandle } from 'koffi';
import { UnavailableError } from '../../errors.js';

/** The C library, found as part of this process so that its file name does not matter. */
export const libc: LibraryHandle = koffi.load(null);

/** An address of this process. koffi gives 0 as null. */
export type Pointer = bigint;

/** @throws UnavailableError XEN_UNAVAILABLE, with the Debian package that has the library. */
export function loadXenLibrary(name: string, debianPackage: string): LibraryHandle {
  try {
    return koffi.load(name);
  } catch (error) {
    throw new UnavailableError(
      'XEN_UNAVAILABLE',
      `The library ${name} cannot be loaded; install the package ${debianPackage}.`,
      { library: name },
      { cause: error },
    );
  }
}

/** The name of the error of the call just made: "EINVAL". */
export function lastErrno(): string {
  const errno = koffi.errno();
  return errno > 0 ? getSystemErrorName(-errno) : `errno ${errno}`;
}

/** What to tell somebody whose device node of Xen's could not be opened with `errno`. */
export function deviceUnavailable(device: string, module: string, errno: string): UnavailableError {
  const text = `Xen cannot be used: opening ${device} failed with ${errno}. ${advice(device, module)}`;
  return new UnavailableError('XEN_UNAVAILABLE', text, { device, errno });
}

function advice(device: string, module: string): string {
  if (hypervisorType() !== 'xen') {
    return 'This machine does not run under Xen (/sys/hypervisor/type does not say xen).';
  }
  if (!existsSync(device)) return `Load the kernel module for it: modprobe ${module}.`;
  return `It must be readable and writable for this user (id ${process.getuid?.()}).`;
}

function hypervisorType(): string | undefined {
  try {
    return readFileSync('/sys/hypervisor/type', 'utf8').trim();
  } catch {
    return undefined;
  }
}

/** XTL_CRITICAL of xentoollog.h. */
const XTL_CRITICAL = 9;

/**
 * A logger for Xen's libraries that is silent below "critical". Left alone they write a line to
 * standard error for each failure, and a hostile guest can make as many of those as it likes; what
 * failed reaches us as an error anyhow.
 */
export function quietLibraryLogger(): Pointer | null {
  const toollog = loadXenLibrary('libxentoollog.so.1', 'libxentoollog1');
  const create = toollog.func(
    'void *xtl_createlogger_stdiostream(void *file, int min_level, unsigned int flags)',
  );
  return create(koffi.decode(libc.symbol('stderr'), 'void *'), XTL_CRITICAL, 0);
}

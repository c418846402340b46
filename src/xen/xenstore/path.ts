/**
 * Names of nodes (xenstore.txt): ASCII letters, digits and `-/_@`, parts joined by single slashes,
 * none at the end. A path without a leading slash is relative to the caller's /local/domain/<id>.
 * Paths that begin with `@` are no nodes but special watches.
 */
import { StoreError } from '../../errors.js';

/** XENSTORE_ABS_PATH_MAX: the longest absolute path, in bytes. */
export const ABSOLUTE_PATH_BYTES_MAX = 3072;
/** XENSTORE_REL_PATH_MAX: the longest path below a domain's directory, in bytes. */
export const RELATIVE_PATH_BYTES_MAX = 2048;

/** The special watch that fires when a domain is introduced. */
export const INTRODUCE_DOMAIN = '@introduceDomain';
/** The special watch that fires when a domain dies, crashes or is released. */
export const RELEASE_DOMAIN = '@releaseDomain';

const allowed = /^[A-Za-z0-9\-/_@]*$/;
const domainDirectory = /^\/local\/domain\/\d{1,5}\//;

/** What is wrong with a path, as an end of the sentence "the path …"; undefined when nothing is. */
export function pathProblem(
  path: string,
  special: 'special allowed' | 'node only' = 'node only',
): string | undefined {
  if (path === '') {
    return 'is empty';
  }
  if (!allowed.test(path)) {
    return 'has a character other than letters, digits and -/_@';
  }
  if (path.startsWith('@') && special === 'node only') {
    return 'begins with @, which only special watches do';
  }
  if (path.includes('//')) {
    return 'has a double slash';
  }
  if (path.endsWith('/') && path !== '/') {
    return 'ends with a slash';
  }
  return lengthProblem(path);
}

function lengthProblem(path: string): string | undefined {
  if (path.length > ABSOLUTE_PATH_BYTES_MAX) {
    return `is longer than ${ABSOLUTE_PATH_BYTES_MAX} bytes`;
  }
  // The part below a domain's directory is what a guest calls relative; xenstored measures only
  // that, so that a path stays valid when the domain gets a longer number.
  const prefix = domainDirectory.exec(path)?.[0].length ?? 0;
  const relative = prefix > 0 || !path.startsWith('/');
  if (relative && path.length - prefix > RELATIVE_PATH_BYTES_MAX) {
    return `is longer than ${RELATIVE_PATH_BYTES_MAX} bytes below the domain's directory`;
  }
  return undefined;
}

/** @throws StoreError EINVAL when `path` cannot be the name of a node (or of a special watch). */
export function checkPath(path: string, special?: 'special allowed' | 'node only'): void {
  const problem = pathProblem(path, special);
  if (problem !== undefined) {
    throw new StoreError('EINVAL', `the XenStore path ${quotePath(path)} ${problem}`);
  }
}

/** A path for a message: quoted, and cut when it is long. */
export function quotePath(path: string): string {
  return JSON.stringify(path.length > 200 ? `${path.slice(0, 200)}…` : path);
}

/** The path of the node above; `/` is its own parent. */
export function parentPath(path: string): string {
  const slash = path.lastIndexOf('/');
  return slash <= 0 ? '/' : path.slice(0, slash);
}

/** Whether `path` is `ancestor` or lies below it. */
export function isWithin(path: string, ancestor: string): boolean {
  return path === ancestor || ancestor === '/' || path.startsWith(`${ancestor}/`);
}

/**
 * The ways to the real xenstored: its Unix socket in the domain that runs it, and the kernel's
 * device /dev/xen/xenbus everywhere else (driver domains, a xenstored in a stub domain).
 */
import { createConnection } from 'node:net';
import type { Duplex } from 'node:stream';
import { UnavailableError } from '../../errors.js';
import { openXenbusDevice } from './xenbus-device.js';

export interface XenstoredPaths {
  /** Unix sockets, in the order in which they are tried. */
  readonly sockets: readonly string[];
  /** The kernel's device, tried where there is no socket; none when absent. */
  readonly device?: string;
}

/**
 * Where xenstored is looked for. XENSTORED_PATH, as the stock tools know it, is taken at its word:
 * when it is set nothing else is tried.
 */
export function xenstoredPaths(environment: NodeJS.ProcessEnv = process.env): XenstoredPaths {
  const { XENSTORED_PATH: path } = environment;
  if (path !== undefined && path !== '') {
    return { sockets: [path] };
  }
  return {
    sockets: ['/run/xenstored/socket', '/var/run/xenstored/socket'],
    device: '/dev/xen/xenbus',
  };
}

/**
 * Opens a stream of bytes to xenstored. The device is left alone where a socket is, though nobody listens:
 * xenstored ran in this domain and has died, and whoever asks the kernel for it then waits in the kernel,
 * where not even SIGKILL ends a process.
 * @throws UnavailableError XENSTORE_UNAVAILABLE, naming everything that was tried and why it failed.
 */
export async function connectXenstored(paths: XenstoredPaths = xenstoredPaths()): Promise<Duplex> {
  const failures: string[] = [];
  let isElsewhere = true;
  for (const path of paths.sockets) {
    try {
      return await connectSocket(path);
    } catch (error) {
      const reason = reasonOf(error);
      failures.push(`${path}: ${reason}`);
      isElsewhere &&= reason === 'ENOENT';
    }
  }
  if (paths.device !== undefined && isElsewhere) {
    try {
      return await openXenbusDevice(paths.device);
    } catch (error) {
      failures.push(`${paths.device}: ${reasonOf(error)}`);
    }
  }
  throw new UnavailableError(
    'XENSTORE_UNAVAILABLE',
    `no xenstored was found. Is this a Xen domain, and may this user reach XenStore? Tried ${failures.join('; ')}`,
  );
}

function connectSocket(path: string): Promise<Duplex> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path);
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      resolve(socket);
    });
  });
}

/** The name of a system error says more than its message, which repeats the path. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) {
    return String(error);
  }
  return 'code' in error && typeof error.code === 'string' ? error.code : error.message;
}

/**
 * Where the daemon listens: a Unix socket, and loopback TCP. Any other address is refused, for
 * there is no TLS and no authorization yet. A socket that another daemon answers on is left alone;
 * one that a dead daemon left behind is replaced.
 */
import { chmodSync, lstatSync, mkdirSync, rmSync } from 'node:fs';
import { connect, isIPv4 } from 'node:net';
import { dirname } from 'node:path';
import { StartupError } from '../errors.js';
import type { GrpcServer } from './server.js';

const PROBE_TIMEOUT_MS = 2000;

/** Checks `host:port` and returns it as gRPC takes it. @throws StartupError ADDRESS_INVALID. */
export function checkTcpAddress(address: string): string {
  const match = /^(\[::1\]|localhost|[0-9.]+):(\d{1,5})$/.exec(address);
  const host = match?.[1] ?? '';
  const isLoopback = host === '[::1]' || host === 'localhost';
  const isLoopback4 = isIPv4(host) && host.startsWith('127.');
  if ((isLoopback || isLoopback4) && Number(match?.[2]) <= 65535) return address;
  throw new StartupError(
    'ADDRESS_INVALID',
    `Cannot listen on ${address}: only loopback addresses such as 127.0.0.1:7637 are allowed, because there is no TLS yet.`,
  );
}

/** Makes way for a socket at `path`. @throws StartupError SOCKET_IN_USE, SOCKET_PATH_INVALID. */
export async function claimSocket(path: string): Promise<void> {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  } catch (cause) {
    const text = `Cannot make the directory of the socket ${path}.`;
    throw new StartupError('SOCKET_PATH_INVALID', text, {}, { cause });
  }
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket()) {
    throw new StartupError('SOCKET_PATH_INVALID', `${path} exists and is no socket.`);
  }
  if (await answers(path)) {
    const text = `Another daemon is listening on ${path}; stop it, or use --socket.`;
    throw new StartupError('SOCKET_IN_USE', text);
  }
  rmSync(path);
}

/** Listens on a claimed socket; nobody can connect before the mode is set. */
export async function listenOnSocket(
  server: GrpcServer,
  path: string,
  mode: string,
): Promise<void> {
  const umask = process.umask(0o177);
  try {
    await server.listen(`unix:${path}`);
  } finally {
    process.umask(umask);
  }
  chmodSync(path, Number.parseInt(mode, 8));
}

async function answers(path: string): Promise<boolean> {
  return await new Promise<boolean>((resolve) => {
    const socket = connect(path);
    const finish = (result: boolean) => {
      socket.destroy();
      resolve(result);
    };
    socket.setTimeout(PROBE_TIMEOUT_MS, () => finish(true));
    socket.on('connect', () => finish(true));
    socket.on('error', () => finish(false));
  });
}

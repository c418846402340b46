/** Where the daemon listens: what a caller may write, and what is tried when the caller is silent. */
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { invalidArgument } from './errors.js';

/** Where the daemon listens when it has no Unix socket. */
export const DEFAULT_TCP_ADDRESS = '127.0.0.1:7637';

/** What address discovery looks at; given by tests, else taken from the process. */
export interface AddressEnvironment {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly temporaryDirectory: string;
  readonly uid: number | undefined;
  readonly exists: (path: string) => boolean;
}

/**
 * Brings an address into the form that gRPC takes: `unix:/path` or `host:port`.
 * @param address `unix:/path`, `/path` or `host:port` (`[address]:port` for IPv6).
 * @throws XenvifClientError ADDRESS_INVALID
 */
export function parseAddress(address: string): string {
  if (address.startsWith('/')) return `unix:${address}`;
  if (/^unix:\/+[^/]/.test(address)) return `unix:/${address.slice(5).replace(/^\/+/, '')}`;
  const port = /^(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})$/.exec(address)?.[1];
  if (port !== undefined && Number(port) >= 1 && Number(port) <= 65535) return address;
  const message = `"${address}" is no address: write unix:/path, /path or host:port.`;
  throw invalidArgument('ADDRESS_INVALID', 'address', message);
}

/**
 * The daemon's address where the caller gave none: `XENVIF_ADDRESS`, else the first Unix socket
 * that exists of the system's, the session's and the one of a daemon started by hand, else
 * 127.0.0.1:7637.
 * @throws XenvifClientError ADDRESS_INVALID when XENVIF_ADDRESS is no address.
 */
export function defaultAddress(environment: AddressEnvironment = processEnvironment()): string {
  const { env, temporaryDirectory, uid, exists } = environment;
  const configured = env['XENVIF_ADDRESS'];
  if (configured !== undefined && configured !== '') return parseAddress(configured);
  const runtimeDirectory = env['XDG_RUNTIME_DIR'];
  const sockets = [
    '/run/xenvif/xenvifd.sock',
    ...(runtimeDirectory ? [join(runtimeDirectory, 'xenvif/xenvifd.sock')] : []),
    ...(uid === undefined ? [] : [join(temporaryDirectory, `xenvif-${uid}/xenvifd.sock`)]),
  ];
  const socket = sockets.find(exists);
  return socket === undefined ? DEFAULT_TCP_ADDRESS : `unix:${socket}`;
}

function processEnvironment(): AddressEnvironment {
  return {
    env: process.env,
    temporaryDirectory: tmpdir(),
    uid: process.getuid?.(),
    exists: existsSync,
  };
}

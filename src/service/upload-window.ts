/**
 * How many bytes clients may send ahead. HTTP/2's default of 64 KiB costs more than half of the
 * throughput of frames that are sent to guests, and grpc-js has an option for the client's side
 * alone. This file sets the server's through what grpc-js keeps to itself; where that is not as it
 * is known here, uploads are slower and nothing else.
 *
 * The connection's window bounds what one client can make the daemon hold, over all its streams.
 */
import type { Server } from '@grpc/grpc-js';

const WINDOW_BYTES = 8 * 1024 * 1024;

interface Session {
  setLocalWindowSize(bytes: number): void;
}

/** Widens the window of every stream of `server`. Before it listens anywhere. */
export function widenStreams(server: Server): void {
  const options = objectIn(server, 'commonServerOptions');
  if (options === undefined) return;
  const settings = objectIn(options, 'settings');
  Reflect.set(options, 'settings', { ...settings, initialWindowSize: WINDOW_BYTES });
}

/** Widens the window of every connection to `server`. Each time that it listens somewhere. */
export function widenConnections(server: Server): void {
  const servers = objectIn(server, 'http2Servers');
  if (!(servers instanceof Map)) return;
  for (const http2Server of servers.keys()) {
    if (!isEmitter(http2Server)) continue;
    http2Server.off('session', widen);
    http2Server.on('session', widen);
  }
}

function widen(session: Session): void {
  session.setLocalWindowSize(WINDOW_BYTES);
}

function objectIn(holder: object, name: string): object | undefined {
  const found: unknown = Reflect.get(holder, name);
  return typeof found === 'object' && found !== null ? found : undefined;
}

interface Emitter {
  on(event: 'session', listener: (session: Session) => void): void;
  off(event: 'session', listener: (session: Session) => void): void;
}

function isEmitter(value: unknown): value is Emitter {
  return typeof value === 'object' && value !== null && 'on' in value && 'off' in value;
}

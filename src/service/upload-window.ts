/**
 * How many bytes clients may send ahead. HTTP/2's default of 64 KiB costs half of the throughput of
 * frames that are sent to guests, but more is not safe everywhere: Node's HTTP/2 does not read while a
 * write of its own is stuck. If both ends of a connection had more on its way than the kernel holds,
 * both would be stuck, and wait for each other for ever. One end that is never stuck is enough, and a
 * client is not while all that it may send ahead fits into the kernel's buffers, read or not.
 *
 * TCP on one machine holds 4 MiB, for a sender's buffer grows with the segments, which are long there:
 * its window gets a quarter of that. A Unix socket holds no more than 200 KiB, and a connection from
 * afar has yet to grow: theirs stays what it is. It is the connection's window that bounds what one
 * client can have on its way; that of each stream is as wide, to leave the bound to it.
 *
 * grpc-js has an option for the client's side alone; this file reaches for what it keeps to itself. Where
 * that is not as it is known here, uploads are slower and nothing else.
 */
import { readFileSync } from 'node:fs';
import type { Server } from '@grpc/grpc-js';

const WINDOW_BYTES = 1024 * 1024;
/** How much longer than the window a sender's buffer must be able to grow. */
const HEADROOM = 4;
/** Least, first and greatest bytes of a TCP sender's buffer (tcp(7), tcp_wmem). */
const SENDER_BUFFERS = '/proc/sys/net/ipv4/tcp_wmem';

interface Session {
  readonly socket?: { readonly remoteAddress?: string };
  setLocalWindowSize(bytes: number): void;
}

/** Widens the window of every stream of `server`. Before it listens anywhere. */
export function widenStreams(server: Server): void {
  const options = objectIn(server, 'commonServerOptions');
  if (options === undefined || !mayWiden()) return;
  const settings = objectIn(options, 'settings');
  Reflect.set(options, 'settings', { ...settings, initialWindowSize: WINDOW_BYTES });
}

/** Widens the window of every connection to `server` that can hold it. Each time that it listens somewhere. */
export function widenConnections(server: Server): void {
  const servers = objectIn(server, 'http2Servers');
  if (!(servers instanceof Map) || !mayWiden()) return;
  for (const http2Server of servers.keys()) {
    if (!isEmitter(http2Server)) continue;
    http2Server.off('session', widen);
    http2Server.on('session', widen);
  }
}

function widen(session: Session): void {
  if (isLocal(session.socket?.remoteAddress ?? '')) session.setLocalWindowSize(WINDOW_BYTES);
}

function isLocal(address: string): boolean {
  return address === '::1' || /^(::ffff:)?127\./.test(address);
}

/** Whether the kernel lets the buffer of a sender on this machine grow far enough. */
function mayWiden(): boolean {
  try {
    const greatest = Number(readFileSync(SENDER_BUFFERS, 'utf8').trim().split(/\s+/)[2]);
    return greatest >= WINDOW_BYTES * HEADROOM;
  } catch {
    return false;
  }
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

/**
 * Local sockets in place of stdin and stdout, as vchan-socket-proxy has them. A server of the vchan
 * connects to the socket for each client that comes; a client of the vchan listens on it and connects
 * the vchan for each connection. One at a time, until it is told to stop.
 */
import { chmodSync } from 'node:fs';
import { createConnection, createServer, type Server, Socket } from 'node:net';
import type { ChannelSource } from './channel-source.js';
import { converse } from './conversation.js';

/** A path, or the number of a descriptor that is open already. */
export type SocketPlace = string | number;

export interface ProxyOptions {
  readonly source: ChannelSource;
  readonly place: SocketPlace;
  readonly signal: AbortSignal;
  /** Told of each conversation as it begins and ends. */
  readonly note: (text: string) => void;
}

/** Serves the vchan from a socket: connects there for each client; with a descriptor, for one. */
export async function proxyServer(options: ProxyOptions): Promise<void> {
  const { place, signal, source } = options;
  do {
    const channel = await source.open(signal);
    const socket = typeof place === 'number' ? new Socket({ fd: place }) : createConnection(place);
    await talk(options, socket, async () => channel);
  } while (typeof place === 'string' && !signal.aborted);
}

/** Listens on a socket, or on a descriptor that listens, and connects the vchan for each who comes. */
export async function proxyClient(options: ProxyOptions): Promise<void> {
  const { place, signal, source } = options;
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
  const waiting: Socket[] = [];
  let wake: (() => void) | undefined;
  server.on('connection', (socket) => {
    socket.on('error', () => undefined);
    waiting.push(socket);
    wake?.();
  });
  await listen(server, place);
  const onAbort = () => wake?.();
  signal.addEventListener('abort', onAbort);
  try {
    while (!signal.aborted) {
      const socket = waiting.shift();
      if (socket !== undefined) await talk(options, socket, () => source.open(signal));
      else {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
  } finally {
    signal.removeEventListener('abort', onAbort);
    for (const socket of waiting) socket.destroy();
    server.close();
  }
}

/** One conversation. What breaks it is noted, and the next one may come. */
async function talk(
  { note, signal }: ProxyOptions,
  socket: Socket,
  open: () => ReturnType<ChannelSource['open']>,
): Promise<void> {
  socket.on('error', () => undefined);
  try {
    const channel = await open();
    const onAbort = () => channel.destroy();
    signal.addEventListener('abort', onAbort);
    if (signal.aborted) onAbort();
    note('Connected.');
    try {
      await converse(channel, { input: socket, output: socket, stay: false });
    } finally {
      signal.removeEventListener('abort', onAbort);
      channel.destroy();
    }
    note('Disconnected.');
  } catch (error) {
    if (signal.aborted) return;
    note(`Broken: ${error instanceof Error ? error.message : String(error)}`);
  } finally {
    socket.destroySoon();
  }
}

function listen(server: Server, place: SocketPlace): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    const done = () => {
      // Who may use the vchan is for the owner of the socket to widen.
      if (typeof place === 'string') chmodSync(place, 0o660);
      resolve();
    };
    if (typeof place === 'number') server.listen({ fd: place }, done);
    else server.listen(place, done);
  });
}

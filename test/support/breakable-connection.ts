/** A TCP connection to a server that a test can break, as a client that dies breaks it: without a word. */
import { connect, createServer, type Socket } from 'node:net';

export interface BreakableConnection {
  /** What to connect to instead, `host:port`. */
  readonly address: string;
  /** Breaks every connection there is. */
  break(): void;
  /** From now on nobody is let through, until `welcome`. */
  refuse(): void;
  welcome(): void;
  close(): Promise<void>;
}

/** Stands between clients and the server at `target`, `host:port`. */
export async function breakableConnection(target: string): Promise<BreakableConnection> {
  const sockets = new Set<Socket>();
  const [host = '', port = ''] = target.split(':');
  const follow = (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
  };
  let isOpen = true;
  const server = createServer((near) => {
    if (!isOpen) {
      near.resetAndDestroy();
      return;
    }
    const far = connect(Number(port), host);
    follow(near);
    follow(far);
    near.pipe(far);
    far.pipe(near);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('There is no port.');
  const breakAll = () => {
    for (const socket of sockets) socket.resetAndDestroy();
  };
  return {
    address: `127.0.0.1:${address.port}`,
    break: breakAll,
    refuse: () => {
      isOpen = false;
    },
    welcome: () => {
      isOpen = true;
    },
    close: async () => {
      breakAll();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/**
 * One daemon a domain: two netbacks on one ring would tear it apart. The lock is an abstract Unix
 * socket, which the kernel takes away with the process, however that ends.
 */
import { createServer } from 'node:net';
import { StartupError } from '../errors.js';

const LOCK_NAME = '\0xenvifd';

/** Takes the lock and returns what gives it back. @throws StartupError ALREADY_RUNNING. */
export async function lockMachine(): Promise<() => void> {
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) => {
      const text = 'Another xenvifd serves this domain already.';
      reject(new StartupError('ALREADY_RUNNING', text, {}, { cause }));
    });
    server.listen(LOCK_NAME, resolve);
  });
  server.unref();
  return () => {
    server.close();
  };
}

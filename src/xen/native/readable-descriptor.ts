/**
 * Calls back when a descriptor of a device can be read, from the event loop itself: no thread waits
 * in a read, so nothing has to be woken for the process to exit.
 *
 * koffi's poll handle is libuv's uv_poll_t. A wake-up through it costs a microsecond more than one
 * through a Pipe handle that reads by itself, but that one is internal to Node and closes the
 * descriptor, which belongs to Xen's library.
 */
import koffi from 'koffi';
import { UnavailableError } from '../../errors.js';
import { lastErrno, libc } from './library.js';

/** @returns a function that ends it; it must be called before the descriptor is closed. */
export function onReadable(descriptor: number, callback: () => void): () => void {
  const handle = koffi.node.poll(descriptor, { readable: true }, () => {
    try {
      callback();
    } catch (error) {
      // koffi drops what a callback throws. A bug must stop the process as it would anywhere else.
      queueMicrotask(() => {
        throw error;
      });
    }
  });
  return () => handle.close();
}

const readInto = libc.func('long read(int descriptor, void *buffer, size_t bytes)');

/**
 * Reads what is there, without waiting, and returns the number of bytes: 0 for none.
 * @throws UnavailableError when the device failed for good.
 */
export function readAvailable(descriptor: number, buffer: Uint8Array): number {
  const bytes = Number(readInto(descriptor, buffer, buffer.byteLength));
  if (bytes >= 0) return bytes;
  const errno = lastErrno();
  if (errno === 'EAGAIN' || errno === 'EINTR') return 0;
  throw new UnavailableError('XEN_UNAVAILABLE', `A device of Xen's cannot be read: ${errno}.`);
}

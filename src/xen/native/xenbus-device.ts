/**
 * /dev/xen/xenbus as a stream. The kernel wants each message whole in one write, and a read that
 * waits in Node's thread pool could not be called off: it would keep the process from ending. So
 * the device is opened non-blocking and poll(2) does the waiting, next to an eventfd that ends it.
 */
import { close, constants, open, read, write, writeSync } from 'node:fs';
import { Duplex } from 'node:stream';
import { promisify } from 'node:util';
import koffi from 'koffi';

const openFile = promisify(open);

/** A process that exits without closing the device has to wait for poll this long, in milliseconds. */
const POLL_TIMEOUT_MS = 500;
/** How soon a write is tried again when the kernel has no room for it, in milliseconds. */
const WRITE_RETRY_MS = 2;
const READ_BYTES = 16 * 1024;
/** poll.h */
const POLLIN = 1;
const POLLFD_BYTES = 8;
/** sys/eventfd.h */
const EFD_NONBLOCK = 0o4000;
const EFD_CLOEXEC = 0o2000000;

interface LibC {
  /** Waits in the thread pool; the result is of no interest, as a read tells the same and more. */
  readonly poll: (fds: Buffer, count: number, timeoutMs: number, done: () => void) => void;
  readonly eventfd: (initial: number, flags: number) => number;
}

let loaded: LibC | undefined;

/** Loaded when first needed: most processes never open the device. */
function libC(): LibC {
  if (loaded === undefined) {
    const library = koffi.load('libc.so.6');
    const poll = library.func('int poll(void *fds, unsigned long nfds, int timeout)');
    const eventfd: (initial: number, flags: number) => number = library.func(
      'int eventfd(unsigned int initval, int flags)',
    );
    loaded = {
      poll: (fds, count, timeoutMs, done) => poll.async(fds, count, timeoutMs, done),
      eventfd,
    };
  }
  return loaded;
}

/** Opens the device (or, in tests, anything that can be polled). One thread waits while it is open. */
export async function openXenbusDevice(path: string): Promise<Duplex> {
  const fd = await openFile(path, constants.O_RDWR | constants.O_NONBLOCK);
  const wakeFd = libC().eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (wakeFd < 0) {
    await promisify(close)(fd);
    throw new Error('no eventfd could be made');
  }
  return new XenbusDevice(fd, wakeFd);
}

class XenbusDevice extends Duplex {
  readonly #fd: number;
  readonly #wakeFd: number;
  readonly #pollFds = Buffer.alloc(2 * POLLFD_BYTES);
  readonly #buffer = Buffer.alloc(READ_BYTES);
  /** Calls under way in the thread pool; the descriptors are closed only when there is none. */
  #underWay = 0;
  #closeWhenIdle: (() => void) | undefined;

  constructor(fd: number, wakeFd: number) {
    super({ decodeStrings: true, allowHalfOpen: false });
    this.#fd = fd;
    this.#wakeFd = wakeFd;
    for (const [index, polled] of [fd, wakeFd].entries()) {
      this.#pollFds.writeInt32LE(polled, index * POLLFD_BYTES);
      this.#pollFds.writeInt16LE(POLLIN, index * POLLFD_BYTES + 4);
    }
  }

  override _read(): void {
    this.#begin();
    read(this.#fd, this.#buffer, 0, READ_BYTES, null, (error, count) => {
      this.#end();
      if (this.destroyed) {
        return;
      }
      if (error === null) {
        this.push(count === 0 ? null : Buffer.from(this.#buffer.subarray(0, count)));
      } else if (error.code === 'EAGAIN') {
        this.#wait();
      } else {
        this.destroy(error);
      }
    });
  }

  override _write(chunk: Buffer, encoding: string, done: (error?: Error | null) => void): void {
    this.#begin();
    write(this.#fd, chunk, 0, chunk.length, null, (error, count) => {
      this.#end();
      if (error !== null && error.code === 'EAGAIN' && !this.destroyed) {
        setTimeout(() => {
          if (this.destroyed) {
            done(new Error('the device was closed'));
          } else {
            this._write(chunk, encoding, done);
          }
        }, WRITE_RETRY_MS);
      } else if (error === null && count !== chunk.length) {
        done(new Error(`only ${count} of ${chunk.length} bytes of a message could be written`));
      } else {
        done(error);
      }
    });
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#closeWhenIdle = () => {
      close(this.#wakeFd, () => close(this.#fd, (closeError) => done(error ?? closeError ?? null)));
    };
    // The device itself may never become readable again; this makes poll return.
    writeSync(this.#wakeFd, Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]));
    this.#begin();
    this.#end();
  }

  #wait(): void {
    this.#begin();
    libC().poll(this.#pollFds, 2, POLL_TIMEOUT_MS, () => {
      this.#end();
      if (!this.destroyed) {
        this._read();
      }
    });
  }

  #begin(): void {
    this.#underWay += 1;
  }

  #end(): void {
    this.#underWay -= 1;
    if (this.#underWay === 0 && this.#closeWhenIdle !== undefined) {
      const closeNow = this.#closeWhenIdle;
      this.#closeWhenIdle = undefined;
      closeNow();
    }
  }
}

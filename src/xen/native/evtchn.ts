/**
 * Event channels on real Xen, by libxenevtchn: /dev/xen/evtchn (xenevtchn.h). The device's
 * descriptor is read in whole batches of ports; the driver masks each port as it hands it out, and
 * `unmask` writes it back.
 */
import { EventChannelError, MisuseError } from '../../errors.js';
import type { EventChannel, Events } from '../xen.js';
import {
  deviceUnavailable,
  lastErrno,
  loadXenLibrary,
  type Pointer,
  quietLibraryLogger,
} from './library.js';
import { onReadable, readAvailable } from './readable-descriptor.js';

/** The driver gives at most a page of ports in one read. */
const PORTS_PER_READ = 1024;

interface EventLibrary {
  readonly logger: Pointer | null;
  open(logger: Pointer | null, flags: number): Pointer | null;
  close(handle: Pointer): number;
  descriptor(handle: Pointer): number;
  notify(handle: Pointer, port: number): number;
  allocate(handle: Pointer, domid: number): number;
  bind(handle: Pointer, domid: number, remotePort: number): number;
  unbind(handle: Pointer, port: number): number;
  unmask(handle: Pointer, port: number): number;
}

function loadEventLibrary(): EventLibrary {
  const library = loadXenLibrary('libxenevtchn.so.1', 'libxenevtchn1');
  return {
    logger: quietLibraryLogger(),
    open: library.func('void *xenevtchn_open(void *logger, unsigned int flags)'),
    close: library.func('int xenevtchn_close(void *handle)'),
    descriptor: library.func('int xenevtchn_fd(void *handle)'),
    notify: library.func('int xenevtchn_notify(void *handle, uint32_t port)'),
    allocate: library.func('int xenevtchn_bind_unbound_port(void *handle, uint32_t domid)'),
    bind: library.func(
      'int xenevtchn_bind_interdomain(void *handle, uint32_t domid, uint32_t remote_port)',
    ),
    unbind: library.func('int xenevtchn_unbind(void *handle, uint32_t port)'),
    unmask: library.func('int xenevtchn_unmask(void *handle, uint32_t port)'),
  };
}

export class NativeEvents implements Events {
  readonly #library: EventLibrary;
  readonly #handle: Pointer;
  readonly #descriptor: number;
  readonly #stopReading: () => void;
  readonly #ports = new Uint32Array(PORTS_PER_READ);
  readonly #portBytes = new Uint8Array(this.#ports.buffer);
  readonly #channels = new Map<number, NativeEventChannel>();
  #closed = false;

  /** @throws UnavailableError when the library or /dev/xen/evtchn is missing. */
  constructor() {
    this.#library = loadEventLibrary();
    const handle = this.#library.open(this.#library.logger, 0);
    if (handle === null) throw deviceUnavailable('/dev/xen/evtchn', 'xen-evtchn', lastErrno());
    this.#handle = handle;
    this.#descriptor = this.#library.descriptor(handle);
    this.#stopReading = onReadable(this.#descriptor, () => this.#deliver());
  }

  /** How many channels are open. */
  get liveCount(): number {
    return this.#channels.size;
  }

  bind(domid: number, remotePort: number, onEvent: () => void): EventChannel {
    this.#checkOpen();
    const port = this.#library.bind(this.#handle, domid, remotePort);
    if (port < 0) throw eventError(`Port ${remotePort} of domain ${domid} cannot be bound`);
    return this.#keep(port, onEvent);
  }

  allocate(domid: number, onEvent: () => void): EventChannel {
    this.#checkOpen();
    const port = this.#library.allocate(this.#handle, domid);
    if (port < 0) throw eventError(`No port can be allocated for domain ${domid}`);
    return this.#keep(port, onEvent);
  }

  /** Closes what was left and the device. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#stopReading();
    for (const channel of [...this.#channels.values()]) channel.close();
    this.#library.close(this.#handle);
  }

  #keep(port: number, onEvent: () => void): EventChannel {
    const calls: ChannelCalls = {
      notify: () => this.#library.notify(this.#handle, port),
      unmask: () => this.#library.unmask(this.#handle, port),
      unbind: () => {
        this.#channels.delete(port);
        return this.#library.unbind(this.#handle, port);
      },
    };
    const channel = new NativeEventChannel(port, onEvent, calls);
    this.#channels.set(port, channel);
    return channel;
  }

  #deliver(): void {
    const count = readAvailable(this.#descriptor, this.#portBytes) >>> 2;
    let next = 0;
    try {
      while (next < count) {
        // A handler may close a channel that comes later in the batch: it is not found then.
        const channel = this.#channels.get(this.#ports[next] as number);
        next += 1;
        channel?.deliver();
      }
    } finally {
      // A handler that throws takes nobody else's event away.
      if (next < count) this.#deliverRest(this.#ports.slice(next, count));
    }
  }

  #deliverRest(ports: Uint32Array): void {
    for (const port of ports) {
      setImmediate(() => this.#channels.get(port)?.deliver());
    }
  }

  #checkOpen(): void {
    if (this.#closed) throw new MisuseError('Events were used after close.');
  }
}

/** The library's calls for one port. */
interface ChannelCalls {
  notify(): number;
  unmask(): number;
  unbind(): number;
}

class NativeEventChannel implements EventChannel {
  readonly port: number;
  readonly #onEvent: () => void;
  readonly #calls: ChannelCalls;
  /** Whether the driver masked the port; spares a system call where there is nothing to unmask. */
  #masked = false;
  #closed = false;

  constructor(port: number, onEvent: () => void, calls: ChannelCalls) {
    this.port = port;
    this.#onEvent = onEvent;
    this.#calls = calls;
  }

  deliver(): void {
    this.#masked = true;
    this.#onEvent();
  }

  notify(): void {
    if (this.#closed) this.#refuse('notified');
    if (this.#calls.notify() !== 0) throw eventError(`Port ${this.port} cannot be notified`);
  }

  unmask(): void {
    if (this.#closed) this.#refuse('unmasked');
    if (!this.#masked) return;
    this.#masked = false;
    if (this.#calls.unmask() !== 0) throw eventError(`Port ${this.port} cannot be unmasked`);
  }

  close(): void {
    if (this.#closed) this.#refuse('closed');
    this.#closed = true;
    if (this.#calls.unbind() !== 0) throw eventError(`Port ${this.port} cannot be closed`);
  }

  #refuse(operation: string): never {
    throw new MisuseError(`Event channel port ${this.port} was ${operation} after its close.`);
  }
}

/** Must be called right after the call that failed, while errno is still that call's. */
function eventError(what: string): EventChannelError {
  const errno = lastErrno();
  return new EventChannelError(`${what}: ${errno}.`, { errno });
}

/**
 * What is set and asked of a network interface by name, by the ioctls of linux/sockios.h on a
 * socket. A socket belongs to the network namespace that the process was in when it was made, so
 * an interface that was moved to another namespace is not found any more.
 */
import { closeSync } from 'node:fs';
import { formatMac } from '@xenvif/client/wire';
import { FailedPreconditionError } from '../../errors.js';
import { lastErrno, libc } from '../../xen/native/library.js';
import {
  INTERFACE_NAME_BYTES,
  interfaceError,
  interfaceRequest,
  ioctlPointer,
} from './tun-file.js';

const SIOCGIFFLAGS = 0x8913;
const SIOCSIFFLAGS = 0x8914;
const SIOCGIFMTU = 0x8921;
const SIOCSIFMTU = 0x8922;
const SIOCGIFHWADDR = 0x8927;

const IFF_UP = 1;

const AF_INET = 2;
const SOCK_DGRAM_CLOEXEC = 0x80002;

/** Where the union of `struct ifreq` starts: an int, or a `struct sockaddr`. */
const VALUE = INTERFACE_NAME_BYTES;
/** Where `sa_data` starts in that. */
const ADDRESS = INTERFACE_NAME_BYTES + 2;

const openSocket: (domain: number, type: number, protocol: number) => number = libc.func(
  'int socket(int domain, int type, int protocol)',
);

export class InterfaceSettings {
  readonly #name: string;
  readonly #socket: number;

  /** @throws FailedPreconditionError TAP_FAILED when there can be no socket. */
  constructor(name: string) {
    this.#name = name;
    this.#socket = openSocket(AF_INET, SOCK_DGRAM_CLOEXEC, 0);
    if (this.#socket < 0) {
      const errno = lastErrno();
      throw new FailedPreconditionError('TAP_FAILED', `No socket to set ${name} up: ${errno}.`, {
        errno,
      });
    }
  }

  /** The largest payload of a frame, in bytes. */
  get mtu(): number {
    return this.#ask(SIOCGIFMTU, 'its MTU cannot be read').getInt32(VALUE, true);
  }

  set mtu(bytes: number) {
    this.#set(SIOCSIFMTU, `its MTU cannot be ${bytes}`, (request) =>
      request.setInt32(VALUE, bytes, true),
    );
  }

  /** Whether the interface is up, as its administrator wants it. */
  get up(): boolean {
    return (this.#flags & IFF_UP) !== 0;
  }

  set up(up: boolean) {
    const flags = up ? this.#flags | IFF_UP : this.#flags & ~IFF_UP;
    this.#set(SIOCSIFFLAGS, `it cannot be set ${up ? 'up' : 'down'}`, (request) =>
      request.setInt16(VALUE, flags, true),
    );
  }

  /** Six hex pairs with colons. */
  get mac(): string {
    const request = this.#ask(SIOCGIFHWADDR, 'its address cannot be read');
    return formatMac(new Uint8Array(request.buffer), ADDRESS);
  }

  close(): void {
    closeSync(this.#socket);
  }

  get #flags(): number {
    return this.#ask(SIOCGIFFLAGS, 'its flags cannot be read').getInt16(VALUE, true);
  }

  #ask(code: number, failure: string): DataView<ArrayBuffer> {
    const request = interfaceRequest(this.#name);
    if (ioctlPointer(this.#socket, code, request) < 0) throw interfaceError(this.#name, failure);
    return new DataView(request.buffer);
  }

  #set(code: number, failure: string, fill: (request: DataView) => void): void {
    const request = interfaceRequest(this.#name);
    fill(new DataView(request.buffer));
    if (ioctlPointer(this.#socket, code, request) < 0) throw interfaceError(this.#name, failure);
  }
}

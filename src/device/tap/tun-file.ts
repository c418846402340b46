/**
 * /dev/net/tun, opened and attached to an interface: the kernel sends what its stack puts on the
 * interface to the file's reader, and receives on the interface what is written to the file, a
 * frame a call. Numbers are those of linux/if_tun.h, with the ioctl encoding of x86 and ARM.
 */
import { closeSync, constants, openSync } from 'node:fs';
import {
  AlreadyExistsError,
  FailedPreconditionError,
  InvalidArgumentError,
  type XenvifError,
} from '../../errors.js';
import { lastErrno, libc } from '../../xen/native/library.js';
import { VIRTIO_NET_HEADER_BYTES } from './virtio-net-header.js';

const TUN_DEVICE = '/dev/net/tun';
/** IFNAMSIZ of linux/if.h: the longest name and its terminating zero. */
export const INTERFACE_NAME_BYTES = 16;
/** The size of `struct ifreq` on a 64-bit system: the name and a union of 24 bytes. */
export const INTERFACE_REQUEST_BYTES = 40;

const TUNSETIFF = 0x400454ca;
const TUNSETPERSIST = 0x400454cb;
const TUNSETOWNER = 0x400454cc;
const TUNSETOFFLOAD = 0x400454d0;
const TUNSETVNETHDRSZ = 0x400454d8;

const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;

const TUN_F_CSUM = 1;
const TUN_F_TSO4 = 2;
const TUN_F_TSO6 = 4;

/** Some requests take a pointer and some a number in its place; errno is left for `lastErrno`. */
export const ioctlPointer: (descriptor: number, request: number, argument: Uint8Array) => number =
  libc.func('int ioctl(int descriptor, unsigned long request, void *argument)');
const ioctlNumber: (descriptor: number, request: number, argument: number) => number = libc.func(
  'int ioctl(int descriptor, unsigned long request, unsigned long argument)',
);

export class TunFile {
  /** Non-blocking; closed by `close` alone. */
  readonly descriptor: number;
  /** What the kernel calls the interface, as it was when the file was attached. */
  readonly name: string;

  /**
   * Attaches to the interface `name`, which is made if it does not exist. A name that ends in `%d`
   * has the first free number put there.
   * @throws InvalidArgumentError TAP_NAME_INVALID; FailedPreconditionError TAP_UNAVAILABLE, TAP_DENIED,
   *   TAP_FAILED; AlreadyExistsError TAP_BUSY, TAP_NAME_TAKEN.
   */
  constructor(name: string) {
    checkName(name);
    this.descriptor = openDevice();
    try {
      this.name = this.#attach(name);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Whether the kernel may hand over blank checksums and TCP segments longer than the MTU. */
  setOffloads(enabled: boolean): void {
    const offloads = enabled ? TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 : 0;
    this.#setNumber(TUNSETOFFLOAD, offloads, 'its offloads cannot be set');
  }

  /** Whether the interface outlives its last file. */
  setPersistent(persistent: boolean): void {
    this.#setNumber(TUNSETPERSIST, persistent ? 1 : 0, 'its persistence cannot be set');
  }

  /** The user who may attach to the interface without privileges. */
  setOwner(uid: number): void {
    this.#setNumber(TUNSETOWNER, uid, 'its owner cannot be set');
  }

  /** Lets the interface go, and with it its last trace unless it is persistent. */
  close(): void {
    closeSync(this.descriptor);
  }

  #attach(name: string): string {
    const request = interfaceRequest(name);
    new DataView(request.buffer).setInt16(
      INTERFACE_NAME_BYTES,
      IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
      true,
    );
    if (ioctlPointer(this.descriptor, TUNSETIFF, request) < 0) throw attachError(name, lastErrno());
    const attached = nameOf(request);
    const headerBytes = new Uint8Array(Int32Array.of(VIRTIO_NET_HEADER_BYTES).buffer);
    if (ioctlPointer(this.descriptor, TUNSETVNETHDRSZ, headerBytes) < 0) {
      throw interfaceError(attached, 'the size of its virtio-net header cannot be set');
    }
    return attached;
  }

  #setNumber(request: number, argument: number, failure: string): void {
    if (ioctlNumber(this.descriptor, request, argument) < 0) {
      throw interfaceError(this.name, failure);
    }
  }
}

/** A zeroed `struct ifreq` for an interface. */
export function interfaceRequest(name: string): Uint8Array<ArrayBuffer> {
  const request = new Uint8Array(INTERFACE_REQUEST_BYTES);
  request.set(new TextEncoder().encode(name));
  return request;
}

/** The error of the call just made on an interface: it must be asked for before the next call. */
export function interfaceError(name: string, failure: string): FailedPreconditionError {
  const errno = lastErrno();
  const denied = errno === 'EPERM' || errno === 'EACCES';
  const text = `The interface ${name} cannot be used: ${failure} (${errno}).`;
  return new FailedPreconditionError(denied ? 'TAP_DENIED' : 'TAP_FAILED', text, { name, errno });
}

/** The rules of Linux' dev_valid_name, and no character that a shell or a log would stumble on. */
function checkName(name: string): void {
  const isSound = /^[A-Za-z0-9_.-]+(%d)?$/.test(name) && name !== '.' && name !== '..';
  if (isSound && name.length < INTERFACE_NAME_BYTES) return;
  throw new InvalidArgumentError(
    'TAP_NAME_INVALID',
    'name',
    `"${name}" cannot name an interface: 1 to ${INTERFACE_NAME_BYTES - 1} letters, digits, "_", "." and "-", with %d at the end for a number.`,
  );
}

function openDevice(): number {
  try {
    return openSync(TUN_DEVICE, constants.O_RDWR | constants.O_NONBLOCK);
  } catch (error) {
    const errno = String((error as NodeJS.ErrnoException).code);
    const denied = errno === 'EPERM' || errno === 'EACCES';
    throw new FailedPreconditionError(
      denied ? 'TAP_DENIED' : 'TAP_UNAVAILABLE',
      `${TUN_DEVICE} cannot be opened: ${errno}. ${
        denied
          ? `It must be readable and writable for this user (id ${process.getuid?.()}).`
          : 'Load the kernel module for it: modprobe tun.'
      }`,
      { device: TUN_DEVICE, errno },
    );
  }
}

function attachError(name: string, errno: string): XenvifError {
  const metadata = { name, errno };
  switch (errno) {
    case 'EBUSY':
      return new AlreadyExistsError(
        'TAP_BUSY',
        `The interface ${name} is used by another process.`,
        metadata,
      );
    case 'EINVAL':
      return new AlreadyExistsError(
        'TAP_NAME_TAKEN',
        `There is an interface ${name} already, and it is no TAP that a single reader can have.`,
        metadata,
      );
    case 'EPERM':
      return new FailedPreconditionError(
        'TAP_DENIED',
        `The interface ${name} needs CAP_NET_ADMIN, or a persistent TAP owned by this user (id ${process.getuid?.()}).`,
        metadata,
      );
    default:
      return new FailedPreconditionError(
        'TAP_FAILED',
        `The interface ${name} cannot be made: ${errno}.`,
        metadata,
      );
  }
}

function nameOf(request: Uint8Array): string {
  const end = request.indexOf(0);
  return new TextDecoder().decode(request.subarray(0, Math.min(end, INTERFACE_NAME_BYTES)));
}

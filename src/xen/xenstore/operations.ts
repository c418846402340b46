/**
 * The requests about nodes, each as one call: how its payload is built, how its reply is read. The
 * same code serves requests outside and inside a transaction; only how one is sent differs.
 */
import { StoreError } from '../../errors.js';
import type { StoreOperations, StorePermissions } from '../xen.js';
import { checkPath, quotePath } from './path.js';
import { emitPermissions, parsePermissions } from './permissions.js';
import { emitStrings, MessageType, PAYLOAD_BYTES_MAX, parseStrings } from './wire.js';

/** Sends one request; `subject` says in an error message what could not be done. */
export type SendRequest = (type: number, payload: Buffer, subject: string) => Promise<Buffer>;

/** A directory that keeps changing while it is read in parts is begun anew this often. */
const DIRECTORY_RESTARTS_MAX = 16;
/** More than any sane directory: a list of children longer than this is refused, in bytes. */
const DIRECTORY_BYTES_MAX = 4 * 1024 * 1024;

export class RequestOperations implements StoreOperations {
  readonly #send: SendRequest;

  constructor(send: SendRequest) {
    this.#send = send;
  }

  async read(path: string): Promise<string> {
    return (await this.readBytes(path)).toString('utf8');
  }

  async readIfExists(path: string): Promise<string | undefined> {
    try {
      return await this.read(path);
    } catch (error) {
      if (error instanceof StoreError && error.errno === 'ENOENT') {
        return undefined;
      }
      throw error;
    }
  }

  readBytes(path: string): Promise<Buffer> {
    return this.#aboutNode(MessageType.READ, path, `read ${quotePath(path)}`);
  }

  async write(path: string, value: string | Uint8Array): Promise<void> {
    const subject = `write ${quotePath(path)}`;
    const bytes = typeof value === 'string' ? Buffer.from(value, 'utf8') : value;
    await this.#aboutNode(MessageType.WRITE, path, subject, bytes);
  }

  async mkdir(path: string): Promise<void> {
    await this.#aboutNode(MessageType.MKDIR, path, `make ${quotePath(path)}`);
  }

  async rm(path: string): Promise<void> {
    try {
      await this.#aboutNode(MessageType.RM, path, `remove ${quotePath(path)}`);
    } catch (error) {
      // xenstored minds when the parent is missing too. To the caller it is all the same: gone.
      if (!(error instanceof StoreError && error.errno === 'ENOENT')) {
        throw error;
      }
    }
  }

  async directory(path: string): Promise<string[]> {
    const subject = `list ${quotePath(path)}`;
    try {
      return names(await this.#aboutNode(MessageType.DIRECTORY, path, subject), subject);
    } catch (error) {
      if (error instanceof StoreError && error.errno === 'E2BIG') {
        return await this.#directoryInParts(path, subject, error);
      }
      throw error;
    }
  }

  async getPermissions(path: string): Promise<StorePermissions> {
    const subject = `read the permissions of ${quotePath(path)}`;
    return parsePermissions(
      await this.#aboutNode(MessageType.GET_PERMS, path, subject, undefined, 'special allowed'),
    );
  }

  async setPermissions(path: string, permissions: StorePermissions): Promise<void> {
    const subject = `set the permissions of ${quotePath(path)}`;
    const bytes = emitPermissions(permissions);
    await this.#aboutNode(MessageType.SET_PERMS, path, subject, bytes, 'special allowed');
  }

  /** A request that begins with a path. What breaks a rule is refused before anything is sent. */
  async #aboutNode(
    type: number,
    path: string,
    subject: string,
    rest: Uint8Array = new Uint8Array(),
    special?: 'special allowed' | 'node only',
  ): Promise<Buffer> {
    checkPath(path, special);
    const payload = Buffer.concat([emitStrings(path), rest]);
    if (payload.length > PAYLOAD_BYTES_MAX) {
      throw new StoreError(
        'E2BIG',
        `could not ${subject}: path and value are ${payload.length} bytes together, of at most ${PAYLOAD_BYTES_MAX}`,
      );
    }
    return await this.#send(type, payload, subject);
  }

  /**
   * A list of children too long for one payload comes in parts, each with the generation of the
   * node; parts of two generations do not belong together.
   */
  async #directoryInParts(path: string, subject: string, tooBig: StoreError): Promise<string[]> {
    for (let restarts = 0; restarts <= DIRECTORY_RESTARTS_MAX; restarts++) {
      const children = await this.#oneGeneration(path, subject, tooBig);
      if (children !== undefined) {
        return children;
      }
    }
    throw new StoreError('EAGAIN', `could not ${subject}: it kept changing while it was read`);
  }

  async #oneGeneration(path: string, subject: string, tooBig: StoreError) {
    const children: string[] = [];
    let generation: string | undefined;
    for (let offset = 0; offset <= DIRECTORY_BYTES_MAX; ) {
      const part = names(await this.#directoryPart(path, offset, subject, tooBig), subject);
      const [partGeneration, ...partChildren] = part;
      if (partGeneration === undefined || partChildren.length === 0) {
        throw new StoreError('EIO', `could not ${subject}: XenStore answered no part of a list`);
      }
      generation ??= partGeneration;
      if (generation !== partGeneration) {
        return undefined;
      }
      // The last part ends with an empty name.
      const last = partChildren.at(-1) === '';
      if (last) {
        partChildren.pop();
      }
      children.push(...partChildren);
      if (last) {
        return children;
      }
      offset += Buffer.byteLength(emitStrings(...partChildren));
    }
    throw new StoreError('E2BIG', `could not ${subject}: it has too many children`);
  }

  async #directoryPart(path: string, offset: number, subject: string, tooBig: StoreError) {
    try {
      const payload = emitStrings(path, String(offset));
      return await this.#send(MessageType.DIRECTORY_PART, payload, subject);
    } catch (error) {
      // oxenstored of Xen 4.17 knows no parts; that the list is too long is the better answer.
      throw error instanceof StoreError && error.errno === 'ENOSYS' ? tooBig : error;
    }
  }
}

function names(payload: Buffer, subject: string): string[] {
  const strings = parseStrings(payload);
  if (strings === undefined) {
    throw new StoreError('EIO', `could not ${subject}: XenStore answered no list of names`);
  }
  return strings;
}

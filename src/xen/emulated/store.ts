/**
 * An emulated xenstored. It serves the real wire protocol, to domains in this process and on a Unix
 * socket to the stock tools, with the access rules, quotas, transactions and watches of the real
 * one, so that what works here works there. Faults can be injected, and connections dropped.
 */
import { chmod, lstat, rm } from 'node:fs/promises';
import { createConnection, createServer, type Server } from 'node:net';
import { type Duplex, duplexPair } from 'node:stream';
import { MisuseError, StartupError, StoreError, UnavailableError } from '../../errors.js';
import { INTRODUCE_DOMAIN, RELEASE_DOMAIN } from '../xenstore/path.js';
import { type Message, MessageType, type StoreErrno } from '../xenstore/wire.js';
import { ServedConnection, type ServedReply } from './store-connection.js';
import { type StoreFault, type StoreFaultRule, StoreFaults } from './store-faults.js';
import { initialSpecialPermissions } from './store-node-requests.js';
import type { StoreRequestLimits, StoreServer } from './store-request.js';
import { serveRequest } from './store-requests.js';
import { type StoreChange, StoreTree, type StoreTreeLimits } from './store-tree.js';

export type { StoreFault, StoreFaultRule } from './store-faults.js';

/** Quotas hold for every domain but 0, the connection limits for all. */
export interface EmulatedStoreOptions
  extends Partial<StoreTreeLimits>,
    Partial<StoreRequestLimits> {
  /** Bytes that may wait for a peer to read them before it loses its connection. */
  readonly outputBytesMax?: number;
  readonly connectionsMax?: number;
}

// The quotas are those of /etc/xen/oxenstored.conf as Debian ships it.
const defaults = {
  nodesPerDomainMax: 1_000,
  valueBytesMax: 2_048,
  permissionsPerNodeMax: 5,
  watchesPerDomainMax: 100,
  transactionsPerDomainMax: 10,
  transactionSizeMax: 1_024,
  watchesPerConnectionMax: 100_000,
  transactionsPerConnectionMax: 1_000,
  quotaErrno: 'EQUOTA' as 'EQUOTA' | 'ENOSPC',
  outputBytesMax: 4 * 1024 * 1024,
  connectionsMax: 10_000,
};

export class EmulatedStore {
  readonly #limits: typeof defaults;
  readonly #tree: StoreTree;
  readonly #introduced = new Set([0]);
  readonly #connections = new Set<ServedConnection>();
  readonly #faults = new StoreFaults();
  readonly #specialPermissions = initialSpecialPermissions();
  readonly #server: StoreServer;
  #listener: Server | undefined;
  #refusing = false;
  #closed = false;

  constructor(options: EmulatedStoreOptions = {}) {
    this.#limits = { ...defaults, ...options };
    this.#tree = new StoreTree(this.#limits);
    for (const path of ['/tool/xenstored', '/local/domain']) {
      this.#tree.mkdir({ domid: 0 }, path);
    }
    this.#server = {
      tree: this.#tree,
      limits: this.#limits,
      specialPermissions: this.#specialPermissions,
      fire: (changes) => this.#fire(changes),
      isIntroduced: (domid) => this.#introduced.has(domid),
      introduce: (domid) => this.introduceDomain(domid),
      release: (domid) => this.releaseDomain(domid),
      connectionsOf: (domid) => this.#connectionsOf(domid),
    };
  }

  /**
   * Serves on a Unix socket. Whoever may open it is domain 0, as with the real xenstored.
   * @throws StartupError SOCKET_IN_USE when somebody serves there already.
   */
  async listen(socketPath: string): Promise<void> {
    this.#assertOpen();
    if (this.#listener !== undefined) {
      throw new MisuseError('the emulated XenStore listens already');
    }
    await removeStaleSocket(socketPath);
    const listener = createServer((socket) => {
      if (this.#refusing || this.#connections.size >= this.#limits.connectionsMax) {
        socket.destroy();
      } else {
        this.#serve(socket, 0);
      }
    });
    this.#listener = listener;
    await new Promise<void>((resolve, reject) => {
      listener.once('error', reject);
      listener.listen(socketPath, resolve);
    });
    await chmod(socketPath, 0o660);
  }

  /** A connection as the kernel of domain `domid` has it. The domain must be introduced. */
  connect(domid: number): Duplex {
    this.#assertOpen();
    if (!this.#introduced.has(domid)) {
      throw new MisuseError(`domain ${domid} is not introduced and cannot use XenStore`);
    }
    if (this.#refusing) {
      throw new UnavailableError('XENSTORE_UNAVAILABLE', 'the emulated xenstored is stopped');
    }
    if (this.#connections.size >= this.#limits.connectionsMax) {
      throw new MisuseError(`there are ${this.#connections.size} connections already`);
    }
    const [ours, theirs] = duplexPair();
    // Each end of a pair lives on when the other is destroyed; those of a socket do not.
    ours.once('close', () => theirs.destroy());
    theirs.once('close', () => ours.destroy());
    this.#serve(ours, domid);
    return theirs;
  }

  introduceDomain(domid: number): void {
    this.#assertOpen();
    if (this.#introduced.has(domid)) {
      throw new MisuseError(`domain ${domid} is introduced already`);
    }
    this.#introduced.add(domid);
    this.#fireSpecial(INTRODUCE_DOMAIN);
  }

  /**
   * Forgets a domain: its connections end, nodes that it owned are removed and it is taken off the
   * permissions of all others, as xenstored does when a domain is gone.
   */
  releaseDomain(domid: number): void {
    this.#assertOpen();
    if (domid === 0 || !this.#introduced.delete(domid)) {
      throw new MisuseError(`domain ${domid} is not introduced and cannot be released`);
    }
    for (const connection of this.#connectionsOf(domid)) {
      connection.end(`domain ${domid} was released`);
    }
    this.#fire(this.#tree.forget(domid));
    for (const [name, { owner, others, domains = [] }] of this.#specialPermissions) {
      const rest = domains.filter((entry) => entry.domid !== domid);
      this.#specialPermissions.set(name, { owner, others, domains: rest });
    }
    this.#fireSpecial(RELEASE_DOMAIN);
  }

  /** Lets requests fail from now on, as the rule says. Returns what undoes it. */
  fail(rule: StoreFaultRule): StoreFault {
    this.#assertOpen();
    return this.#faults.add(rule);
  }

  /** Ends every connection, as a restart of xenstored does. New ones are welcome at once. */
  dropConnections(): void {
    for (const connection of [...this.#connections]) {
      connection.end('all connections were dropped');
    }
  }

  /** Ends every connection and takes no new one until `start`, as a xenstored that died. */
  stop(): void {
    this.#refusing = true;
    this.dropConnections();
  }

  start(): void {
    this.#refusing = false;
  }

  /** @throws MisuseError naming every watch and transaction that a domain has left open. */
  checkNoLeaks(domid: number): void {
    const leaks = this.#connectionsOf(domid).flatMap((connection) => [
      ...connection.watches.all.map(({ path, token }) => `a watch of ${path} (${token})`),
      ...[...connection.transactions.keys()].map((id) => `the transaction ${id}`),
    ]);
    if (leaks.length > 0) {
      throw new MisuseError(`domain ${domid} left open in XenStore: ${leaks.join(', ')}`);
    }
  }

  async close(): Promise<void> {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    for (const connection of [...this.#connections]) {
      connection.end('the emulated XenStore was closed');
    }
    const listener = this.#listener;
    if (listener !== undefined) {
      await new Promise<void>((resolve) => {
        listener.close(() => resolve());
      });
    }
  }

  #assertOpen(): void {
    if (this.#closed) {
      throw new MisuseError('the emulated XenStore was closed');
    }
  }

  #connectionsOf(domid: number): ServedConnection[] {
    return [...this.#connections].filter((connection) => connection.domid === domid);
  }

  #serve(stream: Duplex, domid: number): void {
    const connection: ServedConnection = new ServedConnection(stream, {
      domid,
      outputBytesMax: this.#limits.outputBytesMax,
      onRequest: (message) => this.#request(connection, message),
      onClose: () => this.#connections.delete(connection),
    });
    this.#connections.add(connection);
  }

  #request(connection: ServedConnection, message: Message): ServedReply | undefined {
    const answer = this.#faults.answerTo(connection.domid, message);
    switch (answer) {
      case undefined:
        break;
      case 'nothing':
        return undefined;
      case 'drop':
        connection.end('a fault was injected');
        return undefined;
      default:
        return this.#refuse(connection, message, answer);
    }
    return serveRequest(this.#server, connection, message);
  }

  /** An injected refusal. A commit that fails ends its transaction all the same. */
  #refuse(connection: ServedConnection, message: Message, errno: StoreErrno): never {
    if (message.type === MessageType.TRANSACTION_END) {
      connection.transactions.delete(message.transactionId);
    }
    throw new StoreError(errno, 'a fault was injected');
  }

  #fire(changes: readonly StoreChange[]): void {
    for (const change of changes) {
      for (const connection of this.#connections) {
        connection.hear(change);
      }
    }
  }

  #fireSpecial(name: string): void {
    const permissions = this.#specialPermissions.get(name);
    if (permissions !== undefined) {
      this.#fire([{ path: name, heardBy: 'path and above', permissions: [permissions] }]);
    }
  }
}

/** Removes a socket that nobody serves. Anything that is no socket is left alone, and in the way. */
async function removeStaleSocket(socketPath: string): Promise<void> {
  const found = await lstat(socketPath).catch(() => undefined);
  if (found?.isSocket() !== true) {
    return;
  }
  const inUse = await new Promise<boolean>((resolve) => {
    const probe = createConnection(socketPath);
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', () => resolve(false));
  });
  if (inUse) {
    throw new StartupError('SOCKET_IN_USE', `somebody serves XenStore at ${socketPath} already`);
  }
  await rm(socketPath, { force: true });
}

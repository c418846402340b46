/**
 * The serving end of a vchan: makes the rings, tells of them in XenStore, and waits for a client.
 * Each client gets rings, a port and grants of its own, so that nothing of one reaches the next; while
 * one is offered its nodes stand in XenStore, and from the moment a client has come they do not, so
 * that a second one waits for its turn.
 */
import type { Logger } from 'pino';
import {
  AbortedError,
  FailedPreconditionError,
  InvalidArgumentError,
  NotFoundError,
  type XenvifError,
} from '../../errors.js';
import { LIVE_GONE, LIVE_WAITING, ordersFor, RING_BYTES_MAX } from '../../ring/vchan-ring.js';
import type { StoreOperations, Xen } from '../../xen/xen.js';
import { parentPath } from '../../xen/xenstore/path.js';
import { PatientChannel } from '../patient-channel.js';
import { VchanLink } from './link.js';
import { type VchanAddress, vchanPath } from './path.js';
import { domainLives, PeerWatch } from './peer-watch.js';
import { type GrantedRings, grantRings } from './rings.js';
import { VchanStream } from './stream.js';

const RING_BYTES_DEFAULT = 65_536;
/** Of /local/domain/<domid>/data, the nodes below which are ours to remove when they are empty. */
const OWN_DIRECTORIES = /^\/local\/domain\/\d+\/data\/vchan(\/|$)/;

export interface VchanServerOptions extends VchanAddress {
  /** At least so many bytes in the ring that we read; 64 KiB unless given, 1 MiB at most. */
  readonly readRingBytes?: number | undefined;
  /** At least so many bytes in the ring that we write; 64 KiB unless given, 1 MiB at most. */
  readonly writeRingBytes?: number | undefined;
  readonly logger?: Logger | undefined;
}

/** Rings that a client may come to. */
interface Offer {
  readonly rings: GrantedRings;
  readonly channel: PatientChannel;
  /** What stands in XenStore. */
  readonly nodes: { readonly 'ring-ref': string; readonly 'event-channel': string };
  /** Where events go: to the wait for a client first, to its stream then. */
  onEvent: () => void;
}

export class VchanServer {
  /** The directory in XenStore where clients look. */
  readonly path: string;
  readonly #xen: Xen;
  readonly #options: VchanServerOptions;
  #offer: Promise<Offer> | undefined;
  #waiting: ((error: XenvifError) => void) | undefined;
  readonly #withdrawing = new Set<Promise<boolean>>();
  #accepting = false;
  #closed = false;

  private constructor(xen: Xen, options: VchanServerOptions, path: string) {
    this.#xen = xen;
    this.#options = options;
    this.path = path;
  }

  /**
   * Offers the first rings; a client may come from now on. `accept` gives its stream.
   * @throws InvalidArgumentError DOMID_INVALID, VCHAN_PORT_INVALID, VCHAN_PATH_INVALID,
   *   RING_BYTES_INVALID; NotFoundError DOMAIN_NOT_FOUND; GrantError, EventChannelError, StoreError.
   */
  static async listen(xen: Xen, options: VchanServerOptions): Promise<VchanServer> {
    const path = vchanPath(options, xen.domid, options.domid);
    checkRingBytes('read_ring_bytes', options.readRingBytes);
    checkRingBytes('write_ring_bytes', options.writeRingBytes);
    await checkDomain(xen, options.domid);
    const server = new VchanServer(xen, options, path);
    server.#offer = server.#makeOffer();
    await server.#offer;
    return server;
  }

  /**
   * Waits for the next client. The stream is the caller's, and outlives this server.
   * @throws FailedPreconditionError VCHAN_ACCEPT_PENDING; AbortedError VCHAN_SERVER_CLOSED, PEER_GONE when the client's domain is no more; whatever
   *   ended `signal`; as `listen` for a second client and on.
   */
  async accept(signal?: AbortSignal): Promise<VchanStream> {
    signal?.throwIfAborted();
    if (this.#closed) throw serverClosed();
    if (this.#accepting) {
      throw new FailedPreconditionError('VCHAN_ACCEPT_PENDING', 'A client is waited for already.');
    }
    this.#accepting = true;
    try {
      this.#offer ??= this.#makeOffer();
      const offer = await this.#offer;
      if (this.#closed) throw serverClosed();
      await this.#clientCame(offer, signal);
      this.#offer = undefined;
      // Others must not come to these rings. It is tried once more when the stream is done with.
      const withdrawn = this.#withdraw(offer).catch(() => false);
      this.#withdrawing.add(withdrawn);
      void withdrawn.then(() => this.#withdrawing.delete(withdrawn));
      return this.#makeStream(offer, withdrawn);
    } catch (error) {
      // Rings that could not be offered may be tried again.
      if (this.#waiting === undefined) await this.#offer?.catch(() => this.#forgetOffer());
      throw error;
    } finally {
      this.#accepting = false;
    }
  }

  #forgetOffer(): void {
    this.#offer = undefined;
  }

  /** Offers nothing any more. Streams that were accepted live on. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#waiting?.(serverClosed());
    const offer = await this.#offer?.catch(() => undefined);
    await Promise.all(this.#withdrawing);
    if (offer === undefined) return;
    endOffer(offer);
    await this.#withdraw(offer);
  }

  #clientCame(offer: Offer, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const { domid } = this.#options;
      const fail = (error: XenvifError) => finish(() => reject(error));
      const onAbort = () => finish(() => reject(signal?.reason));
      const peer = PeerWatch.start(this.#xen, domid, () => fail(peerGone(domid)));
      const finish = (settle: () => void) => {
        this.#waiting = undefined;
        signal?.removeEventListener('abort', onAbort);
        offer.onEvent = () => undefined;
        peer.stop().then(settle, settle);
      };
      const look = () => {
        // A client that came, wrote and left while we were busy has been here all the same.
        if (offer.rings.signals.peerLive !== LIVE_WAITING) finish(resolve);
        else offer.channel.unmask(false);
      };
      this.#waiting = fail;
      signal?.addEventListener('abort', onAbort, { once: true });
      offer.onEvent = look;
      look();
    });
  }

  #makeStream(offer: Offer, withdrawn: Promise<boolean>): VchanStream {
    const { domid } = this.#options;
    const link = new VchanLink({
      side: 'server',
      domid,
      path: this.path,
      ...offer,
      ...offer.rings,
    });
    const peer = PeerWatch.start(this.#xen, domid, () => stream.handlePeerGone());
    const onEnd = async () => {
      await peer.stop();
      if (!(await withdrawn)) await this.#withdraw(offer).catch(() => undefined);
    };
    const stream = new VchanStream(link, { onEnd });
    offer.onEvent = () => stream.handleEvent();
    stream.handleEvent();
    return stream;
  }

  async #makeOffer(): Promise<Offer> {
    const { domid, readRingBytes, writeRingBytes } = this.#options;
    const orders = ordersFor(
      readRingBytes ?? RING_BYTES_DEFAULT,
      writeRingBytes ?? RING_BYTES_DEFAULT,
    );
    const handler: Pick<Offer, 'onEvent'> = { onEvent: () => undefined };
    const event = this.#xen.events.allocate(domid, () => handler.onEvent());
    const channel = new PatientChannel(event);
    let rings: GrantedRings;
    try {
      rings = grantRings(this.#xen, domid, orders, event);
    } catch (error) {
      channel.close();
      throw error;
    }
    const nodes = { 'ring-ref': String(rings.ref), 'event-channel': String(channel.port) };
    const offer: Offer = Object.assign(handler, { rings, channel, nodes });
    try {
      await this.#publish(offer);
    } catch (error) {
      endOffer(offer);
      throw error;
    }
    return offer;
  }

  async #publish({ nodes }: Offer): Promise<void> {
    const permissions = {
      owner: this.#xen.domid,
      others: 'n' as const,
      domains: [{ domid: this.#options.domid, access: 'r' as const }],
    };
    await this.#xen.store.transaction(async (transaction) => {
      for (const [name, value] of Object.entries(nodes)) {
        await transaction.write(`${this.path}/${name}`, value);
        await transaction.setPermissions(`${this.path}/${name}`, permissions);
      }
    });
  }

  /** Removes the nodes if they are still this offer's; true when they are not there any more. */
  async #withdraw({ nodes }: Offer): Promise<boolean> {
    await this.#xen.store.transaction(async (transaction) => {
      for (const [name, value] of Object.entries(nodes)) {
        const found = await transaction.readIfExists(`${this.path}/${name}`);
        // Another server has taken the place; what stands there is its own.
        if (found !== value) return;
      }
      for (const name of Object.keys(nodes)) await transaction.rm(`${this.path}/${name}`);
      await removeEmpty(transaction, this.path);
    });
    return true;
  }
}

/** Removes a directory that has become empty, and those above it that vchans alone use. */
async function removeEmpty(transaction: StoreOperations, path: string): Promise<void> {
  for (let each = path; ; each = parentPath(each)) {
    const names = await transaction.directory(each).catch(() => undefined);
    if (names === undefined || names.length > 0) return;
    await transaction.rm(each);
    if (!OWN_DIRECTORIES.test(parentPath(each))) return;
  }
}

function endOffer({ rings, channel }: Offer): void {
  rings.signals.setLive(LIVE_GONE);
  rings.release();
  channel.notify();
  channel.close();
}

/** @throws NotFoundError DOMAIN_NOT_FOUND, where we may know. */
export async function checkDomain(xen: Xen, domid: number): Promise<void> {
  if (domid === xen.domid || (await domainLives(xen.store, domid)) !== false) return;
  throw new NotFoundError('DOMAIN_NOT_FOUND', `There is no domain ${domid}.`);
}

function checkRingBytes(field: string, bytes: number | undefined): void {
  if (bytes === undefined) return;
  if (Number.isInteger(bytes) && bytes >= 0 && bytes <= RING_BYTES_MAX) return;
  const text = `A ring has at most ${RING_BYTES_MAX} bytes, not ${bytes}.`;
  throw new InvalidArgumentError('RING_BYTES_INVALID', field, text);
}

export function peerGone(domid: number): AbortedError {
  return new AbortedError('PEER_GONE', `Domain ${domid} is gone.`);
}

function serverClosed(): AbortedError {
  return new AbortedError('VCHAN_SERVER_CLOSED', 'The server of the vchan was closed.');
}

/**
 * The connecting end of a vchan: reads in XenStore where its server is, binds the server's port and
 * maps its pages. A server that is not there yet, or has left its nodes behind, is waited for.
 */
import {
  EventChannelError,
  FailedPreconditionError,
  GrantError,
  NotFoundError,
  ProtocolError,
  StoreError,
} from '../../errors.js';
import { LIVE_CONNECTED } from '../../ring/vchan-ring.js';
import type { EventChannel, Xen } from '../../xen/xen.js';
import { CoalescedTask } from '../coalesced-task.js';
import { PatientChannel } from '../patient-channel.js';
import { VchanLink } from './link.js';
import { type VchanAddress, vchanPath } from './path.js';
import { PeerWatch } from './peer-watch.js';
import { mapRings, type Rings } from './rings.js';
import { checkDomain, peerGone } from './server.js';
import { VchanStream } from './stream.js';

const U32_MAX = 0xffff_ffff;

export interface VchanClientOptions extends VchanAddress {
  /** Waits for a server that is not there; true unless given. */
  readonly wait?: boolean | undefined;
  /** Ends the wait. */
  readonly signal?: AbortSignal | undefined;
}

/** Where a server says that it is. */
interface ServerNodes {
  readonly ref: number;
  readonly port: number;
}

/**
 * Connects to a server.
 * @throws InvalidArgumentError DOMID_INVALID, VCHAN_PORT_INVALID, VCHAN_PATH_INVALID; NotFoundError
 *   DOMAIN_NOT_FOUND, and VCHAN_NOT_FOUND where it does not wait; AbortedError PEER_GONE;
 *   ProtocolError when what the server shows is nonsense; StoreError; whatever ended `signal`.
 */
export async function connectVchan(xen: Xen, options: VchanClientOptions): Promise<VchanStream> {
  const path = vchanPath(options, options.domid, xen.domid);
  options.signal?.throwIfAborted();
  await checkDomain(xen, options.domid);
  if (options.wait !== false) return await waitForServer(xen, options, path);
  const stream = await attempt(xen, options.domid, path);
  if (stream !== undefined) return stream;
  throw new NotFoundError('VCHAN_NOT_FOUND', `Nobody serves a vchan at ${path}.`);
}

async function waitForServer(
  xen: Xen,
  { domid, signal }: VchanClientOptions,
  path: string,
): Promise<VchanStream> {
  let settle: ((stream: VchanStream) => void) | undefined;
  let fail: ((error: unknown) => void) | undefined;
  const result = new Promise<VchanStream>((resolve, reject) => {
    settle = resolve;
    fail = reject;
  });
  const attempts = new CoalescedTask(
    async () => {
      const stream = await attempt(xen, domid, path);
      if (stream === undefined) return;
      // It may have come through while the wait was being given up.
      if (over) stream.destroy();
      else settle?.(stream);
      attempts.stop();
    },
    (error) => {
      // XenStore that is away comes back, and with it the watch.
      if (error instanceof StoreError) return;
      attempts.stop();
      fail?.(error);
    },
  );
  const onAbort = () => fail?.(signal?.reason);
  signal?.addEventListener('abort', onAbort, { once: true });
  const peer = PeerWatch.start(xen, domid, () => fail?.(peerGone(domid)));
  const watching = xen.store.watch(path, () => attempts.request());
  watching.catch((error: unknown) => fail?.(error));
  let over = false;
  try {
    return await result;
  } finally {
    over = true;
    attempts.stop();
    signal?.removeEventListener('abort', onAbort);
    await Promise.all([
      peer.stop(),
      watching.then((watch) => watch.unwatch()).catch(() => undefined),
      attempts.settled(),
    ]);
  }
}

/** One attempt. Undefined when no server is there; what it leaves behind in XenStore is no server. */
async function attempt(xen: Xen, domid: number, path: string): Promise<VchanStream | undefined> {
  const nodes = await readNodes(xen, path);
  if (nodes === undefined) return undefined;
  try {
    return connectTo(xen, domid, path, nodes);
  } catch (error) {
    if (error instanceof EventChannelError || error instanceof GrantError) return undefined;
    if (error instanceof FailedPreconditionError) return undefined;
    throw error;
  }
}

/** Both nodes as they stood at one moment. @throws ProtocolError VCHAN_NODES_INVALID */
async function readNodes(xen: Xen, path: string): Promise<ServerNodes | undefined> {
  const read = async () =>
    await xen.store.transaction(async (transaction) => [
      await transaction.readIfExists(`${path}/ring-ref`),
      await transaction.readIfExists(`${path}/event-channel`),
    ]);
  const [ref, port] = await read().catch((error: unknown) => {
    // A server that has not yet opened its nodes to us has yet to come.
    if (error instanceof StoreError && error.errno === 'EACCES') return [undefined, undefined];
    throw error;
  });
  if (ref === undefined || port === undefined) return undefined;
  return { ref: parseNode('ring-ref', ref), port: parseNode('event-channel', port) };
}

function parseNode(name: string, text: string): number {
  const value = /^[1-9]\d{0,9}$/.test(text) ? Number(text) : Number.NaN;
  if (value <= U32_MAX) return value;
  const shown = JSON.stringify(text.slice(0, 64));
  throw new ProtocolError('VCHAN_NODES_INVALID', `The vchan's ${name} is ${shown}, no number.`);
}

function connectTo(xen: Xen, domid: number, path: string, nodes: ServerNodes): VchanStream {
  let stream: VchanStream | undefined;
  const event: EventChannel = xen.events.bind(domid, nodes.port, () => stream?.handleEvent());
  const channel = new PatientChannel(event);
  let rings: Rings;
  try {
    rings = mapRings(xen, domid, nodes.ref, event);
  } catch (error) {
    channel.close();
    throw error;
  }
  const peer = PeerWatch.start(xen, domid, () => stream?.handlePeerGone());
  const link = new VchanLink({ side: 'client', domid, path, channel, ...rings });
  stream = new VchanStream(link, { onEnd: () => peer.stop() });
  rings.signals.setLive(LIVE_CONNECTED);
  rings.signals.askAnew();
  channel.notify();
  return stream;
}

/**
 * The pages of a vchan, as each side comes by them: a server allocates and grants, a client maps. Both
 * give everything back at one stroke, whatever was taken before something failed.
 */
import { FailedPreconditionError } from '../../errors.js';
import {
  CLI_LIVE,
  initialisePage,
  LIVE_CONNECTED,
  type PageSnapshot,
  RingMemory,
  type RingOrders,
  RingReader,
  RingWriter,
  readPage,
  ringPages,
  SRV_LIVE,
  type VchanSide,
  VchanSignals,
} from '../../ring/vchan-ring.js';
import type { Page } from '../../xen/page.js';
import type { EventChannel, Xen } from '../../xen/xen.js';

/** The rings of one end. */
export interface Rings {
  readonly reader: RingReader;
  readonly writer: RingWriter;
  readonly signals: VchanSignals;
  readonly release: () => void;
}

/** A server's rings, with the reference of the page that the client must map first. */
export interface GrantedRings extends Rings {
  readonly ref: number;
}

/** Runs steps once, the last one first. */
class Undo {
  #steps: (() => void)[] = [];

  add(step: () => void): void {
    this.#steps.push(step);
  }

  run(): void {
    for (const step of this.#steps.splice(0).reverse()) step();
  }
}

/** Allocates and grants fresh rings. @throws GrantError */
export function grantRings(
  xen: Xen,
  domid: number,
  orders: RingOrders,
  channel: EventChannel,
): GrantedRings {
  const undo = new Undo();
  try {
    const notice = { byteOffset: SRV_LIVE, channel };
    const shared = xen.grants.share(domid, 1, 'write', notice);
    undo.add(() => shared.release());
    const [page] = shared.pages as [Page];
    const [ref] = shared.refs as [number];
    const own = (order: number): { refs: readonly number[]; pages: readonly Page[] } => {
      if (ringPages(order) === 0) return { refs: [], pages: [] };
      const pages = xen.grants.share(domid, ringPages(order), 'write');
      undo.add(() => pages.release());
      return pages;
    };
    const left = own(orders.left);
    const right = own(orders.right);
    initialisePage(page, orders, [...left.refs, ...right.refs]);
    return { ref, ...assemble('server', page, orders, left.pages, right.pages, undo) };
  } catch (error) {
    undo.run();
    throw error;
  }
}

/**
 * Maps a server's rings.
 * @throws GrantError when the server's grants are not there; FailedPreconditionError VCHAN_NOT_SERVED
 *   when the server has left; ProtocolError when the page is none of a vchan.
 */
export function mapRings(xen: Xen, domid: number, ref: number, channel: EventChannel): Rings {
  const undo = new Undo();
  try {
    const notice = { byteOffset: CLI_LIVE, channel };
    const shared = xen.grants.map(domid, ref, 'write', notice);
    undo.add(() => shared.unmap());
    const { page } = shared;
    if (page.readU8(SRV_LIVE) !== LIVE_CONNECTED) {
      throw new FailedPreconditionError('VCHAN_NOT_SERVED', 'The server of the vchan has left.');
    }
    const { orders, leftRefs, rightRefs }: PageSnapshot = readPage(page);
    const own = (refs: readonly number[], access: 'read' | 'write') =>
      refs.map((each) => {
        const mapping = xen.grants.map(domid, each, access);
        undo.add(() => mapping.unmap());
        return mapping.page;
      });
    const left = own(leftRefs, 'write');
    const right = own(rightRefs, 'read');
    const rings = assemble('client', page, orders, left, right, undo);
    // Both indices are as the server left them; nonsense is found before anything is done with it.
    rings.reader.available();
    rings.writer.space();
    return rings;
  } catch (error) {
    undo.run();
    throw error;
  }
}

function assemble(
  side: VchanSide,
  page: Page,
  orders: RingOrders,
  leftPages: readonly Page[],
  rightPages: readonly Page[],
  undo: Undo,
): Rings {
  const left = new RingMemory(orders.left, page, leftPages);
  const right = new RingMemory(orders.right, page, rightPages);
  const isServer = side === 'server';
  return {
    reader: new RingReader(page, side, isServer ? left : right),
    writer: new RingWriter(page, side, isServer ? right : left),
    signals: new VchanSignals(page, side),
    release: () => undo.run(),
  };
}

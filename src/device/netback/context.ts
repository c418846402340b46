/** What all vifs of a daemon share: Xen, the scratch memory of the frame path, its turns, and its log. */
import type { Logger } from 'pino';
import { Segmenter } from '../../wire/segmentation.js';
import type { LocalRegion } from '../../xen/local-memory.js';
import type { Xen } from '../../xen/xen.js';
import { RxScratch } from './rx-scratch.js';
import { Turns } from './turns.js';
import { TxScratch } from './tx-scratch.js';

/** Room for the segments of any one frame: 1024 of 64 bytes, each with 512 bytes of headers. */
const SEGMENTS_BYTES = 640 * 1024;

export class NetbackContext {
  readonly xen: Xen;
  readonly logger: Logger;
  readonly queuesMax: number;
  readonly tx: TxScratch;
  readonly turns = new Turns();
  readonly segmenter = new Segmenter();
  /** Where the segments of one frame lie until they are in the guest's buffers. */
  readonly segments: LocalRegion;
  /**
   * False while the vifs that are there at the start are taken up: what a guest sent before then
   * may be for a guest that is not connected yet, and waits on its ring so that it is not lost.
   */
  running = false;
  readonly #rx: RxScratch[] = [];

  constructor(xen: Xen, logger: Logger, queuesMax: number) {
    this.xen = xen;
    this.logger = logger;
    this.queuesMax = queuesMax;
    this.tx = new TxScratch(xen.memory);
    this.segments = xen.memory.allocate(SEGMENTS_BYTES);
  }

  /** The scratch of queue `index` of whichever vif is at work. */
  rx(index: number): RxScratch {
    while (this.#rx.length <= index) this.#rx.push(new RxScratch(this.xen.memory));
    return this.#rx[index] as RxScratch;
  }

  free(): void {
    this.tx.free();
    this.segments.free();
  }
}

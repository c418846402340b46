/**
 * The control ring of a vif: takes the guest's wishes how its frames are hashed to queues, one
 * response for each request, whatever is in it (xen/io/netif.h, "Control messages"). Nothing that a
 * guest can write here stops the device but a ring that makes no sense.
 */

import { GrantError } from '../../errors.js';
import {
  CTRL_GET_HASH_FLAGS,
  CTRL_GET_HASH_MAPPING_SIZE,
  CTRL_SET_HASH_ALGORITHM,
  CTRL_SET_HASH_FLAGS,
  CTRL_SET_HASH_KEY,
  CTRL_SET_HASH_MAPPING,
  CTRL_SET_HASH_MAPPING_SIZE,
  CTRL_SLOT_BYTES,
  CTRL_STATUS_BUFFER_OVERFLOW,
  CTRL_STATUS_INVALID_PARAMETER,
  CTRL_STATUS_NOT_SUPPORTED,
  CTRL_STATUS_SUCCESS,
  type CtrlRequest,
  HASH_ALGORITHM_NONE,
  readCtrlRequest,
  writeCtrlResponse,
} from '../../ring/netif-ctrl.js';
import { BackRing } from '../../ring/shared-ring.js';
import { HASH_KEY_BYTES_MAX, HASH_TYPES } from '../../wire/toeplitz.js';
import { CopyBatch, GNTST_OKAY } from '../../xen/copy-batch.js';
import type { EventChannel, MappedPage, Xen } from '../../xen/xen.js';
import { type FlowSteering, HASH_MAPPING_MAX } from './flow-steering.js';

/** Requests that one turn takes: a ring of them. */
const REQUESTS_PER_TURN = 128;

export interface ControlHooks {
  /** The guest has asked for something that may be other than before. */
  readonly steered: () => void;
  /** The ring makes no sense. */
  readonly fault: (error: unknown) => void;
}

export class ControlRing {
  readonly #xen: Xen;
  readonly #domid: number;
  readonly #steering: FlowSteering;
  readonly #page: MappedPage;
  readonly #ring: BackRing;
  readonly #channel: EventChannel;
  readonly #hooks: ControlHooks;
  readonly #request: CtrlRequest = { id: 0, type: 0, data0: 0, data1: 0, data2: 0 };
  #responseData = 0;
  #immediate: NodeJS.Immediate | undefined;
  #open = true;

  /** @throws GrantError, EventChannelError, ProtocolError; nothing is left behind then. */
  constructor(
    xen: Xen,
    domid: number,
    ref: number,
    port: number,
    steering: FlowSteering,
    hooks: ControlHooks,
  ) {
    this.#xen = xen;
    this.#domid = domid;
    this.#steering = steering;
    this.#hooks = hooks;
    this.#page = xen.grants.map(domid, ref, 'write');
    try {
      this.#ring = new BackRing(this.#page.page, CTRL_SLOT_BYTES);
      this.#ring.pendingRequests();
      this.#channel = xen.events.bind(domid, port, () => this.#onEvent());
    } catch (error) {
      this.#page.unmap();
      throw error;
    }
  }

  /** Looks at the ring without waiting for an event. */
  kick(): void {
    this.#onEvent();
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    if (this.#immediate !== undefined) clearImmediate(this.#immediate);
    this.#channel.close();
    this.#page.unmap();
  }

  /** A turn is taken behind the frames that wait, for nobody's frames wait for this. */
  #onEvent(): void {
    this.#immediate ??= setImmediate(() => this.#turn());
  }

  #turn(): void {
    this.#immediate = undefined;
    if (!this.#open) return;
    try {
      if (this.#consume() < REQUESTS_PER_TURN && this.#ring.requestEvent(1) === 0) {
        this.#channel.unmask();
      } else {
        this.#onEvent();
      }
    } catch (error) {
      this.#hooks.fault(error);
    }
  }

  /** Answers what waits, up to the budget, and returns how much that was. */
  #consume(): number {
    const ring = this.#ring;
    const count = Math.min(ring.pendingRequests(), REQUESTS_PER_TURN);
    if (count === 0) return 0;
    const oldRspProd = ring.rspProd;
    for (let index = 0; index < count; index += 1) {
      readCtrlRequest(ring.page, ring.slot(ring.reqCons), this.#request);
      ring.reqCons = (ring.reqCons + 1) >>> 0;
      this.#responseData = 0;
      const status = this.#perform();
      const { id, type } = this.#request;
      const slot = ring.slot(ring.rspProd);
      writeCtrlResponse(ring.page, slot, id, type, status, this.#responseData);
      ring.rspProd = (ring.rspProd + 1) >>> 0;
    }
    if (ring.pushResponses(oldRspProd)) this.#channel.notify();
    this.#hooks.steered();
    return count;
  }

  /** Does what the request says and returns its status. */
  #perform(): number {
    const steering = this.#steering;
    const { type, data0 } = this.#request;
    switch (type) {
      case CTRL_SET_HASH_ALGORITHM:
        return statusOf(steering.setAlgorithm(data0));
      case CTRL_GET_HASH_FLAGS:
        if (steering.algorithm === HASH_ALGORITHM_NONE) return CTRL_STATUS_NOT_SUPPORTED;
        this.#responseData = HASH_TYPES;
        return CTRL_STATUS_SUCCESS;
      case CTRL_SET_HASH_FLAGS:
        return statusOf(steering.setTypes(data0));
      case CTRL_SET_HASH_KEY:
        return this.#setKey();
      case CTRL_GET_HASH_MAPPING_SIZE:
        this.#responseData = HASH_MAPPING_MAX;
        return CTRL_STATUS_SUCCESS;
      case CTRL_SET_HASH_MAPPING_SIZE:
        return statusOf(steering.setMappingSize(data0));
      case CTRL_SET_HASH_MAPPING:
        return this.#setMapping();
      default:
        return CTRL_STATUS_NOT_SUPPORTED;
    }
  }

  #setKey(): number {
    const { data0: ref, data1: bytes } = this.#request;
    if (bytes > HASH_KEY_BYTES_MAX) return CTRL_STATUS_BUFFER_OVERFLOW;
    return statusOf(
      this.#copy(ref, bytes, (key) => {
        this.#steering.setKey(key);
        return true;
      }),
    );
  }

  #setMapping(): number {
    const { data0: ref, data1: entries, data2: start } = this.#request;
    if (entries > HASH_MAPPING_MAX) return CTRL_STATUS_BUFFER_OVERFLOW;
    return statusOf(
      this.#copy(ref, entries * 4, (bytes) =>
        this.#steering.setMapping(start, new Uint32Array(bytes.slice().buffer)),
      ),
    );
  }

  /** Copies the first bytes of a page of the guest's and has them looked at; false when it fails. */
  #copy(ref: number, length: number, take: (bytes: Uint8Array) => boolean): boolean {
    if (length === 0) return take(new Uint8Array(0));
    const { grants, memory } = this.#xen;
    const region = memory.allocate(length);
    try {
      const copies = new CopyBatch(memory, 1);
      copies.fromGrant(this.#domid, ref, 0, region.offset, length);
      grants.copy(copies);
      if (copies.status(0) !== GNTST_OKAY) return false;
      return take(memory.bytes.subarray(region.offset, region.offset + length));
    } catch (error) {
      if (error instanceof GrantError) return false;
      throw error;
    } finally {
      region.free();
    }
  }
}

function statusOf(done: boolean): number {
  return done ? CTRL_STATUS_SUCCESS : CTRL_STATUS_INVALID_PARAMETER;
}

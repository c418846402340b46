/**
 * The control ring as its frontend uses it (netif.h, "Control ring"): it tells the backend how to
 * hash received frames and which queue each hash goes to. Requests are sent one after another; the
 * page with a key or a mapping is granted to be read only, and is zero behind what it holds.
 */
import { DisconnectedError, InvalidArgumentError, ProtocolError } from '../../errors.js';
import {
  CTRL_GET_HASH_FLAGS,
  CTRL_GET_HASH_MAPPING_SIZE,
  CTRL_SET_HASH_ALGORITHM,
  CTRL_SET_HASH_FLAGS,
  CTRL_SET_HASH_KEY,
  CTRL_SET_HASH_MAPPING,
  CTRL_SET_HASH_MAPPING_SIZE,
  CTRL_SLOT_BYTES,
  type CtrlResponse,
  readCtrlResponse,
  writeCtrlRequest,
} from '../../ring/netif-ctrl.js';
import { FrontRing } from '../../ring/shared-ring.js';
import type { Page } from '../../xen/page.js';
import { PAGE_SIZE, type SharedPages, type Xen } from '../../xen/xen.js';
import { PatientChannel } from '../patient-channel.js';

/** What the backend answered: a `CTRL_STATUS_*` and what belongs to it. */
export interface CtrlAnswer {
  readonly status: number;
  readonly data: number;
}

interface Waiting {
  readonly id: number;
  readonly type: number;
  readonly resolve: (answer: CtrlAnswer) => void;
  readonly reject: (error: Error) => void;
}

export class ControlRing {
  readonly keys: { readonly ringRef: number; readonly port: number };
  readonly #fault: (error: unknown) => void;
  readonly #shared: SharedPages[] = [];
  readonly #ring: FrontRing;
  readonly #dataPage: Page;
  readonly #dataRef: number;
  readonly #channel: PatientChannel;
  readonly #response: CtrlResponse = { id: 0, type: 0, status: 0, data: 0 };
  /** The request that is under way. */
  #waiting: Waiting | undefined;
  #last: Promise<unknown> = Promise.resolve();
  #nextId = 0;
  #open = true;

  /** @throws GrantError, EventChannelError; nothing is left behind then. */
  constructor(xen: Xen, backendDomid: number, fault: (error: unknown) => void) {
    this.#fault = fault;
    try {
      const ring = this.#share(xen, backendDomid, 'write');
      const data = this.#share(xen, backendDomid, 'read');
      this.#ring = new FrontRing(ring.page, CTRL_SLOT_BYTES);
      this.#dataPage = data.page;
      this.#dataRef = data.ref;
      this.#channel = new PatientChannel(xen.events.allocate(backendDomid, () => this.#onEvent()));
      this.keys = { ringRef: ring.ref, port: this.#channel.port };
    } catch (error) {
      for (const pages of this.#shared) pages.unshare();
      throw error;
    }
  }

  setAlgorithm(algorithm: number): Promise<CtrlAnswer> {
    return this.request(CTRL_SET_HASH_ALGORITHM, algorithm);
  }

  /** Asks which types of hash there are: `HASH_TYPE_*` bits as the answer's data. */
  getFlags(): Promise<CtrlAnswer> {
    return this.request(CTRL_GET_HASH_FLAGS);
  }

  setFlags(types: number): Promise<CtrlAnswer> {
    return this.request(CTRL_SET_HASH_FLAGS, types);
  }

  /** Sets the key of the hash; an empty one clears it. */
  setKey(key: Uint8Array): Promise<CtrlAnswer> {
    return this.#requestWithPage(key, (ref) => [CTRL_SET_HASH_KEY, ref, key.length, 0]);
  }

  getMappingSize(): Promise<CtrlAnswer> {
    return this.request(CTRL_GET_HASH_MAPPING_SIZE);
  }

  setMappingSize(entries: number): Promise<CtrlAnswer> {
    return this.request(CTRL_SET_HASH_MAPPING_SIZE, entries);
  }

  /** Sets a part of the table that leads from hashes to queues, from entry `start` on. */
  setMapping(queues: Uint32Array, start = 0): Promise<CtrlAnswer> {
    const bytes = new Uint8Array(queues.buffer, queues.byteOffset, queues.byteLength);
    return this.#requestWithPage(bytes, (ref) => [
      CTRL_SET_HASH_MAPPING,
      ref,
      queues.length,
      start,
    ]);
  }

  /**
   * Sends any request, also one that the header does not know.
   * @throws DisconnectedError when the connection ends before the answer.
   */
  request(type: number, data0 = 0, data1 = 0, data2 = 0): Promise<CtrlAnswer> {
    return this.#enqueue(() => this.#send(type, data0, data1, data2));
  }

  /** Ends the ring and returns its pages, which the backend may still have mapped. */
  close(): readonly SharedPages[] {
    if (!this.#open) return [];
    this.#open = false;
    this.#channel.close();
    this.#waiting?.reject(disconnected());
    this.#waiting = undefined;
    return this.#shared;
  }

  #requestWithPage(
    bytes: Uint8Array,
    request: (ref: number) => readonly [number, number, number, number],
  ): Promise<CtrlAnswer> {
    if (bytes.length > PAGE_SIZE) {
      const message = `A request carries one page, not ${bytes.length} bytes.`;
      return Promise.reject(new InvalidArgumentError('DATA_TOO_LONG', 'data', message));
    }
    return this.#enqueue(() => {
      this.#dataPage.bytes.fill(0);
      this.#dataPage.bytes.set(bytes);
      return this.#send(...request(this.#dataRef));
    });
  }

  /** Lets `send` run when the requests before it were answered, whatever came of them. */
  #enqueue(send: () => Promise<CtrlAnswer>): Promise<CtrlAnswer> {
    const answer = this.#last.then(() => {
      if (!this.#open) throw disconnected();
      return send();
    });
    this.#last = answer.catch(() => undefined);
    return answer;
  }

  #send(type: number, data0: number, data1: number, data2: number): Promise<CtrlAnswer> {
    const id = this.#nextId;
    this.#nextId = (id + 1) & 0xffff;
    const answer = new Promise<CtrlAnswer>((resolve, reject) => {
      this.#waiting = { id, type: type & 0xffff, resolve, reject };
    });
    const slot = this.#ring.slot(this.#ring.reqProd);
    writeCtrlRequest(this.#ring.page, slot, { id, type, data0, data1, data2 });
    this.#ring.reqProd = (this.#ring.reqProd + 1) >>> 0;
    if (this.#ring.pushRequests()) this.#channel.notify();
    return answer;
  }

  #share(xen: Xen, backendDomid: number, access: 'read' | 'write'): { page: Page; ref: number } {
    const shared = xen.grants.share(backendDomid, 1, access);
    this.#shared.push(shared);
    const [page] = shared.pages as readonly [Page];
    const [ref] = shared.refs as readonly [number];
    return { page, ref };
  }

  #onEvent(): void {
    if (!this.#open) return;
    try {
      const { rspCons } = this.#ring;
      do {
        while (this.#ring.pendingResponses() > 0) this.#takeAnswer();
      } while (this.#ring.requestEvent() > 0);
      this.#channel.unmask(this.#ring.rspCons !== rspCons);
    } catch (error) {
      this.#fault(error);
    }
  }

  #takeAnswer(): void {
    const response = this.#response;
    readCtrlResponse(this.#ring.page, this.#ring.slot(this.#ring.rspCons), response);
    this.#ring.rspCons = (this.#ring.rspCons + 1) >>> 0;
    const waiting = this.#waiting;
    if (waiting === undefined || response.id !== waiting.id || response.type !== waiting.type) {
      throw new ProtocolError('RESPONSE_ID_INVALID', `The backend answered ${response.id}.`);
    }
    this.#waiting = undefined;
    waiting.resolve({ status: response.status, data: response.data });
  }
}

function disconnected(): DisconnectedError {
  return new DisconnectedError('The control ring was closed.');
}

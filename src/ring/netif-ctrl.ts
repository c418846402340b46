/**
 * The slots of a control ring: `xen_netif_ctrl_request` and `xen_netif_ctrl_response` of
 * xen/io/netif.h, by which a frontend configures how received frames are hashed to queues.
 *
 *   request (16 bytes):   0 u16 id   2 u16 type   4 u32[3] data
 *   response (12 bytes):  0 u16 id   2 u16 type   4 u32 status   8 u32 data
 */
import type { Page } from '../xen/page.js';

/** The size of a slot: of the larger one, the request. */
export const CTRL_SLOT_BYTES = 16;

/** `XEN_NETIF_CTRL_TYPE_*`. */
export const CTRL_GET_HASH_FLAGS = 1;
export const CTRL_SET_HASH_FLAGS = 2;
export const CTRL_SET_HASH_KEY = 3;
export const CTRL_GET_HASH_MAPPING_SIZE = 4;
export const CTRL_SET_HASH_MAPPING_SIZE = 5;
export const CTRL_SET_HASH_MAPPING = 6;
export const CTRL_SET_HASH_ALGORITHM = 7;

/** `XEN_NETIF_CTRL_STATUS_*`. */
export const CTRL_STATUS_SUCCESS = 0;
export const CTRL_STATUS_NOT_SUPPORTED = 1;
export const CTRL_STATUS_INVALID_PARAMETER = 2;
export const CTRL_STATUS_BUFFER_OVERFLOW = 3;

/** `XEN_NETIF_CTRL_HASH_ALGORITHM_*`. */
export const HASH_ALGORITHM_NONE = 0;
export const HASH_ALGORITHM_TOEPLITZ = 1;

/** A request, copied out of the ring. */
export interface CtrlRequest {
  id: number;
  type: number;
  data0: number;
  data1: number;
  data2: number;
}

/** Copies the request at `slot` into `request`, each word read once. */
export function readCtrlRequest(page: Page, slot: number, request: CtrlRequest): void {
  const idAndType = page.readU32(slot);
  request.id = idAndType & 0xffff;
  request.type = idAndType >>> 16;
  request.data0 = page.readU32(slot + 4);
  request.data1 = page.readU32(slot + 8);
  request.data2 = page.readU32(slot + 12);
}

export function writeCtrlRequest(page: Page, slot: number, request: CtrlRequest): void {
  page.writeU32(slot, request.id | (request.type << 16));
  page.writeU32(slot + 4, request.data0);
  page.writeU32(slot + 8, request.data1);
  page.writeU32(slot + 12, request.data2);
}

/** Writes a response over the whole slot, so that nothing of ours is left in what is not used. */
export function writeCtrlResponse(
  page: Page,
  slot: number,
  id: number,
  type: number,
  status: number,
  data: number,
): void {
  page.writeU32(slot, id | (type << 16));
  page.writeU32(slot + 4, status);
  page.writeU32(slot + 8, data);
  page.writeU32(slot + 12, 0);
}

/** A response, copied out of the ring. */
export interface CtrlResponse {
  id: number;
  type: number;
  status: number;
  data: number;
}

/** Copies the response at `slot` into `response`, each word read once. */
export function readCtrlResponse(page: Page, slot: number, response: CtrlResponse): void {
  const idAndType = page.readU32(slot);
  response.id = idAndType & 0xffff;
  response.type = idAndType >>> 16;
  response.status = page.readU32(slot + 4);
  response.data = page.readU32(slot + 8);
}

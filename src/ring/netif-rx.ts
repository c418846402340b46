/**
 * The slots of an RX ring: `netif_rx_request` and `netif_rx_response` of xen/io/netif.h.
 *
 *   request (8 bytes):   0 u16 id   2 u16 unused   4 u32 gref
 *   response (8 bytes):  0 u16 id   2 u16 offset   4 u16 flags   6 s16 status
 *
 * A status of 0 or more is the length of the data in this slot; a packet's slots each carry their
 * own. A response sits in the slot of its request.
 */
import type { Page } from '../xen/page.js';

/** The size of a slot. */
export const RX_SLOT_BYTES = 8;

/** `XEN_NETRXF_data_validated`. TX has this bit and the next the other way round. */
export const RX_DATA_VALIDATED = 1;
/** `XEN_NETRXF_csum_blank`. */
export const RX_CSUM_BLANK = 2;
/** `XEN_NETRXF_more_data`. */
export const RX_MORE_DATA = 4;
/** `XEN_NETRXF_extra_info`. */
export const RX_EXTRA_INFO = 8;

export function readRxRequestId(page: Page, slot: number): number {
  return page.readU16(slot);
}

export function readRxRequestGref(page: Page, slot: number): number {
  return page.readU32(slot + 4);
}

export function writeRxRequest(page: Page, slot: number, id: number, gref: number): void {
  page.writeU32(slot, id);
  page.writeU32(slot + 4, gref);
}

/** Writes every byte of the slot. `status` is the length of the data, or a negative RSP value. */
export function writeRxResponse(
  page: Page,
  slot: number,
  id: number,
  offset: number,
  flags: number,
  status: number,
): void {
  page.writeU32(slot, id | (offset << 16));
  page.writeU32(slot + 4, flags | ((status & 0xffff) << 16));
}

/** A response, copied out of the ring. */
export interface RxResponse {
  id: number;
  offset: number;
  flags: number;
  status: number;
}

/** Copies the response at `slot` into `response`, each word read once. */
export function readRxResponse(page: Page, slot: number, response: RxResponse): void {
  const idAndOffset = page.readU32(slot);
  const flagsAndStatus = page.readU32(slot + 4);
  response.id = idAndOffset & 0xffff;
  response.offset = idAndOffset >>> 16;
  response.flags = flagsAndStatus & 0xffff;
  response.status = flagsAndStatus >> 16;
}

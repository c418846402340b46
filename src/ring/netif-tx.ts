/**
 * The slots of a TX ring: `netif_tx_request` and `netif_tx_response` of xen/io/netif.h.
 *
 *   request (12 bytes):  0 u32 gref   4 u16 offset   6 u16 flags   8 u16 id   10 u16 size
 *   response (4 bytes):  0 u16 id     2 s16 status
 *
 * The first request of a packet has the size of the whole packet, the following ones their own.
 */
import type { Page } from '../xen/page.js';

/** The size of a slot: of the larger one, the request. */
export const TX_SLOT_BYTES = 12;

/** `XEN_NETTXF_csum_blank`: the protocol checksum is to be filled in. */
export const TX_CSUM_BLANK = 1;
/** `XEN_NETTXF_data_validated`: the data has been checked, or never left this machine. */
export const TX_DATA_VALIDATED = 2;
/** `XEN_NETTXF_more_data`: the packet goes on in the next request. */
export const TX_MORE_DATA = 4;
/** `XEN_NETTXF_extra_info`: an extra follows in the next slot. */
export const TX_EXTRA_INFO = 8;

/** `XEN_NETIF_RSP_OKAY`. */
export const RSP_OKAY = 0;
/** `XEN_NETIF_RSP_ERROR`. */
export const RSP_ERROR = -1;
/** `XEN_NETIF_RSP_DROPPED`. */
export const RSP_DROPPED = -2;
/** `XEN_NETIF_RSP_NULL`: the answer to an extra. */
export const RSP_NULL = 1;

/** A request, copied off the ring: what the peer does to the slot afterwards changes nothing. */
export interface TxRequest {
  gref: number;
  offset: number;
  flags: number;
  id: number;
  size: number;
}

/** Takes request number `index` apart of those that `words` has, three words each, off the ring. */
export function readTxRequest(words: Uint32Array, index: number, request: TxRequest): void {
  const offsetAndFlags = words[index * 3 + 1] as number;
  const idAndSize = words[index * 3 + 2] as number;
  request.gref = words[index * 3] as number;
  request.offset = offsetAndFlags & 0xffff;
  request.flags = offsetAndFlags >>> 16;
  request.id = idAndSize & 0xffff;
  request.size = idAndSize >>> 16;
}

export function writeTxRequest(page: Page, slot: number, request: TxRequest): void {
  page.writeU32(slot, request.gref);
  page.writeU32(slot + 4, request.offset | (request.flags << 16));
  page.writeU32(slot + 8, request.id | (request.size << 16));
}

/** Writes a response over the whole slot, so that nothing of ours is left in what is not used. */
export function writeTxResponse(page: Page, slot: number, id: number, status: number): void {
  page.writeU32(slot, id | ((status & 0xffff) << 16));
  page.writeU32(slot + 4, 0);
  page.writeU32(slot + 8, 0);
}

export function readTxResponseId(word: number): number {
  return word & 0xffff;
}

/** The signed status in a response's only word, which the caller has read once. */
export function readTxResponseStatus(word: number): number {
  return word >> 16;
}
